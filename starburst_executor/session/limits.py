"""The limits of a session: at most a number of tasks of a name run at once, on all workers together, for all clients.

    client:   create limits/<name>, or swap its number
    slot:     GET ──► full: wait for a ring
                └───► swap: its permit added ──► claims, runs, commits, … ──► swap: its permit removed, a ring if it was full
    watcher:  swap: permits of lost workers removed

Guarantee: no more permits are held than the limit allows, by the conditional write of one object. A worker that is lost loses
its permits; if it runs on nevertheless, cut off from the store, its tasks are in addition, until it notices.

Source: docs/design/0020-limits.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed
from starburst_executor.protocol import records
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.records import LimitRecord
from starburst_executor.store.base import ObjectStore

__all__ = ["SessionLimits"]


class SessionLimits:
    """The limits of one session. Thread-safe; raises what the store raises, and RecordInvalid, VersionMismatch."""

    def __init__(self, store: ObjectStore, keys: SessionKeys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock

    def set(self, name: str, most: int) -> None:
        """Set a limit's number; the last one counts. Store: 1 create; if it exists, 1 GET, and 1 swap for another number."""
        key = self._keys.limit(name)
        try:
            self._store.create(key, self._body(LimitRecord(most)))
        except PreconditionFailed:
            self._change(name, lambda found: found if found.most == most else replace(found, most=most))

    def read(self, name: str) -> LimitRecord | None:
        """Return a limit; None if it is not there. Store: 1 GET."""
        try:
            return records.decode_limit(self._store.get(self._keys.limit(name)).body)
        except ObjectNotFound:
            return None

    def take(self, name: str, permit: str) -> bool:
        """Return whether this permit is held now, which takes it if one is free. Store: 1 GET, 1 swap; both again for each lost race."""

        def step(found: LimitRecord) -> LimitRecord:
            if permit in found.holders or len(found.holders) >= found.most:
                return found
            return replace(found, holders=(*found.holders, permit))

        after = self._change(name, step)
        return after is not None and after.has(permit)

    def give_back(self, name: str, *permits: str) -> bool:
        """Give permits back; return whether the limit was full before, so that others may wait. Harmless if they are not held.

        Store: 1 GET, 1 swap; both again for each lost race.
        """
        was_full = False

        def step(found: LimitRecord) -> LimitRecord:
            nonlocal was_full
            was_full = len(found.holders) >= found.most
            return found.without(frozenset(permits))

        self._change(name, step)
        return was_full

    def held(self) -> dict[str, LimitRecord]:
        """Return all limits of the session, by name. Store: 1 LIST, 1 GET each."""
        names = [name for line in self._store.list(self._keys.limits) if (name := self._keys.parse_limit(line.key))]
        found = {name: self.read(name) for name in names}
        return {name: record for name, record in found.items() if record is not None}

    def _change(self, name: str, step: Callable[[LimitRecord], LimitRecord]) -> LimitRecord | None:
        """Swap in `step(record)`, after fresh reads until it lands; return the record, None if there is none."""
        key = self._keys.limit(name)
        while True:
            try:
                stored = self._store.get(key)
                found = records.decode_limit(stored.body)
                changed = step(found)
                if changed is not found:
                    self._store.swap(key, self._body(changed), stored.etag)
            except PreconditionFailed:
                continue  # another writer won, or this swap landed and its answer was lost: the next reading shows which
            except ObjectNotFound:
                return None
            return changed

    def _body(self, record: LimitRecord) -> bytes:
        return records.encode(record, self._clock.new_id())
