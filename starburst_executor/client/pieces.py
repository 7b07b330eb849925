"""The big pieces of calls in a submitting client: each in memory once, and stored once, by content.

    dump_call_in_parts ──keep──► KeptPiece ──place──► its object is chosen ──stored──► its body is released
                                    ▲                  (by the first sender)
                                    └── the same bytes again: the same piece

Pickling decides which calls share a piece; sending the first of these calls decides in which object it is stored. So no
call relies on a piece of another call that was cancelled before it was sent.

Guarantee: a known piece is neither copied nor stored again. This module keeps no body that no unsent call needs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from weakref import WeakValueDictionary

from starburst_executor.protocol import pieces
from starburst_executor.protocol.pieces import PLACE_BYTES, Piece, Result, Shared
from starburst_executor.protocol.seal import Sealer

__all__ = ["BigCall", "KeptPiece", "Pieces"]

# At least this number of stored pieces are remembered, so that equal bytes find them: 256 MB of pieces in 1 MB of memory.
_REMEMBERED = 4096


class KeptPiece:
    """Bytes to which calls refer. Only `Pieces` changes its fields.

    Attributes:
        body: The bytes, until they are stored.
        place: Where they are stored or will be; None until a sender begins to store them.
        is_stored: Set once the store has acknowledged them.
    """

    __slots__ = ("__weakref__", "body", "is_counted", "is_stored", "name", "place")

    def __init__(self, name: bytes, body: bytes) -> None:
        self.name = name
        self.body = body
        self.place: Piece | None = None
        self.is_stored = threading.Event()
        self.is_counted = False


class BigCall:
    """A pickled call with big pieces. Its length is the memory that it occupies; a shared piece counts for its first call.

    Attributes:
        parts: The parts of the pickle, in order.
    """

    __slots__ = ("_n_bytes", "parts")

    def __init__(self, parts: Sequence[bytes | KeptPiece | Shared | Result]) -> None:
        self.parts = parts
        self._n_bytes = sum(map(_n_waiting, parts))

    def __len__(self) -> int:
        return self._n_bytes


def _n_waiting(part: bytes | KeptPiece | Shared | Result) -> int:
    if isinstance(part, bytes):
        return len(part)
    if isinstance(part, (Shared, Result)):
        return PLACE_BYTES
    is_new, part.is_counted = not part.is_counted, True
    return len(part.body) if is_new else PLACE_BYTES


class Pieces:
    """The known pieces, by content. Thread-safe."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._lock = threading.Lock()  # guards: _known, _remembered, every `place` and `body`
        self._known: WeakValueDictionary[bytes, KeptPiece] = WeakValueDictionary()
        self._remembered: deque[KeptPiece] = deque(maxlen=_REMEMBERED)

    def keep(self, body: bytes | memoryview) -> KeptPiece:
        """Return the piece for these bytes; new bytes are copied if they may change."""
        name = pieces.name_of(self._sealer, body)
        with self._lock:
            known = self._known.get(name)
        if known is not None:
            return known
        fresh = KeptPiece(name, bytes(body))  # copied outside the lock
        with self._lock:
            return self._known.setdefault(name, fresh)

    def place(self, piece: KeptPiece, status_id: str, start: int) -> bytes | None:
        """Return the piece's body, which the caller must store there; None if another caller has stored it or is storing it."""
        with self._lock:
            if piece.place is not None:
                return None
            piece.place = Piece(piece.name, status_id, start, len(piece.body))
            return piece.body

    def stored(self, placed: Sequence[KeptPiece]) -> None:
        """Record that the store has acknowledged these pieces."""
        with self._lock:
            for piece in placed:
                piece.body = b""
                self._remembered.append(piece)
        for piece in placed:
            piece.is_stored.set()
