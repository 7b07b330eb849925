"""The place of a worker among the living workers of its session, by which they divide the status objects without a race.

    workers, oldest first:   w0   w1   w2        objects, in submission order:   0  1  2  3  4  5  …
                              0    1    2   ───────────────────────────────►    w0 w1 w2 w0 w1 w2 …

A lone task is no work for all of them: the workers have an order for each object by a hash of both, and the first of them takes it; each
other one waits long enough to see whether those before it do.

It is a hint: workers that have listed at different times may have the same place; then a swap decides, as it does for objects
that are taken out of turn.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from zlib import crc32

__all__ = ["Rank"]

_MIXES = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio


class Rank:
    """One worker's place. Thread-safe.

    Args:
        n_slots: The number of its slots. The other workers are assumed to have as many.
    """

    def __init__(self, n_slots: int) -> None:
        self._n_slots = n_slots
        self._lock = threading.Lock()  # guards: _id, _living, _number
        self._id = ""
        self._living: tuple[str, ...] = ()
        self._number: int | None = None

    def learn(self, worker_id: str, living: Sequence[str]) -> None:
        """Take the place from the ids of the workers that have not left."""
        with self._lock:
            self._id, self._living = worker_id, tuple({*living, worker_id})
            self._number = sum(other < worker_id for other in living)

    @property
    def has_others(self) -> bool:
        """Whether more workers than this one were listed."""
        with self._lock:
            return len(self._living) > 1

    def is_whole(self, n_all_slots: int) -> bool:
        """Return whether as many workers were listed as the session should have."""
        with self._lock:
            return len(self._living) * self._n_slots >= n_all_slots

    def has(self, place: int, n_all_slots: int) -> bool:
        """Return whether it is the turn of one of this worker's slots to take the object at this place; False while unknown.

        Args:
            place: The object's number in submission order.
            n_all_slots: The number of slots of all workers.
        """
        with self._lock:
            if self._number is None:
                return False
            n_turns = max(n_all_slots, len(self._living) * self._n_slots)
            first = self._number * self._n_slots
            return first <= place % n_turns < first + self._n_slots

    def is_of_first(self, n_slots: int) -> bool:
        """Return whether this worker has one of the first `n_slots` slots of all; True while that is unknown."""
        with self._lock:
            return self._number is None or self._number * self._n_slots < n_slots

    def before(self, key: str) -> int | None:
        """Return how many living workers come before this one in the order for an object; None while unknown."""
        with self._lock:
            living, own = self._living, _draw(key, self._id)
        return sum(_draw(key, other) < own for other in living) if living else None


def _draw(key: str, worker_id: str) -> int:
    # A CRC alone is linear: two workers would have nearly the same order for all objects.
    return crc32(worker_id.encode(), crc32(key.encode())) * _MIXES % 2**64
