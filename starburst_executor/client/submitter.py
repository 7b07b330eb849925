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
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starburst_executor.client.batch_writer import BatchWriter
from starburst_executor.client.batches import Acknowledged, Batch, Batching, Neighbours, Sent
from starburst_executor.client.future import StarburstFuture, for_each
from starburst_executor.client.loops import in_event_loop
from starburst_executor.client.map_rows import MapRow, Source
from starburst_executor.client.pieces import BigCall, Pieces
from starburst_executor.client.rows import FutureRow
from starburst_executor.client.stored_functions import StoredFunctions
from starburst_executor.client.task_options import NO_OPTIONS, CallOptions
from starburst_executor.client.upstream import locate
from starburst_executor.protocol.records import Submitter as SubmitterRecord
from starburst_executor.session.store import SessionStore

__all__ = ["Submitter", "submitter_record"]

# While this number of objects' tasks wait in the store, so that no worker waits for more, a sender waits until the next object is full …
_OBJECTS_AHEAD = 4
# … at most this long. Fewer objects cost client and workers fewer requests.
_GATHERS_S = 0.05
# A burst on S3 that has not grown for this time has ended, as far as is known.
_GROWS_S = 0.01
# It is cut in this number of rounds of one object for each worker; before the second one it is given this time to end.
_ROUNDS = 2
_MOST_S = 0.3
# After the first objects of a burst on S3, one for each worker, this number of requests is in flight: the fewer, the more tasks an object has.
_FLYING = 16
# Smaller objects are not waited for.
_LEAST_GATHERED = 64
# A request without an answer by then is being retried, possibly for minutes.
_FLIGHT_S = 10.0


