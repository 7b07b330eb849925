"""Gathers submits into status objects: group commit, with a bound on what waits.

    submit ──add──► queue ──take──► batch ──send──► functions/ ─► calls/ ─► status/ ─► bell
                      ▲               │
                      └── while they fly, further submits gather

A lone submit leaves at once; a burst becomes few objects, about two per worker. Whoever drives it calls `take` and
`send` in turn: the engine's sender threads, or a test.

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
from starburst_executor.protocol.keys import GROUPS_PER_EPOCH, GroupRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.records import Submitter as SubmitterRecord
from starburst_executor.protocol.status import Entry, Located, State, Status
from starburst_executor.session.store import SessionStore

__all__ = ["Acknowledged", "Batch", "Submitter"]

# So many bytes of calls are inline in a status object, fairly shared: it is rewritten at each claim and commit, and read
# again by the client. Below the least, an entry takes about as much as its call, and apart would save nothing.
_INLINE_BYTES = 32 * 1024
_LEAST_INLINE_BYTES = 512
_MAX_CALLS_BYTES = 64 * 2**20
# A burst's first objects. Who has an object for himself neither loses races nor reads it again before each commit, so there
# are to be many soon; they are not too many in a long burst, as so few requests fly at once.
_LEAST_GROUP = 5
# A request that has no answer by then is being tried again, and may be for minutes.
_FLIGHT_S = 10.0
# So many functions are known to be stored, in 2 MB of memory; one that is forgotten costs a request more when it comes again.
_REMEMBERED = 4096


class _Function:
    """A function that calls refer to. Its fields are changed under the lock of its submitter alone.

    Attributes:
        body: Its pickle, until it is stored.
        is_in_hand: A sender has begun to store it.
        is_stored: Set when it was acknowledged.
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
        n_bytes: What waits in memory because of it; the first call of a function counts that.
    """

    future: StarburstFuture[Any]
    function: _Function
    call: bytes | BigCall
    failed: bytes | None
    n_bytes: int


@dataclass(slots=True, eq=False)
class Batch:
    """Submits that become one status object."""

    ordinal: int
    group: int
    queued: list[_Queued]
    n_bytes: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A status object that the store has acknowledged, and the futures of its tasks, in order."""

    key: str
    ref: GroupRef
    etag: str
    futures: list[StarburstFuture[Any]] = field(repr=False)


