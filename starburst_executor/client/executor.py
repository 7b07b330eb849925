"""`StarburstExecutor`: the front of an attached session, a drop-in replacement for `ProcessPoolExecutor`.

    submit, map ──► Submitter ──► store ◄── workers
    Future      ◄── Collector ◄── store

The executor itself holds no state but its engine's; what it adds is the standard library's contract: names, arguments,
errors, and what happens at the end.
"""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from starburst_executor import config, context
from starburst_executor.client.engine import Engine
from starburst_executor.client.functions import Prepared
from starburst_executor.client.future import THREAD_PREFIX, StarburstFuture
from starburst_executor.client.money import Cost, check_cost
from starburst_executor.client.opening import is_embedded, start
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.ecs import OnAws
from starburst_executor.launch.base import Launcher
from starburst_executor.launch.open import open_launcher

__all__ = ["StarburstExecutor", "open_given"]

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class StarburstExecutor(Executor):
    """Runs functions on durable workers; a drop-in replacement for `concurrent.futures.ProcessPoolExecutor`.

    Nothing need be installed or configured: the state is in an embedded store in the user's data folder, the workers are
    processes of this machine. With `store="s3://bucket/prefix"` the same code keeps its state on S3, and workers may be
    anywhere. Leaving the `with` block waits for every task, ends the session and deletes its objects.

    Args:
        max_workers: How many tasks run at once, 1..10,000; one per processor unless given.
        mp_context: Accepted for compatibility: a multiprocessing context or None. Workers always start clean, as under
            the `spawn` method, and no `if __name__ == "__main__"` guard is needed.
        initializer: Called once in each worker process before its first task. If it raises, the executor is broken.
        initargs: Its arguments.
        max_tasks_per_child: After so many tasks a worker process is replaced by a fresh one; None for never.
        workers: `max_workers` under the name that people expect here.
        store: URL of the store: `sqlite:///absolute/folder` or `s3://bucket/prefix`.
        launcher: `"local"`, `"none"` (others start workers, `python -m starburst_executor.worker <url>`), `"fargate"` and
            others on AWS, with options as in `"fargate?cpu=4&spot=1"`; or a launcher object such as `Fargate(cpu=4)`.
        retries: How many times a task that raises is tried again, 0..100.
        max_losses: A task fails with `WorkerLost` once so many workers were lost while it ran, 1..100; 3 unless given.
        task_timeout: Seconds after which a task is stopped and fails with `TaskTimeout`; None for never.
        max_result_bytes: A larger result fails its task with `PayloadError`.
        keep: Keep the session's objects at the end.
        launch_timeout: Seconds within which the first worker must be heard of; by the launcher unless given: 60 for local
            workers, 600 on Fargate.
        max_hourly_cost: Workers that would cost more dollars an hour are not started: `BudgetExceeded`.
        cost_alert_threshold: A warning is logged where workers cost more dollars an hour.
        budget_usd: At so many dollars in all the session ends, also with no client there: what has not ended fails with
            `BudgetExceeded`. All three are about estimates (docs/howto/costs.md).
        key: The session's key, if it is not to be made from the user's key file.
        timings: Every interval of the session; the defaults fit the store.

    Raises:
        ConfigError: a value is out of range; it is a `ValueError`.
        BudgetExceeded: workers would cost more than `max_hourly_cost`; nothing was started. Also StoreUnavailable,
            AccessDenied.

    Settings that are not given are looked up as `STARBURST_*` variables and in the config file. Thread-safe.

    >>> from starburst_executor import StarburstExecutor
    >>> with StarburstExecutor(workers=2) as executor:
    ...     list(executor.map(pow, [2, 3], [5, 2]))
    [32, 9]
    """

    _detached = False

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
        launcher: str | Launcher | None = None,
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
        key: str | bytes | SessionKey | None = None,
        timings: Timings | None = None,
    ) -> None:
        context.refuse_while_loading()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if mp_context is not None and not hasattr(mp_context, "Process"):
            raise TypeError("mp_context must be a multiprocessing context or None")
        clock = SystemClock()
        given = None if isinstance(launcher, str) else launcher
        settings = config.resolve(
            detached=self._detached,
            store_of=_store_of(given, clock, detached=self._detached),
            max_workers=max_workers,
            workers=workers,
            store=store,
            launcher=launcher if isinstance(launcher, str) else None,
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
        )
        engine_launcher = given
        if given is None:
            engine_launcher = open_given(settings.launcher, clock, detached=self._detached)
        if engine_launcher is not None:
            _check_reach(engine_launcher, settings.store)
            engine_launcher.check(settings.workers)
        check_cost(
            engine_launcher,
            settings.workers,
            max_hourly_cost=settings.max_hourly_cost,
            cost_alert_threshold=settings.cost_alert_threshold,
        )
        opened = start(
            settings,
            clock,
            detached=self._detached,
            key=key,
            timings=timings,
            launcher=engine_launcher,
            initializer=None if initializer is None else functools.partial(initializer, *initargs),
        )
        engine = Engine(
            opened,
            engine_launcher,
            clock,
            detached=self._detached,
            ordinal=0,
            settings=settings,
            reattach=self._reattach_function(),
        )
        self._take_over(engine, settings.workers)

    def _take_over(self, engine: Engine, n_workers: int) -> None:
        self._engine = engine
        self._max_workers = n_workers
        # An executor that is garbage-collected ends as by shutdown(wait=False).
        self._finalizer = weakref.finalize(self, _end_in_background, engine)
        self._finalizer.atexit = False

    @classmethod
    def _reattach_function(cls) -> Callable[..., StarburstFuture[Any]] | None:
        return None

    # --- the standard library's methods -------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> StarburstFuture[T]:
        """Have `fn(*args, **kwargs)` called by a worker; its future.

        The call is pickled before this returns, so arguments may be changed afterwards. What cannot be pickled raises
        from the future. Waits while more than 256 MB of calls are unsent.

        Raises: RuntimeError after `shutdown`; ExecutorBroken, SessionExpired; PayloadError: modules of the user's own cannot
            be sent.
        Store: nothing at once, but for those modules (`client/code.py`); a lone submit causes 2 requests, 10,000 together
            about 100.
        """
        return self._engine.parts.sending.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call `fn` with the items of the iterables, in parallel; the results in order, lazily.

        Args:
            timeout: Seconds, from this call, after which waiting for a result raises `TimeoutError`.
            chunksize: Accepted for compatibility: tasks are batched by measured duration, and every item has an error
                of its own, whatever this is.
            buffersize: At most so many items are taken ahead of the results that have been taken; None for all at once.

        Raises: what a task raised, when its result is reached; the tasks not yet reached are then cancelled.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None:
            if not isinstance(buffersize, int):
                raise TypeError("buffersize must be an integer or None")
            if buffersize < 1:
                raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        engine = self._engine
        prepared = engine.parts.sending.prepare(fn)
        # zip() in order; the submits that it feeds are made now, or as far ahead as `buffersize` allows.
        calls = zip(*iterables)  # noqa: B905 - as the standard library: the shortest decides
        ahead = calls if buffersize is None else islice(calls, buffersize)
        futures = deque(engine.parts.sending.submit_prepared(prepared, args, {}) for args in ahead)
        more = iter(()) if buffersize is None else calls
        return _results(weakref.ref(self), engine, prepared, futures, more, deadline, self._clock)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further submits; end the session when every future is done.

        Args:
            wait: Return only then. Otherwise the end happens in the background, at the latest before the interpreter ends.
            cancel_futures: Cancel what no worker has claimed.

        A second call is harmless.
        """
        if not self._engine.is_of_this_process():
            # The child of a fork leaves a block that its parent has entered: the session is the parent's.
            return
        self._engine.ending.begin()
        if cancel_futures:
            self._engine.cancel(self._engine.parts.futures.unfinished())
        if wait and not self._engine.parts.threads.is_one():
            end(self._engine)
        else:
            _end_in_background(self._engine)

    def terminate_workers(self) -> None:
        """Stop the workers at once, and end the session: as `ProcessPoolExecutor.terminate_workers` of Python 3.14.

        What runs fails with `ExecutorBroken`, which is a `BrokenProcessPool`; what no worker has begun is cancelled; further
        submits raise `RuntimeError`. Returns when the workers of this client are gone; the session ends in the background.
        A second call is harmless.
        """
        if self._engine.is_of_this_process():
            self._engine.ending.stop_workers()
            _end_in_background(self._engine)

    def kill_workers(self) -> None:
        """As `terminate_workers`: either way no worker is asked, so that none can refuse."""
        self.terminate_workers()

    # --- beside it ----------------------------------------------------------------------------------------------------

    @property
    def _clock(self) -> Clock:
        return self._engine.session.clock

    @property
    def id(self) -> str:
        """The session's id."""
        return self._engine.session.session_id

    @property
    def url(self) -> str:
        """The session's URL: with the key, all that a worker elsewhere needs to take part."""
        return self._engine.parts.opened.url

    @property
    def key(self) -> SessionKey:
        """The session's key: `executor.key.hex()` is what whoever is to take part elsewhere needs beside the URL.

        Whoever has it can read and forge what the session stores. It is shown by nothing but its `hex()`.
        """
        return self._engine.parts.opened.key

    def requests(self) -> dict[str, int]:
        """Store requests of this session so far, by kind; of its workers as of their last beats.

        Kinds: `get`, `not_modified`, `list`, `create`, `swap`, `put`, `delete`, and bytes in and out.
        Store: 1 LIST, 1 GET a worker; nothing after `shutdown`.
        """
        return self._engine.parts.spending.requests()

    def cost(self) -> Cost:
        """What this session has cost so far, in dollars: an estimate. After its end, in all.

        Of S3 requests those of its workers and of this client are counted, as `requests` does.
        Store: 1 GET, 1 LIST, 1 GET a worker; nothing after `shutdown`.
        """
        return self._engine.parts.spending.cost()

    def output(self, future: StarburstFuture[Any]) -> tuple[str, str]:
        """What a task of this session wrote to its standard output and error, once it has ended; of each up to 1 MB.

        Store: 1 LIST per 1,000 status objects, 1 GET; 1 GET if it wrote anything.
        """
        return self._engine.tasks.output(future.ordinal, future.index)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} workers={self._max_workers}>"

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        # ^C means "stop": what no worker has begun is not begun any more. A second one means "now".
        try:
            self.shutdown(wait=True, cancel_futures=exc_type is KeyboardInterrupt)
        except KeyboardInterrupt:
            stop_at_once(self._engine)
            raise


