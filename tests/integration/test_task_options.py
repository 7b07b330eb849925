"""Options of tasks with real workers, on both stores: timeouts, retries, backoff, labels, seeds, views."""

from __future__ import annotations

import math
import time
from concurrent.futures import Executor
from pathlib import Path

import pytest

from starburst_executor import ConfigError, DetachedExecutor, StarburstExecutor, TaskTimeout, current_task
from tests.sessions import timings_for, wait_until


class Flaky(Exception):
    """Pickled by value: its module is not installed on a worker."""


class FlakySub(Flaky):
    pass


def tried(folder: Path, kind: type[BaseException], succeeds_at: int = 0) -> int:
    """Return the number of the try that succeeds; fail before."""
    count = folder / "tries"
    with count.open("a") as log:
        log.write("x")
    n_tries = count.stat().st_size
    if n_tries != succeeds_at:
        raise kind(f"try {n_tries}")
    return n_tries


def test_options_hold_for_the_tasks_of_a_view_alone(store_url: str, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abcd"]
    for folder in folders:
        folder.mkdir()
    with StarburstExecutor(
        workers=2, store=store_url, timings=timings_for(store_url), retries=1, task_timeout=300
    ) as ex:
        tries = ex.options(retries=4, backoff=0.01, retry_on=Flaky)
        named = tries.submit(tried, folders[0], FlakySub, 4)
        other = tries.submit(tried, folders[1], ValueError, 4)
        late = ex.options(timeout=0.3, retries=0).submit(time.sleep, 300)
        plain = ex.submit(tried, folders[2], ValueError, 2)
        never = tries.options(retries=0).submit(tried, folders[3], Flaky)
        assert isinstance(tries, Executor)
        assert (named.result(), plain.result()) == (4, 2)
        assert str(other.exception()) == "try 1"
        assert str(never.exception()) == "try 1"
        with pytest.raises(TaskTimeout, match=r"timeout=0\.3 s"):
            late.result()
        with pytest.raises(ConfigError, match="retries=-1"):
            ex.options(retries=-1)


def numbers(n: int) -> list[int]:
    task = current_task()
    assert task is not None
    assert task.rng() is task.rng()
    if task.attempt == 1:
        task.rng().random(5)
        raise ValueError("again")
    return [int(number) for number in task.rng().integers(2**40, size=n)]


def test_a_seed_gives_each_task_a_stream_whatever_attempt(tmp_path: Path) -> None:
    from numpy.random import SeedSequence, default_rng

    with StarburstExecutor(workers=2, store=f"sqlite://{tmp_path}", timings=timings_for("sqlite:")) as ex:
        assert list(ex.map(abs, [-1])) == [1]
        drawn = list(ex.options(seed=5, retries=1).map(numbers, [3, 3]))
        error = ex.options(retries=0).submit(numbers, 1).exception()
    streams = [default_rng(SeedSequence(5, spawn_key=(index,))) for index in (1, 2)]
    assert drawn == [[int(number) for number in stream.integers(2**40, size=3)] for stream in streams]
    assert "has no seed" in str(error)


def test_map_as_tasks_end_and_with_errors_in_place_of_results(tmp_path: Path) -> None:
    with StarburstExecutor(workers=2, store=f"sqlite://{tmp_path}", timings=timings_for("sqlite:")) as ex:
        gate = tmp_path / "gate"

        def wait_for_gate(i: int) -> int:
            while i == 0 and not gate.exists():
                time.sleep(0.01)
            return i

        ended = ex.options(timeout=60).map(wait_for_gate, range(4), ordered=False)
        others = [next(ended) for _ in range(3)]
        gate.touch()
        assert (sorted(others), list(ended)) == ([1, 2, 3], [0])
        values = list(ex.map(math.sqrt, [4, -1, 9], return_exceptions=True, buffersize=2))
        assert (values[0], type(values[1]), values[2]) == (2.0, ValueError, 3.0)
        with pytest.raises(ValueError, match=r"math domain|nonnegative"):
            list(ex.map(math.sqrt, [-1], ordered=False))


def test_a_view_that_is_left_has_waited_for_its_own_tasks_and_takes_no_more(tmp_path: Path) -> None:
    with StarburstExecutor(workers=2, store=f"sqlite://{tmp_path}", timings=timings_for("sqlite:")) as ex:
        endless = ex.submit(time.sleep, 300)
        with ex.options(retries=1) as view:
            futures = [view.submit(time.sleep, 0.05) for _ in range(3)]
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError, match="this view"):
            view.submit(abs, 1)
        assert ex.submit(abs, -1).result() == 1
        assert not endless.done()
        ex.terminate_workers()


def test_labels_and_earlier_errors_come_back_after_a_reattach(store_url: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with DetachedExecutor(workers=2, store=store_url, timings=timings_for(store_url)) as ex:
        flaky = ex.options(retries=3, backoff=0.01, label="flaky").submit(tried, tmp_path, Flaky, 3)
        ex.options(label="n{}".format).map(abs, [-1, -2])
        waits = ex.options(retries=1, backoff=600, label="waits").submit(tried, other, OSError)
        assert flaky.result() == 3
        wait_until(lambda: waits.attempts)
        assert not waits.done()
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    try:
        assert [future.label for future in again.futures] == ["flaky", "n-1", "n-2", "waits"]
        assert again.futures[3].attempts[0].error.startswith("OSError: try ")
        wait_until(lambda: all(future.done() for future in again.futures[:3]))
        outcomes = again.collect(by="label")
        assert {label: outcomes[label][0].value for label in ("flaky", "n-1", "n-2")} == {
            "flaky": 3,
            "n-1": 1,
            "n-2": 2,
        }
        first = again.futures[0]
        assert [one.attempt for one in first.attempts] == [1, 2]
        assert [record.label for record in again.timeline()] == ["flaky", "n-1", "n-2", "waits"]
        status = again.status(by="label")
        assert (status["waits"].pending, status["flaky"].completed, list(status)) == (
            1,
            1,
            ["flaky", "n-1", "n-2", "waits"],
        )
    finally:
        again.cleanup(force=True)


def test_a_slot_does_not_wait_for_a_long_backoff(tmp_path: Path) -> None:
    with StarburstExecutor(workers=1, store=f"sqlite://{tmp_path}/store", timings=timings_for("sqlite:")) as ex:
        waits = ex.options(retries=1, backoff=6).submit(tried, tmp_path, OSError, 2)
        wait_until(lambda: waits.attempts)
        failed_at = waits.attempts[0].at
        assert ex.submit(abs, -1).result() == 1
        assert not waits.done()
        assert (waits.result(), time.time() - failed_at >= 6) == (2, True)


def test_tasks_submitted_once_have_options_and_labels_wherever_their_objects_are_created(tmp_path: Path) -> None:
    with DetachedExecutor(workers=2, store=f"sqlite://{tmp_path}/store", timings=timings_for("sqlite:")) as ex:
        view = ex.options(retries=2, backoff=0.01, label="item {}".format)
        first = view.map_once(abs, [-1, -2, -2])
        flaky = view.submit_once("flaky", tried, tmp_path, Flaky, 2)
        assert [future.result() for future in first] == [1, 2, 2]
        assert flaky.result() == 2
        again = ex.options(label="other").map_once(abs, [-2, -3])
        assert [future.result() for future in again] == [2, 3]
        assert [future.label for future in ex.futures] == ["item -1", "item -2", f"item {tmp_path}", "other"]
    DetachedExecutor.reattach(ex.url, key=ex.key).cleanup(force=True)
