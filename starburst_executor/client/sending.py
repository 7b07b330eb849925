"""Turns calls into stored tasks: pickles them in the caller's thread, stores them in the threads `send-N`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from starburst_executor import tracing
from starburst_executor.client.batches import Acknowledged, Batch
from starburst_executor.client.collector import Collector
from starburst_executor.client.functions import FunctionPickles, Prepared, without_partials
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.loops import in_event_loop
from starburst_executor.client.opening import Opened, code_for, is_embedded, open_submitter
from starburst_executor.client.pieces import BigCall
from starburst_executor.client.state import ENDED_WORDS, ClientState
from starburst_executor.client.submitter import Submitter
from starburst_executor.client.threads import Threads, named
from starburst_executor.config import Settings
from starburst_executor.errors import StarburstError
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.records import SessionState

__all__ = ["Sending"]

# Requests in flight at once: enough that the store's request rate limits a burst of submits, not its latency. The embedded
# store does one write at a time anyway.
_REMOTE_SENDERS = 16
_LEAST_S = 1e-6  # least duration of a task, to avoid division by zero


class Sending:
    """Submits the calls of one client. Thread-safe.

    Args:
        client_id: This client's id, for which it gets an ordinal.
        ordinal: Its ordinal as a submitter; None to get one at the first submit.
        start_others: Starts the threads that collect and keep.
        new_future: Makes a future, from ordinal and index.
        awaits_work: Returns whether the keeper should take its turn at once when a task is submitted.
        wake_keeper: Set to have the keeper take its turn.
    """

    def __init__(
        self,
        opened: Opened,
        settings: Settings,
        state: ClientState,
        threads: Threads,
        collector: Collector,
        *,
        client_id: str,
        ordinal: int | None,
        start_others: Callable[[], None],
        new_future: Callable[[int, int], StarburstFuture[Any]],
        awaits_work: Callable[[], bool],
        wake_keeper: threading.Event,
    ) -> None:
        self.ordinal = ordinal
        self._opened = opened
        self._settings = settings
        self._state = state
        self._threads = threads
        self._collector = collector
        self._client_id = client_id
        self._start_others = start_others
        self._new_future = new_future
        self._awaits_work = awaits_work
        self._wake_keeper = wake_keeper
        self._functions = FunctionPickles()
        self._code = code_for(opened.store, opened.session.clock, settings)
        # Both are set under the state's lock, once.
        self._submitter: Submitter | None = None
        self._is_ready = False  # the threads that a submit needs were started

    # --- in the caller's thread ---------------------------------------------------------------------------------------

    def prepare(self, function: Callable[..., Any]) -> Prepared:
        """Pickle a function once for many calls.

        Raises: PayloadError: the user's own modules cannot be sent.
        """
        return self._functions.prepare(function, self._code.name())

    def prepare_now(self, function: Callable[..., Any]) -> Prepared:
        """As `prepare`, for a caller that stores the function itself.

        Store: 1 GET and perhaps 1 create, if the store is not on this machine and modules were imported since.
        """
        prepared = self.prepare(function)
        self._code.store_waiting()
        return prepared

    def submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StarburstFuture[Any]:
        """Pickle and queue a call; return its future. An error of pickling becomes the future's exception."""
        function, args, kwargs = without_partials(function, args, kwargs)
        prepared = self._functions.prepare_for_one(function, self._code.name())
        return self.submit_prepared(prepared, prepared.bound + args, kwargs)

    def submit_prepared(
        self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StarburstFuture[Any]:
        """As `submit`, with a function that was pickled before."""
        trace = tracing.active()
        if trace is None:
            return self._queue(prepared, args, kwargs)
        now = self._opened.session.clock.now
        with tracing.submitting(trace, self._opened.session.session_id, now()) as carrier:
            future = self._queue(prepared, args, {**kwargs, tracing.CARRIER: carrier})
        tracing.follow(trace, carrier, future, now)
        return future

    def _queue(self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StarburstFuture[Any]:
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
        future = submitter.add(self._future, digest, pickled, call, failed)
        if self._awaits_work():
            self._wake_keeper.set()
        if error is not None:
            future.mark_running()
            future.complete(None, error)
        return future

    def _future(self, index: int) -> StarburstFuture[Any]:
        return self._new_future(self.ordinal or 0, index)

    def _ready_submitter(self) -> Submitter:
        state, session = self._state, self._opened.session
        is_open = session.manifest.current.state == SessionState.OPEN
        if self._submitter is not None and self._is_ready and is_open and not state.is_ending and state.error is None:
            return self._submitter
        state.check_open(session.manifest.current)
        if self.ordinal is None:
            if in_event_loop():
                raise RuntimeError(
                    "the first submit of a client that has reattached asks the store, which would block the event loop: use "
                    "`await executor.submit_async(...)`"
                )
            self.ordinal = open_submitter(session, self._client_id)
        with state.lock:
            if state.is_ending:
                raise RuntimeError(ENDED_WORDS)
            if self._submitter is None:
                self._submitter = Submitter(
                    session,
                    ordinal=self.ordinal,
                    n_workers=lambda: session.manifest.current.slots,
                    n_short=lambda: self._n_short(session.manifest.current.timings.slice_s),
                    queue_bytes=self._settings.queue_bytes,
                    acknowledged=self._on_acknowledged,
                )
            for i in range(1 if is_embedded(self._opened.store.url) else _REMOTE_SENDERS):
                self._threads.start(f"send-{i}", self._send)
            self._start_others()
            self._is_ready = True
            return self._submitter

    def _n_short(self, slice_s: float) -> int | None:
        """Return how many tasks are about one slice of work; None while their duration is unknown."""
        task_s = self._collector.mean_task_s
        return None if task_s is None else int(slice_s / max(task_s, _LEAST_S))

    # --- in the threads `send-N` --------------------------------------------------------------------------------------

    def _send(self) -> None:
        submitter = self._submitter
        assert submitter is not None  # it is set before this thread starts  # noqa: S101
        while not self._threads.stop.is_set():
            batch = submitter.take()
            if batch is None:
                return
            try:
                # Before the functions that name it.
                self._code.store_waiting(lambda: self._state.error)
                submitter.send(batch)
            except BaseException as error:
                raise _refused(batch, named(error, self._opened.session.session_id)) from error
            if self._opened.session.bell.ring_due() is not None:
                # The next ring is due later, and the keeper makes it: wake it, so that it computes its pause again.
                self._wake_keeper.set()
            # While this thread waits for the next batch, it must not keep these futures alive.
            del batch

    def _on_acknowledged(self, batch: Acknowledged) -> None:
        self._collector.watch(batch.key, batch.ref, batch.etag, enumerate(batch.futures))
        if (error := self._state.error) is not None:
            # The client failed before this acknowledgement, and polls no more: fail these futures too.
            self._collector.give_up_all(error)

    # --- unsent tasks -------------------------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Whether every submitted task is acknowledged."""
        return self._submitter is None or self._submitter.is_empty()

    def has_sent_all(self) -> bool:
        """Whether nothing submitted is on its way to the store, nor may be."""
        return self._submitter is None or self._submitter.has_sent_all()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until the store has acknowledged every submit so far; return False after `timeout_s`."""
        return self._submitter is None or self._submitter.flush(timeout_s)

    def unacknowledged(self) -> list[StarburstFuture[Any]]:
        """Return the futures of all queued calls and of those being sent."""
        return [] if self._submitter is None else self._submitter.unacknowledged()

    def cancel(self, futures: list[StarburstFuture[Any]]) -> int:
        """Cancel the tasks among these that are still queued; return their number."""
        own = [future for future in futures if future.ordinal == self.ordinal]
        return len(self._submitter.cancel_unsent(own)) if self._submitter is not None and own else 0

    def wait_flown(self, futures: list[StarburstFuture[Any]]) -> bool:
        """Wait until the tasks among these that are being sent are acknowledged; return False if this client never submitted."""
        if self._submitter is None:
            return False
        self._submitter.wait_flown(futures)
        return True

    def close(self) -> None:
        """Accept no more calls, and let the senders end once all are sent."""
        if self._submitter is not None:
            self._submitter.close()

    def fail(self, error: StarburstError) -> list[StarburstFuture[Any]]:
        """Drop the queued calls; return their futures."""
        return [] if self._submitter is None else self._submitter.fail(error)


def _refused(batch: Batch, error: StarburstError) -> StarburstError:
    """Complete the futures of a batch that was not stored with the error; return the error."""
    for_each([queued.future for queued in batch.queued], lambda future: future.complete(None, error))
    return error
