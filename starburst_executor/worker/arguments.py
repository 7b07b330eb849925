"""The calls of a slice as a worker gets them: read together, their big pieces once by content.

    entries ──► records (inline, or `calls/`) ──► pieces that nobody here has ──► one GET per contiguous range
                                                     ▲                               │
                                 kept, by name ──────┴───────────────────────────────┘

Guarantee: a record's seal and a piece's name were checked before anybody gets them. Of several slots that want a piece
at the same time one reads it. What is kept is bounded; beyond that, what was not wanted for longest goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from hmac import compare_digest
from typing import NamedTuple, TypeAlias

from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol import pieces
from starburst_executor.protocol.keys import GroupRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.status import Located
from starburst_executor.session.store import SessionStore

__all__ = ["Arguments", "Arrived", "Wanted"]

# Kept for calls to come, besides what the calls at hand need: as much as a client keeps unsent.
_KEPT_BYTES = 256 * 2**20
# Ranges beside each other are read together up to so many bytes; they are in memory twice for a moment.
_RUN_BYTES = 16 * 2**20

Trouble: TypeAlias = PayloadError | RecordInvalid


class Wanted(NamedTuple):
    """A call as its entry has it, and the label of its seal."""

    ref: GroupRef
    call: bytes | Located
    label: str


class Arrived(NamedTuple):
    """A call to hand to a runner: as `calls.load_call` reads it, and its pieces by name."""

    call: bytes
    pieces: tuple[tuple[bytes, bytes], ...]


class _Place(NamedTuple):
    group_id: str
    start: int
    length: int


class _Opened(NamedTuple):
    """A call whose seal was checked, and the pieces that it refers to."""

    call: bytes
    refs: tuple[Piece, ...]


class _Reading:
    """A piece that a slot is reading."""

    __slots__ = ("body", "is_done")

    def __init__(self) -> None:
        self.is_done = threading.Event()
        self.body: bytes | None = None


class Arguments:
    """Reads calls. Thread-safe."""

    def __init__(self, session: SessionStore, *, keep_bytes: int = _KEPT_BYTES) -> None:
        self._session = session
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()  # guards everything below
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._n_bytes = 0
        self._reading: dict[bytes, _Reading] = {}

    def get(self, wanted: Sequence[Wanted], at_most: int) -> list[Arrived | Trouble]:
        """The first of these calls, or what is wrong with them: at least one, then as many as have `at_most` bytes.

        Store: nothing for small calls; else 1 GET for each contiguous range of what is not kept.
        """
        some = wanted[: _n_fitting((_n_apart(each.call) for each in wanted), at_most)]
        places = {_place(each) for each in some if isinstance(each.call, Located)}
        stored = self._read(places) if places else {}
        opened = [self._opened(each, stored) for each in some]
        if not any(isinstance(each, _Opened) and each.refs for each in opened):
            return [Arrived(each.call, ()) if isinstance(each, _Opened) else each for each in opened]
        del opened[_n_fitting(_n_new(opened), at_most) :]
        refs = {ref.name: ref for each in opened if isinstance(each, _Opened) for ref in each.refs}
        found = self._pieces(refs)
        return [_arrived(each, was, found) for each, was in zip(opened, wanted, strict=False)]

    def _opened(self, wanted: Wanted, stored: Mapping[_Place, bytes | PayloadError]) -> _Opened | Trouble:
        body = stored[_place(wanted)] if isinstance(wanted.call, Located) else wanted.call
        if isinstance(body, PayloadError):
            return PayloadError(f"{body}: call={wanted.label}")
        try:
            call = bytes(self._session.sealer.open_sealed("call", wanted.label, body))
            parts = pieces.decode(call)
        except RecordInvalid as error:
            return error
        return _Opened(call, () if parts is None else tuple(part for part in parts if isinstance(part, Piece)))

    def _pieces(self, wanted: Mapping[bytes, Piece]) -> dict[bytes, bytes | Trouble]:
        found: dict[bytes, bytes | Trouble] = {}
        mine: dict[bytes, _Reading] = {}
        others: dict[bytes, _Reading] = {}
        with self._lock:
            for name in wanted:
                if (body := self._kept.get(name)) is not None:
                    self._kept.move_to_end(name)
                    found[name] = body
                elif (reading := self._reading.get(name)) is not None:
                    others[name] = reading
                else:
                    mine[name] = self._reading[name] = _Reading()
            self._make_room(sum(wanted[name].length for name in mine), wanted)
        try:
            stored = self._read({_Place(*wanted[name][1:]) for name in mine})
            for name, reading in mine.items():
                found[name] = checked = self._checked(wanted[name], stored)
                reading.body = checked if isinstance(checked, bytes) else None
        finally:
            with self._lock:
                for name, reading in mine.items():
                    del self._reading[name]
                    if reading.body is not None:
                        self._kept[name] = reading.body
                        self._n_bytes += len(reading.body)
            for reading in mine.values():
                reading.is_done.set()
        # Ours are read by now, so that two slots that wait for each other's do not wait for ever.
        for name, reading in others.items():
            reading.is_done.wait()
            found[name] = self._pieces({name: wanted[name]})[name] if reading.body is None else reading.body
        return found

    def _checked(self, piece: Piece, stored: Mapping[_Place, bytes | PayloadError]) -> bytes | Trouble:
        body = stored[_Place(*piece[1:])]
        if isinstance(body, bytes) and not compare_digest(pieces.name_of(self._session.sealer, body), piece.name):
            return RecordInvalid(
                f"a piece of a call is not what its name says and was not unpickled: {piece.group_id}, "
                f"start={piece.start}, bytes={len(body)}; it was changed, cut, or written with another key"
            )
        return body

    def _make_room(self, n_bytes: int, but: Container[bytes]) -> None:
        while self._kept and self._n_bytes + n_bytes > self._keep_bytes:
            oldest = next(iter(self._kept))
            if oldest in but:
                return  # these were asked for just now, and so was all that follows
            self._n_bytes -= len(self._kept.pop(oldest))

    def _read(self, places: Iterable[_Place]) -> dict[_Place, bytes | PayloadError]:
        found: dict[_Place, bytes | PayloadError] = {}
        for run in _runs(sorted(places)):
            first, last = run[0], run[-1]
            try:
                body = self._session.calls(first.group_id, first.start, last.start + last.length - first.start)
            except PayloadError as error:
                found.update(dict.fromkeys(run, error))
                continue
            for place in run:
                start = place.start - first.start
                found[place] = body[start : start + place.length]  # the same object if it is all
        return found


def _place(wanted: Wanted) -> _Place:
    assert isinstance(wanted.call, Located)  # the caller has asked  # noqa: S101
    return _Place(wanted.ref.group_id, wanted.call.start, wanted.call.length)


def _n_apart(call: bytes | Located) -> int:
    return call.length if isinstance(call, Located) else 0


def _n_new(opened: Iterable[_Opened | Trouble]) -> Iterator[int]:
    """How many bytes of pieces each call has that those before it do not have."""
    seen: set[bytes] = set()
    for each in opened:
        refs = [ref for ref in each.refs if ref.name not in seen] if isinstance(each, _Opened) else []
        seen.update(ref.name for ref in refs)
        yield sum(ref.length for ref in refs)


def _n_fitting(sizes: Iterable[int], at_most: int) -> int:
    """How many of these it takes to reach `at_most`, or how many there are."""
    n_bytes = n_fit = 0
    for size in sizes:
        n_fit += 1
        n_bytes += size
        if n_bytes >= at_most:
            break
    return n_fit


def _runs(places: Iterable[_Place]) -> Iterator[list[_Place]]:
    """Ranges of one object that follow upon each other, gathered."""
    run: list[_Place] = []
    for place in places:
        last = run[-1] if run else None
        follows = last is not None and (place.group_id, place.start) == (last.group_id, last.start + last.length)
        if run and not (follows and place.start + place.length - run[0].start <= _RUN_BYTES):
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _arrived(opened: _Opened | Trouble, wanted: Wanted, found: Mapping[bytes, bytes | Trouble]) -> Arrived | Trouble:
    if not isinstance(opened, _Opened):
        return opened
    got = []
    for ref in opened.refs:
        body = found[ref.name]
        if not isinstance(body, bytes):
            return type(body)(f"{body}: call={wanted.label}")
        got.append((ref.name, body))
    return Arrived(opened.call, tuple(got))
