"""A `concurrent.futures.Future` that knows its task.

Whoever completes it (collector, submitter, engine) uses the methods of this module, which tolerate that somebody else
was first: a future is completed once, whoever does it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from starburst_executor.protocol.keys import task_id

__all__ = ["Canceller", "StarburstFuture"]

T = TypeVar("T")
_PENDING, _RUNNING, _CANCELLED = "PENDING", "RUNNING", "CANCELLED"


class Canceller(Protocol):
    """What a future asks to cancel its task."""

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Cancel those of these tasks that no worker has claimed; how many were."""

    def reattacher(self) -> tuple[Callable[..., StarburstFuture[Any]], tuple[Any, ...]] | None:
        """How an unpickled copy finds the session again; None if it cannot."""


class StarburstFuture(Future[T]):
    """The outcome to come of one task.

    Everything of `concurrent.futures.Future` holds. Beside it:

    Attributes:
        index: The task's place among the calls of the client that submitted it, from 0.
        ordinal: Which of the session's submitting clients that was, from 0.
        task_id: The task's id, unique in its session: ordinal and index, such as `"0-17"`.
        run: 1, and one more for each explicit retry.

    `cancel()` asks the store, in one swap: it cancels a task that no worker has claimed and refuses one that a worker
    has. `running()` turns true when a worker has claimed the task. A future of a detached session can be pickled; the
    copy is attached to the session anew.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=1) as executor:
    ...     future = executor.submit(pow, 2, 5)
    >>> future.result(), future.index, future.task_id
    (32, 0, '0-0')
    """

    def __init__(self, canceller: Canceller, ordinal: int, sequence: int, run: int = 1) -> None:
        super().__init__()
        self._canceller = canceller
        self.ordinal = ordinal
        self.index = sequence
        self.run = run

    @property
    def task_id(self) -> str:
        return task_id(self.ordinal, self.index)

    def cancel(self) -> bool:
        """Cancel the task if no worker has claimed it. Store: 1 GET, 1 swap, or none if it was not sent yet."""
        if not self.done():
            self._canceller.cancel([self])
        return self.cancelled()

    def __reduce__(self) -> tuple[Any, ...]:
        how = self._canceller.reattacher()
        if how is None:
            raise TypeError("only futures of a DetachedExecutor can be pickled: this session ends with its executor")
        function, arguments = how
        return function, (*arguments, self.ordinal, self.index)

    # --- for those who complete it ------------------------------------------------------------------------------------

    def mark_running(self) -> None:
        """A worker has claimed the task."""
        if self._state == _PENDING:
            with self._condition:
                if self._state == _PENDING:
                    self._state = _RUNNING

    def mark_cancelled(self) -> None:
        """The task was cancelled in the store, or was never sent."""
        with self._condition:
            if self._state not in (_PENDING, _RUNNING):
                return
            # Also from RUNNING, which `Future.cancel` refuses: a session that is ended cancels what its workers held.
            self._state = _CANCELLED
            self._condition.notify_all()
        self.set_running_or_notify_cancel()
        self._invoke_callbacks()  # type: ignore[attr-defined]  # the standard library's own, typed nowhere

    def complete(self, value: Any, error: BaseException | None) -> None:
        """The task has ended."""
        with suppress(InvalidStateError):  # somebody was first
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
