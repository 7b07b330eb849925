"""The priorities of a worker's candidates: which object comes first, and when the one that has waited for longest does.

Higher priorities come first. But of ten claims one goes to the object that has not changed for longest, so that no task waits for
ever: docs/design/0019-priorities.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from starburst_executor.clock import Clock
from starburst_executor.session.statuses import ListedStatus

__all__ = ["Priorities"]

# This share of claims goes to the object that waits for longest, whatever its priority.
_AGED_SHARE = 0.1


class Priorities:
    """The priorities of candidates that have one, and the order in which all have waited. Not thread-safe. False while none has one."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: dict[str, int] = {}
        # If any has a priority: all candidates, by the time of their last change.
        self._by_age: dict[str, None] = {}
        # A slot has left its object, so that the next claim goes to the one that waits for longest.
        self._is_owed = False

    def __bool__(self) -> bool:
        return bool(self._levels)

    def level(self, key: str) -> int:
        """Return an object's priority; 0 if it has none."""
        return self._levels.get(key, 0)

    def replace_by(self, listing: Sequence[ListedStatus], known: Collection[str]) -> None:
        """Take the priorities and ages of those candidates that are known from a listing."""
        self._levels = {g.key: g.ref.priority for g in listing if g.ref.priority and g.key in known}
        ages = sorted((g.modified_at, g.key) for g in listing if g.key in known) if self._levels else []
        self._by_age = dict.fromkeys(key for _, key in ages)

    def add(self, key: str, priority: int) -> None:
        """Add a candidate that has a priority."""
        self._levels[key] = priority

    def clear(self) -> None:
        """Forget all candidates."""
        self._levels.clear()
        self._by_age.clear()

    def in_order(self, pending: dict[str, int]) -> dict[str, int]:
        """Return candidates with those of higher priorities first; the order of others stays as it is."""
        if not self._levels:
            return pending
        self._by_age.update(dict.fromkeys(key for key in pending if key not in self._by_age))
        return dict(sorted(pending.items(), key=lambda item: -self.level(item[0])))

    def goes_on(self, key: str, first: str) -> bool:
        """Return whether a slot may claim the next tasks of its object, if another one is the first of the candidates. True without priorities."""
        if not self._levels:
            return True
        if self.level(first) > self.level(key):
            return False
        self._is_owed = self._is_owed or self._clock.random() < _AGED_SHARE
        return not self._is_owed

    def longest_waiting(self, may_take: Callable[[str], bool]) -> str | None:
        """Return the object that has not changed for longest, if it is its turn, and count it as changed."""
        if not self._levels or not (self._is_owed or self._clock.random() < _AGED_SHARE):
            return None
        self._is_owed = False
        for key in self._by_age:
            if may_take(key):
                del self._by_age[key]
                self._by_age[key] = None
                return key
        return None
