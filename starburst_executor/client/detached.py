"""`DetachedExecutor`: the same executor, except that leaving it detaches the client while the work continues.

    process A   DetachedExecutor() ──submit──► store ◄── workers            leaves, or is killed
    process B                       reattach ──► store ──► futures          tomorrow, elsewhere

The state of A is in the store: a process with the session's id (or URL) and its key gets every future.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import as_completed
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, cast, overload
from weakref import WeakSet, WeakValueDictionary

from starburst_executor import config, context
from starburst_executor.client.bars import Bar, wants_bar
from starburst_executor.client.by_label import LabelStatus, status_by_label
from starburst_executor.client.counting import SessionSummary, list_sessions
from starburst_executor.client.engine import Engine
from starburst_executor.client.executor import StarburstExecutor
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.given import GivenLauncher
from starburst_executor.client.joining import limit_costs
from starburst_executor.client.looks import Looks
from starburst_executor.client.once import Once
from starburst_executor.client.opening import Opened, attach, own_launcher
from starburst_executor.client.reading import Reading, parse_task
from starburst_executor.client.replacement import Replacement, check_replacement
from starburst_executor.client.report import SessionStatus, TaskOutcome, outcome_of
from starburst_executor.client.submits_once import SubmitsOnce, once_of
from starburst_executor.client.task_options import CallOptions
from starburst_executor.client.view import ExecutorView
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Settings
from starburst_executor.errors import ConfigError, KeyNotFound, SessionExpired
from starburst_executor.launch.base import Launcher, Options
from starburst_executor.protocol.options import TaskOptions
from starburst_executor.protocol.records import Manifest, SessionState

__all__ = ["DetachedExecutor"]


class DetachedExecutor(SubmitsOnce, StarburstExecutor):
    """An executor whose session outlives it: leave it, and find it again from any process.

    The arguments are those of `StarburstExecutor`, and:

    Args:
        absolute_timeout: Seconds after which the session expires.
        name: The session's name in its store. If a session has it, this attaches to that session, which keeps its settings: a warning
            names those that were given and differ. `reattach` and the command accept the name instead of an id.
        on_expired: What happens if the session of that name has expired, ended or broken: `"new"` begins another one under the name,
            `"raise"` raises `SessionExpired`.

    Leaving the `with` block, or `shutdown`, waits until the store has acknowledged every submit, makes sure that a worker stays,
    and detaches; the work continues. Its futures keep working: using one attaches this process again in the background.
    `cleanup` ends the session.

    >>> from starburst_executor import DetachedExecutor
    >>> with DetachedExecutor(workers=1) as executor:
    ...     futures = [executor.submit(pow, 2, n) for n in range(3)]
    >>> executor = DetachedExecutor.reattach(executor.id)       # tomorrow, in another process
    >>> sorted(future.result() for future in executor.as_completed())
    [1, 2, 4]
    >>> executor.cleanup(force=True)
    """

    _detached = True

    @classmethod
    def reattach(
        cls,
        id_or_url: str,
        *,
        store: str | None = None,
        key: str | bytes | SessionKey | None = None,
        launcher: str | Options | None = None,
        max_hourly_cost: float | None = None,
        cost_alert_threshold: float | None = None,
        budget_usd: float | None = None,
    ) -> DetachedExecutor:
        """Attach to a session that exists. Several clients may be attached at once.

        Args:
            id_or_url: The session's URL, or its id alone: it is then looked up on this machine, and in `store`. Or its name, which is
                looked up in `store`.
            store: The store in which to look for an id or a name; as for the constructor if not given.
            key: The session's key, if it was started with another key file than this machine's.
            launcher: Starts missing workers while tasks are unfinished, as for the constructor; the session's launcher if
                not given; `"none"` to start none.
            max_hourly_cost: The session's new limit, for every client; unchanged if not given. A session without a limit
                gets this machine's setting, if this client may start workers.
            cost_alert_threshold: As for the constructor.
            budget_usd: As `max_hourly_cost`. A budget that is raised in time keeps the session open.

        Raises: BudgetExceeded: its workers would cost more than the limit; `launcher="none"` attaches without.
            SessionNotFound, KeyNotFound, VersionMismatch, ConfigError, StoreUnavailable, AccessDenied. An expired
            session can be read.
        Store: 1 GET, 1 more for a name; 1 swap for another limit.
        """
        context.refuse_while_loading()
        clock = SystemClock()
        # Before the first store request: a misspelt launcher is the caller's mistake.
        starts = GivenLauncher(launcher, clock, detached=True).open()
        opened = attach(id_or_url, clock, store=store, key=key)
        if launcher is None:
            starts = own_launcher(opened.session)
        try:
            settings = config.resolve(
                detached=True,
                store=opened.store.url,
                max_hourly_cost=max_hourly_cost,
                cost_alert_threshold=cost_alert_threshold,
                budget_usd=budget_usd,
            )
            given = {"max_hourly_cost": max_hourly_cost, "budget_usd": budget_usd}
            limit_costs(opened.session, starts, settings, given)
        except BaseException:
            opened.store.close()
            raise
        self = cls.__new__(cls)
        self._attach(opened, starts, settings)
        return self

    def _attach(self, opened: Opened, launcher: Launcher | None, settings: Settings, *, keeps: bool = True) -> None:
        engine = Engine(
            opened,
            launcher,
            opened.session.clock,
            detached=True,
            ordinal=None,
            settings=settings,
            reattach=self._reattach_function(),
            keeps=keeps,
        )
        self._take_over(engine, opened.session.manifest.current.slots)

    def _take_over(self, engine: Engine, n_workers: int) -> None:
        super()._take_over(engine, n_workers)
        with _lock:
            _here[engine.parts.opened.url] = self

    @classmethod
    def _reattach_function(cls) -> Callable[..., StarburstFuture[Any]]:
        return _attached_future

    @classmethod
    def list_sessions(cls, store: str | None = None) -> list[SessionSummary]:
        """Return every session in a store, the oldest first, without those that cannot be read.

        Raises: AccessDenied, VersionMismatch, StoreUnavailable: there are sessions, and none can be read.
        Store: 1 LIST; 1 GET and 1 LIST per session.
        """
        url = config.store_to_read(store)
        return list(list_sessions(url, SystemClock()))

    # --- outcomes -----------------------------------------------------------------------------------------------------

    @property
    def futures(self) -> list[StarburstFuture[Any]]:
        """One future for every task of the session, in submission order, of all submitting clients.

        While the program holds a task's future, it gets the same object each time, until the task is retried. Store: 1 LIST
        per 1,000 status objects.
        """
        tasks = self._engine.tasks
        if not self.is_attached:
            return tasks.known()
        futures = tasks.all()
        self._engine.start()
        return futures

    @property
    def name(self) -> str:
        """The session's name; empty without one."""
        return self._engine.session.manifest.current.name

    @property
    def is_attached(self) -> bool:
        """False after `detach`, `shutdown` or `cleanup`."""
        return not self._engine.parts.state.ended.is_set()

    def future_of(self, ordinal: int, index: int) -> StarburstFuture[Any]:
        """Return the future of one task, by its submitter's ordinal and its index. Reads no other outcomes.

        Raises: LookupError if there is no such task. Store: 1 LIST per 1,000 status objects, if it is not known yet.
        """
        tasks = self._engine.tasks
        if self.is_attached:
            future = tasks.find(ordinal, index)
            self._engine.start()
        else:
            future = tasks.get(ordinal, index)
        if future is None:
            raise LookupError(f"the session has no such task: task={ordinal}-{index}, session={self.id}")
        return future

    def as_completed(self, timeout: float | None = None, *, progress: bool = False) -> Iterator[StarburstFuture[Any]]:
        """Yield every future of the session as it completes; completed ones come first.

        Args:
            progress: Draw a bar while the futures are iterated over, on a terminal or in a notebook.

        Raises: TimeoutError if some are not done `timeout` seconds after this call.
        """
        return self._as_completed(self.futures, timeout, has_bar=wants_bar(progress))

    def _as_completed(
        self, futures: list[StarburstFuture[Any]], timeout: float | None, *, has_bar: bool
    ) -> Iterator[StarburstFuture[Any]]:
        if not has_bar:
            return cast("Iterator[StarburstFuture[Any]]", as_completed(futures, timeout))
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        return Bar(self._engine.capacity(), self._clock, len(futures)).as_completed(futures, deadline)

    def _view(self, options: TaskOptions, cache: str | None) -> ExecutorView:
        return DetachedView(self, options, cache)

    def _all_futures(self) -> Callable[[], Iterable[StarburstFuture[Any]]]:
        return lambda: self.futures

    @overload
    def collect(
        self, wait: bool = False, timeout: float | None = None, *, progress: bool | None = None, by: None = None
    ) -> list[TaskOutcome]: ...

    @overload
    def collect(
        self,
        wait: bool = False,
        timeout: float | None = None,
        *,
        progress: bool | None = None,
        by: Literal["label"],
    ) -> dict[str, list[TaskOutcome]]: ...

    def collect(
        self,
        wait: bool = False,
        timeout: float | None = None,
        *,
        progress: bool | None = None,
        by: Literal["label"] | None = None,
    ) -> list[TaskOutcome] | dict[str, list[TaskOutcome]]:
        """Return the outcomes of ended tasks, in submission order, both values and failures.

        Outcomes whose futures the program holds are not read again, nor are the last ones, up to about 8 MB.

        Args:
            wait: Wait until every task has ended, instead of returning those that have ended by now.
            timeout: The longest wait, in seconds; then return those that have ended by then.
            progress: Draw a bar while this waits; by default on a terminal or in a notebook if tqdm is installed.
            by: `"label"` to get a dictionary of such lists by the tasks' labels.
        """
        _check_by(by)
        futures = self.futures
        if wait:
            try:
                for _ in self._as_completed(futures, timeout, has_bar=wants_bar(progress)):
                    pass
            except FutureTimeoutError:
                pass
        elif self.is_attached:
            self._engine.parts.collector.poll()
        outcomes = [outcome_of(future) for future in futures if future.done()]
        if by is None:
            return outcomes
        labelled: dict[str, list[TaskOutcome]] = {}
        for outcome in outcomes:
            labelled.setdefault(outcome.label, []).append(outcome)
        return labelled

    @overload
    def status(self, *, by: None = None) -> SessionStatus: ...

    @overload
    def status(self, *, by: Literal["label"]) -> dict[str, LabelStatus]: ...

    def status(self, *, by: Literal["label"] | None = None) -> SessionStatus | dict[str, LabelStatus]:
        """Return the state of the session; `str()` gives a summary for people.

        Args:
            by: `"label"` to get a `LabelStatus` for each label, by label, in the order in which labels were first submitted. Store: 1 GET,
                1 LIST per 1,000 status objects, 1 GET for each status object, several at a time.

        Store, at the first call: 1 LIST per 1,000 status objects, 1 GET for each that is partly ended or did not end well, and
        for 48 that did, up to 600 in all; 1 LIST, 1 GET a worker, up to 200; 1 GET. Later calls: 1 LIST an open epoch, up to 6, 1 GET for each
        changed object, up to 8; 1 LIST per 1,000 workers, 1 GET for each worker that has beaten since, up to 4; 1 GET. So what a worker's
        beat alone tells (its host, its CPU and memory, the notes of its tasks, its requests) may be as many looks old as there are workers for each of
        these 4; which tasks run is known from their claims.
        """
        _check_by(by)
        return self._looks.look() if by is None else status_by_label(Reading(self._engine.session))

    @functools.cached_property
    def _looks(self) -> Looks:
        parts = self._engine.parts
        return Looks(
            self._engine.session,
            parts.spending.own_requests,
            dead=parts.workforce.dead,
            cost_of=parts.spending.of,
        )

    # --- changes ------------------------------------------------------------------------------------------------------

    def retry_failed(
        self, function: Callable[..., Any] | None = None, *, tasks: Iterable[str] | None = None
    ) -> list[StarburstFuture[Any]]:
        """Run the failed tasks again; return new futures for them, in submission order. Completed futures do not change.

        A task whose call could not be pickled cannot run, and stays failed.

        Args:
            function: A replacement, which these tasks call from now on with the arguments that they were submitted with, those
                of a partial included; the one that failed if not given. Its signature is compared with those arguments first, those of up
                to 10,000 tasks of up to 256 status objects. Tasks that failed because of another one keep their function.
            tasks: The ids of the tasks to run again, such as `"0-17"`, as far as they failed; all failed ones if not given.

        Raises: SessionExpired, RuntimeError if the session is not open; PayloadError if the function cannot be pickled; ConfigError: it
            cannot take the place of the one that failed, or does not accept the arguments of a task; nothing was retried.
        Store: 1 LIST per 1,000 status objects; 1 GET, 1 swap for each with failed tasks; 2 swaps for each of its epochs; with a
        function 1 create, 1 GET for each function that failed, and for each call that is not inline, and up to 256 GETs more, and as many
        for calls that are not inline.
        """
        engine = self._engine
        engine.parts.state.check_open(engine.session.manifest.current)
        replacement = None
        if function is not None:
            check_replacement(function)
            replacement = Replacement(engine.session, engine.parts.sending.prepare_now(function), function)
        retried = engine.tasks.retry_failed(replacement, None if tasks is None else set(map(parse_task, tasks)))
        engine.start()
        return retried

    def cancel(self, *, running: bool = False) -> int:
        """Cancel every task of the session that no worker has claimed, of all submitting clients; return their number.

        Args:
            running: Also cancel the tasks that workers have claimed. Running ones are stopped as by `future.cancel(running=True)`.

        Store: 1 LIST per 1,000 status objects, 1 GET, 1 swap for each with pending tasks; with `running` 2 GETs and 1 swap for each
        with pending or claimed ones, 1 swap, and 1 GET for each worker that holds any, up to 32.
        """
        return self._engine.tasks.cancel(running=running)

    def scale(self, workers: int) -> None:
        """Change the number of tasks that run at once, 1..10,000. Missing workers are started while there is work; surplus
        ones leave, after the running tasks that end within `Timings.grace_s`; the others run again. A worker on this machine
        usually has all slots: for fewer it is replaced.

        Raises: BudgetExceeded if they would cost more than the session's `max_hourly_cost`; ConfigError.
        Store: 1 swap.
        """
        parts, settings = self._engine.parts, self._engine.settings
        n_workers = config.resolve(detached=True, store=parts.opened.store.url, workers=workers).workers
        parts.workforce.check(n_workers, cost_alert_threshold=settings.cost_alert_threshold)
        self._engine.session.manifest.change(lambda manifest: _with(manifest, workers=n_workers))
        self._max_workers = n_workers
        self._engine.renumber()

    def extend(self, seconds: float) -> None:
        """Extend the session's lifetime by `seconds`. Does nothing without an `absolute_timeout`: then it never expires.

        Raises: SessionExpired if its time is over already. Store: 1 swap.
        """
        if not 0 < seconds < math.inf:
            raise ConfigError(f"seconds={seconds!r} (an argument): must be greater than 0, and finite")
        session = self._engine.session
        deadline_at = session.manifest.refresh().deadline_at
        if deadline_at is None:
            return
        target = max(deadline_at, session.clock.now()) + seconds

        def step(manifest: Manifest) -> Manifest | None:
            # Extending and expiring are swaps of the same object: the first to land wins.
            if manifest.state.is_over or (manifest.deadline_at or 0.0) >= target:
                return None
            return replace(manifest, deadline_at=target)

        if session.manifest.change(step).state == SessionState.EXPIRED:
            raise SessionExpired(f"the session's absolute_timeout has passed: session={self.id}")

    # --- ends ---------------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the store has acknowledged every submit; return False if `timeout` seconds passed first."""
        return self._engine.flush(timeout)

    def detach(self) -> None:
        """Leave the session, which continues, as at the end of the `with` block. A second call is harmless."""
        self.shutdown(wait=True)

    def cleanup(self, force: bool = False) -> None:
        """End the session: stop its workers and cancel unfinished tasks. Its outcomes stay, unless `force`.

        Args:
            force: Delete every object of this session, and of no other; return when none is left.
        """
        self._engine.ending.cleanup(delete=force)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        was_open = not self._engine.parts.state.is_ending
        self.shutdown(wait=True)
        if was_open:
            sys.stderr.write(
                f"session {self.id} goes on: DetachedExecutor.reattach({self.id!r}); elsewhere: reattach({self.url!r}, key=...)\n"
            )


