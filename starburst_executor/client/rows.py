"""Neighbouring tasks of one submitter, and what waits for their outcomes.

    FutureRow   `submit`: a future for each task
    MapRow      `map`: values for its iterator, and futures only for tasks that something else must name (`map_rows.py`)

The queue, the batches and the watched status objects of a client refer to tasks by parts of rows, so that most of their work is done
once for many tasks, and a task has no objects of its own besides its future and its pickled call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from starburst_executor.client.future import StarburstFuture

__all__ = ["MOST_IN_ROW", "FutureRow", "Outcome", "Row", "RowPart"]

# A row that grows for as long as tasks are queued becomes no longer than this, so that those that have ended are forgotten.
MOST_IN_ROW = 4096

Outcome: TypeAlias = "tuple[Any, BaseException | None]"  # a value, or an exception


class Row(ABC):
    """Tasks with consecutive indices, and what waits for their outcomes.

    Args:
        first: The index of the first task.
    """

    __slots__ = ("first",)

    def __init__(self, first: int) -> None:
        self.first = first

    def futures(self, start: int, n: int) -> Iterator[StarburstFuture[Any]]:
        """Yield the futures of `n` tasks as `future` returns them."""
        return (future for i in range(start, start + n) if (future := self.future(i)) is not None)

    @abstractmethod
    def future(self, i: int) -> StarburstFuture[Any] | None:
        """Return the future of a task that has not ended, for which one is made if it has none; otherwise perhaps None."""

    @abstractmethod
    def known(self, i: int) -> StarburstFuture[Any] | None:
        """Return the future of a task, if it has one here."""

    @abstractmethod
    def are_open(self, start: int, n: int) -> bytearray:
        """Return for each of `n` tasks 1, or 0 if it has ended."""

    @abstractmethod
    def begin(self, start: int, n: int) -> int:
        """Record that a worker has claimed `n` tasks; return for how many that may be news."""

    @abstractmethod
    def complete(self, start: int, outcomes: Sequence[Outcome | None]) -> None:
        """Complete tasks that have ended: one for each outcome that is not None."""

    @abstractmethod
    def cancel(self, i: int) -> None:
        """Record that a task was cancelled in the store."""

    @abstractmethod
    def release(self, start: int, n: int) -> None:
        """Forget futures of `n` tasks that have ended, which only the program holds from now on."""


class FutureRow(Row):
    """Tasks that were submitted one by one, with a future for each. Its submitter's lock guards its growth."""

    __slots__ = ("_futures",)

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self._futures: list[StarburstFuture[Any] | None] = []

    def add(self, i: int, future: StarburstFuture[Any]) -> None:
        """Add the future of the next task, and drop that of a submit that was interrupted after this call."""
        if i == len(self._futures):
            self._futures.append(future)
        else:
            self._futures[i:] = (future,)

    def future(self, i: int) -> StarburstFuture[Any] | None:
        return self._futures[i]

    known = future

    def are_open(self, start: int, n: int) -> bytearray:
        return bytearray(future is not None and not future.has_ended for future in self._futures[start : start + n])

    def begin(self, start: int, n: int) -> int:
        n_new = 0
        for future in self._futures[start : start + n]:
            if future is not None and not future.has_begun:
                n_new += 1
                future.mark_running()
        return n_new

    def complete(self, start: int, outcomes: Sequence[Outcome | None]) -> None:
        for future, outcome in zip(self._futures[start : start + len(outcomes)], outcomes, strict=True):
            if outcome is not None and future is not None:
                future.complete(*outcome)

    def cancel(self, i: int) -> None:
        if (future := self._futures[i]) is not None:
            future.mark_cancelled()

    def release(self, start: int, n: int) -> None:
        self._futures[start : start + n] = [None] * n


class RowPart(NamedTuple):
    """Neighbouring tasks of a row in one status object.

    Attributes:
        position: The position of the first in the object.
        start: Its place in the row.
        n: How many there are.
    """

    position: int
    row: Row
    start: int
    n: int

    def within(self, start: int, end: int) -> RowPart | None:
        """Return those with positions from `start` to before `end`; None if there are none."""
        first, last = max(start, self.position), min(end, self.position + self.n)
        if first >= last:
            return None
        return RowPart(first, self.row, self.start + first - self.position, last - first)

    def futures(self) -> Iterator[StarburstFuture[Any]]:
        """Yield their futures as `Row.future` returns them."""
        return self.row.futures(self.start, self.n)

    def future(self, position: int) -> StarburstFuture[Any] | None:
        """As `Row.future`."""
        return self.row.future(self.start + position - self.position)

    def known(self, position: int) -> StarburstFuture[Any] | None:
        """As `Row.known`."""
        return self.row.known(self.start + position - self.position)
