"""The fork server: loads what every agent needs, then forks one whenever the client asks, and reaps them.

    client ── asks, with pipe and output of the new agent ──► fork server ──fork──► agent ──fork──► nursery
    client ◄── forked, refused, ended with exit code ────────── fork server

It has one thread, opens no store, and never sees a key: each agent reads its own from its pipe. So a fork is safe, and
nothing is in a runner's memory that was not there when each agent was an interpreter. It ends when the client's end of
the socket closes, in whatever way; its agents go on, or end by their own pipes.

Source: docs/design/0005-forked-agents.md
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress

from starburst_executor import config
from starburst_executor.launch.local import fork_wire
from starburst_executor.launch.local.fork_wire import REPORT, Asked
from starburst_executor.protocol import outcomes
from starburst_executor.store.open import preload
from starburst_executor.store.url import split_url
from starburst_executor.worker import program

__all__ = ["run"]


def run(url: str, *, log_level: str) -> int:
    """Be the fork server of a session, whose control socket is standard input.

    Returns in each agent with its exit status, after all of its work; and in the fork server, at its end.
    """
    control = socket.socket(fileno=os.dup(0))
    _load(url)
    asked = _Server(control).serve()
    return 0 if asked is None else program.run(url, asked.n_slots, log_level=log_level, launched=True)


def _load(url: str) -> None:
    """Import all that an agent and its runners will need, and have the garbage collector leave it alone.

    # Assumes: none of this starts a thread, opens a connection or draws lots of its own; a test counts the threads.
    """
    import starburst_executor.worker.agent  # noqa: F401 - loaded for later

    preload(split_url(url)[0])
    outcomes.dump_value(())  # imports cloudpickle
    gc.collect()
    gc.freeze()  # a collection in an agent would write to every page, and so copy it


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._numbers: dict[int, int] = {}  # pid to the client's number; not yet waited for
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)

    def serve(self) -> Asked | None:
        """Fork until the client is gone: None then, and in each agent what was asked of it."""
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        poller.register(self._wakeup, select.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._wakeup.fileno() in ready:
                self._reap()
            if self._control.fileno() in ready:
                taken = self._take()
                if taken is None:
                    return None
                asked, fds = taken
                if self._fork(asked, fds):
                    return asked

    def _take(self) -> tuple[Asked, list[int]] | None:
        try:
            return fork_wire.take(self._control)
        except ConnectionResetError:
            return None

    def _fork(self, asked: Asked, fds: list[int]) -> bool:
        """Fork an agent; True in it."""
        try:
            if len(fds) < fork_wire.N_FDS:  # too many are open
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            pid = os.fork()
        except OSError as error:  # too many processes or descriptors, or no memory
            self._tell(fork_wire.REFUSED, asked.number, error.errno or errno.EAGAIN)
        else:
            if pid == 0:
                self._become_agent(asked, fds)
                return True
            self._numbers[pid] = asked.number
            self._tell(fork_wire.FORKED, asked.number, pid)
        for fd in fds:
            os.close(fd)
        return False

    def _become_agent(self, asked: Asked, fds: Sequence[int]) -> None:
        """Be as if this process had been started by the client, with nothing of the fork server's."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for opened in (self._control, self._wakeup, self._wakeup_writer):
            opened.close()
        for standard, fd in enumerate(fds):
            os.dup2(fd, standard)
            os.close(fd)
        config.adopt_environment(asked.environment)
        with suppress(OSError):  # it was removed; the one of the fork server is as good
            os.chdir(asked.folder)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                # A child that is no agent is an orphan that a subreaper's place in the tree has brought here.
                if pid in self._numbers:
                    self._tell(fork_wire.ENDED, self._numbers.pop(pid), os.waitstatus_to_exitcode(status))

    def _tell(self, kind: bytes, number: int, value: int) -> None:
        with suppress(OSError):  # the client is gone, as the next read will show
            self._control.sendall(REPORT.pack(kind, number, value))


def _ignore(_number: int, _frame: object) -> None:
    """A handler that does nothing; the wakeup descriptor is what counts."""
