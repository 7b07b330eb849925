"""An executor that runs each task when it is submitted, in this thread and process, with the pickling of real workers.

For tests of users: instant, deterministic, without a store and without processes. What cannot be pickled fails here too, and a task
sees copies of its arguments and of the globals of `__main__`, as on a worker.

What it does not do: run tasks at once, stop them after `task_timeout`, survive a task that kills its process, retry.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar, cast

from starburst_executor import context
from starburst_executor.errors import DependencyFailed
from starburst_executor.protocol import calls, outcomes, references
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.protocol.references import SharedRef

__all__ = ["InlineExecutor"]

T = TypeVar("T")


class InlineExecutor(Executor):
    """A stand-in for `StarburstExecutor` and `DetachedExecutor` in tests.

    Attributes:
        id: `inline`.
        n_submitted: The number of tasks so far; those of views count for the executor of which they are.

    >>> from starburst_executor.testing import InlineExecutor
    >>> with InlineExecutor() as executor:
    ...     list(executor.map(pow, [2, 3], [5, 2]))
    [32, 9]
    """

    id = "inline"

    def __init__(self, max_workers: int | None = None, **_: Any) -> None:
        self._max_workers = max_workers or 1
        self._numbers = itertools.count()
        self._values: dict[str, Any] = {}
        self._is_over = False
        self._options = DEFAULT
        self._root = self
        self.n_submitted = 0

    def options(self, **given: Any) -> InlineExecutor:
        """Return a view, as an executor's `options`: of these, tasks see `seed`; the others are checked and have no effect.

        Raises: ConfigError.
        """
        view = copy.copy(self)
        view._options = self._options.but(**given)  # noqa: SLF001 - of this class
        return view

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run the call now, on copies that were pickled, and return its future, which is done.

        Raises: RuntimeError after `shutdown`.
        """
        if self._is_over:
            raise RuntimeError("cannot schedule new futures after shutdown")
        self._root.n_submitted += 1
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        index = next(self._numbers)
        try:
            args, kwargs = tuple(map(_result_of, args)), {name: _result_of(value) for name, value in kwargs.items()}
            with references.values_from(self._values.__getitem__):
                function = calls.load_function(calls.dump_function(fn))
                loaded = calls.load_call(calls.dump_call(args, kwargs))
        except Exception as error:
            future.set_exception(error)
            return future
        value, failure = outcomes.load_outcome(_outcome_of(function, *loaded, index, self._options.seed))
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
        progress: bool = False,  # noqa: ARG002 - the same
        ordered: bool = True,  # noqa: ARG002 - the same: tasks end in the order of the items
        return_exceptions: bool = False,
    ) -> Iterator[T]:
        """Run all calls now, or `buffersize` of them and each other one when a result is taken; yield the results in order."""
        calls_ = zip(*iterables)  # noqa: B905 - as in the standard library, the shortest iterable ends it
        ahead = deque(self.submit(fn, *args) for args in itertools.islice(calls_, buffersize))
        return self._results(fn, ahead, calls_, wants_errors=return_exceptions)

    def _results(
        self, fn: Callable[..., T], ahead: deque[Future[T]], more: Iterator[tuple[Any, ...]], *, wants_errors: bool
    ) -> Iterator[T]:
        while ahead:
            future = ahead.popleft()
            error = future.exception() if wants_errors else None
            result = future.result() if error is None else cast("T", error)
            ahead.extend(self.submit(fn, *args) for args in itertools.islice(more, 1))
            yield result

    def put(self, value: object) -> SharedRef:
        """Keep a copy of a value for the tasks, and return its ref. Arrays are read-only, as on a worker."""
        body = b"".join(references.lay(value).views)
        name = hashlib.sha256(body).hexdigest()
        opened = references.open_laid(memoryview(body))
        self._values[name] = pickle.loads(opened.pickled, buffers=opened.buffers)  # noqa: S301 - pickled above
        return SharedRef(self.id, name, len(body), references.PART_BYTES, self._forget)

    def _forget(self, ref: SharedRef) -> None:
        self._values.pop(ref.name, None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - the standard library's
        """Refuse further submits; nothing is left to wait for."""
        self._is_over = True


def _result_of(value: Any) -> Any:
    """Return the result of a future that is an argument; any other argument as it is. Raises: DependencyFailed."""
    if not isinstance(value, Future):
        return value
    try:
        return value.result()
    except Exception as error:
        raise DependencyFailed(
            f"a task whose result this task needs has failed: {type(error).__name__}: {error}"
        ) from error


def _outcome_of(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], index: int, seed: int | None
) -> bytes:
    """Return a task's outcome as a worker stores it."""
    outer = context.current_task()  # a task may submit to this executor
    context.enter(InlineExecutor.id, 0, index, 1, seed)
    try:
        return outcomes.dump_value(function(*args, **kwargs))
    except Exception as error:  # user code runs here
        return outcomes.dump_error(error)
    finally:
        context.leave()
        if outer is not None:
            context.enter(outer.session_id, int(outer.task_id.partition("-")[0]), outer.index, outer.attempt)
