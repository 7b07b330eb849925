"""The order in which strands take locks: two locks that are taken in both orders can stop two threads for ever.

A lock is known by the line that makes it, so one seed shows an order for all objects of a class. A strand need not be stopped
for this to be found: it is enough that each order was taken once, by any strands, at any time.
"""

from __future__ import annotations

import sys

__all__ = ["LockOrder", "WrongLockOrder", "made_at"]


class WrongLockOrder(AssertionError):
    """Two locks were taken in both orders."""


class LockOrder:
    """The orders seen so far in one simulation."""

    def __init__(self) -> None:
        self.after: dict[str, set[str]] = {}  # by lock, those that were taken while it was held

    def take(self, held: list[str], lock: str) -> WrongLockOrder | None:
        """Record that a strand takes a lock while it holds others; return the error if an earlier order was the opposite."""
        for earlier in held:
            if earlier == lock or lock in self.after.setdefault(earlier, set()):
                continue
            self.after[earlier].add(lock)
            if self._leads(lock, earlier):
                return WrongLockOrder(f"locks are taken in both orders: {earlier} and {lock}")
        return None

    def _leads(self, start: str, end: str) -> bool:
        reached, frontier = {start}, [start]
        while frontier:
            following = self.after.get(frontier.pop(), set()) - reached
            reached |= following
            frontier.extend(following)
        return end in reached


def made_at(depth: int) -> str:
    """Return the module and the line of the caller `depth` calls up."""
    frame = sys._getframe(depth + 1)  # noqa: SLF001 - the line that makes a lock is its name
    return f"{frame.f_globals['__name__']}:{frame.f_lineno}"
