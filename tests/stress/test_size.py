"""Sizes at the upper end of what is meant to work: a million tasks, ten thousand status objects, large results."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor
from starburst_executor.protocol.spans.record import State
from tests.sessions import timings_for
from tests.support.inside import session_of
from tests.support.moto_server import ROOT

pytestmark = pytest.mark.stress
SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
_RESULT_BYTES = 256 << 20


def alone(task: Callable[[str], None], store_url: str) -> None:
    """Call it in a process of its own, so that the most memory it ever had is its own; show what it prints."""
    code = f"import sys; from tests.stress.test_size import {task.__name__} as task; task(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, store_url], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0


def most_mb() -> float:
    """The most memory that this process ever had, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def a_million(store_url: str) -> None:
    started, n_tasks = time.monotonic(), 1_000_000
    with StarburstExecutor(workers=2, store=store_url) as executor:
        total = n_results = 0
        for result in executor.map(abs, range(0, -n_tasks, -1), buffersize=10_000):
            total += result
            n_results += 1
        requests = sum(n for kind, n in executor.requests().items() if not kind.startswith("bytes"))
    assert (n_results, total) == (n_tasks, n_tasks * (n_tasks - 1) // 2)
    print(f"{n_tasks} tasks: {time.monotonic() - started:.0f} s, {most_mb():.0f} MB, {requests} requests")
    assert most_mb() < 600


@SQLITE
@pytest.mark.timeout(1800)
def test_a_million_tasks_in_bounded_memory(store_url: str) -> None:
    alone(a_million, store_url)


def _label(n: int) -> str:
    return f"batch {n % 100}" if n % 2 else f"item {n}"


def labelled(store_url: str) -> None:
    """A hundred thousand tasks, half of them with a label of their own: submitted and run, then read by another client."""
    n_tasks, started = 100_000, time.monotonic()
    executor = DetachedExecutor(workers=2, store=store_url)
    futures = executor.options(label=_label).map(abs, range(n_tasks))
    assert sum(futures) == n_tasks * (n_tasks - 1) // 2
    print(f"{n_tasks} labelled tasks: {time.monotonic() - started:.1f} s, {most_mb():.0f} MB")
    executor.detach()
    asked = time.monotonic()
    again = DetachedExecutor.reattach(executor.url, launcher="none")
    states = again.status(by="label")
    print(f"status by label: {time.monotonic() - asked:.1f} s, {most_mb():.0f} MB")
    assert len(states) == n_tasks // 2 + 50
    assert (states["batch 7"].total, states["batch 7"].completed, states["item 8"].total) == (1000, 1000, 1)
    asked = time.monotonic()
    outcomes = again.collect(by="label")
    print(f"outcomes by label: {time.monotonic() - asked:.1f} s, {most_mb():.0f} MB")
    assert [outcome.value for outcome in outcomes["item 8"]] == [8]
    assert [outcome.value for outcome in outcomes["batch 7"]] == list(range(7, n_tasks, 100))
    again.cleanup(force=True)
    assert most_mb() < 1000


@SQLITE
@pytest.mark.timeout(900)
def test_a_hundred_thousand_labelled_tasks(store_url: str) -> None:
    alone(labelled, store_url)


@SQLITE
@pytest.mark.timeout(900)
def test_ten_thousand_status_objects(store_url: str) -> None:
    """A session of lone submits, each acknowledged before the next, read and attached to before and after the work."""
    n_tasks, started = 10_000, time.monotonic()
    executor = DetachedExecutor(workers=2, store=store_url, launcher="none")
    for n in range(n_tasks):
        executor.submit(pow, n, 2)
        executor.flush()
    assert len(session_of(executor).statuses.all()) == n_tasks
    print(f"{n_tasks} status objects: written in {time.monotonic() - started:.0f} s")
    asked = time.monotonic()
    status = executor.status()
    print(f"status() in {time.monotonic() - asked:.1f} s")
    assert (status.total, status.pending) == (n_tasks, n_tasks)
    executor.detach()

    attached = time.monotonic()
    again = DetachedExecutor.reattach(executor.url, launcher="local")
    futures = again.futures
    print(f"reattach and futures in {time.monotonic() - attached:.1f} s")
    assert [future.result(600) for future in futures] == [n**2 for n in range(n_tasks)]
    print(f"all done {time.monotonic() - attached:.0f} s after the reattach")
    status = again.status()
    assert (status.total, status.completed) == (n_tasks, n_tasks)
    again.detach()

    last = DetachedExecutor.reattach(executor.url, launcher="none")
    assert [outcome.value for outcome in last.collect()] == [n**2 for n in range(n_tasks)]
    last.cleanup(force=True)
    print(f"from first to last {time.monotonic() - started:.0f} s, {most_mb():.0f} MB")


def a_large_result(store_url: str) -> None:
    started = time.monotonic()
    executor = DetachedExecutor(workers=1, store=store_url, timings=timings_for(store_url))
    [future] = [executor.submit(bytes, _RESULT_BYTES)]
    result = future.result(240)
    assert len(result) == _RESULT_BYTES
    print(f"256 MB: {time.monotonic() - started:.1f} s, {most_mb():.0f} MB")
    [entry] = [
        entry
        for group in session_of(executor).statuses.all()
        for entry in session_of(executor).statuses.read(group.key).status.entries
    ]
    assert (entry.state, entry.attempt, entry.losses) == (State.COMPLETED, 1, 0)
    executor.cleanup(force=True)


@pytest.mark.timeout(400)
def test_a_result_of_256_mb(store_url: str) -> None:
    alone(a_large_result, store_url)
