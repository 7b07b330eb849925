"""Which of some futures have ended: each once, in the order of their ends, without looking at them one by one.

    future ends ──► Ends.add_… ──► queue ──► take()          a loop that waits, or an event loop that is woken

`concurrent.futures.wait` and `as_completed` use such objects, *waiters*, too. Theirs cannot be asked in between, as a bar or an event loop must.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["Ends"]

_F = TypeVar("_F", bound="Future[Any]")
_OVER = ("CANCELLED_AND_NOTIFIED", "FINISHED")


class Ends(Generic[_F]):
    """Collects the ends of futures. Thread-safe.

    Args:
        heard: Called in any thread after an end, perhaps once for several. It must not wait.
    """

    def __init__(self, futures: Iterable[_F], heard: Callable[[], object] = lambda: None) -> None:
        self._heard = heard
        self._changed = threading.Condition()  # guards: _ended
        self._ended: deque[_F] = deque()
        self._open: dict[_F, None] = {}  # those that `take` has not returned; used by its one caller
        for future in futures:
            self.add(future)

    def add(self, future: _F) -> None:
        """Collect the end of this future too. For the one caller of `take`."""
        if future in self._open:
            return
        self._open[future] = None
        with future._condition:  # noqa: SLF001 - as the standard library's own waiters
            is_over = future._state in _OVER  # noqa: SLF001
            if not is_over:
                future._waiters.append(self)  # type: ignore[arg-type]  # noqa: SLF001 - it calls the three methods below
        if is_over:
            self._add(future)

    @property
    def n_left(self) -> int:
        """How many futures `take` has not returned yet."""
        return len(self._open)

    def left(self) -> list[_F]:
        """Return the futures that `take` has not returned yet."""
        return list(self._open)

    def take(self, timeout_s: float | None = 0.0) -> list[_F]:
        """Return the futures that have ended since the last call, after waiting for the first; none after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, timeout_s)
            ended = list(self._ended)
            self._ended.clear()
        for future in ended:
            del self._open[future]
        return ended

    def close(self) -> None:
        """Let go of the futures that have not ended."""
        for future in self._open:
            with future._condition:  # noqa: SLF001
                waiters: list[Any] = future._waiters  # noqa: SLF001
                if self in waiters:
                    waiters.remove(self)
        self._open.clear()

    # --- called by futures, which hold their condition ----------------------------------------------------------------

    def add_result(self, future: _F) -> None:
        """The future has a result."""
        self._add(future)

    def add_exception(self, future: _F) -> None:
        """The future has an exception."""
        self._add(future)

    def add_cancelled(self, future: _F) -> None:
        """The future was cancelled."""
        self._add(future)

    def _add(self, future: _F) -> None:
        with self._changed:
            self._ended.append(future)
            self._changed.notify_all()
        self._heard()
