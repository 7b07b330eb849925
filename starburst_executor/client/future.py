"""A `concurrent.futures.Future` that knows its task.

Collector, submitter and engine complete futures with the methods of this module, which do nothing if the future is
complete already: a future is completed once.

A client that has left its session no longer collects outcomes. So a future that is not done calls its owner's `ask_again`
at each use, and the owner attaches again (`client/returning.py`). This order misses no caller:

    caller                                        client that leaves
    asks its owner (1), takes the condition       sets `has_left`
    asks its owner (2), waits on the condition    takes the condition, and asks for each future with a waiter

A caller that reaches (2) before `has_left` is set holds the condition, so the client takes it only once the caller waits,
and sees the waiter.

A plain future has a condition, two lists and a dictionary, about 1.7 KB, from its creation. Most of a million futures are
never waited for one by one, so a `StarburstFuture` creates these at their first use.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from starburst_executor.client.loops import in_event_loop
from starburst_executor.protocol.attempts import Attempt
from starburst_executor.protocol.keys import task_id

__all__ = ["THREAD_PREFIX", "BytesCallback", "Canceller", "StarburstFuture", "for_each"]

# The standard library's logger: programs that watch it for failed callbacks see those of this class too.
_log = logging.getLogger("concurrent.futures")

T = TypeVar("T")
# The prefix of the names of all threads of a client.
THREAD_PREFIX = "starburst-"
_PENDING, _RUNNING, _CANCELLED, _FINISHED = "PENDING", "RUNNING", "CANCELLED", "FINISHED"
_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_ENDED = (_CANCELLED, _NOTIFIED, _FINISHED)

# Guards the state of every future without a condition of its own, and the step that gives it one.
# Guarantee: nothing is allocated while it is held, so no garbage collection can run user code that takes it again.
_unwatched = threading.Lock()


def _new_lock_after_fork() -> None:
    global _unwatched  # noqa: PLW0603 - another thread of the parent may have held it
    _unwatched = threading.Lock()


os.register_at_fork(after_in_child=_new_lock_after_fork)


class Canceller(Protocol):
    """The owner of a future: cancels its task, and attaches again once the client has left."""

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Cancel the tasks that no worker has claimed, or with `running` all; return their number."""

    def ask_to_cancel(self, future: StarburstFuture[Any], *, running: bool = False) -> None:
        """As `cancel`, but a task that was sent is cancelled by another thread: this does not wait."""

    def reattacher(self) -> tuple[Callable[..., StarburstFuture[Any]], tuple[Any, ...]] | None:
        """Return the function and arguments that attach an unpickled copy to the session; None if that is impossible."""

    @property
    def session_id(self) -> str:
        """The id of the session of its futures' tasks."""

    @property
    def has_left(self) -> bool:
        """Whether it no longer collects outcomes, so that a future calls `ask_again` when it is used."""

    def facts(self, future: StarburstFuture[Any], *, now: bool = False) -> tuple[str, Sequence[Attempt]]:
        """Return its task's label and the errors of its earlier tries; with `now` as they are stored now."""

    def output(self, future: StarburstFuture[Any]) -> tuple[str, str]:
        """Return what the task wrote to its standard output and standard error."""

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        """Ensure that this future gets its outcome although the client has left. Does not wait or complete it in this thread.

        Raises: RuntimeError: no thread can be started; the message says what to do instead.
        """


class BytesCallback:
    """A callback of a future that also gets the bytes of the outcome: by then other threads may have changed the value itself.

    Args:
        call: Called with the bytes, None if the future was complete before or has none, and the future.
    Attributes:
        body: The bytes; set by the future.
    """

    __slots__ = ("_call", "body")

    def __init__(self, call: Callable[[bytes | memoryview | None, Future[Any]], object]) -> None:
        self._call = call
        self.body: bytes | memoryview | None = None

    def __call__(self, future: Future[Any]) -> None:
        """Call it."""
        self._call(self.body, future)


