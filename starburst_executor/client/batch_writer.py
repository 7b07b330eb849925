"""Stores one batch of submits: functions and big calls first, then the status object, then a ring.

    batch ──► functions/ ─► calls/ ─► status/ ─► bell             many tasks
                                  └─► status/, bell at once       a few, for which a user waits

Guarantee: a function, big calls and big pieces of calls are acknowledged before the status object that names them is
written.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple, cast

from starburst_executor.client.announcer import Announcer
from starburst_executor.client.batches import Acknowledged, Batch, Neighbours, Sent
from starburst_executor.client.pieces import BigCall, KeptPiece, Pieces
from starburst_executor.client.stored_functions import StoredFunction, StoredFunctions
from starburst_executor.client.upstream import locate
from starburst_executor.errors import PreconditionFailed, StoreUnavailable
from starburst_executor.protocol import pieces
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.labels import packed_labels
from starburst_executor.protocol.pieces import Piece, Result, Shared
from starburst_executor.protocol.spans import after, blocks, encoding
from starburst_executor.protocol.spans.after import AFTER, Upstream
from starburst_executor.protocol.spans.record import (
    BLOCKED,
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
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.store import SessionStore

__all__ = ["BatchWriter"]

# A worker that hears of an object asks for it for 0.4 s. If the object is stored later than this, the ring is repeated.
_RINGS_AGAIN_S = 0.2


class BatchWriter:
    """Writes the batches of one submitter. Thread-safe: each sender writes another batch.

    Args:
        ordinal: The submitter's ordinal in the session.
        acknowledged: Called with each stored batch.
        error: Returns the error with which the client has failed; None while it has not.
        sent: Returns the status object of a task of this submitter whose batch was cut before.
        n_queued: Returns the number of tasks that are in no batch yet.
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
        sent: Callable[[int], Sent | None] = lambda _: None,
        n_queued: Callable[[], int] = lambda: 0,
    ) -> None:
        self._session = session
        self._ordinal = ordinal
        self._pieces = known_pieces
        self._functions = functions
        self._acknowledged = acknowledged
        self._error = error
        self._announcer = Announcer(session)
        self._sent = sent
        self._n_queued = n_queued
        self._n_epochs = 1  # a value that is too low only costs another look at the manifest

    def write(self, batch: Batch) -> None:
        """Store one batch.

        Store: 1 create for the status object; 1 for each new function; 1 if it has big calls or pieces that are not stored
        yet; sometimes a ring.
        """
        if not batch.is_written:
            return
        functions = list(dict.fromkeys(of_kind.function for of_kind in batch.queued))
        digests = [function.digest for function in functions]
        for function in functions:
            self._store_function(function)
        (_, limit, _), ref = batch.queued[0].in_key, batch.sent.ref
        self._open_epoch(ref.epoch)
        self._announcer.announce(ref, limit)
        record = self._record(ref, batch, digests)
        key = self._session.keys.status(ref)
        body = encoding.encode(record, self._session.clock.new_id())
        n_pending = record.counts()[State.PENDING]

        def create() -> None:
            # Crash here: function and calls are stored, but no object names them; the session's cleanup deletes them.
            etag = self._create(key, body)
            batch.sent.is_stored.set()
            # Crash here: the tasks are stored, but no bell was rung; idle workers find them by their regular look.
            # If some tasks have ended already, have the collector read the object, to complete their futures.
            etag = "" if n_pending < ref.n_tasks else etag
            self._acknowledged(Acknowledged(key, ref, etag, batch.parts()))

        n_slots = self._session.manifest.current.slots

        def ring() -> None:
            if n_pending:
                # The first object of a burst wakes the workers for all of it, which they will list.
                n_rung = n_all if (n_all := n_pending + self._n_queued()) >= n_slots else n_pending
                # The bell is only a hint: the tasks are stored, and the next request that needs an answer notices an outage.
                with suppress(StoreUnavailable):
                    self._session.bell.ring([key], n_rung)

        if 0 < n_pending <= max(1, n_slots // 2):
            # So few that they are waited for: ring meanwhile. A worker that does not find the object yet asks again.
            (_, created_at), (rung_at, _) = fan_out(self._session.store, self._timed, (create, ring))
            if created_at - rung_at > _RINGS_AGAIN_S:
                ring()
        else:
            create()
            ring()

    def _timed(self, do: Callable[[], None]) -> tuple[float, float]:
        """Call a function; return when it began and ended."""
        began = self._session.clock.monotonic()
        do()
        return began, self._session.clock.monotonic()

    def _record(self, ref: StatusRef, batch: Batch, digests: list[str]) -> Status:
        """Return the record of a batch, once the second object to which some of its calls refer is stored."""
        beside, waits, now = _Beside(ref.status_id), self._waits(ref, batch), self._session.clock.now()
        numbers = {digest: number for number, digest in enumerate(digests)}
        # The defaults have number 0, and are not stored.
        all_options = dict.fromkeys([b"", *(of_kind.given.packed for of_kind in batch.queued)])
        kinds = {options: number for number, options in enumerate(all_options)}
        spans: list[Span] = []
        outcomes: list[OutcomeBlock] = []
        called: list[_Called] = []
        for of_kind in batch.queued:
            function, options = numbers[of_kind.function.digest], kinds[of_kind.given.packed]
            for start, n, is_cancelled in _stretches(of_kind, batch.cancelled):
                position = of_kind.first - ref.first + start
                if is_cancelled:
                    _join(spans, Span(n, State.CANCELLED, function=function, options=options, at=now))
                elif of_kind.failed is not None:
                    _join(spans, Span(n, ENDED, function=function, options=options, at=now))
                    outcomes.append(self._failed(ref, position, of_kind.failed))
                else:
                    state = BLOCKED if of_kind.after else State.PENDING
                    _join(spans, Span(n, state, function=function, options=options))
                    calls = of_kind.calls[start : start + n]
                    if BigCall in map(type, calls):
                        records = [self._plain(call, beside, waits.get(position, {})) for call in calls]
                    else:
                        records = cast("list[bytes]", calls)
                    _join_calls(called, _Called(position, function, records))
        blocks_of_calls = self._blocks(ref, digests, called, beside, sum(len(block.place) for block in outcomes))
        self._store_beside(ref, beside)
        more: dict[str, Any] = {}
        if any(of_kind.given.label for of_kind in batch.queued):
            more.update(packed_labels(of_kind.given.label for of_kind in batch.queued for _ in of_kind.calls))
        if waits:
            more[AFTER] = after.encoded({at: tuple(places.values()) for at, places in waits.items()})
        return Status(
            *(ref.ordinal, ref.first, tuple(digests), tuple(spans), tuple(blocks_of_calls), tuple(outcomes), now),
            options=tuple(all_options)[1:],
            more=more or None,
        )

    def _plain(self, call: bytes | BigCall, beside: _Beside, waits: Mapping[tuple[int, int], Upstream]) -> bytes:
        return beside.take_in(call, self._pieces, waits) if isinstance(call, BigCall) else call

    def _blocks(
        self, ref: StatusRef, digests: Sequence[str], called: Sequence[_Called], beside: _Beside, n_inline: int
    ) -> list[CallBlock]:
        """Return the sealed blocks of calls; those that are too big to be inline are added to the second object.

        Args:
            n_inline: The bytes that are inline already.
        """
        found: list[CallBlock] = []
        for first, function, records in called:
            for start, n in blocks.cut_neighbours([*map(len, records)]):
                position, payloads = first + start, records[start : start + n]
                parts = blocks.sealed_calls(
                    self._session.sealer, ref.ordinal, ref.first + position, digests[function], payloads
                )
                n_bytes = sum(map(len, parts))
                place: Place
                if n_bytes <= blocks.inline_bytes(n, ref.n_tasks) and n_inline + n_bytes <= blocks.MAX_INLINE:
                    place = b"".join(parts)
                    n_inline += n_bytes
                else:
                    place = beside.add(*parts)
                found.append(CallBlock(position, n, function, place))
        return found

    def _waits(self, ref: StatusRef, batch: Batch) -> dict[int, dict[tuple[int, int], Upstream]]:
        """Return, by position, where the tasks are for which tasks of a batch wait, by ordinal and index.

        Returns when all of them are stored, but for those of the batch itself: a task must not wait for one that a client that is killed
        now will never have stored. A task that is not stored because it was cancelled has the place "".
        """
        waits: dict[int, dict[tuple[int, int], Upstream]] = {}
        for queued in batch.queued:
            if queued.after and queued.first not in batch.cancelled:
                waits[queued.first - ref.first] = {
                    (future.ordinal, future.index): self._place_of(ref, future.ordinal, future.index)
                    for future in queued.after
                }
        return waits

    def _place_of(self, ref: StatusRef, ordinal: int, index: int) -> Upstream:
        place: StatusRef | None = ref
        if ordinal != ref.ordinal:
            place = locate(self._session, ordinal, index)
        elif index < ref.first:
            # Assumes: batches are cut in order, so that the batch of an earlier task is in hand, and waits for none that is not.
            sent = self._sent(index)
            place = None if sent is None else sent.ref
            if sent is not None:
                self._wait_stored(sent.is_stored)
        if place is None:
            return Upstream("", 0)
        return Upstream(self._session.keys.status(place).removeprefix(self._session.keys.statuses), index - place.first)

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


class _Called(NamedTuple):
    """Neighbouring calls of one function: the position of the first, and the bytes of each."""

    position: int
    function: int
    records: list[bytes]


def _join_calls(called: list[_Called], fresh: _Called) -> None:
    """Add calls, to the last ones if these are of the same function and end where the new ones begin."""
    last = called[-1] if called else None
    if last is not None and last.function == fresh.function and last.position + len(last.records) == fresh.position:
        called[-1] = last._replace(records=last.records + fresh.records)
    else:
        called.append(fresh)


def _join(spans: list[Span], fresh: Span) -> None:
    """Add a span, to the last one if they have everything in common."""
    if spans and spans[-1][1:] == fresh[1:]:
        fresh = fresh._replace(n=spans.pop().n + fresh.n)
    spans.append(fresh)


def _stretches(queued: Neighbours, cancelled: frozenset[int]) -> Iterator[tuple[int, int, bool]]:
    """Yield start and number of neighbours that all were cancelled, or all were not, and which of these."""
    if not cancelled:
        yield 0, len(queued), False
        return
    start = 0
    for is_cancelled, indices in groupby(range(queued.first, queued.first + len(queued)), cancelled.__contains__):
        n = len(list(indices))
        yield start, n, is_cancelled
        start += n


class _Beside:
    """The second object of a batch, beside its status object: new pieces, then records that are too big to be inline."""

    def __init__(self, status_id: str) -> None:
        self._status_id = status_id
        self._n_bytes = 0
        self.bodies: list[bytes | memoryview] = []
        self.placed: list[KeptPiece] = []
        self.others: list[KeptPiece] = []

    def take_in(self, call: BigCall, known: Pieces, waits: Mapping[tuple[int, int], Upstream]) -> bytes:
        """Assign a place to each of a call's pieces, and note those of the results that it needs; return the call's record."""
        parts: list[bytes | Piece | Shared | Result] = []
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
            elif isinstance(part, Result):
                parts.append(part._replace(place=waits[part.ordinal, part.sequence].place))
            else:
                parts.append(part)
        return pieces.encode(parts)

    def add(self, *parts: bytes | memoryview) -> Located:
        n_bytes = sum(map(len, parts))
        self.bodies.extend(parts)
        self._n_bytes += n_bytes
        return Located("", self._n_bytes - n_bytes, n_bytes)

    def body(self) -> bytes:
        only = self.bodies[0]
        # A single big array, the usual case, is not copied.
        return only if len(self.bodies) == 1 and isinstance(only, bytes) else b"".join(self.bodies)
