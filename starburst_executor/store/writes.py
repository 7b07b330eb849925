"""Resolves conditional writes whose answers are unclear. Only this module decides what became of such a write.

An unclear try (no answer, a reset, 409, 5xx) may have landed, may still land, or may never land. So:

1. The same bytes are sent again under the same condition until an answer is clear. They land at most once: the first
   to land changes the ETag, and all others find it changed.
2. A refusal of the first, answered try is a lost race: `PreconditionFailed(unclear=False)`.
3. A refusal after an unclear try may be caused by this write itself. The object is read: if it equals this body byte for
   byte, the write landed; otherwise `PreconditionFailed(unclear=True)`, since the write may have landed and been
   replaced, and the caller looks for its own mark. Each body has a fresh nonce, so no two writers have equal bodies.
4. If a second try is unclear too, the object is read before each further one, unless the last try was refused because the
   store is busy: then the extra read would add to the load. Once its ETag differs from the expected one, (3) decides. Guarantee: until it differs, nothing is concluded; the first try may land at any moment.

Source: docs/design/0001-protocol.md, "Conditional writes".
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from starburst_executor.errors import ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.store.base import Body, Stored
from starburst_executor.store.tries import Tries

__all__ = ["Write"]

_COMPARED_AT_ONCE = 16 << 20


class Write:
    """One conditional write: a create if `expected` is None, otherwise a swap. Not thread-safe."""

    __slots__ = ("_body", "_expected", "_key", "_n_unclear", "_tries", "_was_busy")

    def __init__(self, tries: Tries, key: str, body: Body, expected: str | None) -> None:
        self._tries = tries
        self._key = key
        self._body = body
        self._expected = expected
        self._n_unclear = 0
        self._was_busy = False

    def attempt(self) -> str:
        """Try once more, and return the ETag if the write has landed.

        Raises: PreconditionFailed, ObjectNotFound: it will not land. StoreUnavailable: unclear, call again.
        """
        if self._n_unclear > 1 and not self._was_busy:
            with suppress(StoreUnavailable):
                if (etag := self._landed()) is not None:
                    return etag
        try:
            if self._expected is None:
                return self._tries.create(self._key, self._body)
            return self._tries.swap(self._key, self._body, self._expected)
        except StoreUnavailable as error:
            self._n_unclear += 1
            self._was_busy = error.is_busy
            raise
        except PreconditionFailed as refusal:
            if self._n_unclear == 0:
                self._tries.requests.count("lost_races")
                raise
            etag = self._landed()
            if etag is None:
                raise self._moved_on() from refusal
            return etag

    def _landed(self) -> str | None:
        """Read the object and return the ETag under which the write has landed; None if the read proves nothing.

        Raises: PreconditionFailed if the object is another one: the expected ETag will not come back.
        """
        try:
            stored = self._read_sample()
        except ObjectNotFound:
            if self._expected is None:
                return None
            raise
        if stored is None:
            return None
        if self._is_same(stored):
            return stored.etag
        raise self._moved_on()

    def _read_sample(self) -> Stored | None:
        """Read the part of the object to compare first; None if its ETag is the expected one.

        All of it, or the end of a big object, which also shows its size.
        """
        n_bytes = len(self._body)
        start, length = (0, None) if n_bytes <= _COMPARED_AT_ONCE else (n_bytes - 1, 2)
        if self._expected is None:
            return self._tries.get(self._key, start, length)
        return self._tries.get_if_changed(self._key, self._expected, start, length)

    def _is_same(self, sample: Stored) -> bool:
        """Whether the object equals the body byte for byte."""
        n_bytes = len(self._body)
        if n_bytes <= _COMPARED_AT_ONCE:
            return sample.body == self._body
        if len(sample.body) != 1:
            return False
        view = memoryview(self._body)
        for start in range(0, n_bytes, _COMPARED_AT_ONCE):
            stored = self._tries.get(self._key, start, _COMPARED_AT_ONCE)
            if stored.etag != sample.etag or stored.body != view[start : start + _COMPARED_AT_ONCE]:
                return False
        return True

    def _moved_on(self) -> PreconditionFailed:
        self._tries.requests.count("lost_races")
        kind: Literal["create", "swap"] = "create" if self._expected is None else "swap"
        return PreconditionFailed(
            f"another write was found after an unclear {kind}: {self._tries.store.url}/{self._key}", unclear=True
        )
