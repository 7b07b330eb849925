"""One object of a store as a process knows it: the newest version that it read or wrote.

    nothing known ──GET──► version ──GET If-None-Match──► the same (304), or a newer one
                             └──the owner's swap──► newer, by `remember`

Guarantee: the known version never becomes older, in whatever order the answers of several threads arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from starburst_executor.store.base import ObjectStore

__all__ = ["Latest", "Version"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Version(Generic[T]):
    """One version of an object: what its bytes say, its ETag, and the bytes."""

    value: T
    etag: str
    body: bytes


class Latest(Generic[T]):
    """The newest known version of one object. Thread-safe.

    Args:
        decode: Returns what an object's bytes say. What it raises, `read` raises; the known version then stays.
    """

    def __init__(self, store: ObjectStore, key: str, decode: Callable[[bytes], T]) -> None:
        self._store = store
        self._key = key
        self._decode = decode
        self._lock = threading.Lock()  # guards: _version, when it is replaced
        self._version: Version[T] | None = None

    @property
    def version(self) -> Version[T] | None:
        """The newest version; None before the first. No request."""
        return self._version  # unlocked: one reference, replaced as a whole

    @property
    def value(self) -> T | None:
        """The value of the newest version; None before the first. No request."""
        version = self._version  # unlocked: one reference, replaced as a whole
        return None if version is None else version.value

    def read(self) -> Version[T]:
        """Read the object; return its current version, the same object if it is unchanged. Raises: ObjectNotFound. Store: 1 GET, usually a 304."""
        known = self._version  # unlocked: one reference, replaced as a whole
        if known is None:
            stored = self._store.get(self._key)
        elif (changed := self._store.get_if_changed(self._key, known.etag)) is None:
            return known
        else:
            stored = changed
        version = Version(self._decode(stored.body), stored.etag, stored.body)
        self.remember(version, after=known)
        return version

    def remember(self, version: Version[T], *, after: Version[T] | None) -> None:
        """Take a version that was read or written after `after`, unless another one was taken since."""
        with self._lock:
            if self._version is after:
                self._version = version

    def forget(self) -> None:
        """Forget the version, because the object is gone: the next read is unconditional."""
        with self._lock:
            self._version = None
