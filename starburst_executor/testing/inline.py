"""An executor that runs each task when it is submitted, in this thread and process, with the pickling of real workers.

For tests of users: instant, deterministic, without a store and without processes. What cannot be pickled fails here too, and a task
sees copies of its arguments and of the globals of `__main__`, as on a worker.

What it does not do: run tasks at once, stop them after `task_timeout`, survive a task that kills its process, retry.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from starburst_executor import context
from starburst_executor.protocol import calls, outcomes

__all__ = ["InlineExecutor"]

T = TypeVar("T")


class InlineExecutor(Executor):
    """A stand-in for `StarburstExecutor` and `DetachedExecutor` in tests.

    Attributes:
        id: `inline`.
        n_submitted: The number of tasks so far.

    >>> from starburst_executor.testing import InlineExecutor
    >>> with InlineExecutor() as executor:
    ...     list(executor.map(pow, [2, 3], [5, 2]))
    [32, 9]
    """

    id = "inline"

    def __init__(self, max_workers: int | None = None, **_: Any) -> None:
        self._max_workers = max_workers or 1
        self._numbers = itertools.count()
        self._is_over = False
        self.n_submitted = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call now, on copies that were pickled, and return its future, which is done.

        Raises: RuntimeError after `shutdown`.
        """
        if self._is_over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self.n_submitted += 1
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        index = next(self._numbers)
        try:
            function = calls.load_function(calls.dump_function(fn))
            loaded = calls.load_call(calls.dump_call(args, kwargs))
        except Exception as error:
            future.set_exception(error)
            return future
        value, failure = outcomes.load_outcome(_outcome_of(function, *loaded, index))
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(value)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,  # noqa: ARG002 - the executors' signature
        chunksize: int = 1,  # noqa: ARG002 - the same
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Run all calls now, or `buffersize` of them and each other one when a result is taken; yield the results in order."""
        calls_ = zip(*iterables)  # noqa: B905 - as in the standard library, the shortest iterable ends it
        ahead = deque(self.submit(fn, *args) for args in itertools.islice(calls_, buffersize))
        return self._results(fn, ahead, calls_)

    def _results(self, fn: Callable[..., T], ahead: deque[Future[T]], more: Iterator[tuple[Any, ...]]) -> Iterator[T]:
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(self.submit(fn, *args) for args in itertools.islice(more, 1))
            yield result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the standard library's
        """Refuse further submits; nothing is left to wait for."""
        self._is_over = True


def _outcome_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], index: int) -> bytes:
    """Return a task's outcome as a worker stores it."""
    outer = context.current_task()  # a task may submit to this executor
    context.enter(InlineExecutor.id, 0, index, 1)
    try:
        return outcomes.dump_value(function(*args, **kwargs))
    except Exception as error:  # user code runs here
        return outcomes.dump_error(error)
    finally:
        context.leave()
        if outer is not None:
            context.enter(outer.session_id, int(outer.task_id.partition("-")[0]), outer.index, outer.attempt)
