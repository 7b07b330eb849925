"""A session with `max_failures` ends by itself, on both stores, while no client is attached."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import DependencyFailed, DetachedExecutor, TooManyFailures
from starburst_executor.errors import ConfigError
from tests.sessions import detached, timings_for, wait_until
from tests.support.inside import session_of


def _fails(folder: str, n: int) -> int:
    if n % 2:
        raise ValueError(n)
    while not (Path(folder) / "go").exists():
        time.sleep(0.05)
    return n


def test_workers_end_it_and_unfinished_tasks_say_how_many_failed(store_url: str, tmp_path: Path) -> None:
    with detached(store_url, workers=4, max_failures=5) as ex:
        # At most three of four slots wait for a file, in whatever order they begin; the others meet failures.
        futures = [ex.submit(_fails, str(tmp_path), n) for n in (0, 2, *range(1, 25, 2), 4)]
        url = ex.url
    reader = DetachedExecutor.reattach(url, launcher="none")
    try:
        session = session_of(reader)
        wait_until(lambda: session.manifest.refresh().state.is_over)
        assert session.manifest.current.reason.endswith("max_failures=5 allows 5")
        errors = [future.exception(60) for future in futures]
        assert {type(error) for error in errors} <= {ValueError, TooManyFailures, type(None)}
        too_many = [error for error in errors if isinstance(error, TooManyFailures)]
        assert too_many
        assert f"max_failures=5 allows 5: session={reader.id}" in str(too_many[0])
        with pytest.raises(TooManyFailures):
            reader.submit(abs, 1)
    finally:
        (tmp_path / "go").touch()
        reader.cleanup(force=True)


@pytest.mark.parametrize("limit", [5, "15%"])
def test_a_client_that_reads_the_failures_ends_it_without_waiting_for_a_beat(
    store_url: str, tmp_path: Path, limit: int | str
) -> None:
    timings = replace(timings_for(store_url), beat_s=3600.0, look_s=3600.0)
    with DetachedExecutor(store=store_url, workers=4, max_failures=limit, timings=timings) as ex:
        held = [ex.submit(_fails, str(tmp_path), n) for n in (0, 2)]
        failing = [ex.submit(_fails, str(tmp_path), n) for n in range(1, 25, 2)]
        waiting = [ex.submit(pow, held[0], n) for n in range(8)]
        try:
            for future in failing:
                assert isinstance(future.exception(), (ValueError, TooManyFailures))
            # No beat is due for an hour.
            assert {type(future.exception()) for future in [*held, *waiting]} == {TooManyFailures}
        finally:
            (tmp_path / "go").touch()
            ex.cleanup(force=True)


def test_tasks_that_fail_because_of_another_one_count(tmp_path: Path) -> None:
    with detached(f"sqlite://{tmp_path}/store", workers=2, max_failures=5) as ex:
        held = ex.submit(_fails, str(tmp_path), 0)
        failing = ex.submit(_fails, str(tmp_path), 1)
        futures = [ex.submit(pow, failing, n) for n in range(8)]
        try:
            wait_until(lambda: session_of(ex).manifest.refresh().state.is_over)
            assert session_of(ex).manifest.current.reason.startswith("9 of 10 tasks failed")
            assert {type(future.exception(60)) for future in futures} == {DependencyFailed}
        finally:
            (tmp_path / "go").touch()
            ex.cleanup(force=True)
        assert held.done()


@pytest.mark.parametrize("limit", [-1, True, "ten", "101%", "10 %", 1.5])
def test_what_is_no_limit_is_refused(limit: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a number of tasks, or a share of them such as 10%"):
        detached(f"sqlite://{tmp_path}", launcher="none", max_failures=limit)
