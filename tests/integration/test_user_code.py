"""User code that does what it should not: its own task fails or is contained, its neighbours and its worker go on."""

from __future__ import annotations

import ctypes
import functools
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import DetachedExecutor, PayloadError, TaskCrashed, TaskTimeout
from tests.sessions import descendants, detached, is_alive, timings_for, wait_until, worker_pids
from tests.support.inside import session_of

SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture
def one(store_url: str) -> Iterator[DetachedExecutor]:
    """A worker with one slot, so that what a task leaves behind meets the next one; nothing is left at the end."""
    executor = detached(store_url, workers=1)
    assert executor.submit(pow, 2, 3).result(60) == 8
    [agent] = worker_pids(executor)
    yield executor
    assert executor.submit(pow, 2, 4).result(60) == 16
    assert worker_pids(executor) == [agent]
    beneath = descendants(agent)
    executor.cleanup(force=True)
    wait_until(lambda: not any(map(is_alive, beneath)))


def quiet(signal_number: int, _frame: object) -> None:
    """A signal handler that does nothing."""


# --- what it does to its process --------------------------------------------------------------------------------------


def test_misbehaviour_costs_no_neighbour(store_url: str) -> None:
    def cut_all_lines() -> None:
        os.closerange(0, 65536)

    def kill_the_group() -> None:
        os.killpg(0, signal.SIGKILL)

    def overflow() -> None:
        class Endless:
            def __repr__(self) -> str:
                return repr([self])

        sys.setrecursionlimit(10**9)
        repr(Endless())

    bad: list[Callable[[], Any]] = [
        cut_all_lines,
        kill_the_group,
        functools.partial(os._exit, 7),
        functools.partial(ctypes.string_at, 0),
        overflow,
        functools.partial(os.kill, 0, signal.SIGSEGV),
    ]
    executor = detached(store_url, workers=2)
    good = [executor.submit(pow, n, 2) for n in range(10)]
    errors = []
    for function in bad:
        future = executor.submit(function)
        good += [executor.submit(pow, n, 2) for n in range(len(good), len(good) + 10)]
        errors.append(future)
    for future in errors[:4]:
        assert isinstance(future.exception(60), TaskCrashed)
    # From Python 3.12 on, C code that recurses without end is stopped by the interpreter.
    assert isinstance(errors[4].exception(60), (TaskCrashed, RecursionError, MemoryError))
    assert "SIGSEGV" in str(errors[5].exception(60))
    assert [future.result(60) for future in good] == [n**2 for n in range(len(good))]
    executor.cleanup(force=True)


@SQLITE
def test_handlers_folders_masks_and_streams_are_contained(one: DetachedExecutor, tmp_path: Path) -> None:
    def meddle() -> str:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, quiet)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.chdir("/")
        os.umask(0o777)
        sys.stdout, sys.stderr, sys.stdin = None, None, None
        os.environ.clear()
        return os.getcwd()

    here = one.submit(os.getcwd).result(60)
    assert one.submit(meddle).result(60) == "/"
    assert one.submit(os.getcwd).result(60) == here
    assert one.submit(bytes, 10**6).result(60) == bytes(10**6)


@SQLITE
def test_a_task_that_blocks_every_signal_is_stopped_in_time(store_url: str) -> None:
    def stay() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                time.sleep(600)
            except BaseException:
                continue

    executor = detached(store_url, workers=1)
    with pytest.raises(TaskTimeout):
        executor.options(timeout=0.5).submit(stay).result(60)
    assert executor.submit(pow, 2, 3).result(60) == 8
    executor.cleanup(force=True)


@SQLITE
def test_threads_that_never_end_do_not_outlive_the_session(one: DetachedExecutor) -> None:
    def leave_threads() -> int:
        for _ in range(5):
            threading.Thread(target=threading.Event().wait).start()
        return os.getpid()

    pid = one.submit(leave_threads).result(60)
    assert one.submit(os.getpid).result(60) == pid
    assert one.submit(threading.active_count).result(60) >= 6


