"""The one seam between the protocol and where its bytes are.

An `ObjectStore` is a flat namespace of objects with conditional writes. It makes *one* try per call and answers
honestly: done, refused (`PreconditionFailed`, `ObjectNotFound`, `AccessDenied`) or unclear (`StoreUnavailable`: the
write may have landed, or may land yet). Trying again and resolving unclear answers is `store/patient.py`, once for all.

ETags are opaque: equal or not, never ordered or parsed. Listings come back sorted by key, whatever the backend does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

__all__ = ["Body", "Listed", "ObjectStore", "Stored"]

Body: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as read: its bytes (or the range asked for) and the ETag they belong to."""

    body: bytes
    etag: str


class Listed(NamedTuple):
    """One line of a listing. `size` in bytes; `modified_at` is the store's own UTC epoch seconds."""

    key: str
    size: int
    etag: str
    modified_at: float


class ObjectStore(Protocol):
    """Objects with conditional writes. Every method is one try, thread-safe, and safe in a child after a fork.

    Every method may raise `StoreUnavailable` (no clear answer) and `AccessDenied` (credentials, bucket).
    """

    @property
    def url(self) -> str:
        """The URL that `open_store` makes this store from again; without credentials."""

    def get(self, key: str, *, unless: str | None = None, start: int = 0, length: int | None = None) -> Stored | None:
        """Read an object, or `length` bytes of it from `start`; None if its ETag still is `unless`.

        Raises: ObjectNotFound.
        """

    def create(self, key: str, body: Body) -> str:
        """Write an object that is not there; return its ETag. Raises: PreconditionFailed if it is there."""

    def swap(self, key: str, body: Body, expected: str) -> str:
        """Replace the object whose ETag is `expected`; return the new ETag.

        Raises: PreconditionFailed if the ETag differs, ObjectNotFound if there is no object.
        """

    def put(self, key: str, body: Body) -> str:
        """Write an object whatever is there; return its ETag."""

    def list_folders(self, prefix: str) -> list[str]:
        """The names between `prefix` and the next "/", each once, sorted. `prefix` ends in "/"."""

    def list(self, prefix: str) -> list[Listed]:
        """Every object whose key starts with `prefix`, all pages, sorted by key. `prefix` ends in "/"."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these objects; those that are not there are passed over."""

    def close(self) -> None:
        """Let go of connections and files. A second call is harmless; other calls afterwards are not allowed."""
