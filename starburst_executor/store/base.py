"""The interface between the protocol and its storage.

An `ObjectStore` is a flat namespace of objects with conditional writes. It makes *one* try per call and reports the
result: done, refused (`PreconditionFailed`, `ObjectNotFound`, `AccessDenied`) or unclear (`StoreUnavailable`: the write
may have landed, or may still land). `store/patient.py` alone retries, and `store/writes.py` resolves unclear answers.

ETags are opaque: compared for equality, never ordered or parsed. Listings are sorted by key in every store.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from starburst_executor.store.limiter import Limiter

__all__ = ["Body", "Listed", "ObjectStore", "Stored"]

Body: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as read: its bytes (or the requested range) and their ETag."""

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
        """The URL from which `open_store` opens this store again; without credentials."""

    @property
    def limiter(self) -> Limiter | None:
        """The limits of this process's requests to the store's service; None if the service never refuses for load."""

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        """Read an object, or `length` bytes of it from `start`. Raises: ObjectNotFound."""

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        """Read an object like `get`, or return None if its ETag still is `etag`. Raises: ObjectNotFound."""

    def create(self, key: str, body: Body) -> str:
        """Write an object that does not exist; return its ETag. Raises: PreconditionFailed if it exists."""

    def swap(self, key: str, body: Body, expected: str) -> str:
        """Replace the object whose ETag is `expected`; return the new ETag.

        Raises: PreconditionFailed if the ETag differs, ObjectNotFound if there is no object.
        """

    def put(self, key: str, body: Body) -> str:
        """Write an object whether or not it exists; return its ETag."""

    def list_folders(self, prefix: str) -> list[str]:
        """Return the names between `prefix` and the next "/", each once, sorted. `prefix` ends in "/"."""

    def list(self, prefix: str) -> list[Listed]:
        """Return every object whose key starts with `prefix`, from all pages, sorted by key. `prefix` ends in "/"."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete these objects; missing ones are ignored."""

    def close(self) -> None:
        """Release connections and files. A second call is harmless; other calls afterwards are not allowed."""
