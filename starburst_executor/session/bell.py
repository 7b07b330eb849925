"""Rings and reads the bell, the object that wakes idle workers.

A ring is a hint: a worker that misses one finds the tasks at its next look. So nothing depends on its order or its arrival,
and rings that follow closely are merged into one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid, VersionMismatch
from starburst_executor.protocol import records
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.records import Bell
from starburst_executor.store.base import ObjectStore
from starburst_executor.store.limiter import Urgency
from starburst_executor.store.patient import urgent

__all__ = ["SessionBell"]

# The number of keys in a ring: enough for every status object that one flush of a burst writes.
_KEYS_IN_BELL = 32


class SessionBell:
    """The bell of one session. Thread-safe.

    Args:
        gap_s: Returns `ring_gap_s` of the session's timings, in seconds.
    """

    def __init__(self, store: ObjectStore, keys: SessionKeys, clock: Clock, gap_s: Callable[[], float]) -> None:
        self._store = store
        self._key = keys.bell
        self._clock = clock
        self._gap_s = gap_s
        self._lock = threading.Lock()  # guards: _unrung, _rung, _rings
        self._unrung: tuple[list[str], int] = ([], 0)
        self._rung = (float("-inf"), float("-inf"))  # when the last two rings began
        self._rings = False

    def ring(self, keys: Sequence[str], n_tasks: int, urgency: Urgency = Urgency.POLL) -> None:
        """Wake idle workers for these status objects, with at most two rings in `2 * ring_gap_s`; further keys are collected.

        Keys that are collected while the first ring of a burst is written are rung directly after it. Call `ring_due` until
        it returns None, to ring for keys that are collected later. Store: 0 or 1 PUT; 2 if other threads added keys meanwhile.
        """
        with self._lock:
            gathered, n_before = self._unrung
            gathered.extend(keys)
            self._unrung = (gathered[-_KEYS_IN_BELL:], n_before + n_tasks)
        self.ring_due(urgency)

    def ring_due(self, urgency: Urgency = Urgency.POLL) -> float | None:
        """Ring for the collected keys if a ring is permitted now; otherwise return in how many seconds it will be.

        Returns None if no keys are collected, or if another thread is ringing, which then rings for the collected keys too.

        Args:
            urgency: `VITAL` for a thread that also beats, and must not wait in a queue.
        """
        while True:
            now = self._clock.monotonic()
            with self._lock:
                keys, n_tasks = self._unrung
                if self._rings or not (keys or n_tasks):
                    return None
                gap_s = self._gap_s()
                wait_s = self._rung[0] + 2 * gap_s - now
                if wait_s > 0:
                    return wait_s
                self._unrung = ([], 0)
                self._rung = (self._rung[1], now)
                self._rings = True
            try:
                urgent(self._store, urgency).put(
                    self._key, records.encode(Bell(tuple(keys), n_tasks), self._clock.new_id())
                )
            finally:
                with self._lock:
                    self._rings = False

    def answer(self, key: str, etag: str) -> None:
        """Say that this object's tasks, for which the ring with this ETag was, have been claimed.

        So workers that wait for their turn need not read the object. A newer ring is never replaced. Store: 1 swap.
        """
        with suppress(PreconditionFailed, ObjectNotFound):
            body = records.encode(Bell((key,), 0), self._clock.new_id())
            urgent(self._store, Urgency.POLL).swap(self._key, body, etag)

    def read(self, after: str | None, urgency: Urgency = Urgency.POLL) -> tuple[Bell, str] | None:
        """Read the bell and its ETag; None if it has not been rung since it had the ETag `after`, or, with None, ever.

        Store: 1 GET, usually a 304.
        """
        try:
            store = urgent(self._store, urgency)
            stored = store.get(self._key) if after is None else store.get_if_changed(self._key, after)
        except ObjectNotFound:
            return None
        if stored is None:
            return None
        try:
            return records.decode_bell(stored.body), stored.etag
        except (RecordInvalid, VersionMismatch):
            # The bell is only a hint: an unreadable one still makes the worker look.
            return Bell(), stored.etag
