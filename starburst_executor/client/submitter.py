"""Gathers submits into status objects: group commit, with a bounded queue.

    submit ──add──► queue ──take──► batch ──send──► store        (`batches.py` cuts, `batch_writer.py` stores)
                      ▲               │
                      └── while batches are being sent, further submits gather

A lone submit is sent at once; a burst becomes few objects, about two per worker. The engine's sender threads, or a test,
call `take` and `send` in turn.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from starburst_executor.client.batch_writer import BatchWriter
from starburst_executor.client.batches import Acknowledged, Batch, Batching, Queued
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.loops import in_event_loop
from starburst_executor.client.pieces import BigCall, Pieces
from starburst_executor.client.stored_functions import StoredFunctions
from starburst_executor.protocol.records import Submitter as SubmitterRecord
from starburst_executor.session.store import SessionStore

__all__ = ["Submitter", "submitter_record"]

# A request without an answer by then is being retried, possibly for minutes.
_FLIGHT_S = 10.0


class Submitter:
    """The queue of a submitting client. Thread-safe.

    Args:
        ordinal: This submitter's ordinal in the session.
        n_workers: Returns the number of tasks that run at once.
        n_short: Returns the number of tasks that are about one slice of work; None while their duration is unknown.
        queue_bytes: `add` waits while more than this number of bytes are unsent.
        acknowledged: Called with each stored batch.
    Attributes:
        pieces: Keeps the big pieces of calls.
    """

    def __init__(
        self,
        session: SessionStore,
        *,
        ordinal: int,
        n_workers: Callable[[], int],
        n_short: Callable[[], int | None] = lambda: None,
        queue_bytes: int,
        acknowledged: Callable[[Acknowledged], None],
    ) -> None:
        self.pieces = Pieces(session.sealer)
        self._queue_bytes = queue_bytes
        self._functions = StoredFunctions()
        self._writer = BatchWriter(
            session, ordinal, self.pieces, self._functions, acknowledged=acknowledged, error=lambda: self._error
        )
        # Senders wait on `_sendable` for a batch, all other threads on `_changed` for room or an empty queue: a wake-up for a
        # sender must not go to a thread that cannot send. Both have the same lock.
        # guards: _batching, _queue, _n_bytes, _flying, _n_added, _cancelled, _closed, _error, _is_lost
        lock = threading.Lock()
        self._sendable = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        self._batching = Batching(ordinal, n_workers, n_short)
        self._queue: deque[Queued] = deque()
        self._n_bytes = 0
        self._flying: list[Batch] = []
        self._n_added = 0
        self._cancelled: set[int] = set()  # indices of queued submits
        self._closed = False
        self._error: BaseException | None = None
        self._is_lost = False  # the error kept a task from being acknowledged

    # --- for submit ---------------------------------------------------------------------------------------------------

    def add(
        self,
        make: Callable[[int], StarburstFuture[Any]],
        digest: str,
        function: bytes,
        call: bytes | BigCall,
        failed: bytes | None = None,
    ) -> StarburstFuture[Any]:
        """Queue one call; wait while the queue holds more than `queue_bytes` of calls and functions.

        Args:
            make: Makes the future for an index.
            failed: The outcome, if the call could not be pickled: it is recorded, and the call never runs.

        Raises: the error of `fail`; RuntimeError after `close`, or if it would have to wait in a thread with a running event loop.
        """
        stored, is_new = self._functions.of(digest, function)
        n_bytes = len(call) + (len(function) if is_new else 0)
        with self._changed:
            while self._n_bytes > self._queue_bytes and self._error is None:
                if in_event_loop():
                    raise RuntimeError(
                        f"more than {self._queue_bytes / 2**20:,.0f} MB of calls are unsent, and waiting would block the event loop: use "
                        "`await executor.submit_async(...)`, which waits for room without blocking it"
                    )
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                # The senders end once the queue is empty: a later call would never be sent.
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = make(self._n_added)
            self._n_added += 1
            self._queue.append(Queued(future, stored, call, failed, n_bytes))
            self._n_bytes += n_bytes
            self._batching.burst += 1
            if self._is_ready():
                self._sendable.notify()
            return future

    def cancel_unsent(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        """Cancel the futures that are still queued; return them. They keep their index, as cancelled tasks."""
        with self._changed:
            # The queue holds consecutive indices.
            first = self._queue[0].index if self._queue else self._n_added
            unsent = (
                [future for future in futures if future.index >= first and not future.done()] if self._queue else []
            )
            self._cancelled.update(future.index for future in unsent)
        # Not under the lock: this runs callbacks.
        for future in unsent:
            future.mark_cancelled()
        return unsent

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything added so far is acknowledged; return False after `timeout_s`. Raises the error of `fail`.

        Guarantee: calls that other threads add meanwhile are not waited for.
        """
        with self._changed:
            end = self._n_added
            done = self._changed.wait_for(lambda: self._error is not None or self._is_acknowledged(end), timeout_s)
            if self._error is not None and self._is_lost:
                raise self._error
            return done

    def is_empty(self) -> bool:
        """Whether everything added is acknowledged."""
        with self._changed:
            return self._is_empty()

    def has_sent_all(self) -> bool:
        """Whether nothing added is on its way to the store, nor may be: of what failed that is not known."""
        with self._changed:
            return self._error is None and self._is_empty()

    def unacknowledged(self) -> list[StarburstFuture[Any]]:
        """Return the futures of all queued calls and of those being sent."""
        with self._changed:
            flying = [queued.future for batch in self._flying for queued in batch.queued]
            return [*flying, *(queued.future for queued in self._queue)]

    def wait_flown(self, futures: Iterable[StarburstFuture[Any]]) -> None:
        """Wait until the tasks among these that are being sent are acknowledged, for at most 10 s.

        Guarantee: calls that other threads submit meanwhile are not waited for.
        """
        indices = {future.index for future in futures}
        with self._changed:
            theirs = [batch for batch in self._flying if any(queued.index in indices for queued in batch.queued)]
            self._changed.wait_for(
                lambda: self._error is not None or not any(batch in self._flying for batch in theirs), _FLIGHT_S
            )

    def close(self) -> None:
        """Let `take` end once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._sendable.notify_all()

    def fail(self, error: BaseException) -> list[StarburstFuture[Any]]:
        """Stop sending; return the futures of all queued calls. Later calls of `add` and `flush` raise the first error."""
        with self._changed:
            self._error = self._error or error
            unsent = [queued.future for queued in self._queue]
            self._is_lost = self._is_lost or bool(unsent or self._flying)
            self._queue.clear()
            self._n_bytes = 0
            self._changed.notify_all()
            self._sendable.notify_all()
        return unsent

    # --- for senders --------------------------------------------------------------------------------------------------

    def take(self, timeout_s: float | None = None) -> Batch | None:
        """Wait for the next batch that is due; return None after `timeout_s`, or once the closed queue is empty."""
        with self._sendable:
            self._sendable.wait_for(lambda: self._is_ready() or (self._closed and not self._queue), timeout_s)
            if not self._is_ready():
                return None
            batch = self._batching.cut(self._queue, self._cancelled)
            self._flying.append(batch)
            if self._is_ready():
                self._sendable.notify()
            return batch

    def send(self, batch: Batch) -> None:
        """Store one batch: functions and big calls first, then the status object, then ring.

        Store: as `BatchWriter.write`.
        """
        try:
            self._writer.write(batch)
        finally:
            with self._changed:
                self._flying.remove(batch)
                self._n_bytes -= batch.n_bytes
                if self._is_empty():
                    self._batching.burst = 0
                self._changed.notify_all()
                self._sendable.notify_all()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_empty(self) -> bool:
        return not self._queue and not self._flying

    def _is_acknowledged(self, end: int) -> bool:
        """Whether every task with an index below `end` is acknowledged.

        Assumes: the queue and each batch hold consecutive indices.
        """
        if self._queue and self._queue[0].index < end:
            return False
        return all(batch.first >= end for batch in self._flying)

    def _is_ready(self) -> bool:
        """Whether to send now: nothing is in flight, or the queue holds enough for one object."""
        if not self._queue:
            return False
        return not self._flying or self._closed or len(self._queue) >= self._batching.size()


def submitter_record(client_id: str) -> SubmitterRecord:
    """Return the manifest's record of a new submitter, with its first epoch open."""
    return SubmitterRecord(client_id, 1, (0,))
