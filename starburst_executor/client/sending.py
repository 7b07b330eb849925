"""Turns calls into stored tasks: pickles them in the caller's thread, stores them in the threads `send-N`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from starburst_executor import tracing
from starburst_executor.client.batches import Acknowledged, Batch
from starburst_executor.client.collector import Collector
from starburst_executor.client.functions import FunctionPickles, Prepared, without_partials
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.loops import in_event_loop
from starburst_executor.client.map_rows import MapRow, Source
from starburst_executor.client.opening import Opened, code_for, is_embedded, open_submitter
from starburst_executor.client.pieces import BigCall
from starburst_executor.client.state import ENDED_WORDS, ClientState, Phase
from starburst_executor.client.stored_code import StoredCode
from starburst_executor.client.submitter import Submitter
from starburst_executor.client.task_options import NO_OPTIONS, CallOptions
from starburst_executor.client.threads import Threads, named
from starburst_executor.client.upstream import UpstreamOf
from starburst_executor.config import Settings
from starburst_executor.errors import StarburstError
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.pieces import Shared
from starburst_executor.protocol.records import SessionState

if TYPE_CHECKING:
    from starburst_executor.client.code import Code
    from starburst_executor.client.loads import Loads

__all__ = ["Sending"]

# Requests in flight at once: enough that the store's request rate limits a burst of submits, not its latency. The embedded
# store does one write at a time anyway.
_REMOTE_SENDERS = 16
# … and as many for the first objects of a burst, one for each worker: what the last of them waits, its worker waits.
_MOST_SENDERS = 64
# Every submit compares with these, and up to Python 3.11 looking up a member of an enumeration costs half as much as pickling a call.
_OPEN, _SESSION_OPEN = Phase.OPEN, SessionState.OPEN
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
        self._manifest = opened.session.manifest
        self._awaits_work = awaits_work
        self._wake_keeper = wake_keeper
        self._upstream = UpstreamOf(opened.session.session_id)
        self._functions = FunctionPickles()
        self._code: Code | Loads | StoredCode = code_for(opened.store, opened.session.clock, settings)
        # All three are set under the state's lock, once.
        self._submitter: Submitter | None = None
        self._make: Callable[[int], StarburstFuture[Any]] = partial(new_future, 0)
        self._n_senders = 0
        self._is_ready = False  # the threads that a submit needs were started

    # --- in the caller's thread ---------------------------------------------------------------------------------------

    def use_code(self, name: Callable[[], str]) -> None:
        """Send functions that need the code of this name, which is stored, instead of this process's own modules."""
        self._code = StoredCode(name)

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
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions = NO_OPTIONS,
    ) -> StarburstFuture[Any]:
        """Pickle and queue a call; return its future. An error of pickling becomes the future's exception."""
        if options is not NO_OPTIONS and options.options.label is not None:
            options = options.labelled(args, kwargs)
        if type(function) is partial:
            function, args, kwargs = without_partials(function, args, kwargs)
        prepared = self._functions.prepare_for_one(function, self._code.name())
        if prepared.bound:
            args = prepared.bound + args
        return self._submit(prepared, args, kwargs, options)

    def submit_prepared(
        self,
        prepared: Prepared,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions = NO_OPTIONS,
    ) -> StarburstFuture[Any]:
        """As `submit`, with a function that was pickled before."""
        if options.options.label is not None:
            options = options.labelled(args, kwargs)
        return self._submit(prepared, args, kwargs, options)

    def submit_calls(
        self, prepared: Prepared, calls: Sequence[bytes], options: CallOptions, source: Source
    ) -> MapRow | None:
        """Queue pickled calls of a `map` without labels. Returns, args: as `Submitter.add_calls`."""
        submitter = self._ready_submitter()
        row = submitter.add_calls(self._make, source, prepared.digest, prepared.pickled, calls, options)
        if self._awaits_work():
            self._wake_keeper.set()
        return row

    def _submit(
        self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions
    ) -> StarburstFuture[Any]:
        trace = tracing.active()
        if trace is None:
            return self._queue(prepared, args, kwargs, options)
        now = self._opened.session.clock.now
        with tracing.submitting(trace, self._opened.session.session_id, now()) as carrier:
            future = self._queue(prepared, args, {**kwargs, tracing.CARRIER: carrier}, options)
        tracing.follow(trace, carrier, future, now)
        return future

    def _queue(
        self, prepared: Prepared, args: tuple[Any, ...], kwargs: dict[str, Any], options: CallOptions
    ) -> StarburstFuture[Any]:
        submitter = self._ready_submitter()
        digest, pickled, error, _ = prepared
        call: bytes | BigCall | None = None
        after: tuple[StarburstFuture[Any], ...] = ()
        if error is None:
            try:
                call = calls.dump_plain(args, kwargs)
                if call is None:
                    args, kwargs, after = self._upstream.taken_from(args, kwargs)
                    call = self._dumped(submitter, args, kwargs)
            except KeyboardInterrupt:
                raise  # for the caller, who waits: nothing is queued yet
            except BaseException as raised:  # user code runs here: __reduce__
                error = raised
        failed = None if error is None else outcomes.dump_error(error)
        future = submitter.add(self._make, digest, pickled, call or b"", failed, given=options, after=after)
        if options.label:
            future.know(options.label)
        if self._awaits_work():
            self._wake_keeper.set()
        if error is not None:
            future.mark_running()
            future.complete(None, error)
        return future

    def _dumped(self, submitter: Submitter, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | BigCall:
        parts = calls.dump_call_in_parts(args, kwargs, submitter.pieces.keep)
        if isinstance(parts, bytes):
            return parts
        self._check_shared(parts)
        return BigCall(parts)

    def _check_shared(self, parts: Sequence[object]) -> None:
        """Raise ValueError if a call refers to a shared value of another session."""
        own = self._opened.session.session_id
        for part in parts:
            if isinstance(part, Shared) and part.session_id != own:
                raise ValueError(
                    f"a ref of another session: put in {part.session_id}, used in {own}; put the value with this session's executor"
                )

    def _ready_submitter(self) -> Submitter:
        state, session = self._state, self._opened.session
        # The usual case ends here: every submit calls this.
        is_open = state.phase is _OPEN and self._manifest.current.state is _SESSION_OPEN
        # The child of a fork has an error, in whatever phase its parent was.
        if self._is_ready and is_open and state.error is None:
            assert self._submitter is not None  # it is set before  # noqa: S101
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
                self._make = partial(self._new_future, self.ordinal)
                self._submitter = Submitter(
                    session,
                    ordinal=self.ordinal,
                    n_workers=lambda: session.manifest.current.slots,
                    n_short=lambda: self._n_short(session.manifest.current.timings.slice_s),
                    n_ahead=lambda: self._collector.n_waiting,
                    queue_bytes=self._settings.queue_bytes,
                    acknowledged=self._on_acknowledged,
                    is_far=not is_embedded(self._opened.store.url),
                )
            self._start_senders(1 if is_embedded(self._opened.store.url) else _REMOTE_SENDERS)
            self._start_others()
            self._is_ready = True
            return self._submitter

    def _n_short(self, slice_s: float) -> int | None:
        """Return how many tasks are about one slice of work; None while their duration is unknown."""
        task_s = self._collector.completing.mean_task_s
        return None if task_s is None else int(slice_s / max(task_s, _LEAST_S))

    def _start_senders(self, n: int) -> None:
        """Start more threads that send. Called with the state's lock held."""
        for _ in range(n):
            self._threads.start(f"send-{self._n_senders}", self._send)
            self._n_senders += 1

    # --- in the threads `send-N` --------------------------------------------------------------------------------------

    def _send(self) -> None:
        submitter = self._submitter
        assert submitter is not None  # it is set before this thread starts  # noqa: S101
        while not self._threads.stop.is_set():
            batch = submitter.take()
            if batch is None:
                return
            if submitter.wants_sender():
                with self._state.lock:
                    if self._n_senders < _MOST_SENDERS:
                        self._start_senders(1)
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
        self._collector.watch_rows(batch.key, batch.ref, batch.etag, batch.parts)
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
    for_each(batch.futures(), lambda future: future.complete(None, error))
    return error
