"""Stores one batch of submits: functions and big calls first, then the status object, then a ring.

    batch ──► functions/ ─► calls/ ─► status/ ─► bell

Guarantee: a function, big calls and big pieces of calls are acknowledged before the status object that names them is
written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from starburst_executor.client.batches import LEAST_INLINE_BYTES, Acknowledged, Batch, Queued
from starburst_executor.client.pieces import BigCall, KeptPiece, Pieces
from starburst_executor.client.stored_functions import StoredFunction, StoredFunctions
from starburst_executor.errors import PreconditionFailed, StoreUnavailable
from starburst_executor.protocol import pieces, status
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.status import Entry, Located, State, Status
from starburst_executor.session.epochs import open_epoch, return_of
from starburst_executor.session.store import SessionStore

__all__ = ["BatchWriter"]

# The bytes of calls inside a status object, shared equally by its tasks: each claim and commit rewrites the object, and the
# client reads it again.
_INLINE_BYTES = 32 * 1024


class BatchWriter:
    """Writes the batches of one submitter. Thread-safe: each sender writes another batch.

    Args:
        ordinal: The submitter's ordinal in the session.
        acknowledged: Called with each stored batch.
        error: Returns the error with which the client has failed; None while it has not.
    """

    def __init__(
        self,
        session: SessionStore,
        ordinal: int,
        known_pieces: Pieces,
        functions: StoredFunctions,
        *,
        acknowledged: Callable[[Acknowledged], None],
        error: Callable[[], BaseException | None],
    ) -> None:
        self._session = session
        self._ordinal = ordinal
        self._pieces = known_pieces
        self._functions = functions
        self._acknowledged = acknowledged
        self._error = error
        self._n_epochs = 1  # a value that is too low only costs another look at the manifest

    def write(self, batch: Batch) -> None:
        """Store one batch.

        Store: 1 create for the status object; 1 for each new function; 1 if it has big calls or pieces that are not stored
        yet; sometimes a ring.
        """
        if not batch.is_written:
            return
        functions = list(dict.fromkeys(queued.function for queued in batch.queued))
        digests = [function.digest for function in functions]
        for function in functions:
            self._store_function(function)
        ref = StatusRef(batch.ordinal, batch.first, len(batch.queued), batch.number // STATUSES_PER_EPOCH)
        self._open_epoch(ref.epoch)
        entries = self._entries(ref, batch, digests)
        record = Status(ref.ordinal, batch.first, tuple(digests), tuple(entries), self._session.clock.now())
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
        """Return the entries of a batch, once the second object that some of them refer to is stored."""
        beside, now = _Beside(ref.status_id), self._session.clock.now()
        for queued in batch.queued:
            if isinstance(queued.call, BigCall) and queued.index not in batch.cancelled:
                beside.take_in(queued.call, self._pieces)
        entries = []
        for queued in batch.queued:
            function = digests.index(queued.function.digest) if len(digests) > 1 else 0
            if queued.index in batch.cancelled:
                entry = Entry.pending(function, b"")._replace(state=State.CANCELLED, call=None, at=now)
            elif queued.failed is not None:
                entry = Entry.pending(function, b"")._replace(state=State.FAILED, call=None, at=now)
                label = status.outcome_label(Status(ref.ordinal, queued.index, (), ()), 0, entry)
                entry = entry._replace(outcome=self._session.sealer.sealed("outcome", label, queued.failed))
            else:
                entry = Entry.pending(function, self._call(ref, queued, beside))
            entries.append(entry)
        if beside.bodies:
            self._create(self._session.keys.calls(ref.status_id), beside.body())
            self._pieces.stored(beside.placed)
        # After this batch's own pieces are stored, so that two senders that need each other's pieces do not deadlock.
        for piece in beside.others:
            self._wait_stored(piece.is_stored)
        return entries

    def _call(self, ref: StatusRef, queued: Queued, beside: _Beside) -> bytes | Located:
        """Return a sealed call, or its place in the second object if it is too big to be inline."""
        label = status.call_label(ref.ordinal, queued.index, queued.function.digest)
        call = beside.records[queued.call] if isinstance(queued.call, BigCall) else queued.call
        sealed = self._session.sealer.sealed("call", label, call)
        return sealed if len(sealed) <= max(LEAST_INLINE_BYTES, _INLINE_BYTES // ref.n_tasks) else beside.add(sealed)

    def _store_function(self, function: StoredFunction) -> None:
        if not self._functions.take_in_hand(function):
            self._wait_stored(function.is_stored)
            return
        body = self._session.sealer.sealed("function", function.digest, function.body)
        self._create(self._session.keys.function(function.digest), body)
        self._functions.stored(function)

    def _wait_stored(self, stored: threading.Event) -> None:
        """Wait until another sender has stored it. Raises the error with which the client has failed."""
        while not stored.wait(1.0):
            if (error := self._error()) is not None:
                raise error

    def _open_epoch(self, epoch: int) -> None:
        """Make the manifest list this epoch before the first object in it is written."""
        submitters = self._session.manifest.current.submitters
        if self._ordinal < len(submitters):
            return_of(self._session, submitters[self._ordinal].client_id)
        if epoch >= self._n_epochs:
            open_epoch(self._session, self._ordinal, epoch)
            self._n_epochs = max(self._n_epochs, epoch + 1)

    def _create(self, key: str, body: bytes) -> str:
        try:
            return self._session.store.create(key, body)
        except PreconditionFailed:
            # Only this client writes this key, and always the same bytes: an earlier try landed.
            return ""


class _Beside:
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
