"""An object with one writer, a beat: created once, then swapped on its writer's last ETag, never put without a condition."""

from __future__ import annotations

from starburst_executor.clock import Clock
from starburst_executor.errors import PreconditionFailed
from starburst_executor.protocol import records
from starburst_executor.protocol.records import ClientBeat, WorkerBeat
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.limiter import Urgency
from starburst_executor.store.patient import urgent

__all__ = ["OwnObject"]


class OwnObject:
    """The beat of one worker or client. Not thread-safe: beats are written one by one.

    Guarantee: a beat that lands late never replaces a newer beat, so it cannot hide a claim.
    """

    def __init__(self, store: ObjectStore, key: str, clock: Clock) -> None:
        # A worker or client must not seem lost because the store is busy.
        self._store = urgent(store, Urgency.VITAL)
        self._key = key
        self._clock = clock
        self._etag: str | None = None

    @property
    def is_written(self) -> bool:
        """Whether the object has been written at least once."""
        return self._etag is not None

    def write(self, beat: WorkerBeat | ClientBeat) -> None:
        """Write the next beat. Raises: ObjectNotFound if the object was deleted. Store: 1 create the first time, 1 swap."""
        body = self._body(beat)
        try:
            if self._etag is None:
                self._etag = self._store.create(self._key, body)
            else:
                self._etag = self._store.swap(self._key, body, self._etag)
        except PreconditionFailed:
            # Only this process writes the object, so one of its earlier beats landed late: read it, and swap on its ETag.
            stored = self._store.get(self._key)
            self._etag = self._store.swap(self._key, self._body(beat), stored.etag)

    def _body(self, beat: WorkerBeat | ClientBeat) -> bytes:
        return records.encode(beat, self._clock.new_id())
