"""The fork server: loads the modules that every agent needs, forks an agent on each request of the client, and reaps them.

    client ── request, with pipe and output of the agent ────► fork server ──fork──► agent ──fork──► nursery
    client ◄── forked | refused | ended with exit code ──────── fork server

It has one thread, opens no store, and never gets a key: each agent reads its own from its pipe. So a fork is safe, and a
runner's memory contains no more than if each agent were a new interpreter. The fork server ends when the client's end of the
socket closes for any reason; its agents continue, or end through their own pipes.

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
    """Run as the fork server of a session; the control socket is standard input.

    Returns in each agent with the agent's exit status, after all of its work, and in the fork server at its end.
    """
    control = socket.socket(fileno=os.dup(0))
    _load(url)
    asked = _Server(control).serve()
    return 0 if asked is None else program.run(url, asked.n_slots, log_level=log_level, launched=True)


def _load(url: str) -> None:
    """Import all modules that an agent and its runners need, and exclude them from garbage collection.

    Assumes: none of them starts a thread, opens a connection or seeds a random generator; a test counts the threads.
    """
    import starburst_executor.worker.agent  # noqa: F401 - loaded for later

    preload(split_url(url)[0])
    outcomes.dump_value(())  # imports cloudpickle
    gc.collect()
    gc.freeze()  # a collection in an agent would write to every page, and so copy it


class _Server:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._numbers: dict[int, int] = {}  # pid to the client's number, of agents that have not been reaped
        self._wakeup, self._wakeup_writer = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_writer.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _ignore)

    def serve(self) -> Asked | None:
        """Fork agents until the client is gone; return None then, and in each agent the request for it."""
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
        """Fork an agent; return True in the agent, False in the fork server."""
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
        """Put this process into the state of one that the client has started; drop all that belongs to the fork server."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for opened in (self._control, self._wakeup, self._wakeup_writer):
            opened.close()
        for standard, fd in enumerate(fds):
            os.dup2(fd, standard)
            os.close(fd)
        config.adopt_environment(asked.environment)
        with suppress(OSError):  # it was removed; the fork server's folder serves as well
            os.chdir(asked.folder)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                # A child that is not an agent is an orphan that this process has adopted as a subreaper.
                if pid in self._numbers:
                    self._tell(fork_wire.ENDED, self._numbers.pop(pid), os.waitstatus_to_exitcode(status))

    def _tell(self, kind: bytes, number: int, value: int) -> None:
        with suppress(OSError):  # the client is gone, as the next read will show
            self._control.sendall(REPORT.pack(kind, number, value))


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the signal only has to write to the wakeup descriptor."""
