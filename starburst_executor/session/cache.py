"""Results of calls that are kept beyond their session, by the content of the call: `cache/<name>/<digest>` in a store.

An entry is created once and never changed; a client that comes second leaves the result of the first, of an equal call. It is sealed under the user's key for this cache,
which places it at its digest: an entry that was changed, moved or written by another user counts as absent.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from starburst_executor.errors import ObjectNotFound, PreconditionFailed, RecordInvalid
from starburst_executor.protocol.keys import CACHES, cache_folder, is_name
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import ObjectStore

__all__ = ["Cache", "CacheSize", "cache_sizes", "clear"]

_KIND = "cached result"
_DELETED_AT_ONCE = 1000


class CacheSize(NamedTuple):
    """What a cache holds.

    Attributes:
        oldest_at: When its oldest entry was written, UTC epoch seconds by the store's clock.
    """

    name: str
    n_entries: int
    n_bytes: int
    oldest_at: float
    newest_at: float


class Cache:
    """The entries of one name. Thread-safe.

    Args:
        sealer: Seals entries, under the user's key.
    """

    def __init__(self, store: ObjectStore, sealer: Sealer, name: str) -> None:
        self._store = store
        self._sealer = sealer
        self._folder = cache_folder(name)

    def digests(self) -> set[str]:
        """Return the digests of all entries. Store: 1 LIST per 1,000."""
        return {line.key.removeprefix(self._folder) for line in self._store.list(self._folder)}

    def get(self, digest: str) -> bytes | None:
        """Return the outcome of a call; None if there is none that this user has written. Store: 1 GET."""
        try:
            body = self._store.get(self._folder + digest).body
            return bytes(self._sealer.open_sealed(_KIND, self._folder + digest, body))
        except (ObjectNotFound, RecordInvalid):
            return None

    def put(self, digest: str, outcome: bytes) -> None:
        """Keep an outcome, unless the call has one. Store: 1 create."""
        key = self._folder + digest
        with suppress(PreconditionFailed):
            self._store.create(key, self._sealer.sealed(_KIND, key, outcome))


def cache_sizes(store: ObjectStore) -> list[CacheSize]:
    """Return the size of each cache in a store, by name. Store: 1 LIST, and 1 per 1,000 entries of each."""
    sizes = []
    for name in filter(is_name, store.list_folders(CACHES)):
        lines = store.list(cache_folder(name))
        if lines:
            times = [line.modified_at for line in lines]
            sizes.append(CacheSize(name, len(lines), sum(line.size for line in lines), min(times), max(times)))
    return sizes


def clear(store: ObjectStore, name: str, *, before: float | None = None) -> int:
    """Delete the entries of a cache, or those written before this time; return their number. Store: 1 LIST and 1 delete per 1,000."""
    keys = [line.key for line in store.list(cache_folder(name)) if before is None or line.modified_at < before]
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        store.delete(keys[start : start + _DELETED_AT_ONCE])
    return len(keys)
