"""Reads the calls of a slice: all of them together, and each big piece once.

    entries ──► records (inline, or `calls/`) ──► pieces that are not kept ──────► one GET per contiguous range
                                                     ▲                               │
                                 kept, by name ──────┴───────────────────────────────┘

Guarantee: a record's seal and a piece's name are verified before either is returned. If several slots want a piece at the
same time, one of them reads it. The bytes kept are bounded; the least recently used pieces are dropped first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from hmac import compare_digest
from typing import NamedTuple, TypeAlias, cast

from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol import pieces
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.status import Located
from starburst_executor.session.store import SessionStore

__all__ = ["Arrived", "CallReader", "Wanted"]

# Bytes kept for later calls, in addition to those of the current calls: as many as a client keeps unsent.
_KEPT_BYTES = 256 * 2**20
# Adjacent ranges are read together up to this many bytes; they are in memory twice for a moment.
_RUN_BYTES = 16 * 2**20

Trouble: TypeAlias = PayloadError | RecordInvalid


class Wanted(NamedTuple):
    """A call as stored in its entry, and the label of its seal."""

    ref: StatusRef
    call: bytes | Located
    label: str


class Arrived(NamedTuple):
    """A call for a runner: its bytes for `calls.load_call`, and its pieces by name."""

    call: bytes
    pieces: tuple[tuple[bytes, bytes], ...]


class _Place(NamedTuple):
    status_id: str
    start: int
    length: int


class _Opened(NamedTuple):
    """A call in pieces whose seal has been verified, and the pieces to which it refers."""

    call: bytes
    refs: tuple[Piece, ...]


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
        self._lock = threading.Lock()  # guards: _kept, _n_bytes, _reading
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._n_bytes = 0
        self._reading: dict[bytes, _Reading] = {}

    def get(self, wanted: Sequence[Wanted], at_most: int) -> list[Arrived | Trouble]:
        """Return the first of these calls, or the error of each: at least one, up to `at_most` bytes in all.

        Store: nothing for small calls; otherwise 1 GET for each contiguous range that is not kept.
        """
        stored: dict[_Place, bytes | PayloadError] = {}
        # Most calls are inline and have no pieces: nothing is then counted or looked up for them.
        if any([isinstance(want.call, Located) for want in wanted]):  # noqa: C419 - half the time of a generator
            wanted = wanted[: _n_fitting((_n_apart(want.call) for want in wanted), at_most)]
            stored = self._read({_place(want) for want in wanted if isinstance(want.call, Located)})
        opened = [self._opened(want, stored) for want in wanted]
        if not any([isinstance(call, _Opened) for call in opened]):  # noqa: C419 - the same
            return cast("list[Arrived | Trouble]", opened)
        del opened[_n_fitting(_n_new(opened), at_most) :]
        refs = {ref.name: ref for call in opened if isinstance(call, _Opened) for ref in call.refs}
        bodies = self._pieces(refs)
        return [_arrived(call, want, bodies) for call, want in zip(opened, wanted, strict=False)]

    def _opened(self, wanted: Wanted, stored: Mapping[_Place, bytes | PayloadError]) -> _Opened | Arrived | Trouble:
        body = stored[_place(wanted)] if isinstance(wanted.call, Located) else wanted.call
        if isinstance(body, PayloadError):
            return PayloadError(f"{body}: call={wanted.label}")
        try:
            call = bytes(self._session.sealer.open_sealed("call", wanted.label, body))
            parts = pieces.decode(call)
        except RecordInvalid as error:
            return error
        if parts is None:
            return Arrived(call, ())
        return _Opened(call, tuple(part for part in parts if isinstance(part, Piece)))

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
            stored = self._read({_Place(*wanted[name][1:]) for name in started})
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

    def _checked(self, piece: Piece, stored: Mapping[_Place, bytes | PayloadError]) -> bytes | Trouble:
        body = stored[_Place(*piece[1:])]
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

    def _read(self, places: Iterable[_Place]) -> dict[_Place, bytes | PayloadError]:
        bodies: dict[_Place, bytes | PayloadError] = {}
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


def _place(wanted: Wanted) -> _Place:
    assert isinstance(wanted.call, Located)  # the caller has checked  # noqa: S101
    return _Place(wanted.ref.status_id, wanted.call.start, wanted.call.length)


def _n_apart(call: bytes | Located) -> int:
    return call.length if isinstance(call, Located) else 0


def _n_new(opened: Iterable[_Opened | Arrived | Trouble]) -> Iterator[int]:
    """Yield for each call the bytes of its pieces that no earlier call has."""
    names: set[bytes] = set()
    for call in opened:
        refs = [ref for ref in call.refs if ref.name not in names] if isinstance(call, _Opened) else []
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


def _runs(places: Iterable[_Place]) -> Iterator[list[_Place]]:
    """Join adjacent ranges of one object."""
    run: list[_Place] = []
    for place in places:
        last = run[-1] if run else None
        follows = last is not None and (place.status_id, place.start) == (last.status_id, last.start + last.length)
        if run and not (follows and place.start + place.length - run[0].start <= _RUN_BYTES):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _arrived(
    opened: _Opened | Arrived | Trouble, wanted: Wanted, bodies: Mapping[bytes, bytes | Trouble]
) -> Arrived | Trouble:
    if not isinstance(opened, _Opened):
        return opened
    arrived = []
    for ref in opened.refs:
        body = bodies[ref.name]
        if not isinstance(body, bytes):
            return type(body)(f"{body}: call={wanted.label}")
        arrived.append((ref.name, body))
    return Arrived(opened.call, tuple(arrived))
