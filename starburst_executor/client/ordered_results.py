"""The results of a `map` in the order of its items, taken by blocks from rows of tasks without futures."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TypeVar, cast

from starburst_executor.client.bars import Bar
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.map_results import Results
from starburst_executor.client.map_rows import MapRow
from starburst_executor.clock import Clock

__all__ = ["OrderedResults"]

T = TypeVar("T")


class OrderedResults(Results[T]):
    """Results in the order of the items."""

    def __init__(self, clock: Clock, *, wants_errors: bool) -> None:
        super().__init__(clock, wants_errors=wants_errors)
        self.lock = threading.Lock()  # guards: _awaited
        self._changed = threading.Condition(self.lock)
        self._awaited: MapRow | None = None
        self._left: deque[MapRow | StarburstFuture[T]] = deque()
        self._at = 0  # the place of the next task in the first row

    def __len__(self) -> int:
        return len(self._left)

    def add(self, future: StarburstFuture[T]) -> None:
        self._left.append(future)

    def add_row(self, row: MapRow) -> None:
        self._left.append(row)

    def futures(self) -> list[StarburstFuture[T]]:
        return [entry for entry in self._left if isinstance(entry, StarburstFuture)]

    def take(self, deadline: float | None, bar: Bar | None) -> list[T]:
        first = self._left[0]
        if isinstance(first, StarburstFuture):
            self._wait_for_future(first, deadline, bar)
            del first  # only the caller holds it, and an error's traceback holds this frame
            return [self._result_of(cast("StarburstFuture[T]", self._left.popleft()))]
        future = self._wait_for(first, deadline)
        if future is not None:
            self._wait_for_future(future, deadline, None)
            self._pass(first, 1)
            try:
                return [self._result_of(future)]
            finally:
                del future
        with self.lock:
            results, error = first.take(self._at, wants_errors=self._wants_errors)
        self._pass(first, max(1, len(results)))
        if error is not None:
            try:
                raise error
            finally:
                # The traceback holds this frame, which must not hold the exception in turn.
                del error
        results.reverse()
        return results

    def give_up(self) -> Callable[[], list[StarburstFuture[T]]]:
        left, self._left = self._left, deque()
        at, self._at = self._at, 0

        def futures() -> list[StarburstFuture[T]]:
            found: list[StarburstFuture[T]] = []
            for i, entry in enumerate(left):
                start = at if i == 0 else 0
                found += entry.futures(start, len(entry) - start) if isinstance(entry, MapRow) else (entry,)
            return found

        return futures

    def changed(self, row: MapRow) -> None:
        if self._awaited is row and not row.is_open(self._at):  # unlocked: the row holds the lock
            self._changed.notify()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _wait_for_future(self, future: StarburstFuture[T], deadline: float | None, bar: Bar | None) -> None:
        if not future.done():
            if bar is not None:
                bar.wait_for(future, deadline)
            with suppress(CancelledError):
                future.exception(None if deadline is None else max(0.0, deadline - self._clock.monotonic()))

    def _wait_for(self, row: MapRow, deadline: float | None) -> StarburstFuture[T] | None:
        """Wait until the next task of a row has ended, or has a future; return the future. Raises: TimeoutError."""
        with self.lock:
            self._awaited = row
            try:
                while row.is_open(self._at):
                    self._changed.wait(self._left_s(deadline))
            finally:
                self._awaited = None
            return row.known(self._at)

    def _pass(self, row: MapRow, n: int) -> None:
        """Go on to the task after the next `n`."""
        with self.lock:
            self._at += n
            if self._at < len(row):
                return
            row.grows = False
        self._left.popleft()
        self._at = 0