class Submitter:
    """The queue of a submitting client. Thread-safe.

    Args:
        ordinal: This submitter's ordinal in the session.
        n_workers: Returns the number of tasks that run at once.
        n_short: Returns the number of tasks that are about one slice of work; None while their duration is unknown.
        n_ahead: Returns the number of tasks that are stored and have not ended, as far as this client knows.
        queue_bytes: `add` waits while more than this number of bytes are unsent.
        is_far: Whether a request takes so long that it is worth to wait for the end of a burst.
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
        n_ahead: Callable[[], int] = lambda: 0,
        queue_bytes: int,
        acknowledged: Callable[[Acknowledged], None],
        is_far: bool = False,
    ) -> None:
        self._session = session
        self._is_far = is_far
        self._ordinal = ordinal
        self.pieces = Pieces(session.sealer)
        self._queue_bytes = queue_bytes
        self._functions = StoredFunctions()
        self._writer = BatchWriter(
            session,
            ordinal,
            self.pieces,
            self._functions,
            acknowledged=acknowledged,
            error=lambda: self._error,
            sent=self._sent,
            n_queued=lambda: self._n_queued,  # unlocked: one number, for a hint
        )
        # Senders wait on `_sendable` for a batch, all other threads on `_changed` for room or an empty queue: a wake-up for a
        # sender must not go to a thread that cannot send. Both have the same lock.
        # guards: _batching, _queue, _n_queued, _n_bytes, _n_idle, _n_hurried, _full_at, _is_beginning, _flying, _n_cut, _cancelled, _closed, _error, _is_lost
        self._lock = threading.Lock()
        self._sendable = threading.Condition(self._lock)
        self._changed = threading.Condition(self._lock)
        # On S3 each object costs all sides some ten requests; embedded ones cost little, and two share the work of an agent's slots evenly.
        self._batching = Batching(ordinal, n_workers, n_short, each=1 if is_far else 2)
        self._queue: deque[Neighbours] = deque()
        self._n_queued = 0
        self._n_bytes = 0
        self._n_idle = 0  # senders that wait
        self._n_hurried = 0  # calls of `flush` that wait
        self._full_at = 0  # while a sender waits for a full object: its number of tasks
        self._is_beginning = False  # while a sender waits for more of a burst whose first object is in flight
        self._n_ahead = n_ahead
        self._flying: list[Batch] = []
        self._n_cut = 0  # the tasks with a lower index are in a batch, or were dropped
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
        *,
        given: CallOptions = NO_OPTIONS,
        after: tuple[StarburstFuture[Any], ...] = (),
    ) -> StarburstFuture[Any]:
        """Queue one call; wait while the queue holds more than `queue_bytes` of calls and functions.

        Args:
            make: Makes the future for an index.
            failed: The outcome, if the call could not be pickled: it is recorded, and the call never runs.
            given: The task's options.
            after: The futures of the tasks whose results it needs.

        Raises: the error of `fail`; RuntimeError after `close`, or if it would have to wait in a thread with a running event loop.
        """
        with self._lock:
            if self._n_bytes > self._queue_bytes or self._closed or self._error is not None:
                self._wait_for_room()
            last, n_bytes = self._queue[-1] if self._queue else None, len(call)
            # Each branch ends with the step that queues the call: an interrupt leaves either nothing or a call that runs.
            if (
                last is not None
                and last.function.digest == digest
                and failed is None
                and not after
                and last.takes(given)
            ):
                row, place = last.row, last.start + len(last.calls)
                assert isinstance(row, FutureRow)  # `takes` says so  # noqa: S101
                future = make(row.first + place)
                row.add(place, future)
                last.n_bytes += n_bytes
                last.calls.append(call)
            else:
                future = make(self._end())
                stored, is_new = self._functions.of(digest, function)
                function_bytes = len(function) if is_new else 0
                row = FutureRow(future.index)
                row.add(0, future)
                self._queue.append(Neighbours(row, 0, stored, given, [call], n_bytes, function_bytes, failed, after))
                n_bytes += function_bytes
            self._note_queued(1, n_bytes)
            return future

    def add_calls(
        self,
        make: Callable[[int], StarburstFuture[Any]],
        source: Source,
        digest: str,
        function: bytes,
        calls: Sequence[bytes],
        given: CallOptions,
    ) -> MapRow | None:
        """Queue calls of one `map`, as `add`; return their row, or None if they were added to the last one that this returned.

        Args:
            make: Makes the future for an index, if one is needed.
            source: What takes the results.
        """
        with self._lock:
            self._wait_for_room()
            last, n_bytes = self._queue[-1] if self._queue else None, sum(map(len, calls))
            if last is not None and last.function.digest == digest and last.takes(given, source):
                assert isinstance(last.row, MapRow)  # `takes` says so  # noqa: S101
                if last.row.grow(last.start + len(last.calls), len(calls)):
                    last.n_bytes += n_bytes
                    last.calls.extend(calls)
                    self._note_queued(len(calls), n_bytes)
                    return None
            stored, is_new = self._functions.of(digest, function)
            function_bytes = len(function) if is_new else 0
            row = MapRow(self._end(), source, make)
            row.grow(0, len(calls))
            self._queue.append(Neighbours(row, 0, stored, given, list(calls), n_bytes, function_bytes, source=source))
            self._note_queued(len(calls), n_bytes + function_bytes)
            return row

    def _note_queued(self, n: int, n_bytes: int) -> None:
        if not self._n_queued and not self._flying and not self._is_enough_ahead():
            self._batching.begin()
        self._n_bytes += n_bytes
        self._n_queued += n
        self._batching.burst += n
        # While every sender sends, the next one to end looks at the queue.
        if self._n_idle and self._is_ready():
            self._sendable.notify()

    def _wait_for_room(self) -> None:
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

    def cancel_unsent(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        """Cancel the futures that are still queued; return them. They keep their index, as cancelled tasks."""
        with self._changed:
            # The queue holds consecutive indices.
            first = self._queue[0].first if self._queue else self._n_cut
            queued = range(first, self._end())
            unsent = [future for future in futures if future.index in queued and not future.done()] if queued else []
            self._cancelled.update(future.index for future in unsent)
        # Not under the lock: this runs callbacks.
        for_each(unsent, StarburstFuture.mark_cancelled)
        return unsent

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything added so far is acknowledged; return False after `timeout_s`. Raises the error of `fail`.

        Guarantee: calls that other threads add meanwhile are not waited for.
        """
        with self._changed:
            end = self._end()
            self._n_hurried += 1
            self._sendable.notify_all()
            try:
                done = self._changed.wait_for(lambda: self._error is not None or self._is_acknowledged(end), timeout_s)
            finally:
                self._n_hurried -= 1
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
            flying = [future for batch in self._flying for future in batch.futures()]
            return [*flying, *self._queued_futures()]

    def wait_flown(self, futures: Iterable[StarburstFuture[Any]]) -> None:
        """Wait until the tasks among these that are being sent are acknowledged, for at most 10 s.

        Guarantee: calls that other threads submit meanwhile are not waited for.
        """
        indices = {future.index for future in futures}
        with self._changed:
            theirs = [batch for batch in self._flying if not indices.isdisjoint(batch.indices)]
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
            unsent = self._queued_futures()
            self._is_lost = self._is_lost or bool(unsent or self._flying)
            self._n_cut = self._end()
            self._queue.clear()
            self._n_queued = self._n_bytes = 0
            self._changed.notify_all()
            self._sendable.notify_all()
        return unsent

    # --- for senders --------------------------------------------------------------------------------------------------

    def take(self, timeout_s: float | None = None) -> Batch | None:
        """Wait for the next batch that is due; return None after `timeout_s`, or once the closed queue is empty."""
        with self._sendable:
            self._n_idle += 1
            try:
                while self._sendable.wait_for(self._is_due, timeout_s):
                    self._gather()
                    if self._is_due():
                        break  # not if another sender has taken the queue meanwhile
            finally:
                self._n_idle -= 1
            if not self._is_ready():
                return None
            if self._is_far:
                self._batching.growth = self._batching.burst - self._flying[0].burst if self._flying else 0
            batch = self._batching.cut(self._queue, self._cancelled)
            self._n_cut = batch.indices.stop
            self._n_queued = self._n_queued - batch.n_tasks if self._queue else 0
            self._flying.append(batch)
            if self._is_ready():
                self._sendable.notify()
            return batch

    def wants_sender(self) -> bool:
        """Return whether another object is ready for which no sender is idle, and which a worker without one waits for."""
        with self._sendable:
            return self._is_far and self._is_of_first() and not self._n_idle and self._is_ready()

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
                self._changed.notify_all()
                self._sendable.notify_all()

    def _sent(self, index: int) -> Sent | None:
        """Return where a task is that was cut; None if it is in no object. Store: usually nothing; as `locate` for one of long ago."""
        with self._sendable:
            if not self._batching.has_forgotten(index):
                return self._batching.sent(index)
        ref = locate(self._session, self._ordinal, index)
        if ref is None:
            return None
        found = Sent(ref)
        found.is_stored.set()
        return found

    # --- inside -------------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """Return the index of the next task."""
        return self._queue[-1].end if self._queue else self._n_cut

    def _is_due(self) -> bool:
        """Whether a sender has something to do: to send, or to end."""
        return self._is_ready() or (self._closed and not self._queue)

    def _gather(self) -> None:
        """Wait a short time for more of a burst, or for a full object. Called by a sender."""
        batching = self._batching
        may_begin = batching.n_of_burst and not batching.n_of_round and batching.n_rounds < _ROUNDS
        if self._is_far and self._flying and may_begin:
            self._gather_burst()
            return
        # Not if workers may wait for it, or its tasks go before others.
        size = self._batching.size()
        is_more_expected = size >= _LEAST_GATHERED and 0 < self._n_queued < size and self._is_enough_ahead()
        if is_more_expected and not self._closed and not self._n_hurried and not self._queue[0].in_key[0]:
            self._full_at = size
            try:
                self._sendable.wait_for(lambda: self._is_ready() or not self._queue, _GATHERS_S)
            finally:
                self._full_at = 0

    def _gather_burst(self) -> None:
        """Wait for the end of a burst, so that each worker finds an object of the same size: at most until the first one is stored, which is
        on its way, so that idle workers hear meanwhile; or for a time that the tasks of the first round take to be claimed.
        """
        self._is_beginning, first, is_first = True, self._flying[0], not self._batching.n_rounds
        n_waits = 0
        try:
            while self._queue and (self._flying[:1] == [first] if is_first else n_waits < _MOST_S / _GROWS_S):
                n_waits += 1
                before = self._batching.burst
                if self._sendable.wait_for(self._is_hurried, _GROWS_S):
                    return
                has_ended = before == self._batching.burst
                if has_ended and (not self._queue or self._queue[0].function.is_stored.is_set()):
                    return
        finally:
            # Only what is added from now on is growth.
            first.burst, self._is_beginning = self._batching.burst, False
            self._batching.begin_round(self._n_queued)
            self._sendable.notify_all()

    def _is_hurried(self) -> bool:
        return self._closed or self._n_hurried > 0 or self._error is not None

    def _is_of_first(self) -> bool:
        """Whether the next object is one of the burst's first ones, of which each worker gets one."""
        return self._batching.n_of_round > 0

    def _is_enough_ahead(self) -> bool:
        """Whether so large a number of tasks wait in the store that no worker waits for the next ones."""
        return self._n_ahead() >= _OBJECTS_AHEAD * self._batching.size()

    def _queued_futures(self) -> list[StarburstFuture[Any]]:
        return [future for queued in self._queue for future in queued.row.futures(queued.start, len(queued))]

    def _is_empty(self) -> bool:
        return not self._queue and not self._flying

    def _is_acknowledged(self, end: int) -> bool:
        """Whether every task with an index below `end` is acknowledged.

        Assumes: the queue and each batch hold consecutive indices.
        """
        if self._queue and self._queue[0].first < end:
            return False
        return all(batch.first >= end for batch in self._flying)

    def _is_ready(self) -> bool:
        """Whether to send now: nothing is in flight, or the queue holds enough for one object."""
        if not self._queue:
            return False
        if self._is_beginning:
            return self._is_hurried()
        if self._full_at:
            return self._closed or self._n_hurried > 0 or self._n_queued >= self._full_at
        if not self._flying or self._closed:
            return True
        has_room = not self._is_far or self._is_of_first() or len(self._flying) < _FLYING
        return has_room and self._n_queued >= self._batching.size()


def submitter_record(client_id: str) -> SubmitterRecord:
    """Return the manifest's record of a new submitter, with its first epoch open."""
    return SubmitterRecord(client_id, 1, (0,))
