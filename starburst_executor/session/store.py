"""The objects of one session, for clients and workers, which communicate only through the store."""

from __future__ import annotations

from starburst_executor.clock import Clock
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.bell import SessionBell
from starburst_executor.session.manifest import SessionManifest
from starburst_executor.session.payloads import SessionPayloads
from starburst_executor.session.statuses import SessionStatuses
from starburst_executor.store.base import ObjectStore

__all__ = ["SessionStore"]


class SessionStore:
    """The objects of one session: `manifest`, `statuses`, `payloads` and `bell`. Thread-safe; makes no request itself."""

    def __init__(self, store: ObjectStore, session_id: str, sealer: Sealer, clock: Clock) -> None:
        self.store = store
        self.keys = SessionKeys(session_id)
        self.sealer = sealer
        self.clock = clock
        self.manifest = SessionManifest(store, self.keys, sealer, clock)
        self.statuses = SessionStatuses(store, self.keys, clock)
        self.payloads = SessionPayloads(store, self.keys, sealer)
        self.bell = SessionBell(store, self.keys, clock, self._ring_gap_s)

    @property
    def session_id(self) -> str:
        return self.keys.session_id

    def _ring_gap_s(self) -> float:
        known = self.manifest.known
        return known.timings.ring_gap_s if known is not None else 0.0
