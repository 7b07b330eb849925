"""Stores one batch of submits: functions and big calls first, then the status object, then a ring.

    batch ──► functions/ ─► calls/ ─► status/ ─► bell

Guarantee: a function, big calls and big pieces of calls are acknowledged before the status object that names them is
written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from starburst_executor.client.batches import Acknowledged, Batch
from starburst_executor.client.pieces import BigCall, KeptPiece, Pieces
from starburst_executor.client.stored_functions import StoredFunction, StoredFunctions
from starburst_executor.errors import PreconditionFailed, StoreUnavailable
from starburst_executor.protocol import pieces
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.spans import blocks, encoding
from starburst_executor.protocol.spans.record import (
    ENDED,
    CallBlock,
    Located,
    OutcomeBlock,
    Place,
    Span,
    State,
    Status,
)
from starburst_executor.session.epochs import open_epoch, return_of
from starburst_executor.session.store import SessionStore

__all__ = ["BatchWriter"]


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
        record = self._record(ref, batch, digests)
        key = self._session.keys.status(ref)
        body = encoding.encode(record, self._session.clock.new_id())
        # Crash here: function and calls are stored, but no object names them; the session's cleanup deletes them.
        etag = self._create(key, body)
        # Crash here: the tasks are stored, but no bell was rung; idle workers find them by their regular look.
        n_pending = record.counts()[State.PENDING]
        if n_pending < ref.n_tasks:
            # Some tasks have ended already: have the collector read the object, to complete their futures.
            etag = ""
        self._acknowledged(Acknowledged(key, ref, etag, [queued.future for queued in batch.queued]))
        if n_pending:
            # The bell is only a hint: the tasks are stored, and the next request that needs an answer notices an outage.
            with suppress(StoreUnavailable):
                self._session.bell.ring([key], n_pending)

    def _record(self, ref: StatusRef, batch: Batch, digests: list[str]) -> Status:
        """Return the record of a batch, once the second object to which some of its calls refer is stored."""
        beside, now = _Beside(ref.status_id), self._session.clock.now()
        for queued in batch.queued:
            if isinstance(queued.call, BigCall) and queued.index not in batch.cancelled:
                beside.take_in(queued.call, self._pieces)
        numbers = {digest: number for number, digest in enumerate(digests)}
        spans: list[Span] = []
        outcomes: list[OutcomeBlock] = []
        called: list[tuple[int, int, int]] = []
        records: dict[int, bytes] = {}
        for position, queued in enumerate(batch.queued):
            function = numbers[queued.function.digest]
            if queued.index in batch.cancelled:
                span = Span(1, State.CANCELLED, function=function, at=now)
            elif queued.failed is not None:
                span = Span(1, ENDED, function=function, at=now)
                outcomes.append(self._failed(ref, position, queued.failed))
            else:
                span = Span(1, function=function)
                call = queued.call
                records[position] = record = beside.records[call] if isinstance(call, BigCall) else call
                called.append((position, function, len(record)))
            if spans and spans[-1][1:] == span[1:]:
                span = span._replace(n=spans.pop().n + 1)
            spans.append(span)
        calls: list[CallBlock] = []
        n_inline = sum(len(block.place) for block in outcomes)
        for block in blocks.cut(called):
            function = numbers[batch.queued[block[0]].function.digest]
            payloads = [records[position] for position in block]
            parts = blocks.sealed_calls(
                self._session.sealer, ref.ordinal, ref.first + block[0], digests[function], payloads
            )
            n_bytes = sum(map(len, parts))
            place: Place
            if n_bytes <= blocks.inline_bytes(len(block), ref.n_tasks) and n_inline + n_bytes <= blocks.MAX_INLINE:
                place = b"".join(parts)
                n_inline += n_bytes
            else:
                place = beside.add(*parts)
            calls.append(CallBlock(block[0], len(block), function, place))
        self._store_beside(ref, beside)
        return Status(ref.ordinal, ref.first, tuple(digests), tuple(spans), tuple(calls), tuple(outcomes), now)

    def _failed(self, ref: StatusRef, position: int, outcome: bytes) -> OutcomeBlock:
        """Return the outcome of a call that could not be pickled."""
        mark = (1, 0, "")
        parts = blocks.sealed_outcomes(self._session.sealer, ref.ordinal, ref.first + position, mark, [outcome])
        return OutcomeBlock(position, 1, *mark, b"".join(parts), (0,))

    def _store_beside(self, ref: StatusRef, beside: _Beside) -> None:
        if beside.bodies:
            self._create(self._session.keys.calls(ref.status_id), beside.body())
            self._pieces.stored(beside.placed)
        # After this batch's own pieces are stored, so that two senders that need each other's pieces do not deadlock.
        for piece in beside.others:
            self._wait_stored(piece.is_stored)

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
        self.bodies: list[bytes | memoryview] = []
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

    def add(self, *parts: bytes | memoryview) -> Located:
        n_bytes = sum(map(len, parts))
        self.bodies.extend(parts)
        self._n_bytes += n_bytes
        return Located("", self._n_bytes - n_bytes, n_bytes)

    def body(self) -> bytes:
        only = self.bodies[0]
        # A single big array, the usual case, is not copied.
        return only if len(self.bodies) == 1 and isinstance(only, bytes) else b"".join(self.bodies)
