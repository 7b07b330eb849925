"""Gathers submits into status objects: group commit, with a bounded queue.

    submit ──add──► queue ──take──► batch ──send──► functions/ ─► calls/ ─► status/ ─► bell
                      ▲               │
                      └── while batches are being sent, further submits gather

A lone submit is sent at once; a burst becomes few objects, about two per worker. The engine's sender threads, or a test,
call `take` and `send` in turn.

Guarantee: a function, big calls and big pieces of calls are acknowledged before the status object that names them is
written.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.pieces import BigCall, KeptPiece, Pieces
from starburst_executor.errors import PreconditionFailed, StoreUnavailable
from starburst_executor.protocol import pieces, status
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.records import Submitter as SubmitterRecord
from starburst_executor.protocol.status import Entry, Located, State, Status
from starburst_executor.session.epochs import return_of
from starburst_executor.session.store import SessionStore

__all__ = ["Acknowledged", "Batch", "Submitter"]

# The bytes of calls inside a status object, shared equally by its tasks: each claim and commit rewrites the object, and the
# client reads it again. A call below the minimum is not stored apart: its entry would be about as big as the call.
_INLINE_BYTES = 32 * 1024
_LEAST_INLINE_BYTES = 512
_MAX_CALLS_BYTES = 64 * 2**20
# The size of a burst's first objects. A worker with an object to itself loses no races and need not read it again before
# each commit, so create many objects early. A long burst does not get too many, since few requests are in flight at once.
_LEAST_STATUS = 5
# A request without an answer by then is being retried, possibly for minutes.
_FLIGHT_S = 10.0
# This number of functions are remembered as stored, in 2 MB of memory; a forgotten one costs one more request.
_REMEMBERED = 4096


class _Function:
    """A function to which calls refer. Its fields change only under the lock of its submitter.

    Attributes:
        body: Its pickle, until it is stored.
        is_in_hand: Whether a sender has begun to store it.
        is_stored: Set once the store has acknowledged it.
    """

    __slots__ = ("__weakref__", "body", "digest", "is_in_hand", "is_stored")

    def __init__(self, digest: str, body: bytes) -> None:
        self.digest = digest
        self.body = body
        self.is_in_hand = False
        self.is_stored = threading.Event()


class _Queued(NamedTuple):
    """One submit: a pickled call, or the outcome of a call that could not be pickled.

    Attributes:
        n_bytes: The memory that it occupies; a function counts for its first call.
    """

    future: StarburstFuture[Any]
    function: _Function
    call: bytes | BigCall
    failed: bytes | None
    n_bytes: int


@dataclass(slots=True, eq=False)
class Batch:
    """The submits of one status object."""

    ordinal: int
    number: int
    queued: list[_Queued]
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An acknowledged status object, and the futures of its tasks, in order."""

    key: str
    ref: StatusRef
    etag: str
    futures: list[StarburstFuture[Any]] = field(repr=False)


