"""A time axis with a fixed number of bins, which become wider as time goes on: series over any time in the same memory.

t0 ├──┼──┼──┼──┼──┼──┼──┼──┤          a time behind the end joins the bins in pairs:
t0 ├─────┼─────┼─────┼─────┼─ ─ ─ ─┤  twice the width, half of the bins free again
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate

__all__ = ["N_BINS", "Axis", "Counts", "Coverage", "ratio"]

N_BINS = 240  # even, so that bins can be joined in pairs
_FIRST_WIDTH_S = 0.01


class Axis:
    """Bins of equal width from a first moment on, and the series that use them. Not thread-safe.

    Args:
        t0: The first moment, UTC epoch seconds; earlier ones count to the first bin.
    """

    def __init__(self, t0: float) -> None:
        self.t0 = t0
        self.width_s = _FIRST_WIDTH_S
        self._series: list[Counts | Coverage] = []

    def add(self, series: Counts | Coverage) -> None:
        """Have a series follow this axis."""
        self._series.append(series)

    def place(self, at: float) -> tuple[int, float]:
        """Return the bin of a moment, and how far into the bin it is, 0..1. May make every bin wider."""
        while at >= self.t0 + N_BINS * self.width_s:
            for series in self._series:
                series.fold()
            self.width_s *= 2
        position = max(0.0, (at - self.t0) / self.width_s)
        number = min(N_BINS - 1, int(position))
        return number, min(1.0, position - number)

    def times(self) -> list[float]:
        """Return the moments at which the bins begin, and the end of the last: one more than there are bins."""
        return [self.t0 + i * self.width_s for i in range(N_BINS + 1)]


class Counts:
    """How many of something in each bin."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self.values = array("d", bytes(8 * N_BINS))
        axis.add(self)

    def count(self, at: float, n: float = 1) -> None:
        """Count `n` at this moment."""
        number, _ = self._axis.place(at)
        self.values[number] += n

    def fold(self) -> None:
        """Join the bins in pairs."""
        values = self.values
        joined = [values[i] + values[i + 1] for i in range(0, N_BINS, 2)]
        self.values = array("d", [*joined, *[0.0] * (N_BINS // 2)])

    def cumulative(self) -> list[float]:
        """Return the sums up to the end of each bin."""
        return list(accumulate(self.values))


class Coverage:
    """How long something lasted in each bin, as a share of the bin; several at a time add up. A fixed effort for any interval."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        # An interval changes the bins in which it begins and ends, and a step for all later ones.
        self._parts = array("d", bytes(8 * N_BINS))
        self._steps = array("d", bytes(8 * (N_BINS + 1)))
        axis.add(self)

    def cover(self, start: float, end: float, n: float = 1) -> None:
        """Add an interval, `n` times."""
        # The later one first: it may make the bins wider.
        self._edge(end, -n)
        self._edge(start, n)

    def _edge(self, at: float, n: float) -> None:
        number, within = self._axis.place(at)
        self._parts[number] += n * (1 - within)
        self._steps[number + 1] += n

    def fold(self) -> None:
        """Join the bins in pairs."""
        parts, steps = self._parts, self._steps
        halves = range(0, N_BINS, 2)
        new_parts = [(parts[i] + parts[i + 1] + steps[i + 1]) / 2 for i in halves]
        new_steps = [steps[i] + (steps[i - 1] if i else 0.0) for i in range(0, N_BINS + 1, 2)]
        self._parts = array("d", [*new_parts, *[0.0] * (N_BINS // 2)])
        self._steps = array("d", [*new_steps, *[0.0] * (N_BINS // 2)])

    def values(self) -> list[float]:
        """Return the share of each bin that is covered: 2.0 where two intervals cover all of it."""
        return [max(0.0, part + step) for part, step in zip(self._parts, accumulate(self._steps), strict=False)]


def ratio(parts: Iterable[float], wholes: Iterable[float]) -> list[float | None]:
    """Return the quotients; None where there is no whole."""
    return [part / whole if whole else None for part, whole in zip(parts, wholes, strict=True)]
