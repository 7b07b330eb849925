"""The tasks of a `map` that have no futures: their values wait in rows for its iterator.

    items ──► calls ──► MapRow ──outcomes, by blocks──► values, in order or as they end ──► the iterator
                          └── a future, for a task that is cancelled, or whose client fails

Most tasks of a `map` are never seen by anything but its iterator. What else must name a task asks its row for a future, which the
row makes then. From that moment on the future alone stands for the task: the iterator waits for it, and it is completed once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.rows import MOST_IN_ROW, Outcome, Row

__all__ = ["MapRow", "Source"]

_OPEN, _VALUE, _ERROR, _FUTURE, _TAKEN, _HEARD, _BEGUN = range(7)
_WITHOUT_FUTURE = (_OPEN, _BEGUN)  # of tasks that have not ended
_VALUES = bytes([_VALUE])
_ALL_VALUES, _ALL_ERRORS, _ALL_ENDED, _ALL_FUTURES = (
    re.compile(pattern) for pattern in (b"\1+", b"\2", b"[\1\2]+", b"\3")
)
_IS_OPEN = bytes(int(state in (*_WITHOUT_FUTURE, _FUTURE, _HEARD)) for state in range(256))
_BEGIN = bytes(_BEGUN if state == _OPEN else state for state in range(256))


class Source(Protocol):
    """What an iterator takes results from.

    Attributes:
        lock: Guards all rows of its map.
    """

    lock: threading.Lock

    def changed(self, row: MapRow) -> None:
        """Tasks of a row have ended, or futures stand for them now. Called under the lock."""


class MapRow(Row):
    """Tasks of one `map` with consecutive indices. Thread-safe.

    Args:
        make: Makes the future for an index.
    Attributes:
        grows: Whether tasks may be added; set to False under the source's lock.
    """

    __slots__ = ("_futures", "_make", "_source", "_states", "_values", "grows")

    def __init__(self, first: int, source: Source, make: Callable[[int], StarburstFuture[Any]]) -> None:
        super().__init__(first)
        self._source = source
        self._make = make
        self.grows = True
        # guarded by the source's lock
        self._states = bytearray()
        self._values: list[Any] = []
        self._futures: dict[int, StarburstFuture[Any]] = {}

    def __len__(self) -> int:
        return len(self._states)

    def grow(self, start: int, n: int) -> bool:
        """Add `n` tasks from this place on, which is the end unless a submit was interrupted; return False if it does not grow any more."""
        with self._source.lock:
            if not self.grows or start + n > MOST_IN_ROW:
                return False
            self._values[start:] = [None] * n
            self._states[start:] = bytes(n)
            return True

    # --- for the iterator, under the source's lock --------------------------------------------------------------------

    def is_open(self, i: int) -> bool:
        """Return whether a task has not ended and has no future."""
        return self._states[i] in _WITHOUT_FUTURE

    def take(self, start: int, *, wants_errors: bool) -> tuple[list[Any], BaseException | None]:
        """Take the result of a task that has ended, and of its neighbours after it that have ended too, and forget them here.

        Returns:
            The results, with errors among them only if `wants_errors`; or no result and the error of the first.
        """
        if self._states[start] == _ERROR and not wants_errors:
            error: BaseException = self._values[start]
            self._forget(start, 1)
            return [], error
        states = self._states[start:]
        n_taken = len(states) - len(states.lstrip(b"\1\2" if wants_errors else _VALUES))
        values = self._values[start : start + n_taken]
        self._forget(start, n_taken)
        return values, None

    def take_ended(self, *, wants_errors: bool) -> tuple[list[Any], list[BaseException], list[StarburstFuture[Any]]]:
        """Take what has ended since the last call: results, errors if these are no results, and the futures that were made since."""
        states, results = bytes(self._states), []
        for match in (_ALL_ENDED if wants_errors else _ALL_VALUES).finditer(states):
            results += self._values[slice(*match.span())]
            self._forget(match.start(), len(match[0]))
        errors: list[BaseException] = []
        for match in () if wants_errors else _ALL_ERRORS.finditer(states):
            errors.append(self._values[match.start()])
            self._forget(match.start(), 1)
        futures = []
        for match in _ALL_FUTURES.finditer(states):
            futures.append(self._futures[match.start()])
            self._states[match.start()] = _HEARD
        return results, errors, futures

    def _forget(self, start: int, n: int) -> None:
        self._values[start : start + n] = [None] * n
        self._states[start : start + n] = bytes([_TAKEN]) * n

    # --- for the client's threads -------------------------------------------------------------------------------------

    def futures(self, start: int, n: int) -> Iterator[StarburstFuture[Any]]:
        """Yield a future for each of `n` tasks that has not ended, and those that were made before."""
        return (future for i in range(start, start + n) if (future := self.future(i)) is not None)

    def future(self, i: int) -> StarburstFuture[Any] | None:
        """Return the future of a task, which is made now if it has not ended; None if it has."""
        if self._states[i] in _WITHOUT_FUTURE:
            fresh = self._make(self.first + i)
            with self._source.lock:
                if (state := self._states[i]) in _WITHOUT_FUTURE:
                    if state == _BEGUN:
                        fresh.mark_running()
                    # Assumes: in this order, since others read the state without the lock.
                    self._futures[i] = fresh
                    self._states[i] = _FUTURE
                    self._source.changed(self)
        return self._futures.get(i)

    def known(self, i: int) -> StarburstFuture[Any] | None:
        return self._futures.get(i)

    def are_open(self, start: int, n: int) -> bytearray:
        left = self._states[start : start + n].translate(_IS_OPEN)
        for i, future in list(self._futures.items()):
            if start <= i < start + n and future.has_ended:
                left[i - start] = 0
        return left

    def begin(self, start: int, n: int) -> int:
        end = start + n
        with self._source.lock:
            if n_new := self._states.count(_OPEN, start, end):
                self._states[start:end] = self._states[start:end].translate(_BEGIN)
        for i, future in list(self._futures.items()):
            if start <= i < end and not (future.has_begun or future.has_ended):
                n_new += 1
                future.mark_running()
        return n_new

    def complete(self, start: int, outcomes: Sequence[Outcome | None]) -> None:
        end, waited = start + len(outcomes), [outcome for outcome in outcomes if outcome is not None]
        if len(waited) == len(outcomes):
            values = [value if error is None else error for value, error in waited]
            states = bytes([_VALUE if error is None else _ERROR for _, error in waited])
            with self._source.lock:
                if sum(self._states.count(state, start, end) for state in _WITHOUT_FUTURE) == len(outcomes):
                    self._values[start:end] = values
                    self._states[start:end] = states
                    self._source.changed(self)
                    return
        for i, outcome in enumerate(outcomes, start):
            if outcome is not None:
                self._complete_one(i, outcome)

    def _complete_one(self, i: int, outcome: Outcome) -> None:
        value, error = outcome
        with self._source.lock:
            if self._states[i] in _WITHOUT_FUTURE:
                self._values[i] = value if error is None else error
                self._states[i] = _VALUE if error is None else _ERROR
                self._source.changed(self)
        # Not under the lock: this runs callbacks.
        if (future := self._futures.get(i)) is not None:
            future.complete(value, error)

    def cancel(self, i: int) -> None:
        if (future := self.future(i)) is not None:
            future.mark_cancelled()

    def release(self, start: int, n: int) -> None:
        """Do nothing: the iterator forgets what it has taken."""
