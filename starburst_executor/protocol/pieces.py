"""Big pieces of a call: bytes that are stored once, by content; every call that contains them refers to them.

    pickled call ──► small ─ BIG ─ small ─ BIG ──► record: small, name and place, small, name and place
                              │             │              (sealed, mostly inline in the status object)
                              └─────────────┴────► `calls/<status_id>` of the first status object that had them

A piece's name is its seal: HMAC-SHA-256 of its bytes under the session's key. So a listing of names reveals nothing about
the contents, equal pieces have equal names, and computing the name again verifies a piece that was read.

A call is either a pickle, which begins with 0x80, or a record of parts, which begins with `R`. A record also lists the shared values to which
its pickle refers, and the results of other tasks (`references.py`): they add no bytes to it, and the worker reads them before it runs the call. A function has such a record
if it refers to shared values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.keys import is_status_id
from starburst_executor.protocol.seal import SEAL_BYTES, Sealer

__all__ = ["PIECE_BYTES", "PLACE_BYTES", "Piece", "Result", "Shared", "decode", "encode", "name_of", "shared_in"]

# The standard library's pickler passes bytes, text and arrays of this size to one `write` each instead of buffering them,
# and ends a frame of other data at this size.
PIECE_BYTES = 64 * 1024
# About how many bytes a reference to a piece takes in the record of a call.
PLACE_BYTES = 72
_MARK = b"R"
_SHARED = "shared"
_RESULT = "result"


class Piece(NamedTuple):
    """The location of a piece: `length` bytes from `start` in `calls/<status_id>`."""

    name: bytes
    status_id: str
    start: int
    length: int


class Shared(NamedTuple):
    """A shared value to which a call or a function refers.

    Attributes:
        session_id: The session that has stored it.
        name: 32 bytes; the value is in `shared/<name>/`, in parts of `part_bytes`.
    """

    session_id: str
    name: bytes
    n_bytes: int
    part_bytes: int

    @property
    def n_parts(self) -> int:
        """The number of its parts."""
        return max(1, -(-self.n_bytes // self.part_bytes))


class Result(NamedTuple):
    """The result of another task that a call gets.

    Attributes:
        place: The key of the task's status object, without the prefix of all of them; empty until that is known.
    """

    ordinal: int
    sequence: int
    place: str = ""

    @property
    def name(self) -> bytes:
        """The name under which a runner gets it, among the pieces. A result never changes."""
        return f"result {self.ordinal}-{self.sequence}".encode()


def name_of(sealer: Sealer, body: bytes | memoryview) -> bytes:
    """Return the name of these bytes in this session."""
    return sealer.seal("piece", "", body)


def encode(parts: Sequence[bytes | Piece | Shared | Result]) -> bytes:
    """Return the record of a call that consists of these parts, in order."""
    packed: bytes = msgpack.packb([_marked(part) for part in parts])
    return _MARK + packed


def _marked(part: bytes | Piece | Shared | Result) -> object:
    kind = type(part)
    return (_SHARED, *part) if kind is Shared else (_RESULT, *part) if kind is Result else part


def shared_in(record: bytes | memoryview) -> tuple[Shared, ...]:
    """Return the shared values to which a call or a function refers. Raises: RecordInvalid."""
    parts = decode(record)
    return () if parts is None else tuple(part for part in parts if isinstance(part, Shared))


def decode(call: bytes | memoryview) -> list[bytes | Piece | Shared | Result] | None:
    """Return the parts of a call; None if it is a plain pickle. Raises: RecordInvalid."""
    if call[:1] != _MARK:
        return None
    try:
        return [part if type(part) is bytes else _piece(part) for part in msgpack.unpackb(call[1:])]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"a call in pieces that cannot be read: bytes={len(call)}") from error


def _piece(raw: object) -> Piece | Shared | Result:
    if type(raw) is not list:
        raise ValueError(raw)
    if raw[:1] == [_SHARED]:
        return _shared(*raw[1:])
    if raw[:1] == [_RESULT]:
        return _result(*raw[1:])
    name, status_id, start, length = raw
    if type(name) is not bytes or len(name) != SEAL_BYTES or type(status_id) is not str or not is_status_id(status_id):
        raise ValueError(raw)
    if type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise ValueError(raw)
    return Piece(name, status_id, start, length)


def _shared(session_id: object, name: object, n_bytes: object, part_bytes: object) -> Shared:
    if type(session_id) is not str or type(name) is not bytes or len(name) != SEAL_BYTES:
        raise ValueError(session_id, name)
    if type(n_bytes) is not int or type(part_bytes) is not int or n_bytes < 0 or part_bytes < 1:
        raise ValueError(n_bytes, part_bytes)
    return Shared(session_id, name, n_bytes, part_bytes)


def _result(ordinal: object, sequence: object, place: object) -> Result:
    if type(ordinal) is not int or type(sequence) is not int or type(place) is not str or min(ordinal, sequence) < 0:
        raise ValueError(ordinal, sequence, place)
    return Result(ordinal, sequence, place)
