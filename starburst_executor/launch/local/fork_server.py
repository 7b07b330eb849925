"""The client's side of the fork server: one interpreter per session with all modules loaded, which forks agents.

    client ──start──► fork server ──fork──► agent, with its own session (`setsid`), pipe, output and environment
       ▲                   └─ each agent's exit code ┐
       └────────────────────────────────────────────┘

The fork server has no state that must survive. Agents are bound to the client by pipes that it does not hold; when it
ends, they continue, and the client tells from their start times whether they are alive. It ends when the client closes
`control` or dies.

Source: docs/design/0005-forked-agents.md
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from starburst_executor import config
from starburst_executor.errors import LaunchError
from starburst_executor.launch.local import fork_wire
from starburst_executor.launch.local.fork_wire import REPORT, Asked
from starburst_executor.launch.local.processes import started_at

__all__ = ["FORKS", "ForkServer", "Forked", "ServerKilled"]

# Not on macOS: its frameworks, used by Apple's SQLite and by the proxy lookup of every HTTP client, may start threads on
# import, and abort a process that uses them after a fork without exec. On macOS each agent is an interpreter of its own.
# (CPython does not fork by default on macOS either: bpo-33725.)
FORKS = sys.platform == "linux"

# Loading may take seconds on a busy machine. A fork server that has not answered after this time never will.
_ANSWER_S = 60.0
_END_S = 5.0
_WORDS_BYTES = 2000


class ServerKilled(LaunchError):
    """A signal ended the fork server: a new one may succeed."""


class ForkServer:
    """Forks agents of one session. Not thread-safe."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the process, without waiting until it is ready. Raises: OSError."""
        import tempfile  # not needed by an import of the package

        self._control, theirs = socket.socketpair()
        self._control.settimeout(_ANSWER_S)
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._n_asked = 0
        self._received = b""
        self._exit_codes: dict[int, int] = {}
        self._answers: dict[int, tuple[bytes, int]] = {}
        self.is_up = True
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=self._errors,
                stderr=self._errors,
                start_new_session=True,
                env=config.worker_environment(),
            )
        except BaseException:
            self._control.close()
            self._errors.close()
            raise
        finally:
            theirs.close()
        # A client may end without a call to its launcher, if no handle names a worker any more.
        self._end = weakref.finalize(self, _end, self._process, self._control, self._errors)

    def fork(self, n_slots: int, output: IO[bytes] | None) -> Forked:
        """Fork an agent and wait for it; the first call also waits until the fork server has loaded all modules.

        Args:
            output: The file for its output and errors; None for those of this process.
        Raises:
            LaunchError: the system refused another process (`is_up` stays true), or the fork server has ended.
            ServerKilled: a signal ended it. An agent that it may have forked ends when its pipe closes.
            OSError: this process cannot open any more files.
        """
        self._n_asked += 1
        asked = Asked(self._n_asked, n_slots, _folder(), config.worker_environment())
        with ExitStack() as opened:
            reading, writing = os.pipe()
            opened.callback(os.close, reading)
            life = os.fdopen(
                writing, "wb", buffering=0
            )  # unbuffered: closing must not wait for an agent that no longer reads
            on_failure = opened.enter_context(ExitStack())
            on_failure.callback(life.close)
            fds = [reading]
            for fd in (1, 2) if output is None else (output.fileno(), output.fileno()):
                fds.append(_duplicate(fd))
                opened.callback(os.close, fds[-1])
            kind, value = self._ask(asked, fds)
            if kind == fork_wire.REFUSED:
                raise LaunchError(f"the system refused another process: {os.strerror(value)}; request fewer agents")
            on_failure.pop_all()
        return Forked(self, asked.number, value, life)

    def exit_code(self, number: int) -> int | None:
        """Return the agent's exit code as `subprocess` defines it; None if it has not ended, or if the fork server ended first."""
        while self.is_up and number not in self._exit_codes and _has_news(self._control):
            self._listen()
        return self._exit_codes.get(number)

    def forget(self, number: int) -> None:
        """Forget the exit code of an agent."""
        self._exit_codes.pop(number, None)

    def close(self) -> None:
        """End the fork server; agents continue. A second call is harmless."""
        self.is_up = False
        self._end()

    def abandon(self) -> None:
        """Drop the connection in a child after a fork by the user: `control` must close when the client's own process ends."""
        self.is_up = False
        self._end.detach()
        self._control.close()
        self._errors.close()
        # The fork server is not a child of this process, which must not wait for it.
        self._process.returncode = 0

    def _ask(self, asked: Asked, fds: Sequence[int]) -> tuple[bytes, int]:
        try:
            fork_wire.ask(self._control, asked, fds)
            while asked.number not in self._answers:
                if not self._listen():
                    raise ConnectionResetError("it has ended")
        except OSError as error:
            raise self._gone(error) from error
        return self._answers.pop(asked.number)

    def _listen(self) -> bool:
        """Receive its next reports; return False at the end of the connection."""
        try:
            received = self._control.recv(4096)
        except ConnectionResetError:
            received = b""
        self._received += received
        while len(self._received) >= REPORT.size:
            kind, number, value = REPORT.unpack_from(self._received)
            self._received = self._received[REPORT.size :]
            if kind == fork_wire.ENDED:
                self._exit_codes[number] = value
            else:
                self._answers[number] = kind, value
        self.is_up = self.is_up and bool(received)
        return bool(received)

    def _gone(self, error: OSError) -> LaunchError:
        """End the fork server and return the error, with its last output."""
        self.is_up = False
        self._control.close()
        was_killed = False
        try:
            code = self._process.wait(0 if isinstance(error, TimeoutError) else _END_S)
            status, was_killed = f"exit status {code}", code < 0
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = str(error)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _WORDS_BYTES))
        words = self._errors.read().decode("utf-8", "replace").strip()
        text = "; ".join(filter(None, ["the process that forks workers has ended", status, words]))
        return ServerKilled(text) if was_killed else LaunchError(text)


class Forked:
    """An agent that a fork server has forked."""

    def __init__(self, server: ForkServer, number: int, pid: int, life: IO[bytes]) -> None:
        self._server = server
        self._number = number
        self.pid = pid
        self.life = life
        self.started = started_at(pid)
        self._has_ended = False

    def has_ended(self, *, closely: bool = False) -> bool:
        if not self._has_ended:
            is_reported = self._server.exit_code(self._number) is not None
            # A running fork server reports each end, unless it is stopped; a lookup in /proc costs ten times as much.
            looks_up = not is_reported and (closely or not self._server.is_up)
            # Without a start time, the agent had ended before the start time could be read.
            self._has_ended = is_reported or (looks_up and (not self.started or started_at(self.pid) != self.started))
        return self._has_ended

    def exit_code(self) -> int | None:
        return self._server.exit_code(self._number)

    def let_go(self) -> None:
        """Forget how it ended. It is not a child of this process."""
        self._server.forget(self._number)

    def abandon(self) -> None:
        self.life.close()


def _end(process: subprocess.Popen[bytes], control: socket.socket, errors: IO[bytes]) -> None:
    control.close()
    process.kill()  # it has no work to finish, and may be stopped by SIGSTOP
    process.wait()
    errors.close()


def _duplicate(fd: int) -> int:
    """Duplicate a descriptor; open the null device if this process has closed it."""
    try:
        return os.dup(fd)
    except OSError:
        return os.open(os.devnull, os.O_RDWR)


def _has_news(control: socket.socket) -> bool:
    poller = select.poll()
    poller.register(control, select.POLLIN)
    return bool(poller.poll(0))


def _folder() -> str:
    """Return the working directory; empty if it was removed."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""
