"""Gathers the calls of one entry of the log of keys: pickles them, and stores those that are not small in an object of their own.

The object's key belongs to no status object, since the entry under which its calls come may turn out to be another client's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from starburst_executor.client.pieces import BigCall, KeptPiece, Pieces
from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.pieces import Piece, Result, Shared
from starburst_executor.protocol.records.once import MOST_KEYS
from starburst_executor.session.store import SessionStore

__all__ = ["LEAST_INLINE_BYTES", "Gathered", "gather", "sizes_of"]

# An entry ends before its calls take more memory than this.
_MOST_BYTES = 64 * 2**20
# The records of the calls of an entry are in the entry itself up to this size: one request less.
_IN_ENTRY_BYTES = 64 * 1024
# Bytes of calls inside a status object: each claim and commit rewrites the object.
_INLINE_BYTES = 64 * 1024
_LEAST_STATUS, _MOST_STATUS = 5, 256
# A call below this size is always inline: a reference to it would not be much smaller.
LEAST_INLINE_BYTES = 512
# Ordinals are far fewer, so no status object's calls have such a key.
_NO_ORDINAL = 0xFFFF


class _Call(Protocol):
    @property
    def args(self) -> tuple[Any, ...]: ...
    @property
    def kwargs(self) -> Any: ...


class Gathered(NamedTuple):
    """Calls that are stored, or small enough to be part of the entry.

    Attributes:
        keys: Their keys' digests.
        records: Their records, as `calls.load_call` reads them.
        calls_id: The object that holds the records, and pieces; empty if none is needed.
        start: Where the records begin in it.
        name: The records' name.
    """

    keys: list[bytes]
    records: list[bytes]
    calls_id: str = ""
    start: int = 0
    name: bytes = b""


def gather(
    wanted: Sequence[tuple[bytes, _Call]], session: SessionStore, known: Pieces, place_of: Callable[[Result], Result]
) -> Gathered:
    """Pickle the first of these calls: up to 10,000, or 64 MB; store them if they are not small.

    Args:
        place_of: Completes the result of another task that a call needs by the place of that task.

    Raises: any exception of pickling. Store: 1 create for calls that are not small.
    """
    calls_id = f"{_NO_ORDINAL:04x}.{session.clock.new_id(5)}"
    keys: list[bytes] = []
    records: list[bytes] = []
    bodies: list[bytes] = []
    placed: list[KeptPiece] = []
    n_bytes = n_placed = 0
    for key, call in wanted[:MOST_KEYS]:
        parts = calls.dump_call_in_parts(call.args, dict(call.kwargs), known.keep)
        if not isinstance(parts, bytes):
            n_bytes += len(BigCall(parts))
            located: list[bytes | Piece | Shared | Result] = []
            for part in parts:
                if isinstance(part, KeptPiece):
                    body = known.place(part, calls_id, n_placed)
                    if body is not None:
                        bodies.append(body)
                        placed.append(part)
                        n_placed += len(body)
                    assert part.place is not None  # `place` has set it  # noqa: S101
                    located.append(part.place)
                else:
                    located.append(place_of(part) if isinstance(part, Result) else part)
            parts = pieces.encode(located)
        keys.append(key)
        records.append(parts)
        n_bytes += len(parts)
        if n_bytes > _MOST_BYTES:
            break
    n_records = sum(map(len, records))
    is_small = n_records <= _IN_ENTRY_BYTES and max(map(len, records)) <= LEAST_INLINE_BYTES
    if is_small and not bodies:
        return Gathered(keys, records)
    joined = b"".join(records)
    session.store.create(session.keys.calls(calls_id), b"".join([*bodies, joined]))
    known.stored(placed)
    return Gathered(keys, records, calls_id, n_placed, pieces.name_of(session.sealer, joined))


def sizes_of(records: Sequence[bytes], slots: int) -> tuple[int, ...]:
    """Return how many of these calls each status object gets: about two objects per worker, none with too many bytes."""
    most = min(_MOST_STATUS, max(_LEAST_STATUS, len(records) // (2 * max(1, slots))))
    sizes: list[int] = []
    n_tasks = n_bytes = 0
    for record in records:
        # A pickle that is not small is replaced by its place.
        n_inline = len(record) if pieces.decode(record) is not None else min(len(record), LEAST_INLINE_BYTES)
        if n_tasks and (n_tasks >= most or n_bytes + n_inline > _INLINE_BYTES):
            sizes.append(n_tasks)
            n_tasks = n_bytes = 0
        n_tasks += 1
        n_bytes += n_inline
    return (*sizes, n_tasks)
