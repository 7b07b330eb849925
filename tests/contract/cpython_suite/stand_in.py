"""`StarburstExecutor` as CPython's tests want to see it: with the private attributes of `ProcessPoolExecutor` they read.

Each is answered from what is really there: the processes of this machine, the end of the session.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from starburst_executor import StarburstExecutor
from starburst_executor.client.engine import Engine
from starburst_executor.protocol.records import SessionState

__all__ = ["Process", "StandIn", "processes_with", "wait_until"]

PATIENCE_S = 20.0


def wait_until(is_so: Callable[[], object], patience_s: float = PATIENCE_S) -> bool:
    """Poll until a condition holds; return False if it does not."""
    deadline = time.monotonic() + patience_s
    while not is_so():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.02)
    return True


class Process(NamedTuple):
    """A process as it was seen, with the methods of `multiprocessing.Process` that the tests use."""

    pid: int
    parent: int
    command: str

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def join(self) -> None:
        gone = wait_until(lambda: not any(one.pid == self.pid for one in processes_with(self.command)))
        assert gone, f"still there {PATIENCE_S:g} s later: {self}"


def processes_with(words: str) -> list[Process]:
    """The processes with these words in their command line; zombies have none."""
    everybody = _of_proc() if Path("/proc/self/stat").exists() else _of_ps()
    return [one for one in everybody if words in one.command]


def _of_proc() -> Iterator[Process]:
    # Small containers have no `ps`.
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            yield Process(int(folder.name), int(parent), command)


def _of_ps() -> Iterator[Process]:
    command = ["ps", "-A", "-ww", "-o", "pid=,ppid=,command="]
    for line in subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace").splitlines():
        pid, parent, shown = line.split(None, 2)
        yield Process(int(pid), int(parent), shown)


class Runners:
    """`_processes`: the runners of a session. Asked anew each time, also after the executor is gone."""

    def __init__(self, session_id: str) -> None:
        self._session_id = session_id

    def __len__(self) -> int:
        # The agent is a child of this process, the nursery is one of the agent, and has the runners.
        everybody = processes_with(self._session_id)
        agents = {one.pid for one in everybody if one.parent == os.getpid()}
        nurseries = {one.pid for one in everybody if one.parent in agents}
        return sum(one.parent in nurseries for one in everybody)

    def values(self) -> list[Process]:
        """All that is left of the session's processes."""
        return processes_with(self._session_id)


class Ending:
    """`_executor_manager_thread` and `_call_queue`: joined when the session and the thread that ended it have ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def join(self) -> None:
        assert self._engine.parts.state.ended.wait(PATIENCE_S), f"the session has not ended after {PATIENCE_S:g} s"
        for thread in threading.enumerate():
            if thread.name == "starburst-end":
                thread.join(PATIENCE_S)

    join_thread = join


class StandIn(StarburstExecutor):
    """In the place of `ProcessPoolExecutor`."""

    @property
    def _processes(self) -> Runners:
        return Runners(self.id)

    @property
    def _executor_manager_thread(self) -> Ending:
        return Ending(self._engine)

    _call_queue = _executor_manager_thread

    @property
    def _broken(self) -> bool:
        return self._engine.session.manifest.current.state == SessionState.BROKEN

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # A pool hands calls to its processes as they are submitted, so that the first ones can no longer be cancelled.
        # Here a worker must have claimed them, and it may only just be starting.
        waiting = self._engine.parts.futures.unfinished()
        if cancel_futures and waiting:
            assert wait_until(lambda: any(future.running() or future.done() for future in waiting))
        super().shutdown(wait, cancel_futures=cancel_futures)
