"""The nursery: the small, preloaded parent that runners are forked from.

It is forked from the agent before that has threads, and runs one thread and no user code itself. Therefore a fork here
is safe, quick (everything a runner needs is imported) and always answered, whatever the runners do.

    agent ── control: one byte and five descriptors per runner; its end means "kill everything and go" ──► nursery
    agent ◄─ lifeline, one per runner: pid, later the exit code ── "K": kill its group; its end the same ─► nursery

# Guarantee: no runner and nothing in its process group outlives the agent, however that dies. A runner's group is
killed while its leader is still a zombie, so that the id cannot belong to anybody else.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import logging
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from starburst_executor.clock import SystemClock
from starburst_executor.protocol import outcomes
from starburst_executor.worker import code_root
from starburst_executor.worker.runner import process as child

__all__ = ["KILL", "REPORT", "SPAWN", "serve"]

SPAWN = b"S"
KILL = b"K"
# A lifeline carries two of these: the runner's pid (or minus the errno of a fork that failed), then its exit code as
# `os.waitstatus_to_exitcode` tells it.
REPORT = struct.Struct("<q")

_SPAWN_FDS = 5  # lifeline, data, tokens, stdout, stderr
_FAREWELL_S = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None)


def serve(control: socket.socket, root_name: str) -> NoReturn:
    """Become the nursery; for a child just forked from the agent. Never returns.

    Args:
        root_name: Of the folder for code, which is removed at the end: an agent that was killed has not removed it.
    """
    # What the agent had at the fork must not be finalised here: that could close a descriptor of another owner.
    gc.freeze()
    _isolate(control)
    outcomes.dump_value(())  # imports cloudpickle
    gc.freeze()  # runners share these pages
    _Nursery(control, root_name).run()


class _Nursery:
    """Forks, kills and reaps.

    One `select` may report several things about one runner at once: its exit, its agent's order to kill it, the end of
    its lifeline. So a pid is looked up only where it cannot have been reaped meanwhile, and a callback is bound to its
    lifeline, which is never given to another runner, and not to a pid or a descriptor, which may be.
    """

    def __init__(self, control: socket.socket, root_name: str) -> None:
        self._control = control
        self._root_name = root_name
        self._pid = os.getpid()
        self._runners: dict[int, socket.socket] = {}  # pid to lifeline; not yet waited for
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._on_control)
        self._wakeup, wakeup_writer = socket.socketpair()
        self._wakeup.setblocking(False)
        wakeup_writer.setblocking(False)
        self._wakeup_writer = wakeup_writer
        signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)
        self._selector.register(self._wakeup, selectors.EVENT_READ, self._on_child)

    def run(self) -> NoReturn:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _on_control(self) -> None:
        request, fds, _, _ = socket.recv_fds(self._control, 1, _SPAWN_FDS)
        if not request:
            self._end()
        self._spawn(fds)

    def _spawn(self, fds: list[int]) -> None:
        if not fds:  # none got through: too many are open; the agent waits in vain, and says so
            return
        lifeline = socket.socket(fileno=fds[0])
        try:
            if len(fds) < _SPAWN_FDS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
        except OSError as error:  # too many processes or descriptors, or no memory
            _tell(lifeline, -(error.errno or errno.EAGAIN))
            lifeline.close()
        else:
            if pid == 0:
                self._become_runner(*fds[1:])
            self._runners[pid] = lifeline
            self._selector.register(lifeline, selectors.EVENT_READ, lambda: self._on_lifeline(pid, lifeline))
            _tell(lifeline, pid)
        for fd in fds[1:]:
            os.close(fd)

    def _become_runner(self, data: int, tokens: int, stdout: int, stderr: int) -> NoReturn:
        try:
            os.setsid()
            _die_with(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            mine = child.Descriptors.claim(data, tokens, stdout, stderr)
            _close_all_but({0, 1, 2, *mine})
            child.run(mine)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(child.EXIT_INTERNAL)

    def _on_lifeline(self, pid: int, lifeline: socket.socket) -> None:
        if self._runners.get(pid) is not lifeline:
            # Reaped since `select` returned: the pid may be another process's by now, even another runner's.
            return
        try:
            request = lifeline.recv(1)
        except OSError:
            request = b""
        self._kill(pid)
        if not request:
            self._selector.unregister(lifeline)  # or its end would be reported for ever

    def _kill(self, pid: int) -> None:
        # By number as well: the group does not exist before the runner's first steps.
        for kill in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)

    def _on_child(self) -> None:
        with suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        while (dead := self._wait_for_one()) is not None:
            pid, code = dead
            lifeline = self._runners.pop(pid, None)
            if lifeline is not None:
                with suppress(KeyError):
                    self._selector.unregister(lifeline)
                _tell(lifeline, code)
                lifeline.close()

    def _wait_for_one(self) -> tuple[int, int] | None:
        """A child that ended and its exit code, after its group has been killed; None if there is none now.

        Children that are no runners are orphans of user code, which end up here (see `_isolate`).
        """
        with suppress(ChildProcessError):
            pid = -1
            if hasattr(os, "waitid"):
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if seen is None:
                    return None
                pid = seen.si_pid
                if pid in self._runners:
                    self._kill(pid)
            pid, status = os.waitpid(pid, os.WNOHANG)
            if pid == 0:
                return None
            if not hasattr(os, "waitid") and pid in self._runners:
                # macOS before Python 3.13. A group that still has members keeps its number from being given away.
                self._kill(pid)
            return pid, os.waitstatus_to_exitcode(status)
        return None

    def _end(self) -> NoReturn:
        """The agent closed the nursery, or is gone: kill everything and wait for it, but not for ever."""
        self._selector.unregister(self._control)
        for pid in self._runners:
            self._kill(pid)
        clock = SystemClock()
        deadline = clock.monotonic() + _FAREWELL_S
        while self._runners and clock.monotonic() < deadline:
            for key, _ in self._selector.select(deadline - clock.monotonic()):
                key.data()
        code_root.remove(self._root_name)
        os._exit(0)


def _isolate(control: socket.socket) -> None:
    """Keep nothing of the agent but its output: no signals, no descriptors, no log handlers."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # These mean the agent, which may have things to finish; the nursery goes when the agent goes.
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        # Orphans of user code come here and not to an agent that is process 1 of a container and would not reap them.
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _close_all_but({0, 1, 2, control.fileno()})
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.WARNING)


def _close_all_but(keep: set[int]) -> None:
    for name in [entry.name for entry in Path("/dev/fd").iterdir()]:
        if int(name) not in keep:
            with suppress(OSError):
                os.close(int(name))


def _die_with(parent: int) -> None:
    """On Linux: have this process killed when its parent ends, even if by SIGKILL."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            os._exit(child.EXIT_INTERNAL)


def _tell(lifeline: socket.socket, value: int) -> None:
    with suppress(OSError):  # the agent has closed its end: it does not want to know
        lifeline.send(REPORT.pack(value))


def _ignore(_number: int, _frame: object) -> None:
    """A handler that does nothing; the wakeup descriptor is what counts."""
