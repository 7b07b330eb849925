"""How long a worker has been busy: the measure of how much of its work it may put at risk between two commits."""

from __future__ import annotations

import threading

from starburst_executor.clock import Clock

__all__ = ["Busy"]


class Busy:
    """Counts the seconds since a worker last had nothing to do. Thread-safe.

    Args:
        gap_s: A shorter time without work does not count as an end: the worker only looked for its next tasks.
    """

    def __init__(self, clock: Clock, gap_s: float) -> None:
        self._clock = clock
        self._gap_s = gap_s
        self._lock = threading.Lock()  # guards: _slots, _since, _idle_since
        self._slots: set[int] = set()
        self._since = 0.0
        self._idle_since = float("-inf")

    def begin(self, slot: int) -> None:
        """Record that a slot has a claim."""
        now = self._clock.monotonic()
        with self._lock:
            if not self._slots and now - self._idle_since > self._gap_s:
                self._since = now
            self._slots.add(slot)

    def end(self, slot: int) -> None:
        """Record that a slot has no claim any more. Harmless if it had none."""
        now = self._clock.monotonic()
        with self._lock:
            if slot in self._slots:
                self._slots.discard(slot)
                if not self._slots:
                    self._idle_since = now

    def seconds(self) -> float:
        """Return for how many seconds the worker has been busy; 0 while no slot has a claim."""
        now = self._clock.monotonic()
        with self._lock:
            return now - self._since if self._slots else 0.0
