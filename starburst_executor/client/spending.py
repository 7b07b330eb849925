"""Adds up the cost and the store requests of a session, in its client."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from starburst_executor.client.money import Cost, cost_of
from starburst_executor.client.opening import Opened
from starburst_executor.client.workforce import Workforce
from starburst_executor.protocol.records import Manifest, WorkerBeat

__all__ = ["Spending"]

_log = logging.getLogger(__name__)


class Spending:
    """Adds up one session's requests and dollars.

    Args:
        buried: Returns the workers whose death this client has seen.
        has_ended: Returns whether this client has ended, after which it makes no store requests.
    """

    def __init__(
        self,
        opened: Opened,
        workforce: Workforce,
        buried: Callable[[], frozenset[str]],
        has_ended: Callable[[], bool],
    ) -> None:
        self._opened = opened
        self._workforce = workforce
        self._buried = buried
        self._has_ended = has_ended
        self._cost: Cost | None = None  # set once the session has ended

    def own_requests(self) -> dict[str, int]:
        """Return the store requests of this client so far, by kind."""
        return self._opened.store.requests.snapshot()

    def requests(self) -> dict[str, int]:
        """Return the store requests so far, by kind: this client's, and its workers' as of their last beats."""
        return self._all_requests(self._workforce.beats(fresh=not self._has_ended()))

    def cost(self) -> Cost:
        """Return the cost of the session so far; after its end, the total."""
        session = self._opened.session
        if not self._has_ended():
            return self.of(session.manifest.refresh(), self._workforce.beats(fresh=True))
        return self._cost or self.of(session.manifest.current, self._workforce.beats(fresh=False))

    def of(self, manifest: Manifest, beats: list[WorkerBeat]) -> Cost:
        """Return the cost by manifest and beats."""
        dead = self._workforce.dead(beats) | self._buried()
        counts = self._all_requests(beats)
        return cost_of(manifest, self._opened.session.clock.now(), beats, dead, counts, self._opened.store.url)

    def settle(self) -> None:
        """Record and log the total cost of a session that has ended. Makes no store request."""
        session = self._opened.session
        self._cost = self.of(session.manifest.current, self._workforce.beats(fresh=False))
        if self._cost.total_usd:
            _log.info("the session has cost %s: session=%s", self._cost, session.session_id)

    def _all_requests(self, beats: Iterable[WorkerBeat]) -> dict[str, int]:
        counts = Counter(self._opened.store.requests.snapshot())
        for beat in beats:
            counts.update(beat.requests)
        return dict(counts)
