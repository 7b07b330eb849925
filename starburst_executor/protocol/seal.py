"""Seals: HMAC-SHA-256 of everything that will be unpickled, verified before it is unpickled.

A seal binds the bytes to their place: session, kind of payload, and a label that names the object, index, attempt or claim.
So the seal of a payload that is moved to another task, attempt or session no longer matches. A sealed body is the 32 bytes
of the seal, followed by the payload.

Guarantee: `open_sealed` returns bytes only if they were sealed with this key for this place.
"""

from __future__ import annotations

import hashlib
import hmac

from starburst_executor.errors import RecordInvalid

__all__ = ["SEAL_BYTES", "Sealer"]

SEAL_BYTES = 32
_SEPARATOR = b"\0"
# RFC 2104: the two paddings of the key, as tables for `bytes.translate`.
_BLOCK_BYTES = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class Sealer:
    """Seals and opens payloads of one session. Immutable, thread-safe; its `repr` shows no key."""

    __slots__ = ("_inner", "_outer", "has_key", "session_id")

    def __init__(self, key: bytes, session_id: str) -> None:
        self.session_id = session_id
        # Without a key only unsealed fields can be read, such as the number of a session's tasks and their states.
        self.has_key = bool(key)
        # HMAC as its two hashes, keyed once and copied for each payload. The `hmac` module computes the same bytes at
        # twice the cost, and each task is sealed and opened twice.
        block = (key if len(key) <= _BLOCK_BYTES else hashlib.sha256(key).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(block.translate(_INNER) + session_id.encode() + _SEPARATOR)
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def __repr__(self) -> str:
        return f"Sealer(session_id={self.session_id!r})"

    def __reduce__(self) -> str:
        raise TypeError("a sealer holds a key and cannot be pickled")

    def seal(self, kind: str, label: str, *parts: bytes | memoryview) -> bytes:
        """Return the 32 bytes that bind a payload, given in one or several parts, to this session, kind and label.

        Raises: RecordInvalid.
        """
        if "\0" in label:
            # Labels contain text from the store: with a NUL in it, two places could have the same prefix.
            raise RecordInvalid(f"a payload's place contains a NUL: kind={kind}, place={label!r}")
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(f"{kind}\0{label}\0".encode())
        for part in parts:
            inner.update(part)
        outer.update(inner.digest())
        return outer.digest()

    def sealed(self, kind: str, label: str, payload: bytes | memoryview) -> bytes:
        """Return the seal and the payload in one byte string, for payloads that are small enough to copy."""
        return self.seal(kind, label, payload) + payload

    def open_sealed(self, kind: str, label: str, body: bytes | memoryview) -> memoryview:
        """Verify a sealed body and return its payload. Raises: RecordInvalid."""
        view = memoryview(body)
        if len(view) < SEAL_BYTES:
            raise RecordInvalid(f"a sealed payload is cut short: kind={kind}, place={label}, bytes={len(view)}")
        payload = view[SEAL_BYTES:]
        if not hmac.compare_digest(self.seal(kind, label, payload), bytes(view[:SEAL_BYTES])):
            raise RecordInvalid(
                f"a payload has a wrong seal and was not unpickled: kind={kind}, place={label}; it was changed, "
                "moved, or written with another key"
            )
        return payload
