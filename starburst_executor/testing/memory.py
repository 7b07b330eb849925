"""MemoryStore: the reference object store. It keeps every promise of `store/base.py` in as few lines as possible.

It exists only in its process; after this module is imported, `memory://name` opens the same store anywhere in that
process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError, ObjectNotFound, PreconditionFailed
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.store.open import register_scheme

__all__ = ["MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Object:
    body: bytes
    etag: str
    modified_at: float


class MemoryStore:
    """Objects in a dictionary. Thread-safe; not visible to other processes.

    Args:
        name: The last part of its URL; a new name by default.
        clock: Gives the time of each write and the ETags.
    """

    def __init__(self, name: str | None = None, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._name = name or self._clock.new_id()
        self._lock = threading.Lock()  # guards: _objects
        self._objects: dict[str, _Object] = {}
        _stores[self._name] = self

    def __repr__(self) -> str:
        return f"MemoryStore({self._name!r})"

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    @property
    def limiter(self) -> None:
        return None

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._read(key, start, length)

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        stored = self._read(key, start, length)
        return None if stored.etag == etag else stored

    def create(self, key: str, body: Body) -> str:
        made = self._made(body)
        with self._lock:
            if key in self._objects:
                raise PreconditionFailed(f"there is an object already: {self.url}/{key}")
            self._objects[key] = made
        return made.etag

    def swap(self, key: str, body: Body, expected: str) -> str:
        made = self._made(body)
        with self._lock:
            found = self._objects.get(key)
            if found is None:
                raise ObjectNotFound(f"no such object: {self.url}/{key}")
            if found.etag != expected:
                raise PreconditionFailed(f"another writer was first: {self.url}/{key}")
            self._objects[key] = made
        return made.etag

    def put(self, key: str, body: Body) -> str:
        made = self._made(body)
        with self._lock:
            self._objects[key] = made
        return made.etag

    def list_folders(self, prefix: str) -> list[str]:
        with self._lock:
            rests = [key[len(prefix) :] for key in self._objects if key.startswith(prefix)]
        return sorted({rest.partition("/")[0] for rest in rests if "/" in rest})

    def list(self, prefix: str) -> list[Listed]:
        with self._lock:
            found = [(key, stored) for key, stored in self._objects.items() if key.startswith(prefix)]
        return sorted(Listed(key, len(stored.body), stored.etag, stored.modified_at) for key, stored in found)

    def delete(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                self._objects.pop(key, None)

    def close(self) -> None:
        """Do nothing: the objects stay for the next `memory://` URL of this name."""

    def _read(self, key: str, start: int, length: int | None) -> Stored:
        found = self._objects.get(key)  # unlocked: one look-up
        if found is None:
            raise ObjectNotFound(f"no such object: {self.url}/{key}")
        return Stored(found.body[start : None if length is None else start + length], found.etag)

    def _made(self, body: Body) -> _Object:
        return _Object(bytes(body), self._clock.new_id(), self._clock.now())


_stores: WeakValueDictionary[str, MemoryStore] = WeakValueDictionary()
_opened: dict[str, MemoryStore] = {}  # keeps stores that were opened by name, as files would be kept


def _open_memory(url: str) -> MemoryStore:
    name = url.removeprefix("memory://")
    if not name or "/" in name:
        raise ConfigError(f"a memory store's URL is memory://<name>: url={url}")
    return _opened.setdefault(name, _stores.get(name) or MemoryStore(name))


register_scheme("memory", _open_memory)
