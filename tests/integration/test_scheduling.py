"""Priorities and limits with real workers: under load, over two clients and two workers, and when one of these is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import ConfigError, DetachedExecutor, Limit
from starburst_executor.session.beats import read_beats
from tests.integration.test_listening import join_worker
from tests.sessions import detached, kill, timings_for, wait_until
from tests.support.inside import session_of


# Made here, so that they are pickled by value: workers that were joined by hand do not have this module.
def _stamp() -> Callable[[Path, str], None]:
    def stamp(folder: Path, name: str) -> None:
        """Count as one of those that run at once, and record how many there were."""
        own = folder / f"running-{name}-{os.getpid()}"
        own.touch()
        n_now = len(list(folder.glob("running-*")))
        with (folder / "counts").open("a") as file:
            file.write(f"{n_now}\n")
        time.sleep(0.05)
        own.unlink()

    return stamp


def _run_until() -> Callable[[Path, str], int]:
    def run_until(folder: Path, name: str) -> int:
        (folder / f"{name}-{os.getpid()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        return os.getpid()

    return run_until


def test_urgent_tasks_go_first_under_load_and_no_other_starves(store_url: str, tmp_path: Path) -> None:
    order = tmp_path / "order"

    def note(name: str, number: int) -> None:
        time.sleep(0.01)
        with order.open("a") as file:
            file.write(f"{name} {number}\n")

    # So short that each claim is for few tasks: of ten claims one, by lot, goes to what has waited for longest.
    timings = replace(timings_for(store_url), slice_s=0.02, commit_s=0.02, commit_most_s=0.02)
    executor = DetachedExecutor(store=store_url, workers=1, timings=timings)
    blocker = executor.submit(_run_until(), tmp_path, "begun")
    wait_until(lambda: list(tmp_path.glob("begun-*")))
    late = executor.options(priority=-5)
    low = [late.submit(note, "late", i) for i in range(40)]
    plain = [executor.submit(note, "plain", i) for i in range(40)]
    urgent = executor.options(priority=7)
    high = [urgent.submit(note, "urgent", i) for i in range(40)]
    assert executor.flush(60)
    # The worker learns with a beat that there are priorities.
    session, (beat,) = session_of(executor), [beat for beat, _ in read_beats(session_of(executor))]
    wait_until(lambda: read_beats(session)[0][0].number > beat.number + 1)
    (tmp_path / "go").touch()
    for future in (blocker, *high, *plain, *low):
        future.result(120)
    # On a busy machine a worker may count as lost, and its tasks run twice.
    ran = [line.split()[0] for line in dict.fromkeys(order.read_text().splitlines())]
    mean = {
        name: sum(i for i, ran_name in enumerate(ran) if ran_name == name) / 40 for name in ("urgent", "plain", "late")
    }
    assert mean["urgent"] < mean["plain"] < mean["late"]
    assert executor.status().completed == 121
    with pytest.raises(ConfigError, match="priority=101"):
        executor.options(priority=101)
    executor.cleanup(force=True)


def test_a_limit_holds_over_two_workers_and_two_clients(store_url: str, tmp_path: Path) -> None:
    executor = detached(store_url, workers=4, launcher="none")
    workers = [join_worker(executor, slots=2) for _ in range(2)]
    other = DetachedExecutor.reattach(executor.url, key=executor.key, launcher="none")
    limit = Limit("api", 2)
    futures = [
        client.options(limit=limit).submit(_stamp(), tmp_path, f"{i}")
        for i in range(15)
        for client in (executor, other)
    ]
    free = [executor.submit(pow, 2, i) for i in range(5)]
    assert [future.result(120) for future in free] == [1, 2, 4, 8, 16]
    for future in futures:
        future.result(120)
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert len(counts) == 30
    assert max(counts) == 2, "two at once, and never three"
    other.detach()
    executor.cleanup(force=True)
    assert [worker.wait(60) for worker in workers] == [0, 0]


def test_the_place_of_a_worker_that_is_killed_is_free_again(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=2, launcher="none")
    first = join_worker(executor)
    one = executor.options(limit=Limit("api", 1))
    future = one.submit(_run_until(), tmp_path, "begun")
    waits = one.submit(pow, 2, 3)
    wait_until(lambda: list(tmp_path.glob("begun-*")))
    second = join_worker(executor)
    assert executor.submit(pow, 2, 4).result(60) == 16
    assert not waits.done()
    kill(first.pid)
    first.wait(60)
    (tmp_path / "go").touch()
    assert waits.result(120) == 8
    assert future.result(120)
    executor.cleanup(force=True)
    assert second.wait(60) == 0
