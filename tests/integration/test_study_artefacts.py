"""Artefacts with real processes: saved by a hundred at once, killed after a save, fetched and cleaned up by the command."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import Stage, Study, Trial
from starburst_executor.clock import SystemClock
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from starburst_executor.study import artefact_store, own_policies
from starburst_executor.study.artefact_store import ArtefactStore
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.spec import TrialSpec
from starburst_executor.study.stage import TrialOptions
from tests.sessions import store_url, timings_for
from tests.support.aws_rig import run

# On the embedded store with `make test`, and on S3 too with `make stress`; the saves at once are tested on both.
STORES = ["sqlite", pytest.param("s3", marks=pytest.mark.stress)]
assert store_url


def test_a_hundred_simultaneous_saves_of_one_file_store_it_once(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artefact_store, "PART_BYTES", 100_000)
    path = tmp_path / "model"
    body = os.urandom(100_000) + bytes(150_000)
    path.write_bytes(body)
    spec = TrialSpec(
        stage="one", edition=1, seed=1, cases=(), inputs=(), run=None, command=None, here="", metrics={},
        options=TrialOptions(), prune=None, store=store_url, study="mine",
    )  # fmt: skip
    keys = StudyKeys("mine")
    store = PatientStore(open_store(store_url), SystemClock(), patience_s=60)
    barrier = threading.Barrier(100, timeout=60)

    def save(i: int) -> Any:
        barrier.wait()
        return Trial(spec, i, store=store).save(path)

    with ThreadPoolExecutor(100) as pool:
        found = set(pool.map(save, range(100)))
    [artefact] = found
    listed = store.list(keys.artefacts)
    assert (len(listed), sum(one.size for one in listed) // 10_000) == (4, 25)  # three parts, and their list
    assert ArtefactStore(store, keys).read(artefact) == body
    before = [one.etag for one in listed]
    assert ArtefactStore(store, keys).write(io.BytesIO(body), "bytes") == artefact
    assert [one.etag for one in store.list(keys.artefacts)] == before
    store.close()


def measure(trial: Any) -> dict[str, float]:
    """Trials 0 to 9; the second ends after it has saved, and before it has an outcome."""
    trial.save(b"of all", name="shared")
    trial.save({"index": trial.index}, name="own")
    if trial.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.index == 2:
        raise ValueError("after saving")
    return {"score": trial.index}


def check(trial: Any) -> dict[str, float]:
    return {"score": trial.load("own")["index"]}


@pytest.mark.parametrize("store_url", STORES, indirect=True)
def test_a_trial_that_is_killed_after_saving_is_not_complete(store_url: str, tmp_path: Path) -> None:
    stages = [Stage("first", measure, 6, select=("score", 2)), Stage("second", check, 2)]
    study = Study("kept", stages, store=store_url, workers=2, timings=timings_for(store_url), max_losses=1)
    assert study.run(progress=False).state == "complete"
    rows = study.table("first")
    assert [row.state for row in rows] == ["completed", "failed", "failed", *["completed"] * 3]
    assert (rows[1].kind, dict(rows[1].artefacts), dict(rows[2].artefacts)) == ("memory", {}, {})
    assert [row.metrics["score"] for row in study.table("second")] == [5, 4]  # the survivors' own
    found = study.artefacts()
    assert [one.trial for one in found if one.name == "own"] == ["first/0", "first/3", "first/4", "first/5"]
    assert len({one.digest for one in found if one.name == "shared"}) == 1
    assert study.validate() == []

    words = ["--store", store_url]
    listed = run("study", "fetch", "kept", "--list", "--json", *words)
    assert [json.loads(line)["trial"] for line in listed.stdout.splitlines()] == [one.trial for one in found]
    fetched = run("study", "fetch", "kept", "first/5", "--name", "sh*", "--to", str(tmp_path / "out"), *words)
    assert fetched.exit_code == 0, fetched.output
    assert (tmp_path / "out/first/5/shared").read_bytes() == b"of all"
    cleaned = run("study", "cleanup", "kept", "--json", *words)
    done = json.loads(cleaned.stdout)
    assert (done["removed"], done["kept"]) == (4, 3)  # of trials 0 to 3; of the survivors two, and what all saved
    assert study.validate() == []
    paths = study.fetch(tmp_path / "all", survivors=True)
    assert len(paths) == 4
    assert run("study", "cleanup", "kept", "--keep", "none", *words).exit_code == 0
    assert any("is missing" in issue for issue in study.validate())
    study.delete()


def test_a_file_says_whose_artefacts_stay_when_its_study_ends_and_has_policies_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trials.py").write_text(
        "def measure(trial):\n    trial.save(trial.name.encode(), name='own')\n    return {'score': trial.index}\n",
        encoding="utf-8",
    )
    stages = "".join(
        f"  - {{name: {name}, run: 'trials.py:measure', trials: 3, select: {{top: score, k: 1}}{more}}}\n"
        for name, more in (("first", ""), ("second", ", keep: none"))
    )
    # The last one selects by a policy of the file's own.
    monkeypatch.setitem(own_policies.OWN_SELECTING, "sampled", None)  # it is taken away again at the end
    del own_policies.OWN_SELECTING["sampled"]
    stages += "  - {name: third, run: 'trials.py:measure', trials: 3, keep: all, select: {sampled: {every: 2}}}\n"
    (tmp_path / "rules.py").write_text(
        "from starburst_executor.study.policies import selecting\n"
        "@selecting('sampled')\ndef sampled(row, *, every):\n    return row.index % every == 0\n",
        encoding="utf-8",
    )
    path = tmp_path / "study.yaml"
    path.write_text(
        f"study: ended\nimport: [rules.py]\nkeep: survivors\nworkers: 2\nstages:\n{stages}", encoding="utf-8"
    )
    store = f"sqlite://{tmp_path}/store"
    done = run("study", "run", str(path), "--store", store)
    assert done.exit_code == 0, done.output
    assert "artefacts that no stage keeps: 5 objects removed, 38 bytes" in done.output
    with closing(Study.resume("ended", store=store)) as study:
        assert study.status().stages[2].survivors == ("third/0", "third/2")
        names = [f"first/{study.status().stages[0].survivors[0].rpartition('/')[2]}", "third/0", "third/1", "third/2"]
        digests = {hashlib.sha256(name.encode()).hexdigest() for name in names}
        keys = study._opened.objects.keys
        assert {one.key.rpartition("/")[2] for one in study._opened.store.list(keys.artefacts)} == digests
        assert study.validate() == []
        # The policy removed what the second stage's survivors saved: a fork goes on without it.
        with closing(study.fork("third", name="again")) as fork:
            assert fork.run(progress=False).is_complete
            fork.delete()
        study.delete()
