"""Thousands of tasks while workers, their forkers and clients are killed at random: one right outcome each.

The seed is printed; `STRESS_SEED` replays it, `STRESS_TASKS` changes the number of tasks. A worker is killed only when
another task has ended since the last one was: a task that meets three dead workers in a row fails by design
(docs/explanation/faults.md), and chance alone must not look like that.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.client.counting import census
from starburst_executor.client.opening import attach
from starburst_executor.clock import SystemClock
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.store import SessionStore
from tests.sessions import agent_pids, forkers_of, kill, run_python, wait_until

N_TASKS = int(os.environ.get("STRESS_TASKS", "5000"))
N_KILLS = 12

SUBMIT = """
import sys
from starburst_executor import DetachedExecutor, Local
from tests.sessions import timings_for
def work(i):
    import time
    time.sleep(0.002)
    return i * i
url, n_tasks = sys.argv[1], int(sys.argv[2])
executor = DetachedExecutor(workers=4, store=url, launcher=Local(agents=2), timings=timings_for(url))
print(executor.url, flush=True)
futures = [executor.submit(work, i) for i in range(n_tasks)]
executor.flush()
print("flushed", flush=True)
for future in executor.as_completed(): future.result()
"""
COLLECT = """
import sys
from starburst_executor import DetachedExecutor
executor = DetachedExecutor.reattach(sys.argv[1])
for n, future in enumerate(executor.as_completed()):
    assert future.result() == future.index ** 2
"""


@pytest.mark.timeout(600)
def test_every_task_has_one_right_outcome(store_url: str) -> None:
    seed = int(os.environ.get("STRESS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"STRESS_SEED={seed}")
    lots = random.Random(seed)
    client = run_python(SUBMIT, store_url, str(N_TASKS))
    assert client.stdout is not None
    url = client.stdout.readline().strip()
    assert client.stdout.readline() == "flushed\n"
    session = attach(url, SystemClock()).session
    n_killed, n_ended = Counter[str](), 0
    while n_ended < N_TASKS:
        if lots.random() < 0.4:
            client = _replace(client, url)
            n_killed["clients"] += 1
        if n_killed["workers"] < N_KILLS:
            kill(lots.choice(wait_until(lambda: agent_pids(url))))
            n_killed["workers"] += 1
        for pid in forkers_of(client.pid) if lots.random() < 0.3 else ():
            kill(pid)
            n_killed["forkers"] += 1
        n_ended = _wait_for_progress(session, n_ended, lots.randrange(100, N_TASKS // N_KILLS + 101))
    kill(client.pid, signal.SIGKILL)
    client.communicate()
    executor = DetachedExecutor.reattach(url)
    outcomes = executor.collect(wait=True, timeout=60)
    assert [outcome.index for outcome in outcomes] == list(range(N_TASKS))
    assert [outcome for outcome in outcomes if outcome.value != outcome.index**2] == []
    entries = [e for g in session.statuses.all() for e in session.statuses.read(g.key).status.entries]
    assert Counter(State(entry.state) for entry in entries) == {State.COMPLETED: N_TASKS}
    assert {entry.run for entry in entries} == {1}
    print(f"killed {dict(n_killed)}; tasks claimed again: {sum(entry.attempt > 1 for entry in entries)}")
    assert n_killed["workers"] >= N_KILLS // 2
    executor.cleanup(force=True)


def _replace(client: subprocess.Popen[str], url: str) -> subprocess.Popen[str]:
    kill(client.pid, signal.SIGKILL)
    client.communicate()
    return run_python(COLLECT, url)


def _wait_for_progress(session: SessionStore, n_ended: int, n_more: int) -> int:
    """Wait until `n_more` more tasks have ended, or all; return the number."""
    found = [n_ended]

    def is_further() -> bool:
        counts = census(session)
        found[0] = sum(n for state, n in counts.items() if state >= State.COMPLETED)
        time.sleep(0.05)
        return found[0] >= min(n_ended + n_more, N_TASKS)

    wait_until(is_further, timeout_s=120)
    return found[0]
