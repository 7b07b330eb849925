"""Solitude: a task on its last try gets a worker to itself, so that a further loss cannot be the fault of another task."""

from __future__ import annotations

import threading

__all__ = ["Solitude"]


class Solitude:
    """Gives one slot the worker to itself, for a task on its last try. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _busy, _wanted_by
        self._busy: set[int] = set()
        self._wanted_by: int | None = None

    def enter(self, slot: int) -> bool:
        """Return whether this slot may claim now; if so, it counts as busy. Call it before a claim."""
        with self._lock:
            if self._wanted_by not in (None, slot):
                return False
            self._busy.add(slot)
            return True

    def leave(self, slot: int) -> None:
        """Record that the slot holds no claim any more."""
        with self._lock:
            self._busy.discard(slot)

    def have(self, slot: int, *, insist: bool) -> bool:
        """Return whether this slot is the only busy one; it then stays so until `give_up`.

        With `insist` the other slots make no further claims, so that it becomes the only busy one.
        """
        with self._lock:
            if self._wanted_by not in (None, slot):
                return False
            alone = self._busy <= {slot}
            if alone or insist:
                self._wanted_by = slot
            return alone

    def is_wanted(self, slot: int) -> bool:
        """Return whether the other slots make no claims on behalf of this slot."""
        with self._lock:
            return self._wanted_by == slot

    @property
    def is_reserved(self) -> bool:
        """Whether a slot wants or has the worker to itself: then no slot claims a next slice, not even that one."""
        with self._lock:
            return self._wanted_by is not None

    def give_up(self, slot: int) -> None:
        """Let the other slots claim again."""
        with self._lock:
            if self._wanted_by == slot:
                self._wanted_by = None
