"""The nursery: the small, preloaded parent process from which runners are forked.

The agent forks it before the agent has threads. The nursery has one thread and runs no user code. Therefore its forks are
safe and quick (every module that a runner needs is imported), and it answers every request, whatever the runners do.

    agent ── control: one byte and seven descriptors per runner; its end means "kill everything and exit" ─► nursery
    agent ◄─ lifeline, one per runner: pid, later the exit code ── "K" or its end: kill the group ───────► nursery

Guarantee: no runner and no process of its session outlives the agent, however the agent ends; nor does one outlive its runner. The nursery
kills a runner's session while its leader is still a zombie, so that the session's id cannot belong to another process.
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
from starburst_executor.families import kill_family
from starburst_executor.protocol import outcomes
from starburst_executor.worker import code_root
from starburst_executor.worker.runner import process as child
from starburst_executor.worker.runner.ledger import LedgerWriter

__all__ = ["KILL", "REPORT", "SPAWN", "serve"]

SPAWN = b"S"
KILL = b"K"
# A lifeline transfers two reports: the runner's pid (or minus the errno of a failed fork), then its exit code in the form of
# `os.waitstatus_to_exitcode`.
REPORT = struct.Struct("<q")

_SPAWN_FDS = 7  # lifeline, data, tokens, stdout, stderr, notes, ledger
_FAREWELL_S = 5.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None)


def serve(control: socket.socket, root_name: str) -> NoReturn:
    """Run as the nursery, in a child that the agent has just forked. Never returns.

    Args:
        root_name: The name of the folder for code. The nursery removes it at the end, because a killed agent cannot.
    """
    # Objects of the agent must not be finalised in this process: that could close a descriptor with a new owner.
    gc.freeze()
    _isolate(control)
    outcomes.dump_value(())  # imports cloudpickle
    gc.freeze()  # runners share these pages
    _Nursery(control, root_name).run()


class _Nursery:
    """Forks, kills and reaps runners.

    One `select` may report several events of one runner at once: its exit, the agent's request to kill it, the end of its
    lifeline. Pids and descriptors are reused, so a callback is bound to its lifeline object, which belongs to one runner
    only, and uses a pid only after checking that the runner has not been reaped.
    """

    def __init__(self, control: socket.socket, root_name: str) -> None:
        self._control = control
        self._root_name = root_name
        self._pid = os.getpid()
        self._runners: dict[int, socket.socket] = {}  # pid to lifeline, of runners that have not been reaped
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
        if not fds:  # no descriptor arrived: too many are open; the agent's wait times out with an error
            return
        lifeline = socket.socket(fileno=fds[0])
        try:
            if len(fds) < _SPAWN_FDS:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
        except OSError as error:  # too many processes or descriptors, or no memory
            reply = -(error.errno or errno.EAGAIN)
        else:
            if pid == 0:
                self._become_runner(*fds[1:])
            self._runners[pid] = lifeline
            self._selector.register(lifeline, selectors.EVENT_READ, lambda: self._on_lifeline(pid, lifeline))
            reply = pid
        # Before the reply: an agent that starts many runners must not find descriptors in use that are about to be closed.
        for fd in fds[1:]:
            os.close(fd)
        _tell(lifeline, reply)
        if reply < 0:
            lifeline.close()

    def _become_runner(self, data: int, tokens: int, stdout: int, stderr: int, notes: int, ledger: int) -> NoReturn:
        try:
            os.setsid()
            _die_with(self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            descriptors = child.Descriptors.claim(data, tokens, stdout, stderr, notes)
            memory = LedgerWriter(ledger)
            _close_all_but({0, 1, 2, *descriptors})  # also the copy that `mmap` keeps
            child.run(descriptors, memory)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(child.EXIT_INTERNAL)

    def _on_lifeline(self, pid: int, lifeline: socket.socket) -> None:
        if self._runners.get(pid) is not lifeline:
            # Reaped since `select` returned: the pid may belong to another process by now, even to another runner.
            return
        try:
            request = lifeline.recv(1)
        except OSError:
            request = b""
        self._kill(pid)
        if not request:
            self._selector.unregister(lifeline)  # or `select` would report its end again and again

    def _kill(self, pid: int) -> None:
        # The process as well as the group: the group exists only after the runner's `setsid`.
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
        """Kill the session of a child that has ended and return its pid and exit code; None if there is no such child now.

        A child that is not a runner is an orphan of user code that the nursery has adopted (see `_isolate`).
        """
        with suppress(ChildProcessError):
            pid = -1
            if hasattr(os, "waitid"):
                # Assumes: WNOWAIT leaves the child a zombie, so that its pid and group id are not reused before the kill.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None:
                    return None
                pid = ended.si_pid
                if pid in self._runners:
                    self._kill(pid)
                    kill_family(pid, ended=[pid])
            pid, status = os.waitpid(pid, os.WNOHANG)
            if pid == 0:
                return None
            if not hasattr(os, "waitid") and pid in self._runners:
                # macOS before Python 3.13. The id of a group or session is not reused while it has members.
                self._kill(pid)
                kill_family(pid)
            return pid, os.waitstatus_to_exitcode(status)
        return None

    def _end(self) -> NoReturn:
        """The agent closed the nursery, or died: kill all runners, wait for their ends for a limited time, and exit."""
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
    """Drop everything inherited from the agent except its output: signal handlers, descriptors, log handlers."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)) and number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # These signals are meant for the agent, which may have work to finish; the nursery ends when the agent does.
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        # The nursery adopts orphans of user code; otherwise they would go to process 1, which in a container may be the agent,
        # and the agent would not reap them.
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
    """On Linux, let the kernel kill this process when its parent ends, even by SIGKILL."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(child.EXIT_INTERNAL)


def _tell(lifeline: socket.socket, value: int) -> None:
    with suppress(OSError):  # the agent has closed its end and needs no report
        lifeline.send(REPORT.pack(value))


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the signal only has to write to the wakeup descriptor."""