class Submitter:
    """The queue of a submitting client. Thread-safe.

    Args:
        ordinal: This submitter's ordinal in the session.
        n_workers: Returns the number of tasks that run at once.
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
        queue_bytes: int,
        acknowledged: Callable[[Acknowledged], None],
    ) -> None:
        self.pieces = Pieces(session.sealer)
        self._session = session
        self._ordinal = ordinal
        self._n_workers = n_workers
        self._queue_bytes = queue_bytes
        self._acknowledged = acknowledged
        # One lock guards everything below. Senders wait on `_sendable` for a batch, all other threads on `_changed` for room or
        # an empty queue: a wake-up for a sender must not go to a thread that cannot send.
        lock = threading.Lock()
        self._sendable = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        self._queue: deque[_Queued] = deque()
        self._n_bytes = 0
        self._flying: list[Batch] = []
        self._burst = 0
        self._n_statuses = 0
        self._n_added = 0
        self._cancelled: set[int] = set()
        self._closed = False
        self._error: BaseException | None = None
        self._is_lost = False  # the error kept a task from being acknowledged
        # By digest: functions that a queued call needs, and those that were stored last.
        self._functions: WeakValueDictionary[str, _Function] = WeakValueDictionary()
        self._remembered: deque[_Function] = deque(maxlen=_REMEMBERED)
        self._n_epochs = 1

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

        Raises: the error of `fail`; RuntimeError after `close`.
        """
        with self._changed:
            while self._n_bytes > self._queue_bytes and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                # The senders end once the queue is empty: a later call would never be sent.
                raise RuntimeError("cannot schedule new futures after shutdown")
            future = make(self._n_added)
            self._n_added += 1
            n_bytes, known = len(call), self._functions.get(digest)
            if known is None:
                known = self._functions[digest] = _Function(digest, function)
                n_bytes += len(function)
            self._queue.append(_Queued(future, known, call, failed, n_bytes))
            self._n_bytes += n_bytes
            self._burst += 1
            if self._is_ready():
                self._sendable.notify()
            return future

    def cancel_unsent(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        """Cancel the futures that are still queued; return them. They keep their index, as cancelled tasks."""
        with self._changed:
            # The queue holds consecutive indices.
            first = self._queue[0].future.index if self._queue else self._n_added
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

        # Guarantee: calls that other threads add meanwhile are not waited for.
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

        # Guarantee: calls that other threads submit meanwhile are not waited for.
        """
        indices = {future.index for future in futures}
        with self._changed:
            theirs = [batch for batch in self._flying if any(queued.future.index in indices for queued in batch.queued)]
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
            batch = self._cut()
            self._flying.append(batch)
            if self._is_ready():
                self._sendable.notify()
            return batch

    def send(self, batch: Batch) -> None:
        """Store one batch: functions and big calls first, then the status object, then ring.

        Store: 1 create for the status object; 1 for each new function; 1 if it has big calls or pieces that are not stored
        yet; sometimes a ring.
        """
        try:
            self._send(batch)
        finally:
            with self._changed:
                self._flying.remove(batch)
                self._cancelled.difference_update(queued.future.index for queued in batch.queued)
                self._n_bytes -= batch.n_bytes
                if self._is_empty():
                    self._burst = 0
                self._changed.notify_all()
                self._sendable.notify_all()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_empty(self) -> bool:
        return not self._queue and not self._flying

    def _is_acknowledged(self, end: int) -> bool:
        """Whether every task with an index below `end` is acknowledged.

        Assumes: the queue and each batch hold consecutive indices.
        """
        if self._queue and self._queue[0].future.index < end:
            return False
        return all(batch.queued[0].future.index >= end for batch in self._flying)

    def _is_ready(self) -> bool:
        """Whether to send now: nothing is in flight, or the queue holds enough for one object."""
        if not self._queue:
            return False
        return not self._flying or self._closed or len(self._queue) >= self._status_size()

    def _status_size(self) -> int:
        """Return the number of tasks per object: about two objects per worker for the burst so far."""
        return min(status.MAX_TASKS, max(_LEAST_STATUS, self._burst // (2 * max(1, self._n_workers()))))

    def _cut(self) -> Batch:
        queued: list[_Queued] = []
        n_bytes = n_inline = 0
        limit = self._status_size()
        while self._queue and len(queued) < limit:
            call, failed, size = self._queue[0].call, self._queue[0].failed, self._queue[0].n_bytes
            n_inline += len(failed) if failed is not None else min(len(call), _LEAST_INLINE_BYTES)
            if queued and (n_inline > status.MAX_BYTES or n_bytes + size > _MAX_CALLS_BYTES):
                break
            queued.append(self._queue.popleft())
            n_bytes += size
        number = self._n_statuses
        # A batch whose tasks are all cancelled is never written. It must not leave a gap, or its epoch would never be full.
        self._n_statuses += any(entry.future.index not in self._cancelled for entry in queued)
        return Batch(self._ordinal, number, queued, n_bytes)

    def _send(self, batch: Batch) -> None:
        if all(queued.future.index in self._cancelled for queued in batch.queued):
            return
        functions = list(dict.fromkeys(queued.function for queued in batch.queued))
        digests = [function.digest for function in functions]
        for function in functions:
            self._store_function(function)
        first = batch.queued[0].future.index
        ref = StatusRef(batch.ordinal, first, len(batch.queued), batch.number // STATUSES_PER_EPOCH)
        self._open_epoch(ref.epoch)
        entries = self._entries(ref, batch, digests)
        record = Status(ref.ordinal, first, tuple(digests), tuple(entries))
        key = self._session.keys.status(ref)
        body = status.encode(record, self._session.clock.new_id())
        # Crash here: function and calls are stored, but no object names them; the session's cleanup deletes them.
        etag = self._create(key, body)
        # Crash here: the tasks are stored, but no bell was rung; idle workers find them by their regular look.
        n_pending = sum(entry.state == State.PENDING for entry in entries)
        if n_pending < len(entries):
            # Some tasks have ended already: have the collector read the object, to complete their futures.
            etag = ""
        self._acknowledged(Acknowledged(key, ref, etag, [queued.future for queued in batch.queued]))
        if n_pending:
            # The bell is only a hint: the tasks are stored, and the next request that needs an answer notices an outage.
            with suppress(StoreUnavailable):
                self._session.bell.ring([key], n_pending)

    def _entries(self, ref: StatusRef, batch: Batch, digests: list[str]) -> list[Entry]:
        sealer, apart, entries = self._session.sealer, _Apart(ref.status_id), []
        now = self._session.clock.now()
        inline_bytes = max(_LEAST_INLINE_BYTES, _INLINE_BYTES // ref.n_tasks)
        for queued in batch.queued:
            if isinstance(queued.call, BigCall) and queued.future.index not in self._cancelled:
                apart.take_in(queued.call, self.pieces)
        for queued in batch.queued:
            function = digests.index(queued.function.digest) if len(digests) > 1 else 0
            if queued.future.index in self._cancelled:
                entry = Entry.pending(function, b"")._replace(state=State.CANCELLED, call=None, at=now)
            elif queued.failed is not None:
                entry = Entry.pending(function, b"")._replace(state=State.FAILED, call=None, at=now)
                label = status.outcome_label(Status(ref.ordinal, queued.future.index, (), ()), 0, entry)
                entry = entry._replace(outcome=sealer.sealed("outcome", label, queued.failed))
            else:
                label = status.call_label(ref.ordinal, queued.future.index, queued.function.digest)
                call = apart.records[queued.call] if isinstance(queued.call, BigCall) else queued.call
                sealed = sealer.sealed("call", label, call)
                entry = Entry.pending(function, sealed if len(sealed) <= inline_bytes else apart.add(sealed))
            entries.append(entry)
        if apart.bodies:
            self._create(self._session.keys.calls(ref.status_id), apart.body())
            self.pieces.stored(apart.placed)
        # After this batch's own pieces are stored, so that two senders that need each other's pieces do not deadlock.
        for piece in apart.others:
            self._wait_stored(piece.is_stored)
        return entries

    def _store_function(self, function: _Function) -> None:
        with self._changed:
            is_first, function.is_in_hand = not function.is_in_hand, True
        if not is_first:
            self._wait_stored(function.is_stored)
            return
        body = self._session.sealer.sealed("function", function.digest, function.body)
        self._create(self._session.keys.function(function.digest), body)
        with self._changed:
            function.body = b""
            self._remembered.append(function)
        function.is_stored.set()

    def _wait_stored(self, stored: threading.Event) -> None:
        """Wait until another sender has stored it. Raises the error of `fail`."""
        while not stored.wait(1.0):
            if self._error is not None:
                raise self._error

    def _open_epoch(self, epoch: int) -> None:
        """Make the manifest list this epoch before the first object in it is written."""
        submitters = self._session.manifest.current.submitters
        if self._ordinal < len(submitters):
            return_of(self._session, submitters[self._ordinal].client_id)
        if epoch < self._n_epochs:
            return

        def step(manifest: Manifest) -> Manifest | None:
            record = manifest.submitters[self._ordinal]
            if record.epochs > epoch:
                return None
            opened = tuple(range(record.epochs, epoch + 1))
            return manifest.with_submitter(self._ordinal, replace(record, epochs=epoch + 1, open=record.open + opened))

        self._session.manifest.change(step)
        self._n_epochs = max(self._n_epochs, epoch + 1)

    def _create(self, key: str, body: bytes) -> str:
        try:
            return self._session.store.create(key, body)
        except PreconditionFailed:
            # Only this client writes this key, and always the same bytes: an earlier try landed.
            return ""


class _Apart:
    """The second object of a batch, beside its status object: new pieces, then records that are too big to be inline."""

    def __init__(self, status_id: str) -> None:
        self._status_id = status_id
        self._n_bytes = 0
        self.bodies: list[bytes] = []
        self.placed: list[KeptPiece] = []
        self.others: list[KeptPiece] = []
        self.records: dict[BigCall, bytes] = {}

    def take_in(self, call: BigCall, known: Pieces) -> None:
        """Assign a place to each of a call's pieces."""
        parts: list[bytes | Piece] = []
        for part in call.parts:
            if isinstance(part, KeptPiece):
                body = known.place(part, self._status_id, self._n_bytes)
                if body is not None:
                    self.placed.append(part)
                    self.add(body)
                elif not part.is_stored.is_set():
                    self.others.append(part)
                assert part.place is not None  # `place` has set it  # noqa: S101
                parts.append(part.place)
            else:
                parts.append(part)
        self.records[call] = pieces.encode(parts)

    def add(self, body: bytes) -> Located:
        self.bodies.append(body)
        self._n_bytes += len(body)
        return Located("", self._n_bytes - len(body), len(body))

    def body(self) -> bytes:
        # A single big array, the usual case, is not copied.
        return self.bodies[0] if len(self.bodies) == 1 else b"".join(self.bodies)


def submitter_record(client_id: str) -> SubmitterRecord:
    """Return the manifest's record of a new submitter, with its first epoch open."""
    return SubmitterRecord(client_id, 1, (0,))
