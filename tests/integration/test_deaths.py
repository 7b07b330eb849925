"""Processes that die or stop at the worst moment, on both stores: nothing is lost, nothing is done twice in the record."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, Local, StarburstExecutor, TaskCrashed, WorkerLost
from starburst_executor.protocol.spans.record import Entry
from tests.sessions import descendants, detached, is_alive, kill, run_python, timings_for, wait_until, worker_pids
from tests.support.inside import session_of


def entries(executor: StarburstExecutor) -> list[Entry]:
    session = session_of(executor)
    return [e for group in session.statuses.all() for e in session.statuses.read(group.key).status.entries]


def hold(path: str, value: int) -> int:
    """Say that it runs, wait for the word to end."""
    with open(f"{path}.{value}.started", "a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    while not os.path.exists(path):
        time.sleep(0.01)
    return value


def started(path: Path, value: int) -> int:
    """How many times a `hold` has started."""
    marker = Path(f"{path}.{value}.started")
    return len(marker.read_text().split()) if marker.exists() else 0


def starts(path: Path, n: int) -> dict[int, int]:
    """How many times each of the first n `hold`s has started, of those that have."""
    return {i: times for i in range(n) if (times := started(path, i))}


def test_a_killed_agents_tasks_run_again(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=2)
    futures = [executor.submit(hold, str(go), i) for i in range(4)]
    wait_until(lambda: len(starts(go, 4)) == 2)
    running = starts(go, 4)
    [pid] = worker_pids(executor)
    beneath = descendants(pid)
    kill(pid)
    wait_until(lambda: not any(map(is_alive, beneath)))
    # The next worker may begin with what has waited all the time, or with what the dead one had.
    wait_until(lambda: sum(starts(go, 4).values()) == 4)
    go.touch()
    assert [future.result(60) for future in futures] == [0, 1, 2, 3]
    assert starts(go, 4) == {i: 1 + (i in running) for i in range(4)}
    assert [entry.losses for entry in entries(executor)] == [int(i in running) for i in range(4)]
    assert [entry.run for entry in entries(executor)] == [1] * 4
    executor.cleanup(force=True)


def test_a_killed_runner_costs_its_task_alone(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=2)
    futures = [executor.submit(hold, str(go), i) for i in range(3)]
    wait_until(lambda: starts(go, 3))
    victim = next(iter(starts(go, 3)))
    kill(int(Path(f"{go}.{victim}.started").read_text()))
    with pytest.raises(TaskCrashed, match="SIGKILL"):
        futures.pop(victim).result(60)
    go.touch()
    assert [future.result(60) for future in futures] == [i for i in range(3) if i != victim]
    executor.cleanup(force=True)


def test_a_killed_nursery_takes_its_worker_along_and_no_task(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=1)
    future = executor.submit(hold, str(go), 1)
    wait_until(lambda: started(go, 1) == 1)
    [agent] = worker_pids(executor)
    runner = int(Path(f"{go}.1.started").read_text())
    [nursery] = [pid for pid in descendants(agent) if runner in descendants(pid)]
    kill(nursery)
    go.touch()
    error = future.exception(60)
    assert error is None or isinstance(error, TaskCrashed)
    assert executor.submit(pow, 2, 3).result(60) == 8
    executor.cleanup(force=True)


def test_a_worker_that_stops_for_longer_than_four_looks_changes_nothing_when_it_wakes(
    store_url: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    executor = DetachedExecutor(workers=2, store=store_url, timings=timings_for(store_url), launcher=Local(agents=2))
    futures = [executor.submit(hold, str(go), i) for i in range(2)]
    wait_until(lambda: started(go, 0) == started(go, 1) == 1)
    sleeper, other = worker_pids(executor)
    kill(sleeper, signal.SIGSTOP)
    # The other one has a task of its own, so a slot is free for the sleeper's only when that has ended.
    go.touch()
    assert sorted(future.result(60) for future in futures) == [0, 1]
    seen = entries(executor)
    assert sorted(entry.losses for entry in seen) == [0, 1]
    kill(sleeper, signal.SIGCONT)
    assert executor.submit(pow, 2, 3).result(60) == 8
    assert entries(executor)[:2] == seen
    assert is_alive(other)
    executor.cleanup(force=True)


def test_a_task_that_kills_each_worker_it_meets_is_lost_alone(store_url: str) -> None:
    def poison() -> None:
        # The agent is the parent of the runner's parent.
        with open(f"/proc/{os.getppid()}/stat", encoding="ascii") as file:
            os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(60)

    if not Path("/proc/self/stat").exists():
        pytest.skip("finds the agent by /proc")
    executor = detached(store_url, workers=2)
    innocent = [executor.submit(pow, i, 2) for i in range(20)]
    poisonous = executor.submit(poison)
    innocent += [executor.submit(pow, i, 2) for i in range(20, 40)]
    with pytest.raises(WorkerLost, match="lost 3 times"):
        poisonous.result(100)
    assert [future.result(60) for future in innocent] == [i**2 for i in range(40)]
    executor.cleanup(force=True)


@pytest.mark.parametrize("moment", ["submitting", "waiting", "collecting"])
def test_a_killed_client_loses_nothing_that_was_acknowledged(store_url: str, moment: str) -> None:
    code = """
import os, signal, sys, time
from tests.sessions import detached
executor = detached(sys.argv[1], workers=2)
print(executor.id, flush=True)
moment, futures = sys.argv[2], []
for i in range(300):
    futures.append(executor.submit(pow, i, 2))
    if i == 150:
        executor.flush()
        print(i + 1, flush=True)
        if moment == "submitting":
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, 0.001)
executor.flush()
print(300, flush=True)
if moment == "waiting":
    os.kill(os.getpid(), signal.SIGKILL)
for n, future in enumerate(executor.as_completed()):
    if n == 100:
        os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""
    client = run_python(code, store_url, moment)
    lines = client.communicate(timeout=100)[0].split()
    assert client.returncode == -signal.SIGKILL
    session_id, acknowledged = lines[0], int(lines[-1])
    executor = DetachedExecutor.reattach(session_id, store=store_url)
    found = {future.index: future.result() for future in executor.as_completed(60)}
    assert set(range(acknowledged)) <= set(found)
    assert all(value == i**2 for i, value in found.items())
    assert executor.status().total == len(found) == executor.status().completed
    executor.cleanup(force=True)


def test_all_workers_dead_and_nobody_attached_is_repaired_by_the_next_client(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = detached(store_url, workers=2)
    futures = [executor.submit(hold, str(go), i) for i in range(2)]
    wait_until(lambda: started(go, 0) == started(go, 1) == 1)
    pids = worker_pids(executor)
    executor.detach()
    for pid in pids:
        kill(pid)
    wait_until(lambda: not any(map(is_alive, pids)))
    go.touch()
    assert not any(future.done() for future in futures)
    again = DetachedExecutor.reattach(executor.id)
    assert sorted(future.result() for future in again.as_completed(60)) == [0, 1]
    again.cleanup(force=True)
