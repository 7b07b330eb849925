"""Durations of any number of tasks in a few hundred numbers: counts in bins whose width grows with the duration."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence

__all__ = ["Durations", "LabelDurations"]

_PER_DECADE = 24
# Of a bin's middle to its edges: what a quantile may be wrong by.
ERROR = 10 ** (0.5 / _PER_DECADE) - 1
_MOST_BARS = 60
# Bins that one bar joins: parts of a decade, then whole ones, up to all that a float can be.
_STEPS = (1, 2, 4, 8, 24, 48, 96, 192, 384)


class Durations:
    """Counts durations. Quantiles are at most 5 % wrong; count, mean, least and most are exact."""

    __slots__ = ("_bins", "least_s", "most_s", "n", "total_s")

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.n = 0
        self.total_s = 0.0
        self.least_s = math.inf
        self.most_s = 0.0

    def add(self, seconds: Sequence[float]) -> None:
        """Count these durations, each more than 0 seconds."""
        if not seconds:
            return
        self.n += len(seconds)
        self.total_s += sum(seconds)
        ordered = sorted(seconds)
        self.least_s = min(self.least_s, ordered[0])
        self.most_s = max(self.most_s, ordered[-1])
        log10, floor = math.log10, math.floor
        self._bins.update([floor(log10(s) * _PER_DECADE) for s in seconds])

    def add_all(self, other: Durations) -> None:
        """Count everything that another one has counted."""
        self._bins.update(other._bins)
        self.n += other.n
        self.total_s += other.total_s
        self.least_s = min(self.least_s, other.least_s)
        self.most_s = max(self.most_s, other.most_s)

    @property
    def mean_s(self) -> float | None:
        """The mean; None if nothing was counted."""
        return self.total_s / self.n if self.n else None

    def quantile(self, share: float) -> float | None:
        """Return the duration that this share of them does not exceed; None if nothing was counted."""
        if not self.n:
            return None
        wanted, counted = share * self.n, 0
        for number in sorted(self._bins):
            counted += self._bins[number]
            if counted >= wanted:
                break
        else:
            return self.most_s
        return min(self.most_s, max(self.least_s, 10 ** ((number + 0.5) / _PER_DECADE)))

    def histogram(self) -> list[tuple[float, float, int]]:
        """Return the bins between the shortest and the longest duration: each from, to, in seconds, and its count; at most 60."""
        if not self._bins:
            return []
        first, last = min(self._bins), max(self._bins)
        step = next(step for step in _STEPS if last // step - first // step < _MOST_BARS)
        first -= first % step
        return [
            (_edge(start), _edge(start + step), sum(self._bins[number] for number in range(start, start + step)))
            for start in range(first, last + 1, step)
        ]


def _edge(number: int) -> float:
    """Return where a bin begins, in seconds."""
    return 10 ** min(sys.float_info.max_10_exp, number / _PER_DECADE)


class LabelDurations:
    """The durations of tasks by their label, for the first dozen of labels; those of all others together.

    Attributes:
        shown: By label; of tasks without one under "".
        others: Of the tasks with any further label.
    """

    MOST = 12

    __slots__ = ("others", "shown")

    def __init__(self) -> None:
        self.shown: dict[str, Durations] = {}
        self.others = Durations()

    def of(self, label: str) -> Durations:
        """Return what the durations of this label are added to."""
        if label and label not in self.shown and len(self.shown) - ("" in self.shown) >= self.MOST:
            return self.others
        return self.shown.setdefault(label, Durations())

    def rows(self) -> list[tuple[str, Durations]]:
        """Return names and durations, the one with the most time first, then what is joined; empty if no task has a label."""
        if not any(self.shown):
            return []
        named = [(label or "(no label)", durations) for label, durations in self.shown.items() if durations.n]
        rows = sorted(named, key=lambda pair: -pair[1].total_s)
        return [*rows, ("(other labels)", self.others)] if self.others.n else rows
