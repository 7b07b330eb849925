"""What each worker did when: one bar a task while there are few, and the share of the time in which it was busy where there are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from starburst_executor.report.axis import Axis, Coverage

__all__ = ["MOST_BARS", "Bar", "Lane", "Lanes", "rows_of"]

# One bar a task up to this number of tasks. More look like one on a page.
MOST_BARS = 2000
# Workers that are followed singly.
_MOST_LANES = 1000


class Bar(NamedTuple):
    """The last attempt of one task; times in UTC epoch seconds."""

    task: str
    start: float
    end: float
    state: str


class Lane(NamedTuple):
    """One worker.

    Attributes:
        busy: The number of its tasks that ran at a time, in each bin of the axis.
        counts: Its tasks by how they ended.
        bars: A bar a task; None if the session has too many tasks.
    """

    worker: str
    busy: list[float]
    counts: Counter[str]
    bars: list[Bar] | None


class Lanes:
    """Gathers lanes. Not thread-safe."""

    def __init__(self, axis: Axis) -> None:
        self._axis = axis
        self._busy: dict[str, Coverage] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._bars: dict[str, list[Bar]] | None = {}

    def ran(self, worker: str, start: float, end: float, n: Counter[str]) -> None:
        """A slot of this worker was busy in this interval, with these tasks."""
        busy = self._busy.get(worker)
        if busy is None:
            if len(self._busy) >= _MOST_LANES:
                return
            busy = self._busy[worker] = Coverage(self._axis)
            self._counts[worker] = Counter()
        busy.cover(start, end)
        self._counts[worker].update(n)

    def bars(self, worker: str, bars: Iterable[Bar]) -> None:
        """These tasks ran there."""
        if self._bars is not None:
            self._bars.setdefault(worker, []).extend(bars)

    @property
    def has_bars(self) -> bool:
        """Whether there still is a bar a task."""
        return self._bars is not None

    def without_bars(self) -> None:
        """There are too many tasks for a bar each."""
        self._bars = None

    def all(self) -> list[Lane]:
        """Return the lanes, sorted by worker: an id begins with the time at which the worker was started."""
        return [
            Lane(
                worker,
                self._busy[worker].values(),
                self._counts[worker],
                None if self._bars is None else self._bars.get(worker, []),
            )
            for worker in sorted(self._busy)
        ]


def rows_of(bars: Sequence[Bar], slots: int = 0) -> list[list[Bar]]:
    """Return bars in as few rows as possible, without overlaps in a row: about one row for each slot.

    Args:
        slots: The number of rows at most, 0 for any. Times are known up to the wait for a commit; a bar that would need one more row
            begins, if it can, where the row that is free first ends.
    """
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.start):
        first = min(rows, key=lambda row: row[-1].end, default=None)
        # Clocks tick, and times are rounded: bars that touch do not overlap.
        if first is not None and first[-1].end <= bar.start + 1e-6:
            first.append(bar)
        elif first is not None and slots and len(rows) >= slots and first[-1].end < bar.end:
            first.append(bar._replace(start=first[-1].end))
        else:
            rows.append([bar])
    return rows
