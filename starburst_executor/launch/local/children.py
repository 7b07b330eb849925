"""An agent process from the point of view of the client that started it: whether it is alive, and how it ended.

There are two implementations: an interpreter of its own, or a fork of the fork server (`fork_server.py`). `life` is the
writing end of the pipe that carries the agent's bootstrap; while it is open, the agent knows that the client is alive.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import IO, Protocol

from starburst_executor import config
from starburst_executor.launch.local.processes import started_at

__all__ = ["Child", "Interpreter"]


class Child(Protocol):
    """An agent that this process has started. Not thread-safe."""

    pid: int
    started: str
    life: IO[bytes]

    def has_ended(self, *, closely: bool = False) -> bool:
        """Whether it has certainly ended; once True, always True. `closely`: check now, for a caller that waits for the end."""

    def exit_code(self) -> int | None:
        """Return its exit code as `subprocess` defines it; None if it has not ended, or if the code is unknown."""

    def let_go(self) -> None:
        """Stop waiting for it; it continues, or has ended."""

    def abandon(self) -> None:
        """Drop it in a child after a fork by the user: only the parent owns the agent."""


class Interpreter:
    """An agent in an interpreter of its own."""

    def __init__(self, command: Sequence[str], output: IO[bytes] | None) -> None:
        """Start it. Raises: OSError."""
        self._process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=config.worker_environment(),
        )
        assert self._process.stdin is not None  # stdin=PIPE  # noqa: S101
        self.life = self._process.stdin
        self.pid = self._process.pid
        self.started = started_at(self.pid)

    def has_ended(self, *, closely: bool = False) -> bool:  # noqa: ARG002 - every call polls
        return self._process.poll() is not None

    def exit_code(self) -> int | None:
        return self._process.poll()

    def let_go(self) -> None:
        # A detached worker outlives this process; its Popen object must not warn that it was not waited for.
        if self._process.poll() is None:
            self._process.returncode = 0

    def abandon(self) -> None:
        self.life.close()
        # The agent is not a child of this process, which must not wait for it.
        self._process.returncode = 0
