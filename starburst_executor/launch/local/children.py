"""An agent as the client that started it sees it: still there or not, and how it ended.

Two kinds of start give the same: an interpreter of its own, or a fork of the fork server (`fork_server.py`). `life` is
the writing end of the pipe that carries the agent's bootstrap and, while it stays open, says that the client lives.
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
        """Whether it is certainly gone; once it is, for good. `closely`: for whoever waits for it now."""

    def exit_code(self) -> int | None:
        """How it ended, as `subprocess` tells it; None if it has not, or if that is not known."""

    def let_go(self) -> None:
        """It goes on, or is gone, and nobody here waits for it any more."""

    def abandon(self) -> None:
        """For the child of a fork of the user's: it is no business of this process."""


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
        assert self._process.stdin is not None  # a pipe was asked for  # noqa: S101
        self.life = self._process.stdin
        self.pid = self._process.pid
        self.started = started_at(self.pid)

    def has_ended(self, *, closely: bool = False) -> bool:  # noqa: ARG002 - it is always looked at
        return self._process.poll() is not None

    def exit_code(self) -> int | None:
        return self._process.poll()

    def let_go(self) -> None:
        # A detached worker goes on without us; its process object must not complain that nobody waits for it.
        if self._process.poll() is None:
            self._process.returncode = 0

    def abandon(self) -> None:
        self.life.close()
        # It is no child of this process: nothing here is to wait for it.
        self._process.returncode = 0
