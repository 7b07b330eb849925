"""Runners die: what is lost, what is not, who is blamed, and that nothing outlives its parent."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.errors import LaunchError
from starburst_executor.worker.runner.handle import Died, Finished, Runner
from starburst_executor.worker.runner.jobs import each_event
from tests.support.runner_rig import Rig, death, finished, is_running, number_of, value_of, wait_until

LINUX = sys.platform == "linux"


def _kill_me(number: int) -> None:
    os.kill(os.getpid(), number)
    threading.Event().wait()


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        (os._exit, (3,), "exited with status 3"),
        (os._exit, (0,), "exited with status 0"),
        (_kill_me, (signal.SIGKILL,), "killed by SIGKILL, possibly out of memory"),
        (_kill_me, (signal.SIGTERM,), "killed by SIGTERM"),
        (os.abort, (), "aborted (SIGABRT)"),
        (ctypes.string_at, (0,), "segmentation fault (SIGSEGV)"),
    ],
)
def test_a_crash_costs_the_task_that_ran_and_no_other(function: Any, args: tuple[Any, ...], reason: str) -> None:
    def either(crash: bool) -> str:
        if crash:
            function(*args)
        return "fine"

    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, either, (False,), (False,), (True,), (False,), (False,))
        before, died = death(runner)
        assert [event.number for event in before if isinstance(event, Finished)] == numbers[:2]
        assert (died.reason, died.culprit) == (reason, numbers[2])
        assert runner.retract() == numbers[3:]
        assert runner.poll() == []
        assert rig.run(rig.spawn(), lambda: "another") == "another"


def test_a_segmentation_fault_leaves_the_python_stack_in_stderr() -> None:
    def faulty() -> None:
        print("last words", end="", flush=True)
        ctypes.string_at(0)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, faulty, ())
        _, died = death(runner)
        assert died.stdout == b"last words"
        assert b"in faulty" in died.stderr


def test_kill_ends_a_task_that_runs(tmp_path: Path) -> None:
    def hang() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        (tmp_path / "started").touch()
        threading.Event().wait()

    with Rig() as rig:
        runner = rig.spawn()
        running, *rest = rig.send(runner, hang, (), ())
        wait_until((tmp_path / "started").exists)
        runner.kill()
        assert death(runner) == ([], Died("killed by the worker", running, b"", b""))
        assert runner.retract() == rest
        runner.kill()
        runner.close()


def test_what_is_sent_to_a_dead_runner_comes_back_as_not_started() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        runner.kill()
        death(runner)
        numbers = rig.send(runner, os.getpid, (), ())
        assert runner.retract() == numbers


def _start_grandchild() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


@pytest.mark.parametrize("end", ["kill", "stop", "close", "nursery.close"])
def test_what_a_task_started_ends_with_its_runner(end: str) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        grandchild = rig.run(runner, _start_grandchild)
        assert is_running(grandchild)
        {"kill": runner.kill, "stop": runner.stop, "close": runner.close, "nursery.close": rig.nursery.close}[end]()
        wait_until(lambda: not is_running(grandchild))
        wait_until(lambda: not is_running(runner.pid))


def test_what_a_task_started_ends_when_it_crashes(tmp_path: Path) -> None:
    def crash() -> None:
        (tmp_path / "pid").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))
        os._exit(1)

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, crash, ())
        death(runner)
        wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))


def test_stop_lets_it_end_by_itself() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        assert rig.run(runner, os.getpid) == runner.pid
        runner.stop(grace_s=20)
        wait_until(lambda: not is_running(runner.pid))
        runner.stop()


def _hang() -> None:
    threading.Event().wait()


def test_closing_the_nursery_leaves_nothing() -> None:
    with Rig() as rig:
        runners = [rig.spawn() for _ in range(3)]
        for runner in runners:
            rig.send(runner, _hang, ())
        rig.nursery.close()
        for runner in runners:
            assert not is_running(runner.pid)
            assert death(runner)[1].reason.startswith(("killed by SIGKILL", "the process that starts runners"))
        with pytest.raises(LaunchError):
            rig.spawn()


def test_the_nursery_dying_takes_runners_along_and_is_told() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        culprits = rig.send(runner, _hang, ())
        wait_until(lambda: runner.poll() or number_of(runner))
        os.kill(rig.nursery.pid, signal.SIGKILL)
        _, died = death(runner)
        assert [died.culprit] == culprits
        assert "the process that starts runners died" in died.reason
        wait_until(lambda: not is_running(runner.pid))
        with pytest.raises(LaunchError, match=r"is gone|does not answer"):
            rig.spawn()


_AGENT = """
import json, os, subprocess, sys, threading
from starburst_executor.protocol import calls, outcomes
from starburst_executor.worker.runner.jobs import Job, each_event
from starburst_executor.worker.runner.spawn import Nursery

def task():
    return os.getpid(), subprocess.Popen(["sleep", "1000"]).pid

