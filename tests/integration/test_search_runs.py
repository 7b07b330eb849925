"""Searches end to end: a driver that is killed changes no proposal; what a stored study says of its search; YAML."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import Stage, Study
from starburst_executor.store.open import open_store
from tests.sessions import store_of, timings_for, wait_until
from tests.support import searching
from tests.support.moto_server import ROOT


@pytest.fixture(params=["sqlite", pytest.param("s3", marks=pytest.mark.stress)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from store_of(request, tmp_path, monkeypatch)


def drive(name: str, store: str, folder: Path, n_trials: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "SEARCH_FOLDER": str(folder)}
    words = [sys.executable, "-m", "tests.support.searching", name, store, str(folder), str(n_trials)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def ended_in(folder: Path) -> list[str]:
    """The names of the trials that have ended."""
    path = folder / "ended"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def check_kills(store_url: str, tmp_path: Path, n_trials: int, kills: list[int]) -> None:
    """Kill the driver when these numbers of trials have ended; compare with an undisturbed study."""
    folders = {name: tmp_path / name for name in ("killed", "plain")}
    for folder in folders.values():
        folder.mkdir()
    with closing(open_store(store_url)) as store:
        for n_ended in kills:
            driver = drive("killed", store_url, folders["killed"], n_trials)
            # An entry of a search's log has what is asked at once: how often that is depends on the store's speed.
            wait_until(lambda n=n_ended: len(ended_in(folders["killed"])) >= n, 300)
            driver.kill()
            driver.communicate(timeout=60)
        assert store.list("studies/killed/searches/")
    for name, folder in folders.items():
        said, errors = drive(name, store_url, folder, n_trials).communicate(timeout=600)
        assert said == "complete\n", errors
    found: dict[str, Any] = {}
    for name in folders:
        with closing(searching.study(name, store_url, n_trials)) as study:
            tables = [study.table(f"s{number}") for number in range(3)]
            found[name] = [[(row.name, row.state, row.params, row.metrics) for row in table] for table in tables]
            assert study.validate() == []
    assert found["killed"] == found["plain"]
    points = [tuple(sorted(params.items())) for table in found["killed"] for _, _, params, _ in table]
    assert len(set(points)) == 3 * n_trials
    # No trial ran twice.
    ended = Counter(ended_in(folders["killed"]))
    assert set(ended.values()) == {1}
    assert len(ended) == 3 * n_trials


@pytest.mark.timeout(300)
def test_a_killed_study_proposes_what_an_undisturbed_one_proposes(store_url: str, tmp_path: Path) -> None:
    check_kills(store_url, tmp_path, 6, [4])


@pytest.mark.stress
@pytest.mark.timeout(1_800)
def test_300_trials_over_three_stages_killed_five_times_propose_what_an_undisturbed_study_proposes(
    store_url: str, tmp_path: Path
) -> None:
    check_kills(store_url, tmp_path, 100, [40, 90, 140, 190, 240])


def point(trial: Any) -> dict[str, float]:
    return {"loss": trial.params["x"] ** 2}


def test_a_trial_of_a_search_is_replayed_with_its_parameters(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/sessions"
    stages = [Stage("s", point, 4, search={"random": {"x": {"low": -1.0, "high": 1.0}}})]
    with closing(Study("replay", stages, store=store, workers=2, timings=timings_for(store))) as study:
        assert study.run(progress=False).is_complete
        rows = study.table("s")
        assert len({row.params["x"] for row in rows}) == 4
        assert study.replay("s/2") == rows[2].metrics
        # Two studies with one seed are equal, whatever their names are.
        with closing(Study("other", stages, store=store, workers=1, timings=timings_for(store))) as other:
            other.run(progress=False)
            assert [row.params for row in other.table("s")] == [row.params for row in rows]
        study.delete()


def test_a_fork_keeps_the_search_of_the_stages_that_it_keeps(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path}/sessions"
    found = Stage("found", point, 4, search={"random": {"x": {"low": -1.0, "high": 1.0}}}, select=("loss", 2))
    stages = [found, Stage("checked", point, 2)]
    with closing(Study("forked-from", stages, store=store, workers=2, timings=timings_for(store))) as study:
        study.run(progress=False)
        with closing(study.fork("checked", name="fork")) as fork:
            assert fork.run(progress=False).is_complete
            assert fork.table("found") == study.table("found")
            assert fork.replay("found/2") == study.replay("found/2")
            # What is exported has the search too, and goes on under another name.
            fork.export(tmp_path / "fork.json")
            assert Study.import_(tmp_path / "fork.json", store=store, name="copy") == "copy"
            entries = fork._opened.store.list("studies/fork/searches/found.1/")
            assert len(fork._opened.store.list("studies/copy/searches/found.1/")) == len(entries) > 0
            fork.delete()
        study.delete()
