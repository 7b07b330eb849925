"""Tries: one request per call, counted by kind. `patient.py` decides which tries to make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from starburst_executor.store.base import Body, Listed, ObjectStore, Stored
from starburst_executor.store.requests import Requests

__all__ = ["Tries"]

_KEYS_AT_ONCE = 1_000

_Lines = TypeVar("_Lines", bound="list[str] | list[Listed]")


class Tries:
    """Makes single tries on a store and counts them, whatever their result. Thread-safe.

    Attributes:
        store: The store, which makes one try per call.
        requests: The counts.
    """

    __slots__ = ("requests", "store")

    def __init__(self, store: ObjectStore, requests: Requests) -> None:
        self.store = store
        self.requests = requests

    def get(self, key: str, start: int = 0, length: int | None = None) -> Stored:
        n_bytes = 0
        try:
            stored = self.store.get(key, start=start, length=length)
            n_bytes = len(stored.body)
        finally:
            self.requests.count("get", bytes_in=n_bytes)
        return stored

    def get_if_changed(self, key: str, etag: str, start: int = 0, length: int | None = None) -> Stored | None:
        try:
            stored = self.store.get_if_changed(key, etag, start=start, length=length)
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
        return self.store.create(key, body)

    def swap(self, key: str, body: Body, expected: str) -> str:
        self.requests.count("swap", bytes_out=len(body))
        return self.store.swap(key, body, expected)

    def put(self, key: str, body: Body) -> str:
        self.requests.count("put", bytes_out=len(body))
        return self.store.put(key, body)

    def list_folders(self, prefix: str) -> list[str]:
        return self._listed(self.store.list_folders, prefix)

    def list(self, prefix: str) -> list[Listed]:
        return self._listed(self.store.list, prefix)

    def delete(self, keys: Sequence[str]) -> None:
        self.requests.count("delete", -(-len(keys) // _KEYS_AT_ONCE))
        self.store.delete(keys)

    def _listed(self, ask: Callable[[str], _Lines], prefix: str) -> _Lines:
        n_pages = 1
        try:
            lines = ask(prefix)
            n_pages = max(1, -(-len(lines) // _KEYS_AT_ONCE))
        finally:
            self.requests.count("list", n_pages)
        return lines
