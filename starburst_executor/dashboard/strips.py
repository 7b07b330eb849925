"""Ends of tasks and busy slots over time, in a bounded number of bins, whatever the number of tasks.

A bin keeps how many tasks began and ended in it, and the sums of these times. From them the busy slot-seconds up to each edge of a bin
follow exactly, so tasks that ran one after the other cost two additions, however many bins they span. When time outgrows the bins, pairs of them are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = ["Strip", "Timeline", "skyline"]

MOST_BINS = 192
# What is drawn: with it all paths of a chart fit into one update.
MOST_DRAWN = 64
_FIRST_S = 0.125
# A worker whose clock is further ahead than this is wrong about its times.
_MOST_AHEAD_S = 86_400.0


class Timeline(NamedTuple):
    """A strip at one moment, ready to be drawn; all sequences have the same length.

    Attributes:
        began_at: The left edge, UTC epoch seconds.
        bin_s: The width of a bin.
        completed: Tasks that completed in each bin.
        failed: Likewise.
        cancelled: Likewise.
        unread: Tasks that ended in objects that were not read; each counts in the bin in which its object changed last.
        busy: The mean number of tasks that ran in each bin.
    """

    began_at: float
    bin_s: float
    completed: Sequence[float]
    failed: Sequence[float]
    cancelled: Sequence[float]
    unread: Sequence[float]
    busy: Sequence[float]


class Strip:
    """Adds up tasks in bins. Not thread-safe: `TaskIndex` guards it."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self._bin_s = _FIRST_S
        self._ends: dict[str, list[float]] = {name: [0.0] * MOST_BINS for name in ("completed", "failed", "cancelled")}
        # By bin: starts and ends of runs, each as a number and a sum of times.
        self._runs: dict[str, list[float]] = {name: [0.0] * MOST_BINS for name in ("n0", "t0", "n1", "t1")}
        self._last = 0.0

    def add(self, states: Sequence[str], ended_at: float, seconds: Sequence[float], sign: int) -> None:
        """Add tasks that ran one after the other, the last one up to `ended_at`, or take them out again with a `sign` of -1.

        Args:
            states: The state in which each has ended.
            seconds: The duration of each.
        """
        end, total = self._offset(ended_at), sum(seconds)
        self._fit(end)
        start = max(0.0, end - total)
        place_0, place_1 = self._place(start), self._place(end)
        if place_0 == place_1:
            for state in self._ends:
                self._ends[state][place_1] += sign * states.count(state)
        else:
            at = end
            for state, task_s in zip(reversed(states), reversed(seconds), strict=True):
                self._ends[state][self._place(at)] += sign
                at = max(0.0, at - task_s)
        if total > 0:
            # Between them the slot is busy all the time, so that the starts and ends within cancel out.
            runs = self._runs
            runs["n0"][place_0] += sign
            runs["t0"][place_0] += sign * start
            runs["n1"][place_1] += sign
            runs["t1"][place_1] += sign * end
        self._last = max(self._last, end)

    def at(self, now: float, unread: Iterable[tuple[float, int]], running: Iterable[float]) -> Timeline:
        """Return what is known at one moment.

        Args:
            unread: For ended objects that were not read: when each changed last, and its number of tasks.
            running: Since when each running task runs.
        """
        others = [(self._offset(at), n) for at, n in unread]
        until = max([self._last, self._offset(now) if running else 0.0, *(offset for offset, _ in others), self._bin_s])
        self._fit(until)
        n_bins = min(MOST_BINS, self._place(until) + 1)
        per = -(-n_bins // MOST_DRAWN)
        n_drawn = -(-n_bins // per)
        waiting = [0.0] * MOST_BINS
        for offset, n in others:
            waiting[self._place(offset)] += n
        busy = self._busy([self._offset(since) for since in running], until)
        joined = {
            name: [sum(bins[i * per : (i + 1) * per]) for i in range(n_drawn)]
            for name, bins in {**self._ends, "unread": waiting, "busy": busy}.items()
        }
        width = self._bin_s * per
        joined["busy"] = [max(0.0, slot_s) / width for slot_s in joined["busy"]]
        return Timeline(self.began_at, width, **joined)

    def _busy(self, running: Sequence[float], until: float) -> list[float]:
        """Return the busy slot-seconds of each bin."""
        runs, width = {name: list(bins) for name, bins in self._runs.items()}, self._bin_s
        for start in running:
            for kind, offset in (("0", min(start, until)), ("1", until)):
                runs["n" + kind][self._place(offset)] += 1
                runs["t" + kind][self._place(offset)] += offset
        n0, t0, n1, t1 = (list(accumulate(runs[name])) for name in ("n0", "t0", "n1", "t1"))
        total = [(i + 1) * width * (n0[i] - n1[i]) - (t0[i] - t1[i]) for i in range(MOST_BINS)]
        return [total[0], *(total[i] - total[i - 1] for i in range(1, MOST_BINS))]

    def _offset(self, at: float) -> float:
        return min(max(0.0, at - self.began_at), self._last + _MOST_AHEAD_S * 366)

    def _place(self, offset: float) -> int:
        return min(MOST_BINS - 1, int(offset / self._bin_s))

    def _fit(self, offset: float) -> None:
        while offset >= self._bin_s * MOST_BINS:
            self._bin_s *= 2
            for kinds in (self._ends, self._runs):
                for name, bins in kinds.items():
                    pairs = [bins[i] + bins[i + 1] for i in range(0, MOST_BINS, 2)]
                    kinds[name] = pairs + [0.0] * (MOST_BINS - len(pairs))


def skyline(values: Sequence[float], most: float, *, width: int = 640, height: int = 100) -> str:
    """Return the path of an SVG area of steps, one a value, in a box of that size; empty if all values are 0."""
    if not values or most <= 0 or not any(values):
        return ""
    path, level = [f"M0 {height}"], height
    for i, value in enumerate(values):
        top = height - round(min(1.0, max(0.0, value / most)) * height)
        if value > 0 and top == height:
            top = height - 1  # something is seen
        if top != level:
            path.append(f"H{round(i * width / len(values))}V{top}")
            level = top
    return "".join([*path, f"H{width}V{height}z"])
