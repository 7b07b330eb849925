"""SlowStore: adds network latency to another store, to see the speed of S3 on a laptop."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from starburst_executor.clock import Clock
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.limiter import Limiter

__all__ = ["SlowStore"]


class SlowStore:
    """A store that waits before each request. As thread-safe as the other store; concurrent requests wait concurrently.

    Args:
        store: Receives the requests.
        clock: Performs the waits.
        get_s: For a GET, including an unchanged one; S3 takes 30 ms within its region.
        put_s: For a write, conditional or not; S3 takes 60 ms.
        list_s: For each page of a listing; the same as a GET by default.
        delete_s: For each batch of deletions; the same as a write by default.
        jitter: Share of each wait that varies at random, up and down.
    """

    def __init__(
        self,
        store: ObjectStore,
        clock: Clock,
        *,
        get_s: float = 0.030,
        put_s: float = 0.060,
        list_s: float | None = None,
        delete_s: float | None = None,
        jitter: float = 0.0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._get_s = get_s
        self._put_s = put_s
        self._list_s = get_s if list_s is None else list_s
        self._delete_s = put_s if delete_s is None else delete_s
        self._jitter = jitter
        self._never = threading.Event()

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def limiter(self) -> Limiter | None:
        return self._store.limiter

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        self._wait(self._get_s)
        return self._store.get(key, start=start, length=length)

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        self._wait(self._get_s)
        return self._store.get_if_changed(key, etag, start=start, length=length)

    def create(self, key: str, body: Body) -> str:
        self._wait(self._put_s)
        return self._store.create(key, body)

    def swap(self, key: str, body: Body, expected: str) -> str:
        self._wait(self._put_s)
        return self._store.swap(key, body, expected)

    def put(self, key: str, body: Body) -> str:
        self._wait(self._put_s)
        return self._store.put(key, body)

    def list_folders(self, prefix: str) -> list[str]:
        self._wait(self._list_s)
        return self._store.list_folders(prefix)

    def list(self, prefix: str) -> list[Listed]:
        self._wait(self._list_s)
        found = self._store.list(prefix)
        for _ in range(1_000, len(found), 1_000):  # the pages after the first
            self._wait(self._list_s)
        return found

    def delete(self, keys: Iterable[str]) -> None:
        self._wait(self._delete_s)
        self._store.delete(keys)

    def close(self) -> None:
        self._store.close()

    def _wait(self, mean_s: float) -> None:
        spread = 1.0 + self._jitter * (2.0 * self._clock.random() - 1.0)
        self._clock.wait(self._never, mean_s * spread)
