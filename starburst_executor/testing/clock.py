"""FakeClock: time that passes only when a test advances it, and random numbers from a seed.

It waits in two ways. By default a wait returns at once and advances the time by its length: code that one thread steps
runs through hours in milliseconds. With `held=True` a wait blocks its thread until `advance` has moved time to its end or
its event is set: the test then controls several threads, moment by moment.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from typing import NamedTuple

__all__ = ["FakeClock"]

# An event that another thread sets cannot wake a held wait, so the wait checks the event this often.
_LOOK_S = 0.001


class FakeClock:
    """A `Clock` for tests. Thread-safe; numbers and ids depend only on the seed and the order of the calls.

    Args:
        seed: Decides `random` and `new_id`.
        start_at: The initial value of `now`, in UTC epoch seconds.
        held: Whether waits block until `advance` is called, instead of passing at once.
    """

    def __init__(self, seed: int = 0, *, start_at: float = 1_700_000_000.0, held: bool = False) -> None:
        self._seed = seed
        self._start_at = start_at
        self._held = held
        self._drawn = itertools.count()
        self._changed = threading.Condition()  # guards: _elapsed_s, _waits
        self._elapsed_s = 0.0
        self._waits: list[_Wait] = []  # held waits whose thread has not returned

    def __repr__(self) -> str:
        return f"FakeClock(seed={self._seed}, elapsed_s={self.monotonic():g})"

    def now(self) -> float:
        return self._start_at + self.monotonic()

    def monotonic(self) -> float:
        return self._elapsed_s  # unlocked: one number

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if not self._held:
            if not event.is_set():
                self.advance(max(0.0, timeout_s))
            return event.is_set()
        with self._changed:
            wait = _Wait(event, self._elapsed_s + timeout_s)
            self._waits.append(wait)
            self._changed.notify_all()
        try:
            while not event.wait(_LOOK_S) and self.monotonic() < wait.until_s:
                pass
        finally:
            with self._changed:
                self._waits.remove(wait)
        return event.is_set()

    def random(self) -> float:
        return (int.from_bytes(self._draw(7), "big") >> 3) / 2**53  # the precision of a float, so that it is never 1.0

    def new_id(self, n_bytes: int = 8) -> str:
        return self._draw(n_bytes).hex()

    def advance(self, seconds: float) -> None:
        """Advance the time; held waits whose time is then up return."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: seconds={seconds!r}")
        with self._changed:
            # Even for a very short wait: a loop that waits for a moment must not stop just before it.
            least_s = math.nextafter(self._elapsed_s, math.inf) if seconds else 0.0
            self._elapsed_s = max(self._elapsed_s + seconds, least_s)

    def wait_waiting(self, n_threads: int = 1, timeout_s: float = 10.0) -> None:
        """Wait, in real time, until this number of threads is in a held wait: `advance` then reaches all of them.

        A wait that is over counts no more, even if its thread has not run since: that thread waits for the processor.

        Raises: TimeoutError after `timeout_s` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._n_waiting() >= n_threads, timeout_s):
                raise TimeoutError(f"threads that wait on the clock: expected={n_threads}, found={self._n_waiting()}")

    def _n_waiting(self) -> int:
        """Return the number of held waits that are not over. Called under the lock."""
        return sum(wait.until_s > self._elapsed_s and not wait.event.is_set() for wait in self._waits)

    def _draw(self, n_bytes: int) -> bytes:
        return hashlib.shake_256(f"{self._seed}/{next(self._drawn)}".encode()).digest(n_bytes)


class _Wait(NamedTuple):
    """A held wait: what ends it, and the clock's time at which it ends otherwise."""

    event: threading.Event
    until_s: float
