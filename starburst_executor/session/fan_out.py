"""Make many requests concurrently on a store where each takes a network round trip."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from starburst_executor.store.base import ObjectStore

__all__ = ["AT_ONCE", "at_once", "fan_out"]

_A = TypeVar("_A")
_B = TypeVar("_B")

# A thousand requests of 30 ms each then take two seconds, and the connections of a client suffice.
AT_ONCE = 16
_ON_THIS_MACHINE = ("sqlite", "memory")


def at_once(store: ObjectStore) -> int:
    """Return how many calls on this store are worth making at once: one if it is on this machine."""
    return 1 if urlsplit(store.url).scheme in _ON_THIS_MACHINE else AT_ONCE


def fan_out(store: ObjectStore, function: Callable[[_A], _B], items: Iterable[_A]) -> list[_B]:
    """Return `function` of each item, in order: up to 16 calls at once, or one by one if the store is on this machine.

    Raises: the first exception of `function`, once no call is running; the remaining calls are not made.
    """
    listed = list(items)
    if len(listed) <= 1 or at_once(store) == 1:
        return [function(item) for item in listed]
    results: dict[int, _B] = {}
    errors: list[Exception] = []
    indices: Iterator[int] = iter(range(len(listed)))

    def work() -> None:
        # Assumes: a range's iterator returns each index to one thread only; in CPython `next` on it holds the GIL.
        for i in indices:
            try:
                results[i] = function(listed[i])
            except Exception as error:  # raised below
                errors.append(error)
            if errors:
                return

    threads = [
        threading.Thread(target=work, name=f"fan-out-{i}", daemon=True) for i in range(min(AT_ONCE, len(listed)) - 1)
    ]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(listed))]
