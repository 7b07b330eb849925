"""The executor of a running task: its tasks are those of its session, and are submitted once however often the task runs.

    current_task().executor() ──submit, map──► Once, with keys of the task ──► log of keys, status objects ◄── workers
              │                                                                      ▲
              └── the task's place on its worker goes to another task                └── the client: ordinary tasks of the session

A call's key is the task's id, the content of the call, and how many equal calls came before it. So an attempt that follows one that was lost gets the
tasks of that one, in whatever order it submits, and submits what that one had not.

One client of the session serves all tasks of this process. It neither beats nor watches, since its worker does.

Source: docs/design/0025-nested-tasks.md
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait as wait_for
from contextlib import suppress
from typing import Any, TypeVar

from starburst_executor import config, context
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.mapping import check_sizes
from starburst_executor.client.once_wanted import Call
from starburst_executor.client.opening import attach
from starburst_executor.client.submits_once import once_of
from starburst_executor.client.task_options import CallOptions
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey
from starburst_executor.context import Access, TaskContext, TaskExecutor
from starburst_executor.errors import StarburstError
from starburst_executor.protocol.content import digest_of
from starburst_executor.protocol.options import DEFAULT, TaskOptions

__all__ = ["executor_of"]

T = TypeVar("T")


class _Guest(DetachedExecutor):
    """The client of this process."""

    def __init__(self, access: Access) -> None:
        opened = attach(access.url, SystemClock(), key=SessionKey(access.key))
        self._attach(opened, None, config.resolve(detached=True, store=opened.store.url), keeps=False)
        self._engine.parts.sending.use_code(access.code)

    def forget(self, error: BaseException) -> None:
        """Wait for no result any more, and let the next task find none of these futures."""
        self._engine.parts.collector.give_up_all(error)
        self._engine.tasks.forget()

    def cancel_all(self, futures: list[StarburstFuture[Any]]) -> None:
        """Cancel those that no worker has claimed."""
        self._engine.cancel(futures)

    def cancel_soon(self, futures: list[StarburstFuture[Any]]) -> None:
        """As `cancel_all`, in a separate thread."""
        self._engine.parts.futures.cancel_soon(lambda: futures)


class _Use:
    """What the executor of a task and its views share."""

    def __init__(self, task: TaskContext, access: Access, guest: _Guest) -> None:
        self.task = task
        self.guest = guest
        self.now = SystemClock().monotonic
        self.is_over = False
        self._resume = access.resume
        self._place = threading.Lock()  # guards: _has_place
        self._has_place = True  # that was lent, and is to be taken back
        self._turn = threading.Lock()  # held during a submit, so that equal calls are counted in turn
        self._calls: Counter[bytes] = Counter()  # by content, how often the task has submitted this call
        self._submitted: list[StarburstFuture[Any]] = []
        self._dropped: list[StarburstFuture[Any]] = []  # by iterators that were closed

    def submit(self, function: Callable[..., T], calls: list[Call], options: CallOptions) -> list[StarburstFuture[T]]:
        """Submit what no earlier attempt has submitted; return the futures of all, in order."""
        with self._turn:
            if self.is_over:
                raise RuntimeError("cannot schedule new futures after shutdown of a task's executor")
            counts = self._calls.copy()

            def key_of(content: bytes) -> bytes:
                counts[content] += 1
                return digest_of("task", self.task.task_id, content, counts[content])

            # What has failed because an earlier attempt was to fail runs again with this one.
            is_again = self.task.attempt > 1
            futures = once_of(self.guest).submit(function, calls, retry_failed=is_again, options=options, key_of=key_of)
            self._calls = counts
        self._submitted += futures
        return futures

    def shut_down(self, *, wait: bool, cancel: bool) -> None:
        if self.is_over:
            return
        self.is_over = True
        submitted, self._submitted = self._submitted, []
        if cancel:
            self.guest.cancel_all(submitted)
        if wait:
            wait_for(submitted)
        with self._place:
            # Once the task has ended, its worker has the place back, and this process sends the outcome.
            if self._has_place:
                self._has_place = False
                self._resume()

    def lent_again(self) -> None:
        """Go on after `shut_down`: calls are counted on."""
        with self._place:
            self._has_place = True
        self.is_over = False

    def drop(self, futures: list[StarburstFuture[Any]]) -> None:
        """Cancel tasks in a separate thread. Takes no lock, so that the garbage collector may call it at any point."""
        self._dropped += futures
        self.guest.cancel_soon(futures)

    def end(self) -> None:
        """Called when the task has ended: its worker has the place back."""
        self.is_over = True
        with self._place:
            self._has_place = False
        if dropped := [future for future in self._dropped if not future.done()]:
            with suppress(StarburstError):  # the task has its outcome, whatever becomes of these
                self.guest.cancel_all(dropped)
        self.guest.forget(RuntimeError(f"the task has ended that waited for this one: task={self.task.task_id}"))


class _TaskExecutor(TaskExecutor):
    def __init__(self, use: _Use, options: TaskOptions = DEFAULT) -> None:
        self._use = use
        self._options = options
        self._packed = CallOptions.of(options)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> StarburstFuture[T]:
        return self._use.submit(fn, [Call(args, kwargs)], self._packed)[0]

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        check_sizes(chunksize, buffersize)
        until = None if timeout is None else self._use.now() + timeout
        calls = [Call(args, {}) for args in zip(*iterables)]  # noqa: B905 - as in the standard library
        return _results(self._use, self._use.submit(fn, calls, self._packed), until)

    def options(self, **given: Any) -> TaskExecutor:
        return _TaskExecutor(self._use, self._options.but(**given))

    def put(self, value: object) -> Any:
        return self._use.guest.put(value)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._use.shut_down(wait=wait, cancel=cancel_futures)


def _results(use: _Use, futures: list[StarburstFuture[T]], until: float | None) -> Iterator[T]:
    """Yield results in order; cancel the tasks whose results are not taken, as in the standard library."""
    futures.reverse()
    try:
        while futures:
            yield _taken(futures, None if until is None else until - use.now())
    except GeneratorExit:
        # Closed, perhaps by the garbage collector: in any thread, which may hold any lock.
        if futures:
            use.drop(futures)
        raise
    except BaseException:
        use.guest.cancel_all(futures)
        raise


def _taken(futures: list[StarburstFuture[T]], timeout: float | None) -> T:
    """Return the result of the last of these, and take it out once the result is there."""
    result = futures[-1].result(timeout)
    del futures[-1]
    return result


_guests: dict[str, _Guest] = {}  # by URL; a process runs the tasks of one session
_uses: dict[tuple[str, int], _Use] = {}  # of the running task, by id and attempt


def executor_of(task: TaskContext, access: Access) -> TaskExecutor:
    """Return the executor of the running task, in the thread that runs it. Raises: RuntimeError; the errors of `reattach`."""
    known = _uses.get((task.task_id, task.attempt))
    if known is not None and not known.is_over:
        return _TaskExecutor(known)
    if not access.lend():
        raise RuntimeError(
            f"too many tasks of this worker wait for tasks of their own: task={task.task_id}; pass futures as arguments or return them, "
            "instead of waiting"
        )
    if known is not None:
        known.lent_again()
        return _TaskExecutor(known)
    if access.url not in _guests:
        _guests[access.url] = _Guest(access)
    use = _Use(task, access, _guests[access.url])
    _uses.clear()
    _uses[task.task_id, task.attempt] = use
    context.at_end(use.end)
    return _TaskExecutor(use)