@SQLITE
def test_processes_left_behind_are_gone_with_the_session(store_url: str) -> None:
    deafly = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)"

    def leave_processes() -> list[int]:
        child = subprocess.Popen(["sleep", "600"])
        deaf = subprocess.Popen([sys.executable, "-c", deafly])
        forked = os.fork()
        if forked == 0:
            if os.fork() == 0:  # an orphan
                time.sleep(600)
            time.sleep(600)
        return [child.pid, deaf.pid, forked]

    executor = detached(store_url, workers=1)
    pids = executor.submit(leave_processes).result(60)
    [agent] = worker_pids(executor)
    wait_until(lambda: len(descendants(agent)) >= 6)
    beneath = [*pids, *descendants(agent)]
    executor.cleanup(force=True)
    wait_until(lambda: not any(map(is_alive, beneath)))


@SQLITE
def test_a_forked_child_that_goes_on_is_not_heard(one: DetachedExecutor, tmp_path: Path) -> None:
    def both_return() -> int:
        return 1 if os.fork() else 2

    assert [one.submit(both_return).result(60) for _ in range(3)] == [1, 1, 1]


# --- what it takes ----------------------------------------------------------------------------------------------------


@SQLITE
def test_memory_that_is_not_there_is_the_tasks_own_error(one: DetachedExecutor) -> None:
    def swallow(n_bytes: int) -> int:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, most))
        return len(bytearray(n_bytes))

    assert isinstance(one.submit(swallow, 4 * 2**30).exception(60), (MemoryError, TaskCrashed))


@SQLITE
def test_hundreds_of_megabytes_of_output_are_bounded(one: DetachedExecutor) -> None:
    def shout() -> str:
        line = "x" * (2**20 - 1)
        for _ in range(200):
            print(line)
        return "done"

    future = one.submit(shout)
    assert future.result(60) == "done"
    out, err = one.output(future)
    assert err == ""
    assert out.startswith("xxx")
    assert "bytes omitted" in out
    assert len(out) < 1_000_200
    session = session_of(one)
    assert sum(line.size for line in session.store.list(session.keys.folder)) < 2**21


@SQLITE
def test_the_interpreters_lock_held_for_longer_than_four_looks_costs_nothing(store_url: str) -> None:
    """The worker's beats come from another process than the one that runs user code."""
    timings = timings_for(store_url)
    seconds = int(timings.looks_until_lost * timings.look_s * 1.5) + 1
    executor = detached(store_url, workers=1)
    future = executor.submit(lambda: ctypes.PyDLL(None).sleep(seconds))  # unlike CDLL it keeps the lock
    wait_until(future.running)
    beat = executor.status()
    assert future.result(60) == 0
    assert executor.status() != beat
    session = session_of(executor)
    entries = [e for group in session.statuses.all() for e in session.statuses.read(group.key).status.entries]
    assert [(entry.attempt, entry.losses, entry.seconds >= seconds) for entry in entries] == [(1, 0, True)]
    executor.cleanup(force=True)


# --- what it returns and takes ----------------------------------------------------------------------------------------


class _When:
    """Does something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def _ends(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    raise ValueError("not to be rebuilt")


@SQLITE
def test_values_that_do_not_survive_the_way_back(one: DetachedExecutor) -> None:
    def unpicklable() -> object:
        return threading.Lock()

    def explodes(how: str) -> object:
        return _When(_ends, how)

    assert isinstance(one.submit(unpicklable).exception(60), (TypeError, pickle.PicklingError))
    for how in ("raise", "exit", "interrupt"):
        error = one.submit(explodes, how).exception(60)
        assert isinstance(error, PayloadError)
        assert "cannot be unpickled in this process" in str(error)


@SQLITE
def test_arguments_that_misbehave_when_they_are_rebuilt(one: DetachedExecutor) -> None:
    assert isinstance(one.submit(repr, _When(_ends, "raise")).exception(60), ValueError)
    assert isinstance(one.submit(repr, _When(_ends, "exit")).exception(60), SystemExit)
    assert isinstance(one.submit(repr, _When(os._exit, 9)).exception(60), TaskCrashed)
