"""Ends a client: with or without its session, in good order or at once.

    end_session   attached: every future is done; end the workers, delete the objects
    detach        detached: everything is acknowledged, and a worker stays; the work continues
    leave         for a client that had attached again for its futures
    stop_workers  kill the workers and fail the futures; `end_stopped` then ends the session
    cleanup       end a detached session at once

Each holds one lock during the end, so that it happens once, and releases everything even if a step fails.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

from starburst_executor.client.cleanup import delete_session
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.parts import Parts
from starburst_executor.client.returning import Returned, Returning
from starburst_executor.client.threads import named
from starburst_executor.errors import ExecutorBroken, SessionNotFound, StarburstError, StoreError, StoreUnavailable
from starburst_executor.protocol.records import SessionState
from starburst_executor.session import epochs
from starburst_executor.session.repair import end_what_is_left
from starburst_executor.session.store import SessionStore

__all__ = ["Ending"]

_log = logging.getLogger(__name__)

# How often a client that waits for a worker to stay checks whether any work is left.
_STAY_S = 0.1
# An end at once writes to the store what it can within this time; what is missing then, workers or a sweep find out.
_AT_ONCE_S = 5.0


class Ending:
    """The end of one client. Thread-safe.

    Args:
        detached: The session outlives this client.
        keep: Keep the session's objects at the end.
        attach_again: Attaches again for futures that are used after the client has left; None for a client that is itself
            such a visit.
    Attributes:
        is_stopped: Its workers were killed, so that no future is waited for.
    """

    def __init__(
        self, parts: Parts, *, detached: bool, keep: bool, attach_again: Callable[[], Returned] | None
    ) -> None:
        self._parts = parts
        self._detached = detached
        self._keep = keep
        self._attach_again = attach_again
        self._lock = threading.Lock()  # held during the end, so that it happens once
        self.is_stopped = False

    def begin(self) -> None:
        """Refuse further submits."""
        self._parts.state.begin_end()
        self._parts.sending.close()

    def wait_done(self) -> None:
        """Wait until every future is done."""
        with contextlib.suppress(Exception):  # the futures have it
            self._parts.sending.flush()
        self._parts.collector.wait_done()

    # --- with the session ---------------------------------------------------------------------------------------------

    def end_session(self) -> None:
        """End an attached session: end its workers, delete its objects. Called once every future is done."""
        with self._once() as is_due:
            if is_due:
                with self._in_good_order():
                    self._stop_threads()
                    self._session.manifest.end(SessionState.TERMINATED, "shut down")
                    self._parts.workforce.let_go()
                    self._see_workers_gone()
                    if not self._keep:
                        delete_session(self._session)

    def cleanup(self, *, delete: bool, hurry: bool = False) -> None:
        """End a session without waiting for its tasks: stop its workers, cancel the tasks, and delete its objects if `delete`.

        Args:
            hurry: A person waits for the end: do not wait for a store that cannot be reached, or that refuses requests.

        Raises: SessionNotFound if it was deleted already and `delete` is false. StoreUnavailable: its workers here have ended.
        """
        self.begin()
        parts, session = self._parts, self._session
        if hurry:
            parts.opened.store.limit(_AT_ONCE_S)
            parts.workforce.let_go()
        with self._lock:
            if not parts.state.ended.is_set():
                self._stop_threads()
            try:
                self._stop_session(SessionState.DELETED if delete else SessionState.TERMINATED, "cleaned up")
                parts.collector.poll()
                self._see_workers_gone()
                if delete:
                    delete_session(session)
                    parts.workforce.forget()
            except SessionNotFound:
                if not delete:
                    raise
            finally:
                try:
                    for_each(parts.futures.unfinished(), StarburstFuture.mark_cancelled)
                finally:
                    self._close()

    def stop_workers(self) -> None:
        """Kill the workers; running tasks fail with `ExecutorBroken`, others are cancelled. `end_stopped` ends the session.

        Harmless if the client has ended, or is ending. Store: no requests.
        """
        self.begin()
        parts = self._parts
        with self._lock:
            if parts.state.ended.is_set() or self.is_stopped:
                return
            self._stop_threads()
            self.is_stopped = True
            try:
                parts.workforce.kill()
            except Exception as error:
                _warn("some workers were not killed: %s", error)
        # Not under the lock: this runs callbacks, which may wait for the session's end.
        broken = ExecutorBroken(
            f"the task's worker was killed by terminate_workers or kill_workers: session={self._session.session_id}"
        )

        def end(future: StarburstFuture[Any]) -> None:
            if future.running():
                future.complete(None, broken)
            else:
                future.mark_cancelled()

        try:
            for_each(parts.futures.unfinished(), end)
        finally:
            parts.collector.give_up_all(broken)

    def end_stopped(self) -> None:
        """End the session after `stop_workers`; a detached one keeps its outcomes. A second call is harmless."""
        with self._once() as is_due:
            if is_due:
                self._parts.opened.store.limit(_AT_ONCE_S)
                with self._in_good_order():
                    self._stop_session(SessionState.TERMINATED, "its workers were killed")
                    self._see_workers_gone()
                    if not self._detached and not self._keep:
                        delete_session(self._session)

    def _stop_session(self, state: SessionState, reason: str) -> None:
        manifest = self._session.manifest.end(state, reason)
        self._parts.workforce.end_session()
        end_what_is_left(self._session, manifest)

    def _see_workers_gone(self) -> None:
        self._parts.workforce.wait_until_gone(self._parts.keeper.buried)
        self._parts.spending.settle()

    # --- without it ---------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Leave a detached session as it is. Called once everything is acknowledged.

        Raises: LaunchError, BudgetExceeded, TooManyFailures: no worker is alive, and none can be started.
        """
        with self._once() as is_due:
            if is_due:
                try:
                    self._see_worker_stay()
                finally:
                    self._leave()

    def leave(self) -> None:
        """Leave without waiting for a worker, as another client has done. A second call is harmless."""
        self.begin()
        with self._once() as is_due:
            if is_due:
                self._leave()

    def _see_worker_stay(self) -> None:
        """Wait until the work continues without this client. Its threads still run, so outcomes may arrive."""
        parts, keeper = self._parts, self._parts.keeper
        if not parts.futures.are_undone():
            return
        keeper.ask_to_leave()
        parts.wake_keeper.set()
        while parts.state.error is None and parts.threads.runs("keep"):
            if self._session.clock.wait(keeper.may_leave, _STAY_S):
                break
            # The futures may have failed because no worker can be started: the keeper knows.
            if not parts.futures.are_undone():
                parts.wake_keeper.set()
        if keeper.leave_error is not None:
            raise keeper.leave_error

    def _leave(self) -> None:
        """Write that this client leaves, and close it. Futures that are used later attach again."""
        parts = self._parts
        try:
            self._stop_threads()
            parts.workforce.let_go()
            # The last beat is tried once, without retries: without it, other clients find out from its missing beats.
            parts.opened.hurry.set()
            with contextlib.suppress(StoreError):
                parts.keeper.leave()
            # Of what was not acknowledged, something may be on its way: then watchers find out that this client is gone.
            if parts.sending.ordinal is not None and parts.sending.has_sent_all():
                epochs.leave(self._session, parts.sending.ordinal)
        except (SessionNotFound, StoreUnavailable) as error:
            _log.info("left without saying so: %s", error)
        except Exception as error:
            _warn("left without saying so: %s", error)
        finally:
            if self._attach_again is not None:
                self._leave_futures(self._attach_again)
            self._close()

    def _leave_futures(self, attach_again: Callable[[], Returned]) -> None:
        """Make unfinished futures attach again when they are used, and attach at once for those that are in use now."""
        session_id, parts = self._session.session_id, self._parts
        unsent = parts.sending.unacknowledged()
        places = parts.collector.hand_over()
        returning = Returning(
            attach_again, lambda error: named(error, session_id), places, session_id, self._session.clock
        )
        parts.futures.deputy = returning
        for future in (future for place in places for futures in place.futures.values() for future in futures):
            if future.is_asked_for():
                try:
                    returning.ask(future)
                except RuntimeError as error:
                    future.complete(None, ExecutorBroken(str(error)))
        # Not empty only if leaving was interrupted: no client will send these.
        lost = ExecutorBroken(f"the client left before the task was acknowledged: session={session_id}")
        for_each(unsent, lambda future: future.complete(None, lost))

    # --- common to all ------------------------------------------------------------------------------------------------

    @property
    def _session(self) -> SessionStore:
        return self._parts.opened.session

    @contextlib.contextmanager
    def _once(self) -> Iterator[bool]:
        """Hold the lock during the end; yield whether the end is still to be done."""
        with self._lock:
            yield not self._parts.state.ended.is_set()

    @contextlib.contextmanager
    def _in_good_order(self) -> Iterator[None]:
        """Log any exception, and release everything at the end."""
        try:
            yield
        except Exception as error:
            _warn("the session could not be ended in good order: %s", error)
        finally:
            self._close()

    def _stop_threads(self) -> None:
        parts = self._parts
        parts.threads.stop.set()
        parts.wake_keeper.set()
        parts.collector.news.set()
        # Otherwise a thread would retry for minutes while the store does not answer.
        parts.opened.hurry.set()
        parts.threads.join()
        if not isinstance(parts.state.error, StoreError):
            parts.opened.hurry.clear()

    def _close(self) -> None:
        """Release everything, even if a step fails."""
        parts = self._parts
        try:
            # Guarantee: no worker that is bound to this client stays, even if the store has refused the steps before.
            for let_go in (parts.workforce.let_go, parts.parallel.close, parts.opened.store.close):
                try:
                    let_go()
                except Exception as error:
                    _warn("a client did not end in good order: %s", error)
        finally:
            parts.state.end()


def _warn(words: str, error: Exception) -> None:
    """Log an error: in one line if it is an error of this library, else with its traceback."""
    _log.warning(words, error, exc_info=None if isinstance(error, StarburstError) else error)
