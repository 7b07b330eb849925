"""Big pieces of a call: bytes that are stored once, by content; every call that contains them refers to them.

    pickled call ──► small ─ BIG ─ small ─ BIG ──► record: small, name and place, small, name and place
                              │             │              (sealed, mostly inline in the status object)
                              └─────────────┴────► `calls/<status_id>` of the first status object that had them

A piece's name is its seal: HMAC-SHA-256 of its bytes under the session's key. So a listing of names reveals nothing about
the contents, equal pieces have equal names, and computing the name again verifies a piece that was read.

A call is either a pickle, which begins with 0x80, or a record of parts, which begins with `R`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.keys import is_status_id
from starburst_executor.protocol.seal import SEAL_BYTES, Sealer

__all__ = ["PIECE_BYTES", "PLACE_BYTES", "Piece", "decode", "encode", "name_of"]

# The standard library's pickler passes bytes, text and arrays of this size to one `write` each instead of buffering them,
# and ends a frame of other data at this size.
PIECE_BYTES = 64 * 1024
# About how many bytes a reference to a piece takes in the record of a call.
PLACE_BYTES = 72
_MARK = b"R"


class Piece(NamedTuple):
    """The location of a piece: `length` bytes from `start` in `calls/<status_id>`."""

    name: bytes
    status_id: str
    start: int
    length: int


def name_of(sealer: Sealer, body: bytes | memoryview) -> bytes:
    """Return the name of these bytes in this session."""
    return sealer.seal("piece", "", body)


def encode(parts: Sequence[bytes | Piece]) -> bytes:
    """Return the record of a call that consists of these parts, in order."""
    packed: bytes = msgpack.packb(parts)
    return _MARK + packed


def decode(call: bytes | memoryview) -> list[bytes | Piece] | None:
    """Return the parts of a call; None if it is a plain pickle. Raises: RecordInvalid."""
    if call[:1] != _MARK:
        return None
    try:
        return [part if type(part) is bytes else _piece(part) for part in msgpack.unpackb(call[1:])]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"a call in pieces that cannot be read: bytes={len(call)}") from error


def _piece(raw: object) -> Piece:
    if type(raw) is not list:
        raise ValueError(raw)
    name, status_id, start, length = raw
    if type(name) is not bytes or len(name) != SEAL_BYTES or type(status_id) is not str or not is_status_id(status_id):
        raise ValueError(raw)
    if type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise ValueError(raw)
    return Piece(name, status_id, start, length)