class StarburstFuture(Future[T]):
    """The future outcome of one task.

    It behaves as `concurrent.futures.Future`, with these additions:

    Attributes:
        index: The task's number among the calls of the client that submitted it, from 0; -1 without a task.
        ordinal: The number of that client among the session's submitting clients, from 0.
        task_id: The task's id, unique in its session: ordinal and index, such as `"0-17"`.
        run: 1, plus 1 for each explicit retry.
        label: What its task was labelled by `options(label=...)`; empty without one. Store: nothing if this client submitted the task or has
            its outcome; otherwise as `log`, once for neighbouring tasks.
        attempts: The tries that failed and were, or will be, followed by another: a list of `Attempt`. Store: nothing if the task has
            ended; otherwise as `log`.

    `cancel()` makes one swap in the store: it cancels a task that no worker has claimed, and returns False for one that a
    worker has claimed; `cancel(running=True)` stops that one. `running()` becomes true when a worker has claimed the task. A coroutine can `await` it. A future of a detached session keeps
    working after its executor has left, and can be pickled; the copy attaches to the session again. A future without
    arguments, as tests of other libraries create it, has no task, nor has that of a call whose result was in a cache: its `index` is -1 and its
    `task_id` empty, and it is cancelled and completed like a plain `Future`.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=1) as executor:
    ...     future = executor.submit(pow, 2, 5)
    >>> future.result(), future.index, future.task_id
    (32, 0, '0-0')
    """

    __slots__ = (
        "_attempts", "_canceller", "_exception", "_is_watched", "_label", "_own_callbacks", "_own_condition", "_own_waiters", "_result", "_state",
        "attachment", "index", "ordinal", "run",
    )  # fmt: skip

    def __init__(
        self,
        canceller: Canceller | None = None,
        ordinal: int = 0,
        sequence: int = -1,
        run: int = 1,
        label: str | None = None,
    ) -> None:
        # Not `super().__init__()`, which creates what `_watch` creates at the first use.
        self._state = _PENDING
        self._result = self._exception = None
        self._is_watched = False  # has a condition of its own, which then guards its state
        self._canceller = canceller
        self._label = label  # None: not known
        self._attempts: Sequence[Attempt] = ()
        self.attachment: object = None  # of an unpickled copy: keeps this process attached while the copy lives
        self.ordinal = ordinal
        self.index = sequence
        self.run = run

    def _watch(self) -> None:
        """Create the condition and lists that the base's methods need, at the first use."""
        if self._is_watched:
            return
        condition, waiters, callbacks = threading.Condition(), [], []  # type: ignore[var-annotated]  # the base's own
        with _unwatched:
            if not self._is_watched:
                self._own_condition, self._own_waiters, self._own_callbacks = condition, waiters, callbacks
                self._is_watched = True

    if not TYPE_CHECKING:  # attributes of the base, through which its methods, `wait` and `as_completed` wait

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
        return task_id(self.ordinal, self.index) if self.index >= 0 else ""

    @property
    def session_id(self) -> str:
        """The id of its session; empty if it has no task."""
        return "" if self._canceller is None else self._canceller.session_id

    @property
    def label(self) -> str:
        if self._label is None and not self.has_ended and self._canceller is not None:
            self._label, _ = self._canceller.facts(self)
        return self._label or ""

    @property
    def attempts(self) -> list[Attempt]:
        if not self.has_ended and self._canceller is not None:
            _, self._attempts = self._canceller.facts(self, now=True)
        return list(self._attempts)

    def know(self, label: str | None, attempts: Sequence[Attempt] = ()) -> None:
        """Record what is stored of its task besides the outcome. For the client's threads."""
        if label is not None:
            self._label = label
        if attempts:
            self._attempts = attempts

    def cancel(self, *, running: bool = False) -> bool:
        """Cancel the task if no worker has claimed it, or with `running` in any case; return whether it is cancelled.

        In a thread with a running event loop this does not wait for the store: another thread cancels a task that was sent, and this
        returns False if that is not known yet.

        Args:
            running: Also cancel a task that a worker has claimed. If it runs, its process is killed with all processes that it
                started: on this machine at once, elsewhere with the worker's next beat (docs/howto/stop-tasks.md).

        Store: 1 GET, 1 swap; none if the task was not sent yet. For a task that a worker has claimed, 2 GETs and 1 swap more.
        """
        if self._canceller is None:
            return super().cancel()
        if not self.done():
            if in_event_loop():
                self._canceller.ask_to_cancel(self, running=running)
            else:
                self._canceller.cancel([self], running=running)
        return self.cancelled()

    def log(self) -> str:
        """Return what the task wrote, its standard output before its standard error; an empty text if that is nothing.

        Up to 1 MB of each is kept. `executor.output(future)` returns the two one by one.

        Raises: InvalidStateError: the task has not ended: its output is stored with its outcome. SessionNotFound: the session was deleted.
        Store: 1 GET, 1 LIST for each epoch of 1,000 status objects up to the task's, 1 GET; 1 GET if it wrote anything.
        """
        if self._canceller is None:
            raise InvalidStateError("this future has no task")
        return "".join(self._canceller.output(self))

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result in a coroutine, in any running event loop of asyncio.

        If the waiting coroutine is cancelled, the task is cancelled too unless a worker has claimed it, as with every awaited future;
        `asyncio.shield(future)` protects it.
        """
        if self._state != _FINISHED:
            from asyncio import wrap_future  # slow to import, and here it is loaded already

            return (yield from wrap_future(self).__await__())
        return self.result()

    def __reduce__(self) -> tuple[Any, ...]:
        reattach = None if self._canceller is None else self._canceller.reattacher()
        if self._canceller is None:
            raise TypeError(
                "the future of a result that was in a cache has no task, and cannot be pickled: pass the result"
            )
        if reattach is None:
            raise TypeError("only futures of a DetachedExecutor can be pickled: this session ends with its executor")
        function, arguments = reattach
        return function, (*arguments, self.ordinal, self.index)

    # --- questions that need no condition -----------------------------------------------------------------------------

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
        # As the base's, but without attaching again: printing a future does not request its outcome.
        state, ending = self._state, ""
        if state == _FINISHED:
            error = self._exception
            ending = f" returned {type(self._result).__name__}" if error is None else f" raised {type(error).__name__}"
        shown = "cancelled" if state.startswith(_CANCELLED) else state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={shown}{ending}>"

    def result(self, timeout: float | None = None) -> T:
        """As `concurrent.futures.Future.result`."""
        if self._state != _FINISHED or self._exception is not None:
            try:
                return super().result(timeout)
            finally:
                # The exception's traceback holds this frame, which must not hold the exception in turn.
                del self
        return cast("T", self._result)  # None too, if that is the result

    # --- for the client's threads, which complete it ------------------------------------------------------------------

    def mark_running(self) -> None:
        """Record that a worker has claimed the task."""
        with _unwatched:
            if not self._is_watched:
                if self._state == _PENDING:
                    self._state = _RUNNING
                return
        with self._own_condition:
            if self._state == _PENDING:
                self._state = _RUNNING

    def mark_cancelled(self) -> None:
        """Record that the task was cancelled in the store, or was never sent."""
        with _unwatched:
            if not self._is_watched:
                if self._state in (_PENDING, _RUNNING):
                    self._state = _NOTIFIED  # nothing waits for it
                return
        with self._own_condition:
            if self._state not in (_PENDING, _RUNNING):
                return
            # Also from RUNNING, which `Future.cancel` refuses: ending a session cancels the tasks that its workers hold.
            self._state = _CANCELLED
            self._own_condition.notify_all()
        self.set_running_or_notify_cancel()
        self._invoke_callbacks()

    def complete(self, value: Any, error: BaseException | None, body: bytes | memoryview | None = None) -> None:
        """Complete the future: its task has ended. `body` is the outcome's bytes."""
        with _unwatched:
            if not self._is_watched:
                if self._state not in _ENDED:
                    # Assumes: in this order, since `done` and `result` read the state without a lock.
                    self._result, self._exception = value, error
                    self._state = _FINISHED
                return
        with self._own_condition:
            if self._state in _ENDED:
                return
            self._result, self._exception = value, error
            self._state = _FINISHED
            for callback in self._own_callbacks:
                if isinstance(callback, BytesCallback):
                    callback.body = body
            for waiter in self._own_waiters:
                if error is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._own_condition.notify_all()
        self._invoke_callbacks()

    @property
    def has_ended(self) -> bool:
        """As `done`, but without attaching again."""
        return self._state in _ENDED

    @property
    def has_begun(self) -> bool:
        """As `running`, but without attaching again."""
        return self._state == _RUNNING

    def is_asked_for(self) -> bool:
        """Whether a thread waits for it, alone or with other futures, or it has a callback."""
        if self._state in _ENDED or not self._is_watched:
            return False
        with self._own_condition:
            waits: bool = bool(self._own_condition._waiters)  # type: ignore[attr-defined]  # noqa: SLF001
            return waits or bool(self._own_waiters or self._own_callbacks)

    def _invoke_callbacks(self) -> None:
        """Call every callback, even if one of them raises.

        A `BaseException` such as `SystemExit` stops neither the other callbacks nor a thread of the client. In a thread of
        the user's own, which has cancelled the task, the first one is raised after all callbacks were called.
        """
        first_error: BaseException | None = None
        for callback in self._own_callbacks:
            try:
                callback(self)
            except Exception:
                _log.exception("exception calling callback for %r", self)
            except BaseException as error:
                if threading.current_thread().name.startswith(THREAD_PREFIX):
                    _log.exception("a callback would have ended a thread of the client; it goes on: %r", self)
                else:
                    first_error = first_error or error
        if first_error is not None:
            try:
                raise first_error
            finally:
                # The traceback holds this frame, which must not hold the exception in turn.
                del first_error


def for_each(futures: Iterable[StarburstFuture[Any]], do: Callable[[StarburstFuture[Any]], None]) -> None:
    """Call `do` for each future, even if it raises for one of them; then raise the first exception."""
    first_error: BaseException | None = None
    for future in futures:
        try:
            do(future)
        except BaseException as error:
            first_error = first_error or error
    if first_error is not None:
        try:
            raise first_error
        finally:
            del first_error
