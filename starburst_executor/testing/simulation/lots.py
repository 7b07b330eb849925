"""Random numbers from a seed, the same on every Python: splitmix64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Lots"]

_T = TypeVar("_T")
_MASK = 2**64 - 1


class Lots:
    """Draws from one seed. Not thread-safe."""

    def __init__(self, seed: int) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + 0x1234567) & _MASK

    def bits(self) -> int:
        """Return 64 new bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def random(self) -> float:
        """Return a number in [0, 1)."""
        return (self.bits() >> 11) / 2**53

    def between(self, least: float, most: float) -> float:
        return least + (most - least) * self.random()

    def below(self, n: int) -> int:
        """Return one of 0 .. n - 1."""
        return self.bits() % n

    def count(self, least: int, most: int) -> int:
        """Return one of least .. most."""
        return least + self.below(most - least + 1)

    def chance(self, of: float) -> bool:
        return self.random() < of

    def choice(self, items: Sequence[_T]) -> _T:
        return items[self.below(len(items))]

    def fork(self) -> Lots:
        """Return an independent generator, so that an additional draw from one does not change the draws of the other."""
        return Lots(self.bits())
