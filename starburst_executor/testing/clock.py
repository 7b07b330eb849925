"""FakeClock: time that passes only when a test says so, and chance that a seed decides.

Two ways to wait. By default a wait passes at once, and by that alone time passes: what one thread steps runs through
hours in milliseconds. With `held=True` a wait blocks its thread until `advance` has moved time to its end or its event
is set: what several threads do is then told by the test, moment by moment.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading

__all__ = ["FakeClock"]

# An event that some thread sets cannot wake us without reaching into it, so a held wait looks for it that often.
_LOOK_S = 0.001


class FakeClock:
    """A `Clock` for tests. Thread-safe; numbers and ids follow from the seed and the order of the calls alone.

    Args:
        seed: Decides `random` and `new_id`.
        start_at: `now` at the beginning, UTC epoch seconds.
        held: Whether waits block until `advance` is called, instead of passing at once.
    """

    def __init__(self, seed: int = 0, *, start_at: float = 1_700_000_000.0, held: bool = False) -> None:
        self._seed = seed
        self._start_at = start_at
        self._held = held
        self._drawn = itertools.count()
        self._changed = threading.Condition()  # guards: _elapsed_s, _n_waiting
        self._elapsed_s = 0.0
        self._n_waiting = 0

    def __repr__(self) -> str:
        return f"FakeClock(seed={self._seed}, elapsed_s={self._elapsed_s:g})"

    def now(self) -> float:
        return self._start_at + self._elapsed_s

    def monotonic(self) -> float:
        return self._elapsed_s

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        if not self._held:
            if not event.is_set():
                self.advance(max(0.0, timeout_s))
            return event.is_set()
        with self._changed:
            until_s = self._elapsed_s + timeout_s
            self._n_waiting += 1
            self._changed.notify_all()
        try:
            while not event.wait(_LOOK_S) and self._elapsed_s < until_s:
                pass
        finally:
            with self._changed:
                self._n_waiting -= 1
                self._changed.notify_all()
        return event.is_set()

    def random(self) -> float:
        return (int.from_bytes(self._draw(7), "big") >> 3) / 2**53  # as many bits as a float holds: never 1.0

    def new_id(self, n_bytes: int = 8) -> str:
        return self._draw(n_bytes).hex()

    def advance(self, seconds: float) -> None:
        """Let time pass; held waits whose time is up by then end."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: seconds={seconds!r}")
        with self._changed:
            # However short: a loop that waits for a moment must not come to stand right before it.
            least_s = math.nextafter(self._elapsed_s, math.inf) if seconds else 0.0
            self._elapsed_s = max(self._elapsed_s + seconds, least_s)
            self._changed.notify_all()

    def wait_waiting(self, n_threads: int = 1, timeout_s: float = 10.0) -> None:
        """Wait, in real time, until so many threads are in a held wait: then `advance` meets all of them.

        Raises: TimeoutError after `timeout_s` real seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._n_waiting >= n_threads, timeout_s):
                raise TimeoutError(f"threads that wait on the clock: expected={n_threads}, found={self._n_waiting}")

    def _draw(self, n_bytes: int) -> bytes:
        return hashlib.shake_256(f"{self._seed}/{next(self._drawn)}".encode()).digest(n_bytes)
