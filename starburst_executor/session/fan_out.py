"""Many requests side by side, where one takes as long as the way to the store and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from urllib.parse import urlsplit

from starburst_executor.store.base import ObjectStore

__all__ = ["AT_ONCE", "fan_out"]

_A = TypeVar("_A")
_B = TypeVar("_B")

# A thousand requests of 30 ms take two seconds, and a client's connections suffice.
AT_ONCE = 16
_ON_THIS_MACHINE = ("sqlite", "memory")


def fan_out(store: ObjectStore, function: Callable[[_A], _B], items: Iterable[_A]) -> list[_B]:
    """`function` of each item, in order: 16 at a time, or one by one on a store that is on this machine.

    Raises: what `function` raises, once none runs any more; the rest is not begun.
    """
    listed = list(items)
    if len(listed) <= 1 or urlsplit(store.url).scheme in _ON_THIS_MACHINE:
        return [function(item) for item in listed]
    results: dict[int, _B] = {}
    errors: list[Exception] = []
    left: Iterator[int] = iter(range(len(listed)))

    def work() -> None:
        # A range's iterator gives each number to one thread.
        for i in left:
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