class Submitter:
    """One submitting client's queue. Thread-safe.

    Args:
        ordinal: This submitter's ordinal, asked for when the first batch is cut: only submitting clients have one.
        n_workers: How many tasks run at once.
        queue_bytes: `add` waits while more than this is unsent.
        acknowledged: Called with each batch that is stored.
    Attributes:
        pieces: Keeps the big pieces of the calls to come.
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
        # One lock guards everything below. Senders wait on one condition for something to take, all others on another for
        # room, or for nothing left: a wake-up for a sender must not go to somebody who cannot send.
        lock = threading.Lock()
        self._sendable = threading.Condition(lock)
        self._changed = threading.Condition(lock)
        self._queue: deque[_Queued] = deque()
        self._n_bytes = 0
        self._flying: list[Batch] = []
        self._burst = 0
        self._n_groups = 0
        self._n_added = 0
        self._cancelled: set[int] = set()
        self._closed = False
        self._error: BaseException | None = None
        self._is_lost = False  # the error kept something from being acknowledged
        # By digest, as long as a call here needs them, and those that were stored last.
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
        """Queue one call; waits while the queue holds more bytes than it may, of calls and functions together.

        Args:
            make: Makes the future, told its index.
            failed: The outcome, if the call could not be pickled: it is recorded, never run.

        Raises: what made sending impossible.
        """
        with self._changed:
            while self._n_bytes > self._queue_bytes and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._closed:
                # The senders end once the queue is empty: what came later would never leave.
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
        """Cancel those of these that are still queued; which. They keep their place, as cancelled tasks."""
        with self._changed:
            # The queue holds consecutive indices.
            first = self._queue[0].future.index if self._queue else self._n_added
            unsent = (
                [future for future in futures if future.index >= first and not future.done()] if self._queue else []
            )
            self._cancelled.update(future.index for future in unsent)
        # Callbacks run here, so not under the lock.
        for future in unsent:
            future.mark_cancelled()
        return unsent

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until everything added so far is acknowledged; False if time ran out. Raises what made sending impossible.

        # Guarantee: what other threads add meanwhile is not waited for.
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

    def unacknowledged(self) -> list[StarburstFuture[Any]]:
        """The futures of what is queued or being sent."""
        with self._changed:
            flying = [one.future for batch in self._flying for one in batch.queued]
            return [*flying, *(one.future for one in self._queue)]

    def wait_flown(self, futures: Iterable[StarburstFuture[Any]]) -> None:
        """Wait until those of these tasks that are being sent at this moment are acknowledged, for 10 s at the most.

        # Guarantee: what other threads submit meanwhile is not waited for.
        """
        indices = {future.index for future in futures}
        with self._changed:
            theirs = [batch for batch in self._flying if any(one.future.index in indices for one in batch.queued)]
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
        """Give up: the futures of everything unsent."""
        with self._changed:
            self._error = self._error or error
            unsent = [one.future for one in self._queue]
            self._is_lost = self._is_lost or bool(unsent or self._flying)
            self._queue.clear()
            self._n_bytes = 0
            self._changed.notify_all()
            self._sendable.notify_all()
        return unsent

    # --- for senders --------------------------------------------------------------------------------------------------

    def take(self, timeout_s: float | None = None) -> Batch | None:
        """The next batch, when it should leave; None if there is none within `timeout_s`, or after `close`."""
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

        Store: 1 create for the status object; 1 for each new function; 1 if there is something big that was not stored
        before; a ring now and then.
        """
        try:
            self._send(batch)
        finally:
            with self._changed:
                self._flying.remove(batch)
                self._cancelled.difference_update(one.future.index for one in batch.queued)
                self._n_bytes -= batch.n_bytes
                if self._is_empty():
                    self._burst = 0
                self._changed.notify_all()
                self._sendable.notify_all()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_empty(self) -> bool:
        return not self._queue and not self._flying

    def _is_acknowledged(self, end: int) -> bool:
        """Whether every task with an index below `end` is. The queue and each batch hold consecutive indices."""
        if self._queue and self._queue[0].future.index < end:
            return False
        return all(batch.queued[0].future.index >= end for batch in self._flying)

    def _is_ready(self) -> bool:
        """Nothing flies, or enough has gathered for an object of its own."""
        if not self._queue:
            return False
        return not self._flying or self._closed or len(self._queue) >= self._group_size()

    def _group_size(self) -> int:
        """About two objects per worker over the burst so far."""
        return min(status.MAX_TASKS, max(_LEAST_GROUP, self._burst // (2 * max(1, self._n_workers()))))

    def _cut(self) -> Batch:
        queued: list[_Queued] = []
        n_bytes = n_inline = 0
        limit = self._group_size()
        while self._queue and len(queued) < limit:
            call, failed, size = self._queue[0].call, self._queue[0].failed, self._queue[0].n_bytes
            n_inline += len(failed) if failed is not None else min(len(call), _LEAST_INLINE_BYTES)
            if queued and (n_inline > status.MAX_BYTES or n_bytes + size > _MAX_CALLS_BYTES):
                break
            queued.append(self._queue.popleft())
            n_bytes += size
        group = self._n_groups
        # A batch that is cancelled as a whole is never written: it must not leave a gap, or its epoch never gets full.
        self._n_groups += any(one.future.index not in self._cancelled for one in queued)
        return Batch(self._ordinal, group, queued, n_bytes)

    def _send(self, batch: Batch) -> None:
        if all(one.future.index in self._cancelled for one in batch.queued):
            return
        functions = list(dict.fromkeys(one.function for one in batch.queued))
        digests = [function.digest for function in functions]
        for function in functions:
            self._store_function(function)
        first = batch.queued[0].future.index
        ref = GroupRef(batch.ordinal, first, len(batch.queued), batch.group // GROUPS_PER_EPOCH)
        self._open_epoch(ref.epoch)
        entries = self._entries(ref, batch, digests)
        record = Status(ref.ordinal, first, tuple(digests), tuple(entries))
        key = self._session.keys.group(ref)
        body = status.encode(record, self._session.clock.new_id())
        # Crash here: function and calls are stored and nothing names them; the session's cleanup removes them.
        etag = self._create(key, body)
        # Crash here: the tasks are stored and no bell was rung; idle workers look unasked.
        n_pending = sum(entry.state == State.PENDING for entry in entries)
        if n_pending < len(entries):
            # Some have ended already, and who else would complete their futures may not have done so yet: have it read.
            etag = ""
        self._acknowledged(Acknowledged(key, ref, etag, [one.future for one in batch.queued]))
        if n_pending:
            # Only a hint: the tasks are stored, and a store that is gone will be noticed by those who need an answer.
            with suppress(StoreUnavailable):
                self._session.ring([key], n_pending)

    def _entries(self, ref: GroupRef, batch: Batch, digests: list[str]) -> list[Entry]:
        sealer, apart, entries = self._session.sealer, _Apart(ref.group_id), []
        now = self._session.clock.now()
        inline_bytes = max(_LEAST_INLINE_BYTES, _INLINE_BYTES // ref.n_tasks)
        for one in batch.queued:
            if isinstance(one.call, BigCall) and one.future.index not in self._cancelled:
                apart.take_in(one.call, self.pieces)
        for one in batch.queued:
            function = digests.index(one.function.digest) if len(digests) > 1 else 0
            if one.future.index in self._cancelled:
                entry = Entry.pending(function, b"")._replace(state=State.CANCELLED, call=None, at=now)
            elif one.failed is not None:
                entry = Entry.pending(function, b"")._replace(state=State.FAILED, call=None, at=now)
                label = status.outcome_label(Status(ref.ordinal, one.future.index, (), ()), 0, entry)
                entry = entry._replace(outcome=sealer.sealed("outcome", label, one.failed))
            else:
                label = status.call_label(ref.ordinal, one.future.index, one.function.digest)
                call = apart.records[one.call] if isinstance(one.call, BigCall) else one.call
                sealed = sealer.sealed("call", label, call)
                entry = Entry.pending(function, sealed if len(sealed) <= inline_bytes else apart.add(sealed))
            entries.append(entry)
        if apart.bodies:
            self._create(self._session.keys.calls(ref.group_id), apart.body())
            self.pieces.stored(apart.placed)
        # Ours are stored by now, so that two senders that wait for each other's do not wait for ever.
        for piece in apart.others:
            self._wait_stored(piece.is_stored)
        return entries

    def _store_function(self, function: _Function) -> None:
        with self._changed:
            is_mine, function.is_in_hand = not function.is_in_hand, True
        if not is_mine:
            self._wait_stored(function.is_stored)
            return
        body = self._session.sealer.sealed("function", function.digest, function.body)
        self._create(self._session.keys.function(function.digest), body)
        with self._changed:
            function.body = b""
            self._remembered.append(function)
        function.is_stored.set()

    def _wait_stored(self, stored: threading.Event) -> None:
        """Wait for what another sender stores."""
        while not stored.wait(1.0):
            if self._error is not None:
                raise self._error

    def _open_epoch(self, epoch: int) -> None:
        """See to it that the manifest lists this epoch before there is an object in it."""
        if epoch < self._n_epochs:
            return

        def step(manifest: Manifest) -> Manifest | None:
            record = manifest.submitters[self._ordinal]
            if record.epochs > epoch:
                return None
            opened = tuple(range(record.epochs, epoch + 1))
            return manifest.with_submitter(self._ordinal, replace(record, epochs=epoch + 1, open=record.open + opened))

        self._session.change(step)
        self._n_epochs = max(self._n_epochs, epoch + 1)

    def _create(self, key: str, body: bytes) -> str:
        try:
            return self._session.store.create(key, body)
        except PreconditionFailed:
            # Ours alone, and always the same bytes under this key: it landed before.
            return ""


class _Apart:
    """What of one batch is stored beside its status object, in one object: new pieces, then records too big to inline."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._n_bytes = 0
        self.bodies: list[bytes] = []
        self.placed: list[KeptPiece] = []
        self.others: list[KeptPiece] = []
        self.records: dict[BigCall, bytes] = {}

    def take_in(self, call: BigCall, known: Pieces) -> None:
        """Find a place for each of a call's pieces."""
        parts: list[bytes | Piece] = []
        for part in call.parts:
            if isinstance(part, KeptPiece):
                body = known.place(part, self._group_id, self._n_bytes)
                if body is not None:
                    self.placed.append(part)
                    self.add(body)
                elif not part.is_stored.is_set():
                    self.others.append(part)
                assert part.place is not None  # somebody's by now  # noqa: S101
                parts.append(part.place)
            else:
                parts.append(part)
        self.records[call] = pieces.encode(parts)

    def add(self, body: bytes) -> Located:
        self.bodies.append(body)
        self._n_bytes += len(body)
        return Located("", self._n_bytes - len(body), len(body))

    def body(self) -> bytes:
        # One big array, the usual case, is not copied.
        return self.bodies[0] if len(self.bodies) == 1 else b"".join(self.bodies)


def submitter_record(client_id: str) -> SubmitterRecord:
    """A new submitter as the manifest knows it: with its first epoch open."""
    return SubmitterRecord(client_id, 1, (0,))
