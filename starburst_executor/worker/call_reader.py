"""Reads the calls of a slice: all of them together, each block and each big piece once.

    blocks (inline, or `calls/`) ──seal──► calls ──► pieces that are not kept ─────► one GET per contiguous range
                                                     ▲                               │
                                 kept, by name ──────┴───────────────────────────────┘

Guarantee: a block's seal and a piece's name are verified before a call of it is returned. If several slots want a piece at the
same time, one of them reads it. The bytes kept are bounded; the least recently used blocks and pieces are dropped first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from hmac import compare_digest
from typing import NamedTuple, TypeAlias

from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol import pieces
from starburst_executor.protocol.keys import StatusRef, task_id
from starburst_executor.protocol.pieces import Piece, Result, Shared
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import CallBlock, Located, Place, Status
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.recent import Recent

__all__ = ["Arrived", "CallReader", "Wanted"]

# Bytes kept for later calls, in addition to those of the current calls: as many as a client keeps unsent.
_KEPT_BYTES = 256 * 2**20
# Bytes of blocks kept, of which a slot has taken some calls and will take others.
_BLOCKS_BYTES = 8 * 2**20
# Adjacent ranges are read together up to this many bytes; they are in memory twice for a moment.
_RUN_BYTES = 16 * 2**20

_PICKLE = b"\x80"  # how a call begins that is one pickle

Trouble: TypeAlias = PayloadError | RecordInvalid


class Wanted(NamedTuple):
    """Calls of one block.

    Attributes:
        status: The status object that has the block.
        positions: Of the calls, ascending; all are within the block.
    """

    ref: StatusRef
    status: Status
    block: CallBlock
    positions: Sequence[int]


class Arrived(NamedTuple):
    """A call for a runner: its bytes for `calls.load_call`, its pieces by name, and the shared values and results to which it refers."""

    call: bytes
    pieces: tuple[tuple[bytes, bytes], ...]
    shared: tuple[Shared, ...] = ()
    results: tuple[Result, ...] = ()


class _Range(NamedTuple):
    status_id: str
    start: int
    length: int


class _InPieces(NamedTuple):
    """A call in parts, with the pieces among them."""

    call: bytes
    refs: tuple[Piece, ...]
    shared: tuple[Shared, ...]
    results: tuple[Result, ...]
    task_id: str


# A block is known by its place and by the label of its seal: status id, first, number, function.
_BlockName: TypeAlias = tuple[str, int, int, str, Place]
_Opened: TypeAlias = Arrived | _InPieces | Trouble


class _Reading:
    """A piece that a slot is reading."""

    __slots__ = ("body", "is_done")

    def __init__(self) -> None:
        self.is_done = threading.Event()
        self.body: bytes | None = None


class CallReader:
    """Reads calls. Thread-safe."""

    def __init__(self, session: SessionStore, *, keep_bytes: int = _KEPT_BYTES) -> None:
        self._session = session
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()  # guards: _opened, _kept, _n_bytes, _reading
        self._opened: Recent[_BlockName, list[bytes | memoryview]] = Recent(_BLOCKS_BYTES)
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._n_bytes = 0
        self._reading: dict[bytes, _Reading] = {}

    def get(self, wanted: Sequence[Wanted], at_most: int) -> list[Arrived | Trouble]:
        """Return the first of these calls, or the error of each: at least one, up to `at_most` bytes in all.

        Store: nothing for small calls; otherwise 1 GET for each contiguous range that is not kept.
        """
        batch = wanted[: _n_fitting((_n_apart(want.block) for want in wanted), at_most)]
        stored = self._blocks(batch)
        opened: list[_Opened] = []
        in_pieces = False
        for want in batch:
            payloads = stored[_name(want)]
            if not isinstance(payloads, list):
                opened += (_of_task(payloads, want, position) for position in want.positions)
                continue
            first = want.block.first
            for position in want.positions:
                call = bytes(payloads[position - first])
                if call[:1] == _PICKLE:
                    opened.append(Arrived(call, ()))
                else:
                    opened.append(_in_pieces(call, want, position))
                    in_pieces = True
        if not in_pieces:
            return [call for call in opened if not isinstance(call, _InPieces)]
        del opened[_n_fitting(_n_new(opened), at_most) :]
        refs = {ref.name: ref for call in opened if isinstance(call, _InPieces) for ref in call.refs}
        bodies = self._pieces(refs)
        return [_arrived(call, bodies) if isinstance(call, _InPieces) else call for call in opened]

    def get_small(self, want: Wanted) -> list[bytes] | None:
        """Return the calls of neighbours in an inline block; None if one has pieces, shared values or results, or cannot be read: see `get`."""
        block = want.block
        if type(block.place) is not bytes:
            return None
        try:
            calls = blocks.open_small_calls(self._session.sealer, want.status, block, block.place)
        except RecordInvalid:
            return None
        first, n = want.positions[0] - block.first, len(want.positions)
        if n < block.n:
            calls = calls[first : first + n]
        return calls if {call[:1] for call in calls} == {_PICKLE} else None

    def _blocks(self, wanted: Iterable[Wanted]) -> dict[_BlockName, list[bytes | memoryview] | Trouble]:
        """Return the calls of these blocks, or the error of each."""
        opened: dict[_BlockName, list[bytes | memoryview] | Trouble] = {}
        missing: dict[_BlockName, Wanted] = {}
        with self._lock:
            for want in wanted:
                name = _name(want)
                kept = self._opened.get(name)
                if kept is None:
                    missing[name] = want
                else:
                    opened[name] = kept
        ranges = {_range(want) for want in missing.values() if type(want.block.place) is not bytes}
        stored = self._read(ranges) if ranges else {}
        for name, want in missing.items():
            place = want.block.place
            body = place if type(place) is bytes else stored[_range(want)]
            opened[name] = payloads = self._open(want, body)
            if isinstance(payloads, list) and len(want.positions) < want.block.n:
                with self._lock:
                    self._opened.add(name, payloads, sum(map(len, payloads)))
        return opened

    def _open(self, want: Wanted, body: bytes | PayloadError) -> list[bytes | memoryview] | Trouble:
        if isinstance(body, PayloadError):
            return body
        try:
            return blocks.open_calls(self._session.sealer, want.status, want.block, body)
        except RecordInvalid as error:
            return error

    def _pieces(self, wanted: Mapping[bytes, Piece]) -> dict[bytes, bytes | Trouble]:
        bodies: dict[bytes, bytes | Trouble] = {}
        started: dict[bytes, _Reading] = {}  # that this thread reads
        awaited: dict[bytes, _Reading] = {}  # that another thread is reading
        with self._lock:
            for name in wanted:
                if (body := self._kept.get(name)) is not None:
                    self._kept.move_to_end(name)
                    bodies[name] = body
                elif (reading := self._reading.get(name)) is not None:
                    awaited[name] = reading
                else:
                    started[name] = self._reading[name] = _Reading()
            self._make_room(sum(wanted[name].length for name in started), wanted)
        try:
            stored = self._read({_Range(*wanted[name][1:]) for name in started})
            for name, reading in started.items():
                bodies[name] = checked = self._checked(wanted[name], stored)
                reading.body = checked if isinstance(checked, bytes) else None
        finally:
            with self._lock:
                for name, reading in started.items():
                    del self._reading[name]
                    if reading.body is not None:
                        self._kept[name] = reading.body
                        self._n_bytes += len(reading.body)
            for reading in started.values():
                reading.is_done.set()
        # Guarantee: no deadlock: this thread has finished its own reads before it waits for those of other threads.
        for name, reading in awaited.items():
            reading.is_done.wait()
            bodies[name] = self._pieces({name: wanted[name]})[name] if reading.body is None else reading.body
        return bodies

    def _checked(self, piece: Piece, stored: Mapping[_Range, bytes | PayloadError]) -> bytes | Trouble:
        body = stored[_Range(*piece[1:])]
        if isinstance(body, bytes) and not compare_digest(pieces.name_of(self._session.sealer, body), piece.name):
            return RecordInvalid(
                f"a piece of a call does not match its name and was not unpickled: {piece.status_id}, "
                f"start={piece.start}, bytes={len(body)}; it was changed, cut, or written with another key"
            )
        return body

    def _make_room(self, n_bytes: int, but: Container[bytes]) -> None:
        while self._kept and self._n_bytes + n_bytes > self._keep_bytes:
            oldest = next(iter(self._kept))
            if oldest in but:
                return  # this piece and all that follow were requested just now
            self._n_bytes -= len(self._kept.pop(oldest))

    def _read(self, places: Iterable[_Range]) -> dict[_Range, bytes | PayloadError]:
        bodies: dict[_Range, bytes | PayloadError] = {}
        for run in _runs(sorted(places)):
            first, last = run[0], run[-1]
            try:
                body = self._session.payloads.calls(
                    first.status_id, first.start, last.start + last.length - first.start
                )
            except PayloadError as error:
                bodies.update(dict.fromkeys(run, error))
                continue
            for place in run:
                start = place.start - first.start
                bodies[place] = body[start : start + place.length]  # not copied if it is the whole body
        return bodies


def _name(wanted: Wanted) -> _BlockName:
    status, block = wanted.status, wanted.block
    return wanted.ref.status_id, block.first, block.n, status.functions[block.function], block.place


def _range(wanted: Wanted) -> _Range:
    place = wanted.block.place
    assert isinstance(place, Located)  # the caller has checked that the block is not inline  # noqa: S101
    return _Range(wanted.ref.status_id, place.start, place.length)


def _n_apart(block: CallBlock) -> int:
    return block.place.length if isinstance(block.place, Located) else 0


def _in_pieces(call: bytes, wanted: Wanted, position: int) -> _Opened:
    if not call:
        return _of_task(PayloadError("a task without its call"), wanted, position)
    try:
        parts = pieces.decode(call)
    except RecordInvalid as error:
        return error
    refs = tuple(part for part in parts or () if isinstance(part, Piece))
    shared = tuple(part for part in parts or () if isinstance(part, Shared))
    results = tuple(part for part in parts or () if isinstance(part, Result))
    return _InPieces(call, refs, shared, results, _task_of(wanted, position))


def _of_task(trouble: Trouble, wanted: Wanted, position: int) -> Trouble:
    """Return the error of a block for one of its tasks."""
    return type(trouble)(f"{trouble}: task={_task_of(wanted, position)}")


def _task_of(wanted: Wanted, position: int) -> str:
    return task_id(wanted.ref.ordinal, wanted.ref.first + position)


def _n_new(opened: Iterable[_Opened]) -> Iterator[int]:
    """Yield for each call the bytes of its pieces that no earlier call has."""
    names: set[bytes] = set()
    for call in opened:
        refs = [ref for ref in call.refs if ref.name not in names] if isinstance(call, _InPieces) else []
        names.update(ref.name for ref in refs)
        yield sum(ref.length for ref in refs)


def _n_fitting(sizes: Iterable[int], at_most: int) -> int:
    """Return how many of these sizes it takes to reach `at_most`; all of them if they do not reach it."""
    n_bytes = n_fit = 0
    for size in sizes:
        n_fit += 1
        n_bytes += size
        if n_bytes >= at_most:
            break
    return n_fit


def _runs(places: Iterable[_Range]) -> Iterator[list[_Range]]:
    """Join adjacent ranges of one object."""
    run: list[_Range] = []
    for place in places:
        last = run[-1] if run else None
        follows = last is not None and (place.status_id, place.start) == (last.status_id, last.start + last.length)
        if run and not (follows and place.start + place.length - run[0].start <= _RUN_BYTES):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _arrived(opened: _InPieces, bodies: Mapping[bytes, bytes | Trouble]) -> Arrived | Trouble:
    arrived = []
    for ref in opened.refs:
        body = bodies[ref.name]
        if not isinstance(body, bytes):
            return type(body)(f"{body}: task={opened.task_id}")
        arrived.append((ref.name, body))
    return Arrived(opened.call, tuple(arrived), opened.shared, opened.results)
