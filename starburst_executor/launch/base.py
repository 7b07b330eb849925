"""The seam between sessions and the engines that run their workers.

A launcher starts workers and says which of them are certainly dead. It keeps nothing: what is needed to find its
workers again is the handle, a string that is stored in the manifest. The protocol does the rest, so an engine is one
small file here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Death", "Launcher", "Order"]


@dataclass(frozen=True, slots=True)
class Order:
    """Workers to be started.

    Attributes:
        url: The session's.
        key: The session's key in hexadecimal.
        n_slots: How many tasks at once, over all workers of the order.
        detached: Whether they outlive the client, and its terminal.
    """

    url: str
    key: str
    n_slots: int
    detached: bool

    def __repr__(self) -> str:
        return f"Order(url={self.url!r}, n_slots={self.n_slots}, detached={self.detached})"


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that is certainly dead, and what its engine or its last line of output says of that."""

    worker_id: str
    words: str


class Launcher(Protocol):
    """Starts workers of one engine. Called by one thread at a time."""

    @property
    def name(self) -> str:
        """As it stands in the manifest: `local`."""

    def check(self, n_slots: int) -> None:
        """Refuse, before anything is started, a number of slots that it could never run. Raises: ConfigError."""

    def start(self, order: Order) -> str:
        """Start workers; a handle for all of them. Raises: LaunchError, ConfigError."""

    def deaths(self, handle: str) -> list[Death]:
        """Those of its workers that are certainly dead, each time all of them. An engine that cannot tell says none."""

    def slots_alive(self, handle: str) -> int:
        """How many tasks at once those of its workers run that may be alive."""

    def stop(self, handle: str, *, at_once: bool) -> None:
        """Stop exactly these workers: by SIGTERM, or at once. Returns when they are gone or certainly will be."""

    def forget(self, handle: str) -> None:
        """The session was deleted: remove what is kept of its workers, such as log files."""

    def let_go(self, handle: str) -> None:
        """The client ends: workers bound to it end too, detached ones go on."""
