"""The big pieces of calls as a submitting client has them: each in memory once, stored once, by content.

    dump_call_in_parts ──keep──► KeptPiece ──place──► where it will be ──stored──► its body is let go
                                    ▲                       (by whoever sends first)
                                    └── the same bytes again: the same piece

Which calls share a piece is decided when it is pickled, where it is stored when its first call is sent: a call that is
cancelled before that stores nothing that others rely on.

Guarantee: a piece that is known is neither copied nor stored again. Nothing here keeps a body that no unsent call needs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from weakref import WeakValueDictionary

from starburst_executor.protocol import pieces
from starburst_executor.protocol.pieces import PLACE_BYTES, Piece
from starburst_executor.protocol.seal import Sealer

__all__ = ["BigCall", "KeptPiece", "Pieces"]

# Pieces that are found again after they were stored, at least so many: 256 MB of them, and 1 MB of memory.
_REMEMBERED = 4096


class KeptPiece:
    """Bytes that calls refer to. Its fields are changed by `Pieces` alone.

    Attributes:
        body: The bytes, until they are stored.
        place: Where they are or will be; None while nobody has begun to store them.
        is_stored: Set when they were acknowledged.
    """

    __slots__ = ("__weakref__", "body", "is_counted", "is_stored", "name", "place")

    def __init__(self, name: bytes, body: bytes) -> None:
        self.name = name
        self.body = body
        self.place: Piece | None = None
        self.is_stored = threading.Event()
        self.is_counted = False


class BigCall:
    """A pickled call with big pieces. Its length is what waits in memory because of it; the first call counts a piece.

    Attributes:
        parts: In order; joined they are the pickle.
    """

    __slots__ = ("_n_bytes", "parts")

    def __init__(self, parts: Sequence[bytes | KeptPiece]) -> None:
        self.parts = parts
        self._n_bytes = sum(map(_n_waiting, parts))

    def __len__(self) -> int:
        return self._n_bytes


def _n_waiting(part: bytes | KeptPiece) -> int:
    if isinstance(part, bytes):
        return len(part)
    is_new, part.is_counted = not part.is_counted, True
    return len(part.body) if is_new else PLACE_BYTES


class Pieces:
    """Finds pieces that were there before. Thread-safe."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._lock = threading.Lock()  # guards: _known, _remembered, every `place` and `body`
        self._known: WeakValueDictionary[bytes, KeptPiece] = WeakValueDictionary()
        self._remembered: deque[KeptPiece] = deque(maxlen=_REMEMBERED)

    def keep(self, body: bytes | memoryview) -> KeptPiece:
        """The piece of these bytes, which are copied if they are new and may change."""
        name = pieces.name_of(self._sealer, body)
        with self._lock:
            known = self._known.get(name)
        if known is not None:
            return known
        made = KeptPiece(name, bytes(body))
        with self._lock:
            return self._known.setdefault(name, made)

    def place(self, piece: KeptPiece, group_id: str, start: int) -> bytes | None:
        """The piece's body, to be stored there by the caller; None if another has it, or has it in hand."""
        with self._lock:
            if piece.place is not None:
                return None
            piece.place = Piece(piece.name, group_id, start, len(piece.body))
            return piece.body

    def stored(self, placed: Sequence[KeptPiece]) -> None:
        """These were acknowledged where they were placed."""
        with self._lock:
            for piece in placed:
                piece.body = b""
                self._remembered.append(piece)
        for piece in placed:
            piece.is_stored.set()
