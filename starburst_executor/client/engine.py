"""What runs behind an executor: its threads, from the first submit to the end of the session.

    send-N    take batches from the submitter, store them
    collect   poll for outcomes, complete futures
    keep      beat, watch, repair, start workers

The engine never refers to its executor, so that an executor can be garbage-collected while its threads run; its end
then ends them. All threads are daemons that `finish` joins; `atexit_hook` finishes every engine before the interpreter
goes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starburst_executor.client.cleanup import Sweep, delete_session
from starburst_executor.client.collector import FEW_EMBEDDED, FEW_REMOTE, Collector, Place
from starburst_executor.client.functions import FunctionPickles, Prepared, without_partials
from starburst_executor.client.future import THREAD_PREFIX, StarburstFuture, for_each
from starburst_executor.client.keeper import ClientKeeper
from starburst_executor.client.money import Cost, cost_of
from starburst_executor.client.pieces import BigCall
from starburst_executor.client.returning import Returned, Returning
from starburst_executor.client.session import Opened, attach, code_for, is_embedded, open_submitter
from starburst_executor.client.submitter import Acknowledged, Batch, Submitter
from starburst_executor.client.workforce import Workforce
from starburst_executor.clock import Clock
from starburst_executor.config import Settings
from starburst_executor.errors import (
    ExecutorBroken,
    ObjectNotFound,
    RecordInvalid,
    SessionExpired,
    SessionNotFound,
    StarburstError,
    StoreError,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.launch.base import Launcher, Order
from starburst_executor.protocol import calls, outcomes, status
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import Manifest, SessionState, WorkerBeat
from starburst_executor.protocol.status import Status
from starburst_executor.session.repair import end_what_is_left

__all__ = ["Engine"]

_log = logging.getLogger(__name__)
# Between two steps of the sweep.
_TIDY_S = 0.05
_A = TypeVar("_A")
_B = TypeVar("_B")

# Requests in flight at once: enough that a burst of submits is limited by the store's rate, not by its latency. The
# embedded store does one write at a time anyway.
_REMOTE_SENDERS = 16
# How often a client that waits for a worker to stay looks whether there is anything left to wait for.
_STAY_S = 0.1
_ENDED_WORDS = "cannot schedule new futures after shutdown"

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Engine:
    """The client of one session. Thread-safe.

    Args:
        ordinal: This client's ordinal as a submitter; None to get one at the first submit.
        settings: How much may wait to be sent, what is kept, what is worth a warning.
        reattach: How an unpickled future finds the session again; None if its futures cannot be pickled.
        has_returned: This client is there for futures of one that has left: it submits nothing and may leave at any time.
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
    ) -> None:
        self.opened = opened
        self.session = opened.session
        self.workforce = Workforce(opened.session, launcher)
        self.detached = detached
        self.keep = settings.keep
        # Every future of a detached session by ordinal and sequence: `DetachedExecutor.futures` gives the same ones.
        self.known: dict[tuple[int, int], StarburstFuture[Any]] = {}
        self.has_returned = has_returned
        self._clock = clock
        self._launcher = launcher
        self._settings = settings
        self._reattach = reattach
        self._queue_bytes = settings.queue_bytes
        self.cost_alert_threshold = settings.cost_alert_threshold
        self._pid = os.getpid()
        self._embedded = is_embedded(opened.store.url)
        self.has_tidied = not self._embedded
        self._pool = None if self._embedded else ThreadPoolExecutor(_REMOTE_SENDERS, f"{THREAD_PREFIX}fetch")
        self._functions = FunctionPickles()
        self._client_id = clock.new_id(4)
        self.collector = Collector(
            self.session,
            self._map,
            few=FEW_EMBEDDED if self._embedded else FEW_REMOTE,
            warn_bytes=settings.warn_result_bytes,
        )
        self._keeper = ClientKeeper(
            self.session,
            self._client_id,
            launcher,
            order=self._order,
            needs_workers=self._needs_workers,
            claims=self.collector.claims,
        )
        self._code = code_for(opened.store, clock, settings)
        self._lock = threading.Lock()  # guards: _submitter, _sends, _threads, _ending, _error
        self._submitter: Submitter | None = None
        self._sends = False  # all threads were started that a submit needs
        self._ordinal = ordinal
        self._threads: list[threading.Thread] = []
        self._ending = False
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._wake_keeper = threading.Event()
        self._finish_lock = threading.Lock()  # held over the end, so that it is done once
        self.finished = threading.Event()
        self.is_stopped = False  # its workers were killed: nothing more is waited for
        self._left: Returning | _Elsewhere | None = None  # who is told which futures are asked for, once it has left
        self._cost: Cost | None = None  # once it has ended
        _engines.add(self)

    def lost_in_fork(self) -> None:
        """For the child of a fork of the user's: this engine's threads and locks stayed with the parent."""
        self._error = ExecutorBroken(
            f"this executor was made in another process: made in {self._pid}, used in {os.getpid()}; make one here, or "
            "reattach to a detached session"
        )
        self._left = _Elsewhere(self._error)

    @staticmethod
    def all_here() -> list[Engine]:
        """Every engine that this process has made and not ended."""
        return [engine for engine in _engines if engine.is_of_this_process()]

    def is_own_thread(self) -> bool:
        """Whether the caller is one of this engine's threads, as a future's callback is."""
        return threading.current_thread() in self._threads

    def is_of_this_process(self) -> bool:
        """False in the child of a fork: what was made before belongs to the parent."""
        return self._pid == os.getpid()

    # --- submitting ---------------------------------------------------------------------------------------------------

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StarburstFuture[Any]:
        """Pickle now, queue, return the future. What cannot be pickled fails on the future."""
        function, args, kwargs = without_partials(function, args, kwargs)
        prepared = self._functions.prepare_for_one(function, self._code.name())
        return self.submit_prepared(prepared, prepared.bound + args, kwargs)

    def prepare(self, function: Callable[..., Any]) -> Prepared:
        """Pickle a function once for many calls.

        Raises: PayloadError: the user's own modules, which it may need, cannot be sent.
        Store: 1 GET and perhaps 1 create, if the store is not on this machine and modules were imported since.
        """
        return self._functions.prepare(function, self._code.name())

    def submit_prepared(
        self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StarburstFuture[Any]:
        submitter = self._ready_submitter()
        digest, pickled, error, _ = prepared
        call: bytes | BigCall = b""
        if error is None:
            try:
                parts = calls.dump_call_in_parts(args, kwargs, submitter.pieces.keep)
                call = parts if isinstance(parts, bytes) else BigCall(parts)
            except BaseException as raised:  # user code runs here: __reduce__
                error = raised
        failed = None if error is None else outcomes.dump_error(error)
        future = submitter.add(self._new_future, digest, pickled, call, failed)
        if self._keeper.awaits_work:
            self._wake_keeper.set()
        if error is not None:
            future.mark_running()
            future.complete(None, error)
        return future

    def _new_future(self, index: int) -> StarburstFuture[Any]:
        future: StarburstFuture[Any] = StarburstFuture(self, self._ordinal or 0, index)
        if self.detached:
            self.known[future.ordinal, index] = future
        return future

    def _ready_submitter(self) -> Submitter:
        is_open = self.session.manifest.state == SessionState.OPEN
        if self._submitter is not None and self._sends and is_open and not self._ending and self._error is None:
            return self._submitter
        self.check_open()
        if self._ordinal is None:
            self._ordinal = open_submitter(self.session, self._client_id)
        with self._lock:
            if self._ending:
                raise RuntimeError(_ENDED_WORDS)
            if self._submitter is None:
                self._submitter = Submitter(
                    self.session,
                    ordinal=self._ordinal,
                    n_workers=lambda: self.session.manifest.workers,
                    queue_bytes=self._queue_bytes,
                    acknowledged=self._on_acknowledged,
                )
            for i in range(1 if self._embedded else _REMOTE_SENDERS):
                self._start_thread(f"send-{i}", self._send)
            self._start_threads()
            self._sends = True
            return self._submitter

    def check_open(self) -> None:
        """Raises what keeps the session from taking more work."""
        if self._ending:
            raise RuntimeError(_ENDED_WORDS)
        if self._error is not None:
            raise self._error
        manifest = self.session.manifest
        if manifest.state == SessionState.EXPIRED:
            raise SessionExpired(
                f"the session's absolute_timeout has passed: session={manifest.session_id}; its outcomes can be read, start a "
                "new session to submit more"
            )
        if (error := ended_by(manifest)) is not None:
            raise error
        if manifest.state != SessionState.OPEN:
            raise RuntimeError(f"{_ENDED_WORDS}: session={manifest.session_id}, state={manifest.state.value}")

    def _on_acknowledged(self, batch: Acknowledged) -> None:
        self.collector.watch(batch.key, batch.ref, batch.etag, enumerate(batch.futures))
        if self._error is not None:
            # Acknowledged after `_fail` had told everybody: nobody polls any more.
            self.collector.give_up_all(self._error)

    # --- threads ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start collecting and keeping; a second call is harmless."""
        with self._lock:
            self._start_threads()

    def _start_threads(self) -> None:
        self._start_thread("collect", self._collect)
        self._start_thread("keep", self._keep)

    def _start_thread(self, name: str, target: Callable[[], None]) -> None:
        """Start one of the threads, once. Raises: RuntimeError where there can be no more; the next submit tries again."""
        name = THREAD_PREFIX + name
        if any(thread.name == name for thread in self._threads):
            return
        thread = threading.Thread(target=self._guard, args=(target,), name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError:
            self._threads.remove(thread)
            raise

    def _guard(self, target: Callable[[], object]) -> None:
        """A thread's last resort: whatever it raises is said on every future that waits. No thread ends in silence."""
        try:
            target()
        except BaseException as error:
            if not self._stop.is_set():
                self._fail(error)

    def _send(self) -> None:
        submitter = self._submitter
        assert submitter is not None  # this thread is started for it  # noqa: S101
        while not self._stop.is_set():
            batch = submitter.take()
            if batch is None:
                return
            try:
                submitter.send(batch)
            except BaseException as error:
                raise self._refused(batch, self._named(error)) from error
            if self.session.ring_due() is not None:
                # The keeper rings once it may be done again: it is to know when.
                self._wake_keeper.set()
            # While this thread waits for the next batch, nobody but their callers keeps these futures.
            del batch

    @staticmethod
    def _refused(batch: Batch, error: StarburstError) -> StarburstError:
        """Say on each future of a batch why it was not stored; the error."""
        for_each([one.future for one in batch.queued], lambda future: future.complete(None, error))
        return error

    def _collect(self) -> None:
        collector = self.collector
        while not self._stop.is_set():
            if not collector.n_waiting:
                self._clock.wait(collector.news, self.session.manifest.timings.beat_s)
            collector.news.clear()
            try:
                collector.poll()
            except StoreUnavailable as error:
                _log.warning("the store cannot be reached: %s", error)
                raise
            self._clock.wait(self._stop, collector.pause_s())

    def _keep(self) -> None:
        # On S3 a lifecycle rule of the bucket does this.
        sweep = Sweep(self.opened.store.inner, self._clock) if self._embedded else None
        while not self._stop.is_set():
            pause_s = self._keeper.turn()
            self.has_tidied = sweep is None
            if sweep is not None:
                # After what has to be done, and a little at a time: the first result does not wait for tidiness.
                sweep, pause_s = (sweep, min(pause_s, _TIDY_S)) if sweep.step() else (None, pause_s)
            self._clock.wait(self._wake_keeper, pause_s)
            self._wake_keeper.clear()

    def _fail(self, error: BaseException) -> None:
        """The client cannot go on: say why on every future that waits. The session itself may be well."""
        error = self._named(error)
        with self._lock:
            self._error = self._error or error
        unsent = self._submitter.fail(error) if self._submitter is not None else []
        try:
            for_each(unsent, lambda future: future.complete(None, error))
        finally:
            self.collector.give_up_all(error)

    def _named(self, error: BaseException) -> StarburstError:
        """What ends a client as an error of ours: callers need not know what libraries below raise."""
        session_id = self.session.session_id
        if isinstance(error, (SessionNotFound, ObjectNotFound)):
            return SessionNotFound(f"the session was deleted while this client was attached: {session_id}")
        if isinstance(error, StarburstError):
            return error
        _log.error("a thread of the client failed", exc_info=error)
        named = ExecutorBroken(
            f"this client cannot go on; the session itself may be well: {type(error).__name__}: {error}, session={session_id}"
        )
        named.__cause__ = error
        return named

    def _map(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
        """Several requests at once where the store is far away."""
        listed = list(items)
        if self._pool is not None and len(listed) > 1:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending, and pools take no more
                return self._pool.map(function, listed)
        return iter([function(item) for item in listed])

    # --- workers ------------------------------------------------------------------------------------------------------

    def _needs_workers(self) -> bool:
        submitter = self._submitter
        return self.collector.n_waiting > 0 or (submitter is not None and not submitter.is_empty())

    def _order(self, launch_id: str, n_slots: int) -> Order:
        n_taken = self.session.manifest.n_interruptions
        return Order(launch_id, self.opened.url, self.opened.key.hex(), n_slots, self.detached, n_taken)

    def unfinished(self) -> list[StarburstFuture[Any]]:
        """The futures that are not done, unsent ones included."""
        submitter = self._submitter
        return [*self.collector.waiting(), *(submitter.unacknowledged() if submitter is not None else [])]

    # --- captured output ----------------------------------------------------------------------------------------------

    def output(self, ordinal: int, index: int) -> tuple[str, str]:
        """What a task that has ended wrote to its standard output and error.

        Store: 1 LIST per 1,000 status objects, 1 GET; 1 GET if it wrote anything.
        """
        for group in self.session.all_groups():
            ref = group.ref
            if ref.ordinal == ordinal and ref.first <= index < ref.first + ref.n_tasks:
                found = self.session.read(group.key)
                assert found is not None  # no ETag was sent  # noqa: S101
                return self.session.output(ref.group_id, found.status.entries[index - ref.first])
        return "", ""

    # --- cancelling ---------------------------------------------------------------------------------------------------

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Cancel tasks that no worker has claimed; how many. Store: 1 GET, 1 swap for each status object among them."""
        if self._left is not None:
            return self._left.cancel(futures)
        submitter, n_cancelled = self._submitter, 0
        mine = [future for future in futures if future.ordinal == self._ordinal]
        if submitter is not None and mine:
            n_cancelled += len(submitter.cancel_unsent(mine))
        for _ in range(2):
            left = [future for future in futures if not future.done()]
            keys = self.collector.keys_of(left)
            n_cancelled += sum(self._map(lambda item: self.cancel_in(*item), list(keys.items())))
            if sum(map(len, keys.values())) >= len(left) or submitter is None:
                break
            # Some are being sent at this moment: once acknowledged they can be cancelled where they are.
            submitter.wait_flown(left)
        return n_cancelled

    @property
    def has_left(self) -> bool:
        """Whether it collects no more: what is asked for must be said to `ask_again`."""
        return self._left is not None

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        """See that this future gets its outcome although this client has left. Raises: RuntimeError."""
        if self._left is not None:
            self._left.ask(future)

    def cancel_soon(self, futures: list[StarburstFuture[Any]]) -> None:
        """As `cancel`, in a thread of its own: takes no lock, so that the garbage collector may call it anywhere."""
        if futures and not self._stop.is_set() and self.is_of_this_process():
            # Not joined: what it finds when the session has ended meanwhile is of no interest.
            cancel = threading.Thread(
                target=self._guard, args=(lambda: self.cancel(futures),), name=f"{THREAD_PREFIX}cancel", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # there can be no more threads: they run, and are of no use
                cancel.start()

    def cancel_unsent(self) -> int:
        """Cancel what has not been sent; how many."""
        submitter = self._submitter
        return 0 if submitter is None else len(submitter.cancel_unsent(submitter.unacknowledged()))

    def cancel_in(self, key: str, indices: Iterable[int]) -> int:
        """Cancel those of these tasks of one status object that are pending; how many. Store: 1 GET, 1 swap."""
        cancelled: list[int] = []

        def step(seen: Status) -> Status:
            changed, cancelled[:] = status.cancel(seen, indices, self._clock.now())
            return changed

        try:
            found = self.session.update(key, step)
        except (RecordInvalid, VersionMismatch):
            return 0
        if found is not None:
            self.collector.take_in(key, found.status)
        return len(cancelled)

    def reattacher(self) -> tuple[Callable[..., StarburstFuture[Any]], tuple[Any, ...]] | None:
        return None if self._reattach is None else (self._reattach, (self.opened.url,))

    # --- the end ------------------------------------------------------------------------------------------------------

    def begin_end(self) -> None:
        """Refuse further submits."""
        with self._lock:
            self._ending = True
        if self._submitter is not None:
            self._submitter.close()

    @property
    def is_ending(self) -> bool:
        return self._ending

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until the store has acknowledged every submit; False if time ran out."""
        return self._submitter is None or self._submitter.flush(timeout_s)

    def wait_done(self) -> None:
        """Wait until every future is done."""
        submitter = self._submitter
        if submitter is not None:
            with contextlib.suppress(Exception):  # it is on the futures
                submitter.flush()
        self.collector.wait_done()

    def end_session(self) -> None:
        """End an attached session: its workers leave, its objects go. Called once every future is done."""
        with self._finish_lock:
            if self.finished.is_set():
                return
            try:
                self._stop_threads()
                self.session.end(SessionState.TERMINATED, "shut down")
                self.workforce.let_go()
                self.workforce.wait_until_gone(self._keeper.buried)
                self._tell_cost()
                if not self.keep:
                    delete_session(self.session)
            except Exception as error:
                _warn("the session could not be ended in good order: %s", error)
            finally:
                self._close()

    def detach(self) -> None:
        """Leave a detached session as it is. Called once everything is acknowledged.

        Raises: LaunchError, BudgetExceeded: no worker is there to do the work, and none can be started.
        """
        with self._finish_lock:
            if self.finished.is_set():
                return
            try:
                if self._needs_workers():
                    self._see_worker_stay()
            finally:
                self._leave()

    def _see_worker_stay(self) -> None:
        """Wait until the work goes on without this client. The threads run meanwhile: outcomes may come."""
        keeper = self._keeper
        keeper.ask_to_leave()
        self._wake_keeper.set()
        while self._error is None and self._needs_workers():
            if self._clock.wait(keeper.may_leave, _STAY_S):
                break
        if keeper.leave_error is not None:
            raise keeper.leave_error

    def leave(self) -> None:
        """Leave without seeing to anything: another client does, or has done. A second call is harmless."""
        self.begin_end()
        with self._finish_lock:
            if not self.finished.is_set():
                self._leave()

    def _leave(self) -> None:
        """Say that this client goes, and close it. Futures that are asked for bring it back."""
        try:
            self._stop_threads()
            self.workforce.let_go()
            # Nobody need know at once that this client has left.
            self.opened.hurry.set()
            with contextlib.suppress(StoreError):
                self._keeper.leave()
        except (SessionNotFound, StoreUnavailable) as error:
            _log.info("left without saying so: %s", error)
        except Exception as error:
            _warn("left without saying so: %s", error)
        finally:
            if not self.has_returned:
                self._leave_futures()
            self._close()

    def _leave_futures(self) -> None:
        """From here on futures that are not done say when they are asked for. Those that are now are asked for at once."""
        unsent = self._submitter.unacknowledged() if self._submitter is not None else []
        places = self.collector.hand_over()
        self._left = Returning(self._return, self._named, places, self.session.session_id, self._clock)
        for place in places:
            for futures in place.futures.values():
                for future in futures:
                    if future.is_asked_for():
                        self._ask_or_fail(future)
        # Only where leaving was interrupted: these are sent by no one.
        lost = ExecutorBroken(f"the client left before the task was acknowledged: session={self.session.session_id}")
        for_each(unsent, lambda future: future.complete(None, lost))

    def _ask_or_fail(self, future: StarburstFuture[Any]) -> None:
        try:
            self.ask_again(future)
        except RuntimeError as error:
            future.complete(None, ExecutorBroken(str(error)))

    def _return(self) -> Returned:
        """Attach to the session anew, as the same client with other threads."""
        patience_s = self.session.manifest.timings.patience_s
        opened = attach(self.opened.url, self._clock, key=self.opened.key, patience_s=patience_s)
        engine = Engine(
            opened,
            self._launcher,
            self._clock,
            detached=True,
            ordinal=None,
            settings=self._settings,
            reattach=self._reattach,
            has_returned=True,
        )
        engine.start()
        return engine

    def watch(self, place: Place) -> None:
        """Have the futures of one status object completed."""
        waiting = [(index, future) for index, futures in place.futures.items() for future in futures]
        self.collector.watch(place.key, place.ref, "", waiting)
        if self._error is not None:
            self.collector.give_up_all(self._error)

    def has_failed(self) -> bool:
        """Whether it cannot go on, or has ended."""
        return self._error is not None or self.finished.is_set()

    def stop_workers(self) -> None:
        """Kill the workers: what runs fails with `ExecutorBroken`, all else is cancelled. `end_stopped` ends the session.

        Harmless if it has ended, or is about to. Store: nothing.
        """
        self.begin_end()
        with self._finish_lock:
            if self.finished.is_set() or self.is_stopped:
                return
            self._stop_threads()
            self.is_stopped = True
            try:
                self.workforce.kill()
            except Exception as error:
                _warn("some workers were not killed: %s", error)
        # Callbacks run here, which may wait for the session's end, so not under the lock.
        broken = ExecutorBroken(
            f"the task's worker was killed by terminate_workers or kill_workers: session={self.session.session_id}"
        )

        def end(future: StarburstFuture[Any]) -> None:
            if future.running():
                future.complete(None, broken)
            else:
                future.mark_cancelled()

        try:
            for_each(self.unfinished(), end)
        finally:
            self.collector.give_up_all(broken)

    def end_stopped(self) -> None:
        """End the session whose workers were killed; a detached one keeps its outcomes. A second call is harmless."""
        with self._finish_lock:
            if self.finished.is_set():
                return
            try:
                manifest = self.session.end(SessionState.TERMINATED, "its workers were killed")
                self.workforce.stop()
                end_what_is_left(self.session, manifest)
                self.workforce.wait_until_gone(self._keeper.buried)
                self._tell_cost()
                if not self.detached and not self.keep:
                    delete_session(self.session)
            except Exception as error:
                _warn("the session could not be ended in good order: %s", error)
            finally:
                self._close()

    def cleanup(self, *, delete: bool) -> None:
        """End a detached session here and now: stop its workers, cancel what is left, delete its objects if asked to.

        Raises: SessionNotFound if it was deleted already and is not to be.
        """
        self.begin_end()
        with self._finish_lock:
            if not self.finished.is_set():
                self._stop_threads()
            try:
                manifest = self.session.end(SessionState.DELETED if delete else SessionState.TERMINATED, "cleaned up")
                self.workforce.stop()
                end_what_is_left(self.session, manifest)
                self.collector.poll()
                self.workforce.wait_until_gone(self._keeper.buried)
                self._tell_cost()
                if delete:
                    delete_session(self.session)
                    self.workforce.forget()
            except SessionNotFound:
                if not delete:
                    raise
            finally:
                try:
                    for_each(self.unfinished(), StarburstFuture.mark_cancelled)
                finally:
                    self._close()

    def renumber(self) -> None:
        """The number of workers asked for has changed."""
        self._keeper.renumber()
        self._wake_keeper.set()

    def requests(self) -> dict[str, int]:
        """Store requests so far, by kind: this client's, and its workers' as of their last beats."""
        return self.all_requests(self.workforce.beats(fresh=not self.finished.is_set()))

    def all_requests(self, beats: Iterable[WorkerBeat]) -> dict[str, int]:
        """This client's store requests and those that the beats tell of."""
        counts = Counter(self.opened.store.requests.snapshot())
        for beat in beats:
            counts.update(beat.requests)
        return dict(counts)

    def cost(self) -> Cost:
        """What the session has cost so far; after its end, in all."""
        if self.finished.is_set() and self._cost is not None:
            return self._cost
        if self.finished.is_set():
            return self.cost_of(self.session.manifest, self.workforce.beats(fresh=False))
        return self.cost_of(self.session.refresh(), self.workforce.beats(fresh=True))

    def cost_of(self, manifest: Manifest, beats: list[WorkerBeat]) -> Cost:
        """What manifest and beats say that it has cost."""
        dead = self.workforce.dead(beats) | self._keeper.buried
        counts = self.all_requests(beats)
        return cost_of(manifest, self._clock.now(), beats, dead, counts, self.opened.store.url)

    def _tell_cost(self) -> None:
        """The session has ended: say what it has cost, if anything. Nothing is asked of the store."""
        self._cost = self.cost_of(self.session.manifest, self.workforce.beats(fresh=False))
        if self._cost.total_usd:
            _log.info("the session has cost %s: session=%s", self._cost, self.session.session_id)

    def _stop_threads(self) -> None:
        self._stop.set()
        self._wake_keeper.set()
        self.collector.news.set()
        # A thread that asks a store which does not answer would go on asking for minutes.
        self.opened.hurry.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        if not isinstance(self._error, StoreError):
            self.opened.hurry.clear()
        # An executor that has ended may be kept for long, for its futures' sake: nothing of its threads is.
        self._threads.clear()

    def _close(self) -> None:
        """Let go of everything, whatever of it fails."""
        try:
            # Also where the store refused the rest: no worker that is bound to this client stays.
            for let_go in (self.workforce.let_go, self._close_pool, self.opened.store.close):
                try:
                    let_go()
                except Exception as error:
                    _warn("a client did not end in good order: %s", error)
        finally:
            self.finished.set()
            _engines.discard(self)

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False)


class _Elsewhere:
    """Stands for `Returning` in the child of a fork: the client and its session are the parent's."""

    def __init__(self, error: StarburstError) -> None:
        self._error = error

    def ask(self, _: StarburstFuture[Any]) -> None:
        raise self._error

    def cancel(self, _: list[StarburstFuture[Any]]) -> int:
        raise self._error


def _warn(words: str, error: Exception) -> None:
    """Log it: in a word if it is an error of ours, else with its traceback."""
    _log.warning(words, error, exc_info=None if isinstance(error, StarburstError) else error)


def _after_fork() -> None:
    for engine in list(_engines):
        engine.lost_in_fork()


os.register_at_fork(after_in_child=_after_fork)