nursery = Nursery.start(session_id="s", sys_path=[])
pids = [nursery.pid]
runners = [nursery.spawn() for _ in range(2)]
for runner in runners:
    call = calls.dump_call((), {})
    jobs = [Job(1, 0, 0, 1, "task", call), Job(2, 0, 0, 1, "hang", call)]
    hang = calls.dump_function(lambda: __import__("threading").Event().wait())
    runner.send(jobs, {"task": calls.dump_function(task), "hang": hang})
    while not (events := list(each_event(runner.poll(10)))):
        pass
    pids += outcomes.load_outcome(events[0].outcome)[0]
print(json.dumps(pids), flush=True)
threading.Event().wait()
"""


def test_the_agent_dying_takes_everything_along() -> None:
    with subprocess.Popen([sys.executable, "-c", _AGENT], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        try:
            pids = json.loads(agent.stdout.readline())
            assert len(pids) == 5
            assert all(is_running(pid) for pid in pids)
        finally:
            agent.kill()
        for pid in pids:
            wait_until(lambda pid=pid: not is_running(pid))  # type: ignore[misc]  # a lambda's default


def test_a_nursery_without_descriptors_refuses_and_lives_on() -> None:
    if sys.platform != "linux":
        pytest.skip("needs prlimit")
    with Rig() as rig:
        runner = rig.spawn()
        assert rig.run(runner, abs, -1) == 1
        in_use = {int(entry.name) for entry in Path(f"/proc/{rig.nursery.pid}/fd").iterdir()}
        fourth_free = [fd for fd in range(100) if fd not in in_use][3]
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(rig.nursery.pid, resource.RLIMIT_NOFILE, (fourth_free, hard))
        with pytest.raises(LaunchError, match="Too many open files"):
            rig.spawn()
        assert rig.run(runner, abs, -1) == 1
        resource.prlimit(rig.nursery.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert rig.run(rig.spawn(), abs, -1) == 1


def test_runners_are_reaped_where_waitid_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "waitid")
    with Rig() as rig:
        runner = rig.spawn()
        grandchild = rig.run(runner, _start_grandchild)
        culprits = rig.send(runner, os._exit, (3,))
        _, died = death(runner)
        assert (died.reason, [died.culprit]) == ("exited with status 3", culprits)
        wait_until(lambda: not is_running(grandchild))


def test_orphans_of_a_task_are_reaped() -> None:
    if sys.platform != "linux":
        pytest.skip("orphans go to init here")

    def orphan() -> int:
        middle = "import subprocess; print(subprocess.Popen(['true']).pid)"
        return int(subprocess.run([sys.executable, "-c", middle], capture_output=True, check=True).stdout)

    with Rig() as rig:
        pid = rig.run(rig.spawn(), orphan)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


# ------------------------------------------------------------------------------------------------------------ property


def _job(fate: float) -> float:
    if fate < 0.01:
        os._exit(1)
    if fate < 0.02:
        os.kill(os.getpid(), signal.SIGKILL)
    return fate


@pytest.mark.parametrize("seed", range(12))
def test_each_job_is_finished_or_retracted_or_the_culprit_exactly_once(seed: int) -> None:
    chance = random.Random(seed)
    with Rig() as rig:
        runner: Runner | None = None
        sent: set[int] = set()
        accounted: list[int] = []
        for _ in range(60):
            runner = runner or rig.spawn()
            slice_ = [(chance.random(),) for _ in range(chance.randrange(1, 80))]
            sent.update(rig.send(runner, _job, *slice_))
            step = chance.random()
            if step < 0.5:
                accounted += runner.retract()
            elif step < 0.6:
                runner.kill()
            for event in each_event(runner.poll(chance.choice([0, 0, 0.0005]))):
                if isinstance(event, Finished):
                    assert event.ok
                    accounted.append(event.number)
                if isinstance(event, Died):
                    accounted += ([event.culprit] if event.culprit else []) + runner.retract()
                    runner = None
                    break
        if runner is not None:
            runner.kill()
            before, died = death(runner)
            accounted += [event.number for event in before if isinstance(event, Finished)]
            accounted += ([died.culprit] if died.culprit else []) + runner.retract()
        assert sorted(accounted) == sorted(sent)


def test_retracting_while_jobs_start_gives_each_to_one_side() -> None:
    with Rig() as rig:
        runner = rig.spawn()
        assert rig.run(runner, abs, -1) == 1
        for _ in range(200):
            numbers = rig.send(runner, abs, *[(-1,)] * 40)
            started: list[int] = []
            while not started:
                started += [event.number for event in each_event(runner.poll(1)) if isinstance(event, Finished)]
            retracted = runner.retract()
            started += [event.number for event in finished(runner, len(numbers) - len(retracted) - len(started))]
            assert started + retracted == numbers


# --- SIGTERM ----------------------------------------------------------------------------------------------------------


def _announce_and_wait(folder: str) -> str:
    Path(folder, "started").touch()
    while not Path(folder, "go").exists():
        threading.Event().wait(0.01)
    return "went on"


def test_a_runner_goes_on_through_its_groups_sigterm(tmp_path: Path) -> None:
    """Its own may come before its worker's, which then decides."""
    leaving = threading.Event()
    with Rig() as rig:
        runner = rig.spawn(is_leaving=leaving.is_set)
        rig.send(runner, _announce_and_wait, (str(tmp_path),))
        wait_until((tmp_path / "started").exists)
        os.kill(runner.pid, signal.SIGTERM)
        leaving.set()
        for _ in range(3):
            os.kill(runner.pid, signal.SIGTERM)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert runner.poll(0.1) == []
        (tmp_path / "go").touch()
        assert value_of(*finished(runner, 1)) == "went on"


