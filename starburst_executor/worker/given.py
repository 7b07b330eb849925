"""The tasks that a runner has, by the numbers of their jobs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from itertools import groupby

from starburst_executor.worker.placed import Placed, Stretch

__all__ = ["Given"]


class Given:
    """The tasks of one runner in the order in which they run. One thread changes it; any thread may call `first`.

    Jobs have ascending numbers, and those of a stretch have consecutive ones. They end in this order, so most are taken from the front.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[int, Stretch]] = []  # each with the number of its first job
        self._n = 0

    def __len__(self) -> int:
        """Return the number of tasks."""
        return self._n

    def __iter__(self) -> Iterator[Stretch]:
        """Yield the tasks in order."""
        return (stretch for _, stretch in self._parts)

    def first(self) -> tuple[int, Placed] | None:
        """Return the oldest job with its task."""
        for number, stretch in self._parts[:1]:
            return number, Placed(stretch.claim, stretch.first)
        return None

    def get(self, number: int) -> Placed | None:
        """Return the task of a job; None if it is not here."""
        for first, stretch in self._parts[max(0, bisect_right(self._parts, number, key=_number) - 1) :][:1]:
            if first <= number < first + stretch.n:
                return Placed(stretch.claim, stretch.first + number - first)
        return None

    def add(self, number: int, stretch: Stretch) -> None:
        """Add tasks, whose first job has this number."""
        self._parts.append((number, stretch))
        self._n += stretch.n

    def pop(self, number: int) -> Placed | None:
        """Take out and return the task of a job; None if it is not here."""
        for _, stretch in self.pop_run(number, 1):
            return Placed(stretch.claim, stretch.first)
        return None

    def pop_run(self, number: int, n: int) -> list[tuple[int, Stretch]]:
        """Take out the tasks of `n` jobs with consecutive numbers; return them in order, with the numbers of their first jobs."""
        popped: list[tuple[int, Stretch]] = []
        while n and self._parts and self._parts[0][0] == number:
            _, stretch = self._parts[0]
            if n < stretch.n:
                # In one step, for threads that call `first`.
                self._parts[0] = (number + n, stretch.part(n, stretch.n))
                stretch = stretch.part(0, n)
            else:
                del self._parts[0]
            popped.append((number, stretch))
            number += stretch.n
            n -= stretch.n
            self._n -= stretch.n
        return popped + self._pop(range(number, number + n)) if n else popped

    def pop_all(self, numbers: Container[int]) -> list[Stretch]:
        """Take out and return the tasks of these jobs, in order."""
        return [stretch for _, stretch in self._pop(numbers)]

    def _pop(self, numbers: Container[int]) -> list[tuple[int, Stretch]]:
        popped: list[tuple[int, Stretch]] = []
        kept: list[tuple[int, Stretch]] = []
        for number, stretch in self._parts:
            start = 0
            for is_popped, places in groupby(map(numbers.__contains__, range(number, number + stretch.n))):
                end = start + len(list(places))
                (popped if is_popped else kept).append((number + start, stretch.part(start, end)))
                start = end
        self._parts = kept
        self._n = sum(stretch.n for _, stretch in kept)
        return popped

    def clear(self) -> list[Stretch]:
        """Take out and return all tasks, in order."""
        parts, self._parts, self._n = self._parts, [], 0
        return [stretch for _, stretch in parts]


def _number(part: tuple[int, Stretch]) -> int:
    return part[0]
