"""`StarburstExecutor`: the interface to an attached session, a drop-in replacement for `ProcessPoolExecutor`.

    submit, map ──► Submitter ──► store ◄── workers
    Future      ◄── Collector ◄── store

The executor holds no state except its engine. It adds the contract of the standard library: names, arguments, errors, and
the behaviour at the end.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, InvalidStateError
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from starburst_executor import config, context
from starburst_executor.client.cached import Caches, cached_in
from starburst_executor.client.coroutines import Awaited
from starburst_executor.client.engine import Engine
from starburst_executor.client.exits import end, end_in_background
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.given import GivenLauncher
from starburst_executor.client.interrupts import stop_at_once
from starburst_executor.client.joining import join
from starburst_executor.client.mapping import map_calls
from starburst_executor.client.money import Cost, check_cost
from starburst_executor.client.naming import OnExpired, check_name, open_named
from starburst_executor.client.observing import Observed
from starburst_executor.client.opening import start
from starburst_executor.client.putting import Putting
from starburst_executor.client.task_logs import level_number
from starburst_executor.client.task_options import NO_OPTIONS
from starburst_executor.client.view import ExecutorView, HasOptions
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import ConfigError
from starburst_executor.launch.base import Options
from starburst_executor.protocol.options import TaskOptions

__all__ = ["StarburstExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class StarburstExecutor(HasOptions, Observed, Awaited, Putting, Executor):
    """Runs functions on durable workers; a drop-in replacement for `concurrent.futures.ProcessPoolExecutor`.

    It works without configuration: the state is in an embedded store in the user's data folder, and the workers are
    processes on this machine. With `store="s3://bucket/prefix"` the same code keeps its state on S3, and workers may run
    on any machine. Leaving the `with` block waits for every task, ends the session and deletes its objects.

    Args:
        max_workers: The number of tasks that run at once, 1..10,000; by default one per processor.
        mp_context: Accepted for compatibility: a multiprocessing context or None. Workers always start in a fresh
            state, as with the `spawn` method, and no `if __name__ == "__main__"` guard is needed.
        initializer: Called once in each worker process before its first task. If it raises, the executor is broken.
        initargs: Its arguments.
        max_tasks_per_child: The number of tasks after which a worker process is replaced; None for no limit.
        workers: Another name for `max_workers`.
        store: URL of the store: `sqlite:///absolute/folder` or `s3://bucket/prefix`.
        launcher: `"local"`, `"none"` (start workers by `python -m starburst_executor.worker <url>`), `"fargate"` and other
            launchers on AWS, with options as in `"fargate?cpu=4&spot=1"`; or a launcher object such as `Fargate(cpu=4)`.
        retries: The number of further tries for a task that raises, 0..100.
        max_losses: The number of lost workers after which their task fails with `WorkerLost`, 1..100; by default 3.
        task_timeout: Seconds after which a task is stopped and fails with `TaskTimeout`; None for never.
        max_result_bytes: The size limit of a result; a task with a larger one fails with `PayloadError`.
        keep: Keep the session's objects at the end.
        launch_timeout: Seconds within which the first worker must report; the default depends on the launcher: 60 for local
            workers, 600 on Fargate.
        max_hourly_cost: Limit in dollars per hour; workers that would cost more are not started: `BudgetExceeded`.
        cost_alert_threshold: Dollars per hour above which a warning is logged.
        budget_usd: Total cost in dollars at which the session ends, even with no client attached; unfinished tasks fail with
            `BudgetExceeded`. All three limits apply to estimates (docs/howto/costs.md).
        max_failures: The session ends when more than this number of its tasks have failed, or more than this share of them (`"10%"`, once
            10 have ended), even with no client attached; unfinished tasks fail with `TooManyFailures`. A retry that succeeds takes a
            failure back.
        task_logs: The lowest level, such as `logging.INFO` or `"INFO"`, of `logging` records and warnings of tasks that are passed on to this
            process's `logging` when a task has ended, with its task and worker; None for none.
        key: The session's key; by default derived from the user's key file.
        timings: The intervals of the session; the defaults depend on the store.
        name, on_expired: Of a `DetachedExecutor`.

    Raises:
        ConfigError: a value is out of range; it is a `ValueError`.
        BudgetExceeded: workers would cost more than `max_hourly_cost`; none was started.
        StoreUnavailable, AccessDenied: the store could not be used.

    Other settings come from `STARBURST_*` variables and the config file. Thread-safe.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=2) as executor:
    ...     list(executor.map(pow, [2, 3], [5, 2]))
    [32, 9]
    """

    _detached = False

    # Twenty arguments, because they are the public interface: those of `ProcessPoolExecutor`, and each setting of a session.
    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        workers: int | None = None,
        store: str | None = None,
        launcher: str | Options | None = None,
        retries: int | None = None,
        max_losses: int | None = None,
        task_timeout: float | None = None,
        absolute_timeout: float | None = None,
        max_result_bytes: int | None = None,
        keep: bool | None = None,
        launch_timeout: float | None = None,
        max_hourly_cost: float | None = None,
        cost_alert_threshold: float | None = None,
        budget_usd: float | None = None,
        max_failures: int | str | None = None,
        task_logs: int | str | None = None,
        key: str | bytes | SessionKey | None = None,
        timings: Timings | None = None,
        name: str | None = None,
        on_expired: OnExpired = "new",
    ) -> None:
        context.refuse_while_loading()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if mp_context is not None and not hasattr(mp_context, "Process"):
            raise TypeError("mp_context must be a multiprocessing context or None")
        if name is not None:
            if not self._detached:
                raise ConfigError("a name is for a session that outlives its client: DetachedExecutor(name=...)")
            check_name(name, on_expired)
        clock = SystemClock()
        given = GivenLauncher(launcher, clock, detached=self._detached)
        settings = config.resolve(
            detached=self._detached,
            store_of=given.store_of,
            max_workers=max_workers,
            workers=workers,
            store=store,
            launcher=given.spec,
            retries=retries,
            max_losses=max_losses,
            task_timeout=task_timeout,
            absolute_timeout=absolute_timeout,
            max_tasks_per_child=max_tasks_per_child,
            max_result_bytes=max_result_bytes,
            keep=keep,
            launch_timeout=launch_timeout,
            max_hourly_cost=max_hourly_cost,
            cost_alert_threshold=cost_alert_threshold,
            budget_usd=budget_usd,
            max_failures=None if max_failures is None else str(max_failures),
            task_logs=level_number(task_logs),
        )
        opened_launcher = given.open_for(settings.launcher, settings.store)
        if opened_launcher is not None:
            opened_launcher.check(settings.workers)
        check_cost(
            opened_launcher,
            settings.workers,
            max_hourly_cost=settings.max_hourly_cost,
            cost_alert_threshold=settings.cost_alert_threshold,
        )
        begin = partial(
            start,
            settings,
            clock,
            detached=self._detached,
            key=key,
            timings=timings,
            launcher=opened_launcher,
            initializer=None if initializer is None else partial(initializer, *initargs),
        )
        if name is None:
            opened, is_new = begin(), True
        else:
            opened, is_new = open_named(
                name,
                settings.store,
                clock,
                on_expired=on_expired,
                key=key,
                begin=lambda reserve: begin(name=name, reserve=reserve),
            )
        if not is_new:
            wishes = {
                "workers": max_workers if workers is None else workers,
                "retries": retries,
                "max_losses": max_losses,
                "task_timeout": task_timeout,
                "max_tasks_per_child": max_tasks_per_child,
                "max_result_bytes": max_result_bytes,
                "max_failures": None if max_failures is None else settings.max_failures,
                "timings": timings,
            }
            limits = {"max_hourly_cost": max_hourly_cost, "budget_usd": budget_usd}
            is_given = launcher is not None
            opened_launcher = join(
                opened, opened_launcher, settings, is_launcher_given=is_given, wishes=wishes, limits=limits
            )
        engine = Engine(
            opened,
            opened_launcher,
            clock,
            detached=self._detached,
            ordinal=0 if is_new else None,
            settings=settings,
            reattach=self._reattach_function(),
        )
        self._take_over(engine, opened.session.manifest.current.slots)

    def _take_over(self, engine: Engine, n_workers: int) -> None:
        self._engine = engine
        self._max_workers = n_workers
        self._caches = Caches()
        # Garbage collection of the executor acts as shutdown(wait=False).
        self._finalizer = weakref.finalize(self, end_in_background, engine)
        self._finalizer.atexit = False

    @classmethod
    def _reattach_function(cls) -> Callable[..., StarburstFuture[Any]] | None:
        return None

    # --- the standard library's methods -------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> StarburstFuture[T]:
        """Schedule `fn(*args, **kwargs)` to run on a worker, and return its future.

        An argument that is itself a future of this session is replaced by its result, for which the task waits; if that fails, the task
        fails with `DependencyFailed`. A future inside of another object stays a future.

        The call is pickled before this returns, so arguments may be changed afterwards. An error of pickling becomes the
        future's exception. Waits while more than 256 MB of calls are unsent, except in a thread with a running event loop of asyncio,
        which it never blocks: there it raises RuntimeError instead, and `submit_async` waits.

        Raises: RuntimeError after `shutdown`, or if it would block an event loop; ExecutorBroken, SessionExpired; PayloadError: the
            user's own modules cannot be sent.
        Store: nothing in this thread; 1 swap for the first submit of a client that has reattached. In the background a lone submit
            makes 2 requests, 1 more for a new function, and up to 2 for new modules of the user's own; 10,000 together make about 100.
        """
        sending = self._engine.parts.sending
        if cached_in(fn) is None:
            return sending.submit(fn, args, kwargs)
        function, cache = self._caches.of(self._engine, fn, None)
        return cache.submit(function, args, kwargs, lambda: sending.submit(function, args, kwargs))

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
        """Call `fn` with the items of the iterables in parallel; yield the results lazily, in order.

        Args:
            timeout: Seconds, from this call, after which waiting for a result raises `TimeoutError`.
            chunksize: Accepted for compatibility, without effect: tasks are batched by measured duration, and each item
                has its own error.
            buffersize: The most items that are taken ahead of the yielded results; None for all at once.
            progress: Draw a bar while the results are iterated over, on a terminal or in a notebook (docs/howto/progress-and-logs.md).
            ordered: Yield results in the order of the items; otherwise as the tasks end.
            return_exceptions: Yield the exception of a task that fails or is cancelled in place of its result, and go on.

        Raises: a task's exception, when its result is reached, unless `return_exceptions`; the remaining tasks are then cancelled.
        """
        return map_calls(
            *(self, self._engine, fn, iterables, NO_OPTIONS),
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
            progress=progress,
            ordered=ordered,
            return_exceptions=return_exceptions,
            caches=self._caches,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further submits; end the session when every future is done.

        Args:
            wait: Wait for the end. Otherwise it happens in the background, at the latest before the interpreter exits.
            cancel_futures: Cancel the tasks that no worker has claimed.

        A second call is harmless.
        """
        if not self._engine.is_of_this_process():
            # The child of a fork leaves a `with` block of its parent: the session belongs to the parent.
            return
        self._engine.ending.begin()
        if cancel_futures:
            self._engine.cancel(self._engine.parts.futures.unfinished())
        if wait and not self._engine.parts.threads.is_one():
            end(self._engine)
            self._caches.close()
        else:
            end_in_background(self._engine)

    def terminate_workers(self) -> None:
        """Stop the workers at once, and end the session, as `ProcessPoolExecutor.terminate_workers` of Python 3.14.

        Running tasks fail with `ExecutorBroken`, which is a `BrokenProcessPool`; other unfinished tasks are cancelled; further
        submits raise `RuntimeError`. Returns when the workers of this client are gone; the session ends in the background.
        A second call is harmless.
        """
        if self._engine.is_of_this_process():
            self._engine.ending.stop_workers()
            end_in_background(self._engine)

    def kill_workers(self) -> None:
        """As `terminate_workers`: both kill the workers, so that user code cannot refuse."""
        self.terminate_workers()

    # --- additions ----------------------------------------------------------------------------------------------------

    @property
    def _clock(self) -> Clock:
        return self._engine.session.clock

    @property
    def id(self) -> str:
        """The session's id."""
        return self._engine.session.session_id

    @property
    def url(self) -> str:
        """The session's URL: with it and the key, a worker on another machine can join."""
        return self._engine.parts.opened.url

    @property
    def key(self) -> SessionKey:
        """The session's key: workers and clients on other machines need `executor.key.hex()` and the URL.

        A holder of the key can read and forge everything that the session stores. Only `hex()` shows it.
        """
        return self._engine.parts.opened.key

    def cancel(self, *, running: bool = False) -> int:
        """Cancel every task of this executor that no worker has claimed; return their number. The executor stays open.

        Args:
            running: Also cancel the tasks that workers have claimed. Running ones are stopped as by `future.cancel(running=True)`.

        Store: 1 GET, 1 swap for each status object with such tasks; with `running` 1 GET more for each, 1 swap, and 1 GET for each
        worker that holds any, up to 32.
        """
        return self._engine.cancel(self._engine.parts.futures.unfinished(), running=running)

    def requests(self) -> dict[str, int]:
        """Return the store requests of this session so far, by kind; those of its workers as of their last beats.

        Kinds: `get`, `not_modified`, `list`, `create`, `swap`, `put`, `delete`, and bytes in and out.
        Store: 1 LIST, 1 GET for each worker that has beaten since the last call; nothing after `shutdown`.
        """
        return self._engine.parts.spending.requests()

    def cost(self) -> Cost:
        """Return an estimate of the cost of this session so far, in dollars; after its end, of the total.

        It includes the S3 requests of its workers and of this client, as `requests` counts them.
        Store: 1 GET, 1 LIST, 1 GET for each worker that has beaten since the last call; nothing after `shutdown`.
        """
        return self._engine.parts.spending.cost()

    def output(self, future: StarburstFuture[Any]) -> tuple[str, str]:
        """Return the standard output and standard error of a task that has ended, up to 1 MB of each.

        Raises: InvalidStateError: it has not ended, or the future has no task in this session.
        Store: 1 GET, 1 LIST for each epoch of 1,000 status objects up to the task's, 1 GET; 1 GET if it wrote anything.
        """
        if future.session_id != self.id:
            where = (
                f"in this session, but in {future.session_id}" if future.session_id else "as its result was in a cache"
            )
            raise InvalidStateError(f"the future has no task {where}")
        return self._engine.tasks.output(future.ordinal, future.index)

    def _view(self, options: TaskOptions, cache: str | None) -> ExecutorView:
        return ExecutorView(self, options, cache)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} workers={self._max_workers}>"

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # The first ^C cancels tasks that no worker has claimed, and waits for the others. A second one stops those too.
        try:
            self.shutdown(wait=True, cancel_futures=exc_type is KeyboardInterrupt)
        except KeyboardInterrupt:
            stop_at_once(self._engine)
            raise