class DetachedView(SubmitsOnce, ExecutorView):
    """A view of a `DetachedExecutor`, with its `map_once` and `submit_once`: tasks that the session has keep the options that they have."""

    @property
    def _once(self) -> Once:  # the executor's
        return once_of(cast("DetachedExecutor", self.executor))

    @property
    def _call_options(self) -> CallOptions:  # type: ignore[override]  # those of this view
        return self._packed


def _check_by(by: object) -> None:
    if by not in (None, "label"):
        raise ConfigError(f"by={by!r}: must be 'label' or None")


def _with(manifest: Manifest, *, workers: int) -> Manifest | None:
    return None if manifest.slots == workers else replace(manifest, slots=workers)


# --- unpickled futures ------------------------------------------------------------------------------------------------

_lock = threading.Lock()  # guards: _here, _for_futures, _lately
_here: WeakValueDictionary[str, DetachedExecutor] = (
    WeakValueDictionary()
)  # this process's newest executor of each session, by URL
# Executors that were made for unpickled futures, which hold them. `_lately` holds the last few, for futures that are
# unpickled one after the other.
_for_futures: WeakSet[DetachedExecutor] = WeakSet()
_lately: deque[DetachedExecutor] = deque(maxlen=4)


def _attached_future(url: str, ordinal: int, sequence: int) -> StarburstFuture[Any]:
    """Return the future of one task on unpickling, from this process's executor for its session, or a new one.

    Raises: KeyNotFound: the session has its own key, which this process does not know; the errors of `reattach`.
    """
    with _lock:
        executor = _here.get(url)
        is_for_futures = executor is not None and executor in _for_futures
    if executor is None or not executor.is_attached:
        context.refuse_while_loading(
            "a future is inside of a task's argument, where its value is not waited for, and a worker does not attach to the session for it: "
            "pass the future as an argument itself, of a list `*futures`; instead of a future of another session its result"
        )
        try:
            executor = DetachedExecutor.reattach(url, key=None if executor is None else executor.key)
        except KeyNotFound as error:
            raise KeyNotFound(
                f"a future cannot come back from its pickle without its session's key: attach to the session in this process "
                f"first, by DetachedExecutor.reattach({url!r}, key=...): {error}"
            ) from error
        with _lock:
            is_for_futures = True
            _for_futures.add(executor)
            _lately.append(executor)
    future = executor.future_of(ordinal, sequence)
    if is_for_futures:
        # Otherwise the executor would be garbage-collected, and leave its session.
        future.attachment = executor
    return future