def _results(
    executor: weakref.ref[StarburstExecutor],
    engine: Engine,
    prepared: Prepared,
    futures: deque[StarburstFuture[T]],
    more: Iterator[tuple[Any, ...]],
    deadline: float | None,
    clock: Clock,
) -> Iterator[T]:
    """Results in order. Whatever ends the iteration, what has not been reached is cancelled."""
    try:
        while futures:
            if executor() is not None:
                for args in islice(more, 1):
                    futures.append(engine.parts.sending.submit_prepared(prepared, args, {}))
            yield _first_result(futures, None if deadline is None else max(0.0, deadline - clock.monotonic()))
    except GeneratorExit:
        # Given up, perhaps by the garbage collector: in whatever thread, holding whatever locks.
        engine.parts.futures.cancel_soon(list(futures))
        raise
    except BaseException:
        engine.cancel(list(futures))
        raise


def _first_result(futures: deque[StarburstFuture[T]], timeout: float | None) -> T:
    """The first future's result; no reference to either is left behind, so that the caller alone keeps the result."""
    future = futures.popleft()
    try:
        return future.result(timeout)
    except FutureTimeoutError:
        futures.appendleft(future)
        raise
    finally:
        del future


def end(engine: Engine) -> None:
    """End an executor's session in its way: attached, when every future is done; detached, when all is acknowledged."""
    ending = engine.ending
    ending.begin()
    if ending.is_stopped:
        ending.end_stopped()
    elif engine.detached:
        try:
            engine.flush()
        finally:
            ending.detach()
    else:
        ending.wait_done()
        ending.end_session()


