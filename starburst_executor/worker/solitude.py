"""Solitude: a worker to itself for a task that has lost two workers, so that its third loss blames nobody else."""

from __future__ import annotations

import threading

__all__ = ["Solitude"]


class Solitude:
    """Lets one slot have the worker to itself, for a task on its last try. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _busy, _wanted_by
        self._busy: set[int] = set()
        self._wanted_by: int | None = None

    def enter(self, slot: int) -> bool:
        """Before a claim: whether this slot may claim now. It counts as busy from then on."""
        with self._lock:
            if self._wanted_by not in (None, slot):
                return False
            self._busy.add(slot)
            return True

    def leave(self, slot: int) -> None:
        """The slot holds nothing any more."""
        with self._lock:
            self._busy.discard(slot)

    def have(self, slot: int, *, insist: bool) -> bool:
        """Whether this slot is the only busy one, and stays so until `give_up`; `insist`: the others drain for it."""
        with self._lock:
            if self._wanted_by not in (None, slot):
                return False
            alone = self._busy <= {slot}
            if alone or insist:
                self._wanted_by = slot
            return alone

    def is_wanted(self, slot: int) -> bool:
        """Whether the others drain for this slot."""
        return self._wanted_by == slot

    @property
    def is_reserved(self) -> bool:
        """Whether some slot wants or has the worker to itself: none claims on from what it runs, that one neither."""
        return self._wanted_by is not None

    def give_up(self, slot: int) -> None:
        """Let the others claim again."""
        with self._lock:
            if self._wanted_by == slot:
                self._wanted_by = None
