"""The functions of one submitting client: each is stored once, before the first status object that names it."""

from __future__ import annotations

import threading
from collections import deque
from weakref import WeakValueDictionary

__all__ = ["StoredFunction", "StoredFunctions"]

# This number of functions are remembered as stored, in 2 MB of memory; a forgotten one costs one more request.
_REMEMBERED = 4096


class StoredFunction:
    """A function to which calls refer.

    Attributes:
        body: Its pickle, until it is stored.
        is_in_hand: Whether a sender has begun to store it.
        is_stored: Set once the store has acknowledged it.
    """

    __slots__ = ("__weakref__", "body", "digest", "is_in_hand", "is_stored")

    def __init__(self, digest: str, body: bytes) -> None:
        self.digest = digest
        self.body = body
        self.is_in_hand = False
        self.is_stored = threading.Event()


class StoredFunctions:
    """The functions that a queued call needs, and those that were stored last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _known, _remembered, every `body` and `is_in_hand`
        self._known: WeakValueDictionary[str, StoredFunction] = WeakValueDictionary()
        self._remembered: deque[StoredFunction] = deque(maxlen=_REMEMBERED)

    def of(self, digest: str, body: bytes) -> tuple[StoredFunction, bool]:
        """Return the function with this digest, and whether it is new. The caller keeps it alive."""
        with self._lock:
            known = self._known.get(digest)
            if known is not None:
                return known, False
            function = self._known[digest] = StoredFunction(digest, body)
            return function, True

    def take_in_hand(self, function: StoredFunction) -> bool:
        """Return whether the caller must store the function; no other caller gets True for it."""
        with self._lock:
            is_first, function.is_in_hand = not function.is_in_hand, True
            return is_first

    def stored(self, function: StoredFunction) -> None:
        """Record that the store has acknowledged the function."""
        with self._lock:
            function.body = b""
            self._remembered.append(function)
        function.is_stored.set()
