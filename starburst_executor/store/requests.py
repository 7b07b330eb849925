"""Counts of a store's requests by kind, from which the cost of a session is estimated."""

from __future__ import annotations

import threading
from typing import Literal, TypeAlias, get_args

__all__ = ["Count", "Duration", "Requests"]

# `get` and `not_modified` are separate: each GET is one of the two. `list` counts pages, `delete` batches of 1,000 keys.
# `retried` and `lost_races` are not requests: they count requests that were retried, or refused because another writer
# was faster.
# `<kind>_us` are the microseconds of all requests of a kind, from the call of the transport to its answer; `get_us` of both kinds of GET.
Count: TypeAlias = Literal[
    "get", "not_modified", "list", "create", "swap", "put", "delete", "bytes_out", "bytes_in", "retried", "lost_races",
    "get_us", "list_us", "create_us", "swap_us", "put_us", "delete_us",
]  # fmt: skip
Duration: TypeAlias = Literal["get_us", "list_us", "create_us", "swap_us", "put_us", "delete_us"]


class Requests:
    """Counts every try. Thread-safe; under a microsecond each."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _counts
        self._counts: dict[str, int] = dict.fromkeys(get_args(Count), 0)

    def __repr__(self) -> str:
        return f"Requests({self.snapshot()})"

    def count(self, kind: Count, n: int = 1, *, bytes_out: int = 0, bytes_in: int = 0) -> None:
        """Add `n` requests of that kind and their bytes."""
        counts = self._counts  # unlocked: the dict itself is never replaced
        with self._lock:
            counts[kind] += n
            counts["bytes_out"] += bytes_out
            counts["bytes_in"] += bytes_in

    def took(self, kind: Duration, seconds: float) -> None:
        """Add the duration of one request."""
        with self._lock:
            self._counts[kind] += int(seconds * 1e6)

    def snapshot(self) -> dict[str, int]:
        """Return all counts at one moment."""
        with self._lock:
            return {**self._counts}