def test_a_sigterm_for_a_runner_alone_is_its_death(tmp_path: Path) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        [number] = rig.send(runner, _announce_and_wait, (str(tmp_path),))
        wait_until((tmp_path / "started").exists)
        os.kill(runner.pid, signal.SIGTERM)
        assert death(runner)[1] == Died("killed by SIGTERM", number, b"", b"")


@pytest.mark.parametrize("how", ["program", "fork", "multiprocessing"])
def test_what_a_task_starts_can_be_terminated(how: str) -> None:
    def start_and_terminate() -> int:
        if how == "program":
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as program:
                program.terminate()
            return program.returncode
        if how == "fork":
            pid = os.fork()
            if pid == 0:
                threading.Event().wait()
            os.kill(pid, signal.SIGTERM)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        process = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
        process.start()
        process.terminate()
        process.join()
        return process.exitcode or 0

    with Rig() as rig:
        assert rig.run(rig.spawn(), start_and_terminate) == -signal.SIGTERM


# --- several things at once -------------------------------------------------------------------------------------------


_NURSERY = """
import os, socket, sys
from starburst_executor.worker.runner.nursery import KILL, REPORT, _Nursery

control, theirs = socket.socketpair()
nursery = _Nursery(theirs, "no such folder")
lifelines = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    mine, lifeline = socket.socketpair()
    nursery._runners[pid] = lifeline
    nursery._selector.register(
        lifeline, 1, lambda pid=pid, lifeline=lifeline: nursery._on_lifeline(pid, lifeline)
    )
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    mine.send(KILL)
    lifelines.append(mine)
lifelines[1].close()
ready = sorted(nursery._selector.select(), key=lambda one: one[0].fileobj is not nursery._wakeup)
assert len(ready) == 3
for key, _ in ready if sys.argv[1] == "exit first" else reversed(ready):
    key.data()
assert lifelines[0].recv(8) == REPORT.pack(3)
assert not nursery._runners
"""


@pytest.mark.parametrize("order", ["exit first", "kill first"])
def test_the_nursery_survives_an_exit_and_a_kill_in_one_select(order: str) -> None:
    subprocess.run([sys.executable, "-c", _NURSERY, order], check=True, timeout=60)


def test_nothing_is_killed_by_the_number_of_a_runner_that_was_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another process's by then."""
    killed: list[int] = []
    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, os._exit, (3,))
        wait_until(lambda: not Path(f"/proc/{runner.pid}").exists() if LINUX else not is_running(runner.pid))
        monkeypatch.setattr("os.killpg", lambda pid, _number: killed.append(pid))
        runner.kill()
        assert killed == []
        assert death(runner)[1].reason == "exited with status 3"


def test_whatever_a_task_among_neighbours_does_the_others_are_as_if_they_were_alone() -> None:
    """All are sent in one message; the ends of some come together."""

    def behave(how: str) -> object:
        if how == "prints":
            print("printed by it")
        if how == "raises":
            raise ValueError(how)
        if how == "exits":
            sys.exit(3)
        if how == "dies":
            os._exit(7)
        return threading.Lock() if how == "cannot be pickled" else how * (100_000 if how == "big " else 1)

    hows = ["a", "b", "prints", "c", "raises", "d", "cannot be pickled", "exits", "big ", "e", "dies", "f", "g"]
    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, behave, *((how,) for how in hows))
        before, died = death(runner)
        ended = [event for event in before if isinstance(event, Finished)]
        assert [event.number for event in ended] == numbers[:10]
        assert [hows[i] for i, event in enumerate(ended) if not event.ok] == ["raises", "cannot be pickled", "exits"]
        assert [(hows[i], event.stdout) for i, event in enumerate(ended) if event.stdout] == [
            ("prints", b"printed by it\n")
        ]
        values = [value_of(event) for event in ended if event.ok]
        assert values == ["a", "b", "prints", "c", "d", "big " * 100_000, "e"]
        assert (died.culprit, runner.retract()) == (numbers[10], numbers[11:])
