"""The jobs that a runner was sent and that have no outcome yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

__all__ = ["SentJobs"]


class SentJobs:
    """Numbers of jobs in the order in which they run, which is ascending: ranges, since neighbours are sent together and end one after the other."""

    def __init__(self) -> None:
        self._ranges: deque[range] = deque()

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __len__(self) -> int:
        return sum(map(len, self._ranges))

    def __iter__(self) -> Iterator[int]:
        for numbers in self._ranges:
            yield from numbers

    def __contains__(self, number: object) -> bool:
        return any(number in numbers for numbers in self._ranges)

    @property
    def ranges(self) -> Collection[range]:
        """All of them; none is empty."""
        return self._ranges

    def first(self) -> int | None:
        """Return the job that runs or will run next; None if there are none."""
        for numbers in self._ranges:
            return numbers.start
        return None

    def add(self, numbers: range) -> None:
        """Add jobs that run after all others."""
        if numbers:
            self._ranges.append(numbers)

    def end(self, n: int) -> None:
        """Take out the first `n` jobs, which have neighbouring numbers: they have ended."""
        numbers = self._ranges.popleft()
        if n < len(numbers):
            self._ranges.appendleft(numbers[n:])

    def remove(self, numbers: Collection[int]) -> None:
        """Take out these jobs, as far as they are here."""
        kept, self._ranges = list(self), deque()
        for number in kept:
            if number in numbers:
                continue
            last = self._ranges[-1] if self._ranges else None
            if last is not None and last.stop == number:
                self._ranges[-1] = range(last.start, number + 1)
            else:
                self._ranges.append(range(number, number + 1))
