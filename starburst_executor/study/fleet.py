"""The workers of a study, as its driver sees them: a session to which it submits each trial once.

`sessions.py` has the real one, over a `DetachedExecutor`; the simulation has another one behind the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

__all__ = ["Fleet", "Workers"]


class Fleet(Protocol):
    """One session that runs trials."""

    @property
    def url(self) -> str:
        """The URL of the session."""

    @property
    def store_url(self) -> str:
        """The URL of the store, the same in every process of this session."""

    def submit(
        self, function: Callable[[Any], Any], calls: Sequence[Any], keys: Sequence[str], timeout: float | None
    ) -> list[Future[Any]]:
        """Submit the trials whose keys the session does not have; return the future of each, in order. Harmless twice.

        Args:
            timeout: Seconds after which a worker ends one of them; None for never.
        """

    def find(self, keys: Sequence[str]) -> Mapping[str, Future[Any]]:
        """Return the futures of those keys that the session has, also when it is over."""

    def wait(self, futures: Iterable[Future[Any]], timeout_s: float) -> None:
        """Wait until one of these is done, or until the time has passed."""

    def scale(self, workers: int) -> None:
        """Change the number of trials that run at once. Harmless twice."""

    def cancel(self) -> None:
        """Cancel the trials that no worker has claimed. Harmless twice."""

    def over(self) -> str:
        """Return why the session runs nothing any more; empty if it is open."""

    def cost_usd(self) -> float:
        """Return the estimated cost so far."""

    def leave(self, *, ends: bool = False, deletes: bool = False) -> None:
        """Detach: what was submitted goes on. Or end the session, and perhaps delete its objects."""


class Workers(Protocol):
    """Opens sessions for a study."""

    def open(self, url: str) -> Fleet | None:
        """Open the session of this URL; a new one if the URL is empty; None if it was deleted."""
