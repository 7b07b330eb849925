"""The results of a `map` in the order of the ends of its tasks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from starburst_executor.client.bars import TICK_S, Bar
from starburst_executor.client.ends import Ends
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.map_results import Results
from starburst_executor.client.map_rows import MapRow
from starburst_executor.clock import Clock

__all__ = ["EndedResults"]

T = TypeVar("T")


class EndedResults(Results[T]):
    """Results in the order of the ends; of those that are there, in the order of their rows."""

    def __init__(self, clock: Clock, *, wants_errors: bool) -> None:
        super().__init__(clock, wants_errors=wants_errors)
        self.lock = threading.Lock()  # guards: _rows, _touched, _has_ends
        self._changed = threading.Condition(self.lock)
        self._rows: dict[MapRow, int] = {}  # with the number of tasks that were taken from each
        self._touched: dict[MapRow, None] = {}  # rows with news
        self._has_ends = False  # futures have ended
        self._ends: Ends[StarburstFuture[T]] = Ends((), self._hear)
        self._ended: deque[StarburstFuture[T]] = deque()
        self._errors: deque[BaseException] = deque()  # of tasks that ended after all whose results were taken

    def __len__(self) -> int:
        n_rows = len(self._rows)  # unlocked: only this thread adds and removes
        return n_rows + len(self._ended) + len(self._errors) + self._ends.n_left

    def add(self, future: StarburstFuture[T]) -> None:
        self._ends.add(future)

    def add_row(self, row: MapRow) -> None:
        with self.lock:
            self._rows[row] = 0
            self._touched[row] = None  # its tasks may have ended

    def futures(self) -> list[StarburstFuture[T]]:
        return [*self._ended, *self._ends.left()]

    def take(self, deadline: float | None, bar: Bar | None) -> list[T]:
        while True:
            if not self._errors and (results := self._from_rows()):
                results.reverse()
                return results
            if self._errors:
                raise self._errors.popleft()
            self._ended.extend(self._ends.take())
            if bar is not None:
                bar.tick()
            if self._ended:
                return [self._result_of(self._ended.popleft())]
            self._wait(deadline, None if bar is None else TICK_S)

    def give_up(self) -> Callable[[], list[StarburstFuture[T]]]:
        # No lock of a future either: a thread that completes the future holds that lock, and may wait for this source's, which the thread
        # that the garbage collector interrupts may hold.
        rows, self._rows = self._rows, {}  # unlocked: rows that end from now on are of no interest
        ended, self._ended = self._ended, deque()

        def futures() -> list[StarburstFuture[T]]:
            left = [*ended, *self._ends.left()]
            self._ends.close()
            return list(dict.fromkeys([*left, *(future for row in rows for future in row.futures(0, len(row)))]))

        return futures

    def changed(self, row: MapRow) -> None:
        self._touched[row] = None  # unlocked: the row holds the lock
        self._changed.notify()

    def _hear(self) -> None:
        with self.lock:
            self._has_ends = True
            self._changed.notify()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _from_rows(self) -> list[Any]:
        """Take what has ended in rows since the last time, in the order of rows; futures that were made are waited for from now on."""
        results: list[Any] = []
        made: list[StarburstFuture[Any]] = []
        with self.lock:
            self._has_ends = False
            touched, self._touched = [row for row in self._touched if row in self._rows], {}
            for row in touched:
                ended, errors, futures = row.take_ended(wants_errors=self._wants_errors)
                results += ended
                made += futures
                self._errors += errors
                self._rows[row] += len(ended) + len(errors) + len(futures)
                if self._rows[row] == len(row):
                    row.grows = False
                    del self._rows[row]
        for future in made:
            self._ends.add(future)
        return results

    def _wait(self, deadline: float | None, tick_s: float | None) -> None:
        """Wait for news, at most for a tick. Raises: TimeoutError."""
        pauses = [pause_s for pause_s in (self._left_s(deadline), tick_s) if pause_s is not None]
        with self.lock:
            self._changed.wait_for(lambda: self._touched or self._has_ends, min(pauses, default=None))
