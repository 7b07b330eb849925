"""The engine behind an executor: one client of one session, from its first submit to its end.

    send-N    take batches from the submitter, store them          sending.py
    collect   poll for outcomes, complete futures                  collector.py
    keep      beat, watch, repair, start workers                   keeper.py

This module assembles and runs these parts. `state.py` holds the client's state, `ending.py` ends it, `cancelling.py`
serves its futures, `spending.py` adds up its cost.

Assumes: the engine never refers to its executor, so that an executor can be garbage-collected while its threads run; its
finalizer then ends them.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from starburst_executor.client.bars import Capacity
from starburst_executor.client.cancelling import Elsewhere, FuturesOfClient
from starburst_executor.client.cleanup import Sweep
from starburst_executor.client.collector import FEW_EMBEDDED, FEW_REMOTE, Collector
from starburst_executor.client.ending import Ending
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.keeper import ClientKeeper
from starburst_executor.client.opening import Opened, attach, is_embedded
from starburst_executor.client.parts import Parallel, Parts
from starburst_executor.client.returning import Returned
from starburst_executor.client.seen import SeenOutcomes
from starburst_executor.client.sending import Sending
from starburst_executor.client.spending import Spending
from starburst_executor.client.state import ClientState
from starburst_executor.client.task_logs import TaskLogger
from starburst_executor.client.tasks import SessionTasks
from starburst_executor.client.threads import Threads, named
from starburst_executor.client.visit import Visit
from starburst_executor.client.workforce import Workforce
from starburst_executor.clock import Clock
from starburst_executor.config import Settings
from starburst_executor.errors import ExecutorBroken, StoreUnavailable
from starburst_executor.launch.base import Launcher, Order
from starburst_executor.protocol.keys import worker_of
from starburst_executor.session.store import SessionStore

__all__ = ["Engine"]

_log = logging.getLogger(__name__)

# The pause between two steps of the sweep.
_TIDY_S = 0.05

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """The client of one session. Thread-safe.

    Args:
        ordinal: This client's ordinal as a submitter; None to get one at the first submit.
        settings: Gives the size of the queue, `keep`, and the size of a result that is logged.
        reattach: Returns the future in another process after unpickling; None if its futures cannot be pickled.
        has_returned: Whether this client serves the futures of one that has left: it submits nothing and may leave at any
            time.
        keeps: Whether it beats, watches workers and tidies up. A client inside of a task does not: its worker does so.
    Attributes:
        parts: Its parts.
        tasks: The session's tasks; used by a detached session.
        ending: Ends it.
        has_tidied: Whether the sweep is finished, or not this client's task.
    """

    def __init__(
        self,
        opened: Opened,
        launcher: Launcher | None,
        clock: Clock,
        *,
        detached: bool,
        ordinal: int | None,
        settings: Settings,
        reattach: Callable[..., StarburstFuture[Any]] | None = None,
        has_returned: bool = False,
        keeps: bool = True,
    ) -> None:
        self.detached = detached
        self.settings = settings
        self.has_returned = has_returned
        self._keeps = keeps
        self._clock = clock
        self._launcher = launcher
        self._reattach = reattach
        self._pid = os.getpid()
        self._embedded = is_embedded(opened.store.url)
        self.has_tidied = not self._embedded
        # As its beats have it, so that others can tell whether a submitter is there.
        self._client_id = (
            clock.new_id(4) if ordinal is None else opened.session.manifest.current.submitters[ordinal].client_id
        )
        self.parts = self._made(opened, ordinal)
        self.tasks = SessionTasks(opened.session, self.parts.collector, self.parts.futures, self._client_id)
        if detached and not has_returned:
            self.parts.collector.completing.keep = self.tasks.keep
        self.ending = Ending(
            self.parts,
            detached=detached,
            keep=settings.keep,
            attach_again=None if has_returned else self._return,
        )
        _engines.add(self)

    def _made(self, opened: Opened, ordinal: int | None) -> Parts:
        session, client_id = opened.session, self._client_id
        state, wake_keeper = ClientState(), threading.Event()
        threads, parallel = Threads(self._fail), Parallel(is_far=not self._embedded)
        collector = Collector(
            session,
            parallel,
            few=FEW_EMBEDDED if self._embedded else FEW_REMOTE,
            warn_bytes=self.settings.warn_result_bytes,
        )
        outcomes = SeenOutcomes(session, lambda: collector.n_waiting, wake_keeper.set)
        collector.completing.ended.append(outcomes.ended)
        if session.manifest.current.task_logs is not None:
            collector.completing.ended.append(TaskLogger(session).ended)
        reattach = None if self._reattach is None else (self._reattach, (opened.url,))
        futures = FuturesOfClient(session, collector, threads, parallel, reattach)
        keeper = ClientKeeper(
            session,
            client_id,
            self._launcher,
            order=self._order,
            needs_workers=futures.are_undone,
            claims=collector.claims,
            needs=collector.needs,
            seen=outcomes.seen,
        )
        futures.sending = sending = Sending(
            opened,
            self.settings,
            state,
            threads,
            collector,
            client_id=client_id,
            ordinal=ordinal,
            start_others=self._start_threads,
            new_future=self._new_future,
            awaits_work=keeper.awaits_work,
            wake_keeper=wake_keeper,
        )
        workforce = Workforce(session, self._launcher)
        spending = Spending(opened, workforce, lambda: keeper.buried, state.ended.is_set)
        return Parts(
            opened, state, threads, collector, sending, futures, keeper, workforce, spending, parallel, wake_keeper
        )

    # --- which process, which thread ----------------------------------------------------------------------------------

    @staticmethod
    def all_here() -> list[Engine]:
        """Return every engine that this process has made and not ended."""
        return [engine for engine in _engines if engine.is_of_this_process() and not engine.parts.state.ended.is_set()]

    def is_of_this_process(self) -> bool:
        """Whether this process made it; False in the child of a fork, since it belongs to the parent."""
        return self._pid == os.getpid()

    def lost_in_fork(self) -> None:
        """Make this engine unusable in the child of a fork: its threads stayed with the parent, and its locks may be held."""
        error = ExecutorBroken(
            f"this executor was made in another process: made in {self._pid}, used in {os.getpid()}; make one here, or "
            "reattach to a detached session"
        )
        # Without the lock, which another thread of the parent may have held at the fork.
        self.parts.state.error = error
        self.parts.futures.deputy = Elsewhere(error)
        self.tasks.lost_in_fork()

    @property
    def opened(self) -> Opened:
        """The session, with its store and key."""
        return self.parts.opened

    @property
    def session(self) -> SessionStore:
        return self.parts.opened.session

    # --- submitting ---------------------------------------------------------------------------------------------------

    def _new_future(self, ordinal: int, index: int) -> StarburstFuture[Any]:
        future: StarburstFuture[Any] = StarburstFuture(self.parts.futures, ordinal, index, label="")
        if self.detached:
            self.tasks.add(future)
        return future

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until the store has acknowledged every submit so far; return False after `timeout_s`."""
        return self.parts.sending.flush(timeout_s)

    # --- threads ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads `collect` and `keep`; a second call is harmless."""
        with self.parts.state.lock:
            self._start_threads()

    def _start_threads(self) -> None:
        self.parts.threads.start("collect", self._collect)
        if self._keeps:
            self.parts.threads.start("keep", self._keep)

    def _collect(self) -> None:
        collector, stop = self.parts.collector, self.parts.threads.stop
        while not stop.is_set():
            if not collector.n_waiting:
                self._clock.wait(collector.news, self.session.manifest.current.timings.beat_s)
            collector.news.clear()
            try:
                collector.poll()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached: %s", error)
                raise
            self._clock.wait(stop, collector.pause_s())

    def _keep(self) -> None:
        parts = self.parts
        # On S3 a lifecycle rule of the bucket deletes old sessions.
        sweep = Sweep(parts.opened.store.inner, self._clock) if self._embedded else None
        while not parts.threads.stop.is_set():
            pause_s = parts.keeper.turn()
            self.has_tidied = sweep is None
            if sweep is not None:
                # After the keeper's work, and a little at a time, so that the sweep does not delay the first result.
                sweep, pause_s = (sweep, min(pause_s, _TIDY_S)) if sweep.step() else (None, pause_s)
            self._clock.wait(parts.wake_keeper, pause_s)
            parts.wake_keeper.clear()

    def _fail(self, error: BaseException) -> None:
        """Complete every waiting future with the error that stopped this client. The session itself may be well."""
        reported = named(error, self.session.session_id)
        self.parts.state.fail(reported)
        unsent = self.parts.sending.fail(reported)
        try:
            for_each(unsent, lambda future: future.complete(None, reported))
        finally:
            self.parts.collector.give_up_all(reported)

    def _order(self, launch_id: str, n_slots: int) -> Order:
        opened, n_taken = self.parts.opened, self.session.manifest.current.n_interruptions
        return Order(launch_id, opened.url, opened.key.hex(), n_slots, self.detached, n_taken)

    def renumber(self) -> None:
        """Have the keeper adapt to a changed number of workers."""
        self.parts.keeper.renumber()
        self.parts.wake_keeper.set()

    # --- attaching again ----------------------------------------------------------------------------------------------

    def _return(self) -> Returned:
        """Attach to the session again, with another engine that has the same settings."""
        opened, patience_s = self.parts.opened, self.session.manifest.current.timings.patience_s
        engine = Engine(
            attach(opened.url, self._clock, key=opened.key, patience_s=patience_s),
            self._launcher,
            self._clock,
            detached=True,
            ordinal=None,
            settings=self.settings,
            reattach=self._reattach,
            has_returned=True,
        )
        engine.start()
        return Visit(engine.parts, engine.ending)

    def capacity(self) -> Capacity:
        """Return what bars show of workers: those that hold tasks, or that beat at the last look. No store request."""
        parts, session = self.parts, self.session

        def n_workers() -> int:
            return max(len({worker_of(claim) for claim in parts.collector.claims()}), parts.keeper.n_workers)

        return Capacity(lambda: session.manifest.current.slots, n_workers)

    # --- for the executor and its end ---------------------------------------------------------------------------------

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        """Cancel the tasks that no worker has claimed, or with `running` all; return their number."""
        return self.parts.futures.cancel(futures, running=running)

    def leave(self) -> None:
        """Leave without waiting for a worker. A second call is harmless."""
        self.ending.leave()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.lost_in_fork()


os.register_at_fork(after_in_child=_after_fork)