def stop_at_once(engine: Engine) -> None:
    """A second ^C: kill the workers of an attached session and cancel what is left. A detached one is left as it is."""
    if not engine.detached and engine.is_of_this_process():
        try:
            engine.ending.cleanup(delete=not engine.settings.keep)
        except Exception as error:
            _log.warning("a session was not ended in good order: %r", error)


def _end_in_background(engine: Engine) -> None:
    # Also called by the garbage collector, in whatever thread and holding whatever locks: so it takes none itself.
    if not engine.parts.state.ended.is_set() and engine.is_of_this_process():
        # A daemon: the interpreter's end waits for the engine, not for this thread.
        thread = threading.Thread(target=_end_in_order, args=(engine,), name=f"{THREAD_PREFIX}end", daemon=True)
        with suppress(RuntimeError):  # there can be no more threads; the interpreter's end ends the session
            thread.start()


def _end_in_order(engine: Engine) -> None:
    """End a session where no caller is left to raise to."""
    try:
        end(engine)
    except BaseException as error:
        _log.warning("a session was not ended in good order: %r", error)


def _end_all() -> None:
    """Before the interpreter goes: end every session that is still open, as `ProcessPoolExecutor` does.

    # Guarantee: whatever goes wrong with one, the others are ended too.
    """
    # An unhandled ^C has been printed by now; as at the end of a `with` block, it cancels what has not begun.
    is_interrupted = getattr(sys, "last_type", None) is KeyboardInterrupt
    for engine in Engine.all_here():
        if engine.has_returned:
            continue  # threads that are joined now may wait for its futures
        try:
            engine.ending.begin()
            if is_interrupted and not engine.detached:
                engine.cancel(engine.parts.futures.unfinished())
            end(engine)
        except KeyboardInterrupt:
            with suppress(BaseException):
                stop_at_once(engine)
        except BaseException as error:
            _log.warning("a session was not ended in good order: %r", error)


