"""A `concurrent.futures.Future` that knows its task.

Whoever completes it (collector, submitter, engine) uses the methods of this module, which tolerate that somebody else
was first: a future is completed once, whoever does it.

A plain future has a condition, two lists and a dictionary, about 1.7 KB, from its first moment. Most of a million
futures are never waited for one by one, so here these are made when somebody first asks for them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

from starburst_executor.protocol.keys import task_id

__all__ = ["THREAD_PREFIX", "Canceller", "StarburstFuture", "for_each"]

# The standard library's: programs that listen to it for failed callbacks hear of ours too.
_log = logging.getLogger("concurrent.futures")

T = TypeVar("T")
# Every thread of a client is named so.
THREAD_PREFIX = "starburst-"
_PENDING, _RUNNING, _CANCELLED, _FINISHED = "PENDING", "RUNNING", "CANCELLED", "FINISHED"
_ENDED = (_CANCELLED, "CANCELLED_AND_NOTIFIED", _FINISHED)

# Guards the state of every future that nobody watches yet, and the step from there to having a condition of its own.
# Nothing is allocated while it is held, so that no garbage collection can run user code that comes back here.
_unwatched = threading.Lock()


def _new_lock_after_fork() -> None:
    global _unwatched  # noqa: PLW0603 - another thread of the parent may have held it
    _unwatched = threading.Lock()


os.register_at_fork(after_in_child=_new_lock_after_fork)


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
    copy is attached to the session anew. A future that is made without arguments, as tests of other libraries do, has no
    task: it is cancelled and completed as a plain `Future` is.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=1) as executor:
    ...     future = executor.submit(pow, 2, 5)
    >>> future.result(), future.index, future.task_id
    (32, 0, '0-0')
    """

    __slots__ = (
        "_canceller", "_condition", "_done_callbacks", "_exception", "_is_watched", "_result", "_state", "_waiters",
        "index", "ordinal", "run",
    )  # fmt: skip

    def __init__(self, canceller: Canceller | None = None, ordinal: int = 0, sequence: int = 0, run: int = 1) -> None:
        # Not the base's: it makes what `__getattr__` makes when it is needed.
        self._state = _PENDING
        self._result = self._exception = None
        self._is_watched = False  # has a condition, which then guards its state
        self._canceller = canceller
        self.ordinal = ordinal
        self.index = sequence
        self.run = run

    def __getattr__(self, name: str) -> Any:
        """What the base's methods need, made at the first use."""
        if name not in ("_condition", "_waiters", "_done_callbacks"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        condition, waiters, callbacks = threading.Condition(), [], []  # type: ignore[var-annotated]  # the base's own
        with _unwatched:
            if not self._is_watched:
                self._condition, self._waiters, self._done_callbacks = condition, waiters, callbacks
                self._is_watched = True
        return object.__getattribute__(self, name)

    @property
    def task_id(self) -> str:
        return task_id(self.ordinal, self.index)

    def cancel(self) -> bool:
        """Cancel the task if no worker has claimed it. Store: 1 GET, 1 swap, or none if it was not sent yet."""
        if self._canceller is None:
            return super().cancel()
        if not self.done():
            self._canceller.cancel([self])
        return self.cancelled()

    def __reduce__(self) -> tuple[Any, ...]:
        how = None if self._canceller is None else self._canceller.reattacher()
        if how is None:
            raise TypeError("only futures of a DetachedExecutor can be pickled: this session ends with its executor")
        function, arguments = how
        return function, (*arguments, self.ordinal, self.index)

    # --- what the base asks its condition for, and one word tells -----------------------------------------------------

    def done(self) -> bool:
        """Whether the task has ended, or was cancelled."""
        return self._state in _ENDED

    def running(self) -> bool:
        """Whether a worker has claimed the task, and it has not ended."""
        return self._state == _RUNNING

    def result(self, timeout: float | None = None) -> T:
        """As `concurrent.futures.Future.result`."""
        if self._state != _FINISHED or self._exception is not None:
            try:
                return super().result(timeout)
            finally:
                # The exception's traceback holds this frame, which must not hold the exception in turn.
                del self
        return cast("T", self._result)  # None too, if that is the result

    # --- for those who complete it ------------------------------------------------------------------------------------

    def mark_running(self) -> None:
        """A worker has claimed the task."""
        with _unwatched:
            if not self._is_watched:
                if self._state == _PENDING:
                    self._state = _RUNNING
                return
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
        self._invoke_callbacks()

    def complete(self, value: Any, error: BaseException | None) -> None:
        """The task has ended."""
        with _unwatched:
            if not self._is_watched:
                if self._state not in _ENDED:
                    # In this order: whoever sees the state without a lock must find what it promises.
                    self._result, self._exception = value, error
                    self._state = _FINISHED
                return
        with suppress(InvalidStateError):  # somebody was first
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)

    def _invoke_callbacks(self) -> None:
        """Call every callback, whatever one of them raises.

        What is no `Exception`, such as `sys.exit()`, ends neither the other callbacks nor a thread of the client. In a
        thread of the user's own, which has cancelled the task, it is raised once all have been called.
        """
        ends: BaseException | None = None
        for callback in self._done_callbacks:
            try:
                callback(self)
            except Exception:
                _log.exception("exception calling callback for %r", self)
            except BaseException as error:
                if threading.current_thread().name.startswith(THREAD_PREFIX):
                    _log.exception("a callback would have ended a thread of the client; it goes on: %r", self)
                else:
                    ends = ends or error
        if ends is not None:
            try:
                raise ends
            finally:
                # The traceback holds this frame, which must not hold the exception in turn.
                del ends


def for_each(futures: Iterable[StarburstFuture[Any]], do: Callable[[StarburstFuture[Any]], None]) -> None:
    """Complete each of these futures, whatever a callback of one of them raises; then raise the first of that."""
    ends: BaseException | None = None
    for future in futures:
        try:
            do(future)
        except BaseException as error:
            ends = ends or error
    if ends is not None:
        try:
            raise ends
        finally:
            del ends
