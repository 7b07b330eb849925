"""Time, random numbers and ids: the only module that uses `time`, `random` and `uuid`.

All code that waits, draws random numbers or makes ids takes a `Clock`, so that a test or the simulation can control
it. Durations are seconds; `now` is UTC epoch seconds and is never compared between machines.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import deque
from typing import Protocol

__all__ = ["Backoff", "Clock", "SystemClock"]

_ID_BYTES = 8
_IDS_AT_ONCE = 64
# Ids that were made in advance. Reading random bytes from the system releases the interpreter lock, and getting it back
# takes up to five milliseconds beside a thread that computes: too long for each write.
_ids: deque[str] = deque()
os.register_at_fork(after_in_child=_ids.clear)  # otherwise parent and child would use the same ids


class Clock(Protocol):
    """The source of time and random numbers for a component. Thread-safe."""

    def now(self) -> float:
        """Return UTC epoch seconds, for people to read. May jump."""

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment; never goes back. Deadlines use this."""

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait until `event` is set or `timeout_s` have passed; return whether it is set."""

    def random(self) -> float:
        """Return a random number in [0, 1)."""

    def new_id(self, n_bytes: int = 8) -> str:
        """Return a unique id of `2 * n_bytes` hexadecimal digits."""


class SystemClock:
    """The real clock."""

    # Not methods: a runner reads the time twice for each task, and a call in between costs more than the reading.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.wait(max(0.0, timeout_s))

    def random(self) -> float:
        return self._random.random()

    def new_id(self, n_bytes: int = _ID_BYTES) -> str:
        if n_bytes != _ID_BYTES:
            return secrets.token_hex(n_bytes)
        while True:
            try:
                return _ids.popleft()
            except IndexError:
                fresh, n_digits = secrets.token_hex(_IDS_AT_ONCE * _ID_BYTES), 2 * _ID_BYTES
                _ids.extend(fresh[i : i + n_digits] for i in range(0, len(fresh), n_digits))


class Backoff:
    """Pauses that grow from `first_s` to `most_s`, each with jitter of half its length. Not thread-safe.

    Args:
        growth: The ratio of each pause to the one before.
    """

    def __init__(self, clock: Clock, first_s: float, most_s: float, *, growth: float = 2.0) -> None:
        self._clock = clock
        self._first_s = first_s
        self._most_s = most_s
        self._growth = growth
        self._next_s = first_s

    def next_s(self) -> float:
        """Return the next pause, in seconds."""
        pause_s = self._next_s * (0.5 + self._clock.random() / 2)
        self._next_s = min(self._next_s * self._growth, self._most_s)
        return pause_s

    def reset(self, factor: float = 1.0) -> None:
        """Start again from the shortest pause, or from a multiple of it."""
        self._next_s = min(self._first_s * factor, self._most_s)