# Runs before the threads are joined that user code has left; `atexit` would be too late for them, and for starting any.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]  # noqa: SLF001 - as concurrent.futures does, since Python 3.9


def _leave_all() -> None:
    """When no thread of the user's is left: leave the sessions that futures were asked for to the last."""
    for engine in Engine.all_here():
        try:
            engine.leave()
        except BaseException as error:
            _log.warning("a session was not left in good order: %r", error)


atexit.register(_leave_all)


def open_given(given: str | Launcher | None, clock: Clock, *, detached: bool) -> Launcher | None:
    """The launcher that an argument names, or is; None for "none". Raises: ConfigError."""
    return open_launcher(given, clock, detached=detached) if isinstance(given, str) else given


def _store_of(given: Launcher | None, clock: Clock, *, detached: bool) -> Callable[[str], str | None]:
    """What finds the store that goes with a launcher, if nobody named one: on AWS it is the stack's bucket."""

    def find(spec: str) -> str | None:
        launcher: object = given if given is not None else open_given(spec, clock, detached=detached)
        return launcher.store_url if isinstance(launcher, OnAws) else None

    return find


def _check_reach(launcher: object, store: str) -> None:
    if isinstance(launcher, OnAws) and is_embedded(store):
        raise ConfigError(
            f"launcher={launcher.name!r}, store={store!r}: workers on AWS cannot reach a store on this machine; name an "
            "s3:// store, or none to have the stack's"
        )
