"""`DetachedExecutor`: the same executor with another end. It outlives the process that made it.

    process A   DetachedExecutor() ──submit──► store ◄── workers            leaves, or is killed
    process B                       reattach ──► store ──► futures          tomorrow, elsewhere

What A knew is in the store: whoever has the session's id (or URL) and its key gets every future.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import as_completed
from dataclasses import replace
from types import TracebackType
from typing import Any, cast
from weakref import WeakSet, WeakValueDictionary

from starburst_executor import config, context
from starburst_executor.client.counting import SessionSummary, list_sessions
from starburst_executor.client.engine import Engine
from starburst_executor.client.executor import StarburstExecutor, open_given
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.money import check_cost
from starburst_executor.client.opening import Opened, attach, own_launcher
from starburst_executor.client.report import SessionStatus, TaskOutcome, outcome_of, status_of
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Settings
from starburst_executor.errors import ConfigError, KeyNotFound, SessionExpired
from starburst_executor.launch.base import Launcher
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.session.store import SessionStore

__all__ = ["DetachedExecutor"]


class DetachedExecutor(StarburstExecutor):
    """An executor whose session outlives it: leave it, and find it again from any process.

    Arguments are those of `StarburstExecutor`, and `absolute_timeout`: seconds after which the session expires. Leaving
    the `with` block, or `shutdown`, waits until the store has acknowledged every submit, makes sure that a worker stays,
    and detaches; the work goes on. Futures work on too: asking for one attaches this process again, in the background.
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
        launcher: str | Launcher | None = None,
        max_hourly_cost: float | None = None,
        cost_alert_threshold: float | None = None,
        budget_usd: float | None = None,
    ) -> DetachedExecutor:
        """Attach to a session that exists. Several clients may be attached at once.

        Args:
            id_or_url: The session's URL, or its id alone: it is then looked up on this machine, and in `store`.
            store: Where to look for a bare id; as for the constructor if not given.
            key: The session's key, if the key file here is not that of whoever started it.
            launcher: What starts workers that are missing while tasks are left, as for the constructor; the session's own
                unless given; `"none"` for nothing.
            max_hourly_cost: The session's limit from now on, for every client; as it is unless given. A session without
                one gets this machine's settings, if workers may be started.
            cost_alert_threshold: As for the constructor.
            budget_usd: As `max_hourly_cost`. What is raised in time lets the session live.

        Raises: BudgetExceeded: its workers would cost more than the limit; `launcher="none"` attaches without.
            SessionNotFound, KeyNotFound, VersionMismatch, ConfigError, StoreUnavailable, AccessDenied. An expired
            session can be read.
        Store: 1 GET; 1 swap for another limit.
        """
        context.refuse_while_loading()
        clock = SystemClock()
        # Before anything is asked of the store: a misspelt launcher is the caller's.
        starts = open_given(launcher, clock, detached=True)
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
            _limit(opened.session, starts, settings, given)
        except BaseException:
            opened.store.close()
            raise
        self = cls.__new__(cls)
        self._attach(opened, starts, settings)
        return self

    def _attach(self, opened: Opened, launcher: Launcher | None, settings: Settings) -> None:
        engine = Engine(
            opened,
            launcher,
            opened.session.clock,
            detached=True,
            ordinal=None,
            settings=settings,
            reattach=self._reattach_function(),
        )
        self._take_over(engine, opened.session.manifest.workers)

    def _take_over(self, engine: Engine, n_workers: int) -> None:
        super()._take_over(engine, n_workers)
        with _lock:
            _here[engine.parts.opened.url] = self

    @classmethod
    def _reattach_function(cls) -> Callable[..., StarburstFuture[Any]]:
        return _attached_future

    @classmethod
    def list_sessions(cls, store: str | None = None) -> list[SessionSummary]:
        """Every session in a store, oldest first; those that cannot be read are left out.

        Store: 1 LIST; 1 GET and 1 LIST a session.
        """
        url = config.resolve(detached=True, store=store).store
        return list(list_sessions(url, SystemClock()))

    # --- outcomes -----------------------------------------------------------------------------------------------------

    @property
    def futures(self) -> list[StarburstFuture[Any]]:
        """One future for every task of the session, in submission order, over all submitting clients.

        The same task has the same future each time, as long as the program holds it, until it is retried. Store: 1 LIST per
        1,000 status objects.
        """
        tasks = self._engine.tasks
        if not self.is_attached:
            return tasks.known()
        futures = tasks.all()
        self._engine.start()
        return futures

    @property
    def is_attached(self) -> bool:
        """False after `detach`, `shutdown` or `cleanup`."""
        return not self._engine.parts.state.ended.is_set()

    def future_of(self, ordinal: int, index: int) -> StarburstFuture[Any]:
        """The future of one task, by its submitter's ordinal and its index.

        Of other outcomes nothing is read.

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

    def as_completed(self, timeout: float | None = None) -> Iterator[StarburstFuture[Any]]:
        """Every future of the session as it completes, those that are done first.

        Raises: TimeoutError if `timeout` seconds have passed since this call and some are left.
        """
        return cast("Iterator[StarburstFuture[Any]]", as_completed(self.futures, timeout))

    def collect(self, wait: bool = False, timeout: float | None = None) -> list[TaskOutcome]:
        """How tasks ended, in submission order, failures beside values.

        Outcomes whose futures the program holds are not read again, and neither are about 8 MB of those that came last.

        Args:
            wait: Wait until every task has ended; otherwise those that have ended by now.
            timeout: At most so many seconds; then those that have ended by then.
        """
        futures = self.futures
        if wait:
            try:
                for _ in as_completed(futures, timeout):
                    pass
            except FutureTimeoutError:
                pass
        elif self.is_attached:
            self._engine.parts.collector.poll()
        return [outcome_of(future) for future in futures if future.done()]

    def status(self) -> SessionStatus:
        """How the session stands; prints well.

        Store: 1 LIST per 1,000 status objects, 1 GET for each that is partly ended or did not end well; 1 LIST, 1 GET for
        each worker that has beaten since the call before.
        """
        parts = self._engine.parts
        return status_of(
            self._engine.session, lambda: parts.workforce.beats(fresh=True), parts.workforce.dead, parts.spending.of
        )

    # --- changes ------------------------------------------------------------------------------------------------------

    def retry_failed(self) -> list[StarburstFuture[Any]]:
        """Run the failed tasks once more; new futures for them, in submission order. Finished futures keep theirs.

        A task whose call could not be pickled cannot be run and is left as it is.
        Raises: SessionExpired, RuntimeError if the session is not open.
        Store: 1 LIST per 1,000 status objects; 1 GET, 1 swap for each with failed tasks; 2 swaps for each of its epochs.
        """
        engine = self._engine
        engine.parts.state.check_open(engine.session.manifest)
        retried = engine.tasks.retry_failed()
        engine.start()
        return retried

    def cancel(self) -> int:
        """Cancel every task of the session that no worker has claimed; how many.

        Store: 1 LIST per 1,000 status objects, 1 GET, 1 swap for each with pending tasks.
        """
        return self._engine.tasks.cancel()

    def scale(self, workers: int) -> None:
        """Change how many tasks run at once, 1..10,000. Missing workers are started while there is work; surplus ones end
        when what they run has ended.

        Raises: BudgetExceeded if they would cost more than the session's `max_hourly_cost`; ConfigError.
        Store: 1 swap.
        """
        parts, settings = self._engine.parts, self._engine.settings
        n_workers = config.resolve(detached=True, store=parts.opened.store.url, workers=workers).workers
        parts.workforce.check(n_workers, cost_alert_threshold=settings.cost_alert_threshold)
        self._engine.session.change(lambda manifest: _with(manifest, workers=n_workers))
        self._max_workers = n_workers
        self._engine.renumber()

    def extend(self, seconds: float) -> None:
        """Let the session live `seconds` longer than it would. Without an `absolute_timeout` it lives for ever anyway.

        Raises: SessionExpired if its time is over already. Store: 1 swap.
        """
        if not seconds > 0:
            raise ConfigError(f"seconds={seconds!r} (an argument): must be greater than 0")
        session = self._engine.session
        deadline_at = session.refresh().deadline_at
        if deadline_at is None:
            return
        target = max(deadline_at, session.clock.now()) + seconds

        def step(manifest: Manifest) -> Manifest | None:
            # Extend or expire: the first to land wins, since both are swaps of the same object.
            if manifest.state.is_over or (manifest.deadline_at or 0.0) >= target:
                return None
            return replace(manifest, deadline_at=target)

        if session.change(step).state == SessionState.EXPIRED:
            raise SessionExpired(f"the session's absolute_timeout has passed: session={self.id}")

    # --- ends ---------------------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the store has acknowledged every submit; False if `timeout` seconds passed first."""
        return self._engine.flush(timeout)

    def detach(self) -> None:
        """Let go of the session, which goes on: as leaving the `with` block. A second call is harmless."""
        self.shutdown(wait=True)

    def cleanup(self, force: bool = False) -> None:
        """End the session: stop its workers, cancel what has not ended. Its outcomes stay, unless `force`.

        Args:
            force: Delete every object of this session, and only of this one; returns when none is left.
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


def _limit(
    session: SessionStore, launcher: Launcher | None, settings: Settings, given: dict[str, float | None]
) -> None:
    """Settle the session's limits of money, and see that what may be started keeps them. Store: 1 swap if they change.

    Raises: BudgetExceeded.
    """

    def step(manifest: Manifest) -> Manifest | None:
        def limit(name: str, own: float | None, here: float | None) -> float | None:
            is_for_here = given[name] is not None or (own is None and launcher is not None)
            return here if is_for_here else own

        budget_usd = limit("budget_usd", manifest.budget_usd, settings.budget_usd)
        hourly = limit("max_hourly_cost", manifest.max_hourly_cost, settings.max_hourly_cost)
        if (budget_usd, hourly) == (manifest.budget_usd, manifest.max_hourly_cost) or manifest.state.is_over:
            return None
        return replace(manifest, budget_usd=budget_usd, max_hourly_cost=hourly)

    manifest = session.manifest
    changed = step(manifest) or manifest
    has_limit = changed.max_hourly_cost is not None or settings.cost_alert_threshold is not None
    if has_limit and manifest.state == SessionState.OPEN:
        check_cost(
            launcher,
            manifest.workers,
            max_hourly_cost=changed.max_hourly_cost,
            cost_alert_threshold=settings.cost_alert_threshold,
        )
    if changed is not manifest:
        session.change(step)


def _with(manifest: Manifest, *, workers: int) -> Manifest | None:
    return None if manifest.workers == workers else replace(manifest, workers=workers)


# --- futures that come back from a pickle -----------------------------------------------------------------------------

_lock = threading.Lock()  # guards: _here, _for_futures, _lately
_here: WeakValueDictionary[str, DetachedExecutor] = WeakValueDictionary()  # of this process, the newest of each session
# Made for the sake of futures, which hold them; the last few are held here too, for futures that come one after the other.
_for_futures: WeakSet[DetachedExecutor] = WeakSet()
_lately: deque[DetachedExecutor] = deque(maxlen=4)


def _attached_future(url: str, ordinal: int, sequence: int) -> StarburstFuture[Any]:
    """The future of one task, from its pickle: of the executor that is attached to its session in this process, or a new one.

    Raises: KeyNotFound: the session has a key of its own that this process does not know; what `reattach` raises.
    """
    with _lock:
        executor = _here.get(url)
        is_mine = executor is not None and executor in _for_futures
    if executor is None or not executor.is_attached:
        try:
            executor = DetachedExecutor.reattach(url, key=None if executor is None else executor.key)
        except KeyNotFound as error:
            raise KeyNotFound(
                f"a future cannot come back from its pickle without its session's key: attach to the session in this process "
                f"first, by DetachedExecutor.reattach({url!r}, key=...): {error}"
            ) from error
        with _lock:
            is_mine = True
            _for_futures.add(executor)
            _lately.append(executor)
    future = executor.future_of(ordinal, sequence)
    if is_mine:
        # An executor that nothing refers to leaves its session.
        future.attachment = executor
    return future
