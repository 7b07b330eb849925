"""The life of a runner as the agent controls and observes it: killing it, the reason of its end, signs that it must be killed.

The nursery holds the other end of the lifeline. It kills the runner's processes when it reads `KILL`, or when the agent
is gone, and it writes the runner's exit code before it closes its end.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress

from starburst_executor.clock import SystemClock
from starburst_executor.families import kill_family
from starburst_executor.worker.runner import nursery
from starburst_executor.worker.runner.exits import DEAF_WORDS, OVERWRITTEN_WORDS, SIGTERM_WORDS, exit_words

__all__ = ["Lifeline", "Signs"]

_DEAF_GRACE_S = 1.0  # longest time from the end of its data to its exit code; after that it is alive but cannot answer
# A SIGTERM to a process group reaches its processes one by one: how much earlier a runner may get it than its worker.
_TERM_GRACE_S = 1.0
_CLOCK = SystemClock()


class Lifeline:
    """The agent's end of the socket to the nursery about one runner. Not thread-safe."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self._pid = pid
        self._sock = sock
        self._sock.setblocking(False)
        self._killed_why: str | None = None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the runner or the nursery has ended."""
        return self._sock.fileno()

    def end(self) -> str | None:
        """Return why the runner has ended, as text for the user; None if it has not."""
        try:
            report = self._sock.recv(nursery.REPORT.size)
        except BlockingIOError:
            return None
        except OSError:
            report = b""
        if report:
            (code,) = nursery.REPORT.unpack(report)
            return exit_words(code, self._killed_why)
        self._kill_orphans()
        return "the process that starts runners died and took it along"

    def kill(self, why: str) -> None:
        """Kill the runner and all processes that it started. The first `why` becomes the reason of its end."""
        self._killed_why = self._killed_why or why
        try:
            self._sock.send(nursery.KILL)
        except OSError:
            # The nursery has closed its end. If it left an exit code, the runner has been reaped and its pid may belong to
            # another process by now; if it left none, the nursery is gone.
            with suppress(OSError):
                if self._sock.recv(nursery.REPORT.size, socket.MSG_PEEK):
                    return
            self._kill_orphans()

    def close(self) -> None:
        """Release the socket; if the runner is alive, the nursery kills it."""
        self._sock.close()

    def _kill_orphans(self) -> None:
        """Kill the session without the nursery, which is gone. Its id cannot have been reused while it has members."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        kill_family(self._pid)


class Signs:
    """Signs that a living runner must be killed: it cannot answer, its answers are overwritten, or a SIGTERM was for it alone.

    Args:
        is_leaving: Return whether the worker has been asked to leave: a SIGTERM was then meant for the whole worker.
    """

    def __init__(self, is_leaving: Callable[[], bool]) -> None:
        self._is_leaving = is_leaving
        self._deaf_at: float | None = None  # when its data ended
        self._is_overwritten = False
        self._term_at: float | None = None  # when it caught a SIGTERM that its worker has not received yet

    @property
    def is_deaf(self) -> bool:
        """Whether its data has ended: it sends nothing more, and reads nothing more."""
        return self._deaf_at is not None

    def data_ended(self) -> None:
        """Record that its data has ended."""
        self._deaf_at = _CLOCK.monotonic()

    def was_overwritten(self) -> None:
        """Record that outcomes are missing in its ledger that must be there."""
        self._is_overwritten = True

    def caught_term(self) -> None:
        """Record that it caught SIGTERM."""
        self._term_at = self._term_at or _CLOCK.monotonic()

    def was_killed(self) -> None:
        """Record that it has been killed for a sign, which counts no more."""
        self._term_at = None
        self._is_overwritten = False

    def verdict(self) -> str | None:
        """Return why to kill it, as text for the user; None if it may live."""
        if self._deaf_at is not None and _CLOCK.monotonic() - self._deaf_at > _DEAF_GRACE_S:
            return DEAF_WORDS
        if self._is_overwritten:
            return OVERWRITTEN_WORDS
        if self._term_at is None or _CLOCK.monotonic() - self._term_at < _TERM_GRACE_S:
            return None
        if self._is_leaving():
            self._term_at = None
            return None
        return SIGTERM_WORDS
