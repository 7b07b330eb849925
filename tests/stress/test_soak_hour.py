"""An hour of one session that works all the time, with everything that grows elsewhere: no process takes more memory.

Results that are dropped, functions that no other second has, arguments that are shared, output, failures, runners that
die, visitors that submit and leave, futures that come back from a pickle, outcomes that are asked for again.

`SOAK_SECONDS=300` makes it shorter. It prints the memory of each process, in MB, some forty times.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import psutil
import pytest

from starburst_executor import DetachedExecutor, Local
from tests.sessions import descendants, run_python, timings_for, wait_until, worker_pids

pytestmark = pytest.mark.stress

_SECONDS = float(os.environ.get("SOAK_SECONDS", "3600"))
# Caches are full by then: each of two workers has met 256 MB of arguments and 128 MB of functions.
_WARM_ROUNDS = 45
# Python gives back what it freed as it likes; and what the store lists grows with each visitor and worker.
_MORE_MB = 60
_BODY = 100_000
_CACHED = 8_000_000
# All of it stays in the store until the end: once the caches are full, new parts for them come in one round of several.
_SELDOM = 10

VISIT = """
import pickle, sys
from starburst_executor import DetachedExecutor
with DetachedExecutor.reattach(sys.argv[1]) as executor:
    assert executor.submit(abs, -1).result(120) == 1
    executor.submit(abs, -2)
assert len(pickle.loads(bytes.fromhex(sys.argv[2])).result(120)) == 100_000
"""


def large(n: int) -> bytes:
    return n.to_bytes(4, "big") * (_BODY // 4)


def talk(n: int) -> int:
    print("x" * 10_000)
    return n


def fail(n: int) -> None:
    raise ValueError(n)


def crash(_: int) -> None:
    os._exit(3)


def made_anew(second: int) -> Callable[[], int]:
    """A function of a script that refers to 8 MB, and is another one each time."""
    namespace: dict[str, Any] = {"__name__": "__main__", "BODY": os.urandom(_CACHED)}
    exec(f"def work(): return len(BODY) + 0 * {second}", namespace)
    work: Callable[[], int] = namespace["work"]
    return work


def memory_mb(pids: list[int]) -> dict[int, int]:
    found = {}
    for pid in pids:
        try:
            found[pid] = psutil.Process(pid).memory_info().rss // 10**6
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.timeout(_SECONDS * 1.5 + 900)
def test_nothing_grows(store_url: str) -> None:
    executor = DetachedExecutor(
        workers=4, store=store_url, launcher=Local(agents=2), timings=timings_for(store_url), retries=1
    )
    kept = pickle.dumps(executor.submit(large, 0)).hex()
    began, shown, n_tasks, n_rounds = time.monotonic(), 0.0, 0, 0
    called: list[int] = []
    most: list[tuple[int, int]] = []  # client, worst worker; once it is warm
    while (elapsed := time.monotonic() - began) < _SECONDS or n_rounds < 2 * _WARM_ROUNDS:
        for n, result in enumerate(executor.map(large, range(20), buffersize=10)):
            assert result == large(n)
        if n_rounds < 2 * _WARM_ROUNDS or n_rounds % _SELDOM == 0:
            assert executor.submit(made_anew(n_rounds)).result(120) == _CACHED
            shared = os.urandom(_CACHED)
            assert list(executor.map(len, [shared] * 20)) == [_CACHED] * 20
        assert list(executor.map(talk, range(20))) == list(range(20))
        assert isinstance(executor.submit(fail, 1).exception(120), ValueError)
        crashed: Future[None] = executor.submit(crash, 1)
        assert crashed.exception(120) is not None
        # Dropped at once, but to be heard of.
        executor.submit(talk, n_rounds).add_done_callback(lambda done: called.append(done.result()))
        assert executor.future_of(0, n_tasks // 2).exception(120) is None or n_tasks
        n_rounds += 1
        n_tasks = executor.submit(abs, 1).index
        if n_rounds % 20 == 0:
            with run_python(VISIT, executor.url, kept) as visitor:
                visitor.communicate(timeout=240)
            assert visitor.returncode == 0
        if elapsed >= shown:
            shown = elapsed + _SECONDS / 40
            agents = [pid for agent in worker_pids(executor) for pid in (agent, *descendants(agent))]
            mine, theirs = memory_mb([os.getpid()]), memory_mb(agents)
            print(f"{elapsed:6.0f} s, {n_tasks} tasks: client {[*mine.values()]}, workers {sorted(theirs.values())}")
            if n_rounds >= _WARM_ROUNDS:
                most.append((max(mine.values()), max(theirs.values())))
    wait_until(lambda: len(called) == n_rounds)
    third = max(1, len(most) // 3)
    for who, name in ((0, "client"), (1, "worker")):
        early, late = (max(one[who] for one in some) for some in (most[:third], most[-third:]))
        assert late <= early + _MORE_MB, f"the {name} grew: {early} MB early, {late} MB late"
    executor.cleanup(force=True)
