"""The tries of one operation on a store: each is one request, counted by kind, and waits for its turn if requests are limited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from starburst_executor.errors import StarburstError, StoreUnavailable
from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.limiter import READ, WRITE
from starburst_executor.store.queue import Queue
from starburst_executor.store.requests import Duration, Requests

__all__ = ["Tries"]

_KEYS_AT_ONCE = 1_000

_T = TypeVar("_T")
_Lines = TypeVar("_Lines", bound="list[str] | list[Listed]")


class Tries:
    """Makes and counts the tries of one operation, whatever their results. Not thread-safe.

    Args:
        store: Makes one try per call.
        requests: Counts every try.
        queue: Where tries wait for their turn; None if requests are not limited.
        monotonic: Measures how long each try takes, without its wait for its turn.

    Attributes:
        waited_s: How long the operation has waited for its turns, and for tries that were refused because of load.
    """

    __slots__ = ("_monotonic", "_queue", "requests", "store", "waited_s")

    def __init__(
        self, store: ObjectStore, requests: Requests, queue: Queue | None, monotonic: Callable[[], float]
    ) -> None:
        self.store = store
        self.requests = requests
        self.waited_s = 0.0
        self._queue = queue
        self._monotonic = monotonic

    def get(self, key: str, start: int = 0, length: int | None = None) -> Stored:
        n_bytes = 0
        try:
            stored = self._try(READ, "get_us", lambda: self.store.get(key, start=start, length=length))
            n_bytes = len(stored.body)
        finally:
            self.requests.count("get", bytes_in=n_bytes)
        return stored

    def get_if_changed(self, key: str, etag: str, start: int = 0, length: int | None = None) -> Stored | None:
        try:
            stored = self._try(READ, "get_us", lambda: self.store.get_if_changed(key, etag, start=start, length=length))
        except BaseException:
            self.requests.count("get")
            raise
        if stored is None:
            self.requests.count("not_modified")
        else:
            self.requests.count("get", bytes_in=len(stored.body))
        return stored

    def create(self, key: str, body: Body) -> str:
        self.requests.count("create", bytes_out=len(body))
        return self._try(WRITE, "create_us", lambda: self.store.create(key, body))

    def swap(self, key: str, body: Body, expected: str) -> str:
        self.requests.count("swap", bytes_out=len(body))
        return self._try(WRITE, "swap_us", lambda: self.store.swap(key, body, expected))

    def put(self, key: str, body: Body) -> str:
        self.requests.count("put", bytes_out=len(body))
        return self._try(WRITE, "put_us", lambda: self.store.put(key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return self._listed(lambda: self.store.list_folders(prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._listed(lambda: self.store.list(prefix))

    def delete(self, keys: Sequence[str]) -> None:
        self.requests.count("delete", -(-len(keys) // _KEYS_AT_ONCE))
        self._try(WRITE, "delete_us", lambda: self.store.delete(keys))

    def _listed(self, ask: Callable[[], _Lines]) -> _Lines:
        n_pages = 1
        try:
            lines = self._try(READ, "list_us", ask)
            n_pages = max(1, -(-len(lines) // _KEYS_AT_ONCE))
        finally:
            self.requests.count("list", n_pages)
        return lines

    def _try(self, lane: int, kind: Duration, ask: Callable[[], _T]) -> _T:
        queue = self._queue
        if queue is None:
            return self._timed(kind, ask)
        if queue.limiter.lanes[lane].is_open:
            try:
                return self._timed(kind, ask)
            except StoreUnavailable as error:
                if error.is_busy:
                    queue.leave(lane, 0.0, True, False, 0.0)
                raise
        counts, began, queued_s = queue.enter(lane)
        self.waited_s += queued_s
        refused: bool | None = None
        try:
            answer = self._timed(kind, ask)
            refused = False
        except StoreUnavailable as error:
            if error.is_busy:
                refused = True
            raise
        except StarburstError:  # a clear answer
            refused = False
            raise
        finally:
            self.waited_s += queue.leave(lane, began, refused, counts, self.waited_s)
        return answer

    def _timed(self, kind: Duration, ask: Callable[[], _T]) -> _T:
        began = self._monotonic()
        try:
            return ask()
        finally:
            self.requests.took(kind, self._monotonic() - began)
