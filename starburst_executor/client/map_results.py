"""The results of a `map`, as its iterator takes them: of rows of tasks without futures, and of futures.

OrderedResults   in the order of the items (`ordered_results.py`)
EndedResults     in the order of the ends (`ended_results.py`)
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Generic, TypeVar, cast

from starburst_executor.client.bars import Bar
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.map_rows import MapRow
from starburst_executor.clock import Clock

__all__ = ["Results"]

T = TypeVar("T")


class Results(ABC, Generic[T]):
    """Results that were not taken yet: a `map_rows.Source` for its rows. Used by one thread at a time, except by what ends.

    Args:
        wants_errors: Whether errors are results too.
    Attributes:
        lock: Guards the rows.
    """

    lock: threading.Lock

    def __init__(self, clock: Clock, *, wants_errors: bool) -> None:
        self._clock = clock
        self._wants_errors = wants_errors

    @abstractmethod
    def __len__(self) -> int:
        """Return 0 if every result was taken; otherwise any other number."""

    @abstractmethod
    def add(self, future: StarburstFuture[T]) -> None:
        """Add a task that has a future."""

    @abstractmethod
    def add_row(self, row: MapRow) -> None:
        """Add a row, whose tasks may have ended."""

    @abstractmethod
    def futures(self) -> list[StarburstFuture[T]]:
        """Return the futures that were added, as far as their results were not taken."""

    @abstractmethod
    def take(self, deadline: float | None, bar: Bar | None) -> list[T]:
        """Wait for the next result; return it with others that are there too and come after it, the next one last.

        Raises: TimeoutError, and the error of the task.
        """

    @abstractmethod
    def give_up(self) -> Callable[[], list[StarburstFuture[T]]]:
        """Let go of everything; return what returns futures of the tasks whose results were not taken.

        Takes no lock: the garbage collector may call it in a thread that holds any. What it returns takes locks.
        """

    @abstractmethod
    def changed(self, row: MapRow) -> None:
        """Tasks of a row have ended, or futures stand for them now. Called by the row, under the lock."""

    def _result_of(self, future: StarburstFuture[T]) -> T:
        """Return the result of a future that is done, or its error; keep no reference to it, so that only the caller holds it."""
        try:
            if not self._wants_errors:
                return future.result()
            try:
                error = future.exception()
            except CancelledError as cancelled:
                error = cancelled
            return future.result() if error is None else cast("T", error)
        finally:
            del future

    def _left_s(self, deadline: float | None) -> float | None:
        """Return how many seconds are left for waiting; None without a deadline. Raises: TimeoutError."""
        left_s = None if deadline is None else deadline - self._clock.monotonic()
        if left_s is not None and left_s <= 0:
            raise FutureTimeoutError("results are missing")
        return left_s
