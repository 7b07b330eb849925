"""The workers of a study, as its driver sees them: a session to which it submits each trial once.

`SessionFleet` is the real one, over a `DetachedExecutor`. The simulation has another one behind the same interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from typing import Any, Protocol

from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.finding import visit
from starburst_executor.client.once import once_of
from starburst_executor.clock import Clock
from starburst_executor.errors import SessionNotFound
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import SessionState
from starburst_executor.store.url import split_url

__all__ = ["Fleet", "SessionFleet", "Workers"]


class Fleet(Protocol):
    """One session that runs trials."""

    @property
    def url(self) -> str:
        """The URL of the session."""

    @property
    def store_url(self) -> str:
        """The URL of the store, the same in every process of this session."""

    def submit(self, function: Callable[[int], Any], indexes: Sequence[int], keys: Sequence[str]) -> list[Future[Any]]:
        """Submit the trials whose keys the session does not have; return the future of each, in order. Harmless twice."""

    def find(self, keys: Sequence[str]) -> Mapping[str, Future[Any]]:
        """Return the futures of those keys that the session has, also when it is over."""

    def wait(self, futures: Iterable[Future[Any]], timeout_s: float) -> None:
        """Wait until one of these is done, or until the time has passed."""

    def cancel(self) -> None:
        """Cancel the trials that no worker has claimed. Harmless twice."""

    def over(self) -> str:
        """Return why the session runs nothing any more; empty if it is open."""

    def cost_usd(self) -> float:
        """Return the estimated cost so far."""

    def leave(self) -> None:
        """Detach; what was submitted goes on."""


class Workers(Protocol):
    """Opens sessions for a study."""

    def open(self, url: str) -> Fleet | None:
        """Open the session of this URL; a new one if the URL is empty; None if it was deleted."""


class SessionFleet:
    """A detached session of real workers."""

    def __init__(self, executor: DetachedExecutor, clock: Clock) -> None:
        self._executor = executor
        self._opened = ExitStack()
        self._visit = self._opened.enter_context(visit(executor.url, clock, key=executor.key))

    @property
    def url(self) -> str:
        return self._executor.url

    @property
    def store_url(self) -> str:
        return split_url(self._executor.url)[0]

    def submit(self, function: Callable[[int], Any], indexes: Sequence[int], keys: Sequence[str]) -> list[Future[Any]]:
        return [*self._executor.map_once(function, indexes, key=keys)]

    def find(self, keys: Sequence[str]) -> Mapping[str, Future[Any]]:
        return dict(once_of(self._executor).find(keys))

    def wait(self, futures: Iterable[Future[Any]], timeout_s: float) -> None:
        wait([*futures], timeout_s, FIRST_COMPLETED)

    def cancel(self) -> None:
        self._executor.cancel()

    def over(self) -> str:
        try:
            manifest = self._visit.session.manifest.refresh()
        except SessionNotFound:
            return SessionState.DELETED.value
        if not manifest.state.is_over and manifest.state is not SessionState.CLOSING:
            return ""
        error = ended_by(manifest)
        return f"{manifest.state.value}: {error or manifest.reason}"

    def cost_usd(self) -> float:
        return self._executor.cost().total_usd

    def leave(self) -> None:
        self._opened.close()
        self._executor.detach()
