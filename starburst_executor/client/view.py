"""`executor.options(...)`: a view, an executor over the same session whose tasks have these options.

    executor.options(retries=3) ──► ExecutorView ──submit, map──► the engine of the executor
                                        └─ .options(timeout=60) ──► ExecutorView: both options

A view holds its executor, its options, and which tasks were submitted by it, as ranges of indices; it has no thread and writes nothing.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from concurrent.futures import wait as wait_for
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from starburst_executor.client.cached import cached_in
from starburst_executor.client.coroutines import Awaited
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.mapping import map_calls
from starburst_executor.client.task_options import CallOptions
from starburst_executor.protocol.keys import cache_folder
from starburst_executor.protocol.options import DEFAULT, Limit, TaskOptions

if TYPE_CHECKING:
    from starburst_executor.client.engine import Engine
    from starburst_executor.client.executor import StarburstExecutor

__all__ = ["ExecutorView", "HasOptions"]

P = ParamSpec("P")
T = TypeVar("T")


class HasOptions(ABC):
    """What has `options(...)`: an executor, and each view of one."""

    _task_options: TaskOptions = DEFAULT
    _cache: str | None = None

    def options(
        self,
        *,
        timeout: float | EllipsisType | None = ...,
        retries: int | EllipsisType | None = ...,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] | EllipsisType | None = ...,
        backoff: float | tuple[float, ...] | EllipsisType | None = ...,
        seed: int | EllipsisType | None = ...,
        priority: int | EllipsisType | None = ...,
        limit: Limit | EllipsisType | None = ...,
        resources: Mapping[str, int | str] | EllipsisType | None = ...,
        label: str | Callable[..., object] | EllipsisType | None = ...,
        cache: str | EllipsisType | None = ...,
    ) -> ExecutorView:
        """Return a view: an `Executor` over the same session, whose tasks have these options. Views can be nested.

        The options are stored with each task, so they hold on every worker, after a detach too. An option that is not given is as in the
        executor or view whose method this is; None is what the session has.

        Args:
            timeout: Seconds after which a try is stopped; if none is left, the task fails with `TaskTimeout`. `math.inf` for no limit.
            retries: The number of further tries for a task that fails, 0..100.
            retry_on: Exception classes: a task that fails with none of them is not tried again.
            backoff: Seconds before each further try; or `(first, factor, most)`: the first pause, by what each further one is multiplied,
                and the longest.
            seed: What `current_task().rng()` is seeded with, together with each task's index.
            priority: -100..100, 0 by default: of the tasks that wait, higher ones start first (docs/howto/priorities.md).
            limit: How many of the session's tasks with a limit of this name may run at once: `Limit("api", 10)` (docs/howto/limits.md).
            resources: What a task needs of its worker, such as `{"gpu": 1, "memory": "8GB", "cpu": 2}`, of any name (docs/howto/gpus.md).
            label: A text of up to 200 characters; or a function that is called with the arguments of each call and returns one.
            cache: The name of a cache for the results of the view's calls, as with the decorator `cached`; the only option that is not stored.

        Raises: ConfigError: a value is out of range; it is a `ValueError`. Store: nothing.
        """
        given = {
            "timeout": timeout,
            "retries": retries,
            "retry_on": retry_on,
            "backoff": backoff,
            "seed": seed,
            "priority": priority,
            "limit": limit,
            "resources": resources,
            "label": label,
        }
        options = self._task_options.but(**{name: value for name, value in given.items() if value is not ...})
        if cache is ...:
            cache = self._cache
        elif cache is not None:
            cache_folder(cache)  # checks the name
        return self._view(options, cache)

    @abstractmethod
    def _view(self, options: TaskOptions, cache: str | None) -> ExecutorView:
        """Return a view with exactly these options and this cache."""


class ExecutorView(HasOptions, Awaited, Executor):
    """An executor over the session of another one, whose tasks have options of their own. `options` of executors and views makes it.

    Leaving it, or `shutdown`, ends no session: it refuses further submits to this view, and for an attached session waits for the
    tasks that were submitted by it. Thread-safe.

    Attributes:
        executor: The executor whose session it uses.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=1) as executor:
    ...     patient = executor.options(retries=2, timeout=60)
    ...     patient.submit(pow, 2, 5).result()
    32
    """

    def __init__(self, executor: StarburstExecutor, options: TaskOptions, cache: str | None = None) -> None:
        self.executor = executor
        self._cache = cache
        self._task_options = options
        self._packed = CallOptions.of(options)
        self._lock = threading.Lock()  # guards: _own, _is_over
        self._own: list[tuple[int, int]] = []  # indices of its tasks, as ranges
        self._is_over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> StarburstFuture[T]:
        """As `StarburstExecutor.submit`. Raises: also what a function that makes labels raises."""
        self._check_open()
        sending = self._engine.parts.sending

        def submit(function: Callable[..., T] = fn) -> StarburstFuture[T]:
            future: StarburstFuture[T] = sending.submit(function, args, kwargs, self._packed)
            self._add(future)
            return future

        if self._cache is None and cached_in(fn) is None:
            return submit()
        function, cache = self.executor._caches.of(self._engine, fn, self._cache)  # noqa: SLF001 - a view of it
        return cache.submit(function, args, kwargs, lambda: submit(function))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool = False,
        ordered: bool = True,
        return_exceptions: bool = False,
    ) -> Iterator[T]:
        """As `StarburstExecutor.map`."""
        self._check_open()
        return map_calls(
            *(self.executor, self._engine, fn, iterables, self._packed),
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            progress=progress,
            ordered=ordered,
            return_exceptions=return_exceptions,
            submitted=self._add,
            caches=self.executor._caches,  # noqa: SLF001 - a view of it
            cache=self._cache,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further submits to this view. The session goes on.

        Args:
            wait: Wait for the tasks that were submitted by this view; for a detached session, until the store has acknowledged them.
            cancel_futures: Cancel those of its tasks that no worker has claimed.
        """
        with self._lock:
            self._is_over = True
        engine = self._engine
        if not engine.is_of_this_process():
            return
        if cancel_futures:
            engine.cancel(self._unfinished())
        if wait and engine.detached:
            engine.flush()
        elif wait:
            wait_for(self._unfinished())

    def __repr__(self) -> str:
        options = self._task_options.given() | ({} if self._cache is None else {"cache": self._cache})
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        return f"<{type(self).__name__} {self.executor.id} {given}>"

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:  # type: ignore[override]  # the executor's
        return self.executor._engine  # noqa: SLF001 - a view of it

    @property
    def _max_workers(self) -> int:
        """Libraries that take any executor ask for it, as for that of the standard library's pools."""
        return self.executor._max_workers  # noqa: SLF001 - a view of it

    def _view(self, options: TaskOptions, cache: str | None) -> ExecutorView:
        return type(self)(self.executor, options, cache)

    def _all_futures(self) -> Callable[[], Iterable[StarburstFuture[Any]]]:
        return self.executor._all_futures()  # noqa: SLF001 - a view of it

    def _check_open(self) -> None:
        if self._is_over:  # unlocked: one bool
            raise RuntimeError("cannot schedule new futures after shutdown of this view")

    def _add(self, future: StarburstFuture[Any]) -> None:
        index = future.index
        with self._lock:
            if self._own and self._own[-1][1] == index:
                self._own[-1] = (self._own[-1][0], index + 1)
            else:
                self._own.append((index, index + 1))

    def _unfinished(self) -> list[StarburstFuture[Any]]:
        engine = self._engine
        with self._lock:
            own = sorted(self._own)  # several threads may have submitted
        ordinal = engine.parts.sending.ordinal
        futures = [future for future in engine.parts.futures.unfinished() if future.ordinal == ordinal]
        return [future for future in futures if _is_in(own, future.index)]


def _is_in(ranges: list[tuple[int, int]], index: int) -> bool:
    at = bisect_right(ranges, (index, math.inf)) - 1
    return at >= 0 and ranges[at][0] <= index < ranges[at][1]
