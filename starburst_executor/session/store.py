"""The objects of one session, for clients and workers, which communicate only through the store."""

from __future__ import annotations

from copy import copy

from starburst_executor.clock import Clock
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.bell import SessionBell
from starburst_executor.session.limits import SessionLimits
from starburst_executor.session.manifest import SessionManifest
from starburst_executor.session.payloads import SessionPayloads
from starburst_executor.session.statuses import SessionStatuses
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.limiter import Urgency
from starburst_executor.store.patient import urgent

__all__ = ["SessionStore"]


class SessionStore:
    """The objects of one session: `manifest`, `statuses`, `payloads`, `limits` and `bell`. Thread-safe; makes no request itself.

    Attributes:
        store: The store of all objects, for requests whose urgency is not special.
        vital: The same store for beats and looks, which do not wait while the store is busy.
    """

    def __init__(self, store: ObjectStore, session_id: str, sealer: Sealer, clock: Clock) -> None:
        self.store = store
        self.keys = SessionKeys(session_id)
        self.sealer = sealer
        self.clock = clock
        self.vital = urgent(store, Urgency.VITAL)
        # The manifest is read once a beat interval, by the threads that beat: they must not wait in a queue.
        self.manifest = SessionManifest(self.vital, self.keys, sealer, clock)
        self.statuses = SessionStatuses(store, self.keys, clock)
        self.limits = SessionLimits(store, self.keys, clock)
        self.payloads = SessionPayloads(store, self.keys, sealer)
        self.bell = SessionBell(urgent(store, Urgency.POLL), self.keys, clock, self._ring_gap_s)

    def at(self, urgency: Urgency) -> SessionStore:
        """Return this session with `store` and `statuses` for requests of that urgency; the rest is shared."""
        view = copy(self)
        view.store = urgent(self.store, urgency)
        view.statuses = self.statuses.at(urgency)
        return view

    @property
    def session_id(self) -> str:
        return self.keys.session_id

    def _ring_gap_s(self) -> float:
        known = self.manifest.known
        return known.timings.ring_gap_s if known is not None else 0.0
