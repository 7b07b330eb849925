"""A `concurrent.futures.Future` that knows its task.

Whoever completes it (collector, submitter, engine) uses the methods of this module, which tolerate that somebody else
was first: a future is completed once, whoever does it.

A client that has left its session collects no more. So a future that is not done tells its owner, `ask_again`, whenever it
is asked for anything; the owner attaches again (`client/returning.py`). Here is how no caller is missed:

    caller                                        client that leaves
    asks its owner (1), takes the condition       `has_left` is set
    asks its owner (2), waits on the condition    takes the condition, looks who waits: asks for them

Who asks at (2) before `has_left` is set holds the condition, and is seen by the client once it waits.

A plain future has a condition, two lists and a dictionary, about 1.7 KB, from its first moment. Most of a million
futures are never waited for one by one, so here these are made when somebody first asks for them.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

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

    @property
    def has_left(self) -> bool:
        """Whether it collects no more, so that it has to be told which futures are asked for."""

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        """See that this future gets its outcome although the client has left. Does not wait, completes nothing here.

        Raises: RuntimeError: it cannot be done, and what to do instead.
        """


class StarburstFuture(Future[T]):
    """The outcome to come of one task.

    Everything of `concurrent.futures.Future` holds. Beside it:

    Attributes:
        index: The task's place among the calls of the client that submitted it, from 0.
        ordinal: Which of the session's submitting clients that was, from 0.
        task_id: The task's id, unique in its session: ordinal and index, such as `"0-17"`.
        run: 1, and one more for each explicit retry.
        attachment: What lives as long as a copy from a pickle does: what keeps this process attached.

    `cancel()` asks the store, in one swap: it cancels a task that no worker has claimed and refuses one that a worker
    has. `running()` turns true when a worker has claimed the task. A future of a detached session works on when its executor
    has left, and can be pickled; the copy is attached to the session anew. A future that is made without arguments, as tests of other libraries do, has no
    task: it is cancelled and completed as a plain `Future` is.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=1) as executor:
    ...     future = executor.submit(pow, 2, 5)
    >>> future.result(), future.index, future.task_id
    (32, 0, '0-0')
    """

    __slots__ = (
        "_canceller", "_exception", "_is_watched", "_own_callbacks", "_own_condition", "_own_waiters", "_result", "_state",
        "attachment", "index", "ordinal", "run",
    )  # fmt: skip

    def __init__(self, canceller: Canceller | None = None, ordinal: int = 0, sequence: int = 0, run: int = 1) -> None:
        # Not the base's: it makes what `__getattr__` makes when it is needed.
        self._state = _PENDING
        self._result = self._exception = None
        self._is_watched = False  # has a condition, which then guards its state
        self._canceller = canceller
        self.attachment: object = None
        self.ordinal = ordinal
        self.index = sequence
        self.run = run

    def _watch(self) -> None:
        """Make what the base's methods need, at the first use."""
        if self._is_watched:
            return
        condition, waiters, callbacks = threading.Condition(), [], []  # type: ignore[var-annotated]  # the base's own
        with _unwatched:
            if not self._is_watched:
                self._own_condition, self._own_waiters, self._own_callbacks = condition, waiters, callbacks
                self._is_watched = True

    if not TYPE_CHECKING:  # attributes of the base. Its methods, `wait` and `as_completed` cannot wait without them.

        @property
        def _condition(self) -> threading.Condition:
            self._ask_again()
            self._watch()
            return self._own_condition

        @property
        def _waiters(self) -> list[Any]:
            self._ask_again()
            self._watch()
            return self._own_waiters

        @property
        def _done_callbacks(self) -> list[Callable[[Future[T]], object]]:
            self._ask_again()
            self._watch()
            return self._own_callbacks

    def _ask_again(self) -> None:
        owner = self._canceller
        if owner is not None and owner.has_left and self._state not in _ENDED:
            owner.ask_again(self)

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
        if self._state in _ENDED:
            return True
        self._ask_again()
        return False

    def running(self) -> bool:
        """Whether a worker has claimed the task, and it has not ended."""
        self._ask_again()
        return self._state == _RUNNING

    def __repr__(self) -> str:
        # As the base's, but to look at a future is not to ask for its outcome.
        state, told = self._state, ""
        if state == _FINISHED:
            error = self._exception
            told = f" returned {type(self._result).__name__}" if error is None else f" raised {type(error).__name__}"
        shown = "cancelled" if state.startswith(_CANCELLED) else state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={shown}{told}>"

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
        with self._own_condition:
            if self._state == _PENDING:
                self._state = _RUNNING

    def mark_cancelled(self) -> None:
        """The task was cancelled in the store, or was never sent."""
        self._watch()
        with self._own_condition:
            if self._state not in (_PENDING, _RUNNING):
                return
            # Also from RUNNING, which `Future.cancel` refuses: a session that is ended cancels what its workers held.
            self._state = _CANCELLED
            self._own_condition.notify_all()
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
        with self._own_condition:
            if self._state in _ENDED:
                return
            self._result, self._exception = value, error
            self._state = _FINISHED
            for waiter in self._own_waiters:
                if error is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._own_condition.notify_all()
        self._invoke_callbacks()

    @property
    def has_ended(self) -> bool:
        """As `done`, which asks for it."""
        return self._state in _ENDED

    def is_asked_for(self) -> bool:
        """Whether a thread waits for it, alone or among others, or a callback does."""
        if self._state in _ENDED or not self._is_watched:
            return False
        with self._own_condition:
            waits: bool = bool(self._own_condition._waiters)  # type: ignore[attr-defined]  # noqa: SLF001
            return waits or bool(self._own_waiters or self._own_callbacks)

    def _invoke_callbacks(self) -> None:
        """Call every callback, whatever one of them raises.

        What is no `Exception`, such as `sys.exit()`, ends neither the other callbacks nor a thread of the client. In a
        thread of the user's own, which has cancelled the task, it is raised once all have been called.
        """
        ends: BaseException | None = None
        for callback in self._own_callbacks:
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
