"""The permit of one slot: while it runs tasks of a limit, it holds one of the limit's permits.

    take(name) ──► held ──── claims and commits of tasks with this limit ────► give_back: the slot has no work, or other work

The slot's thread owns it. A permit is `<worker_id>.<slot>`, so taking it twice is harmless.
"""

from __future__ import annotations

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.session.store import SessionStore

__all__ = ["Permit"]


class Permit:
    """The permit of one slot.

    Attributes:
        name: The limit of which the slot holds a permit, or may hold one after a write without a clear answer; empty if none.
    """

    def __init__(self, session: SessionStore, worker_id: str, slot: int) -> None:
        self._session = session
        self._permit = f"{worker_id}.{slot}"
        self.name = ""

    def take(self, name: str) -> bool:
        """Return whether the slot may claim tasks with this limit; it gives back the permit of another one.

        Args:
            name: The limit; empty for tasks without one, which the slot may always claim.

        Store: nothing without a limit; otherwise as `SessionLimits.take` and `give_back`.
        """
        if self.name and name != self.name:
            self.give_back()
        if not name:
            return True
        # Before the write: it may land without an answer.
        self.name = name
        try:
            is_held = self._session.limits.take(name, self._permit)
        except (RecordInvalid, VersionMismatch):
            is_held = False
        if not is_held:
            self.name = ""
        return is_held

    def still_holds(self) -> bool:
        """Return whether the slot may go on: the permit was not taken away, as from a worker that seemed lost. Store: 1 GET."""
        if not self.name:
            return True
        found = self._session.limits.read(self.name)
        return found is not None and found.has(self._permit)

    def give_back(self) -> None:
        """Give the permit back, and ring if others may wait for it. Store: nothing without one; 1 GET, 1 swap, perhaps 1 ring."""
        if not self.name:
            return
        was_full = self._session.limits.give_back(self.name, self._permit)
        self.name = ""
        if was_full:
            # A ring without keys has idle workers look at all objects.
            self._session.bell.ring([], 1)
