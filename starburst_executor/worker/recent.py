"""A cache of the most recently used values, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Recent"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by name, of at most `most_bytes` in all; the least recently used are dropped first.

    The newest value stays, whatever its size. Not thread-safe.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: K) -> bool:
        """Whether the name is kept; this does not count as a use."""
        return name in self._kept

    def get(self, name: K) -> V | None:
        """Return the value of this name and count a use; None if it is not kept."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        self._kept.move_to_end(name)
        return kept[0]

    def add(self, name: K, value: V, n_bytes: int) -> list[K]:
        """Keep a value as the newest; return the names of the values that were dropped for it."""
        self._drop(name)
        dropped: list[K] = []
        while self._kept and self.n_bytes + n_bytes > self._most_bytes:
            oldest = next(iter(self._kept))
            self._drop(oldest)
            dropped.append(oldest)
        self._kept[name] = (value, n_bytes)
        self.n_bytes += n_bytes
        return dropped

    def _drop(self, name: K) -> None:
        _, n_bytes = self._kept.pop(name, (None, 0))
        self.n_bytes -= n_bytes
