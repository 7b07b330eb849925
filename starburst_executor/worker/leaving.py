"""Decides whether, when and why a worker leaves, from signals, its client and its own threads.

    SIGTERM ──► a flag, polled by the main thread ─────┐
    the client's pipe ──► thread "life" ───────────────┼──► stop(why) ──► draining | over ──► every thread
    keeper, finder, slots ─────────────────────────────┘

Guarantee: this module never calls the store, and the threads that listen in it (main, life) do nothing else, so the worker
reacts to a signal or the end of the client at once, whatever the store does.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import IO

from starburst_executor.clock import Clock

__all__ = ["LEAVE_QUIETLY", "Leaving", "Stop"]

# A client that ends normally writes this byte before it closes the pipe: it cleans up the session itself.
LEAVE_QUIETLY = b"q"
# Longest delay of the reaction to a signal: its handler only sets a flag, since it must not take a lock.
_SIGNAL_S = 0.25


class Stop(enum.Enum):
    """Why a worker ends."""

    IDLE = "nothing to do"
    DRAINED = "asked to stop"
    SESSION_OVER = "the session is over"
    CLIENT_LEFT = "its client has ended"
    CLIENT_DIED = "its client died"
    BROKEN = "the session is broken"
    FAILED = "it cannot go on"


class Leaving:
    """The end of one worker. Thread-safe, except for `wait`, which only the main thread calls.

    Attributes:
        draining: Set when it should stop; running tasks may continue for the grace time.
        over: Set when it must stop at once.
        why: The first reason given; None while it stays.
        words: Details of the reason, for messages.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.draining = threading.Event()
        self.over = threading.Event()
        self._lock = threading.Lock()  # guards: why, words, _wake
        self.why: Stop | None = None
        self.words = ""
        self._has_term = False
        self._changed = threading.Event()
        self._wake: list[Callable[[], object]] = [self._changed.set]

    @property
    def is_asked(self) -> bool:
        """Whether it has been asked to leave, by a signal or by `stop`."""
        return self._has_term or self.is_leaving

    @property
    def is_leaving(self) -> bool:
        """Whether `stop` was called, which every thread observes."""
        return self.draining.is_set() or self.over.is_set()

    def on_sigterm(self, *_: object) -> None:
        """Signal handler: drain. Only sets a flag."""
        self._has_term = True

    def watch(self, life: IO[bytes]) -> None:
        """Leave when the client at the other end of this pipe ends. Starts a thread."""
        threading.Thread(target=self._wait_for_client, args=(life,), name="life", daemon=True).start()

    def wakes(self, wake: Callable[[], object]) -> None:
        """Register a function to call when the worker must leave. It must not wait."""
        with self._lock:
            self._wake.append(wake)

    def stop(self, why: Stop, words: str = "") -> None:
        """Leave; the first reason counts. A worker that drains can still be stopped at once."""
        with self._lock:
            if self.why is None:
                self.why, self.words = why, words
            wake = list(self._wake)
        (self.draining if why == Stop.DRAINED else self.over).set()
        for callback in wake:
            callback()

    def changed(self) -> None:
        """Make the main thread check its condition again."""
        self._changed.set()

    def wait(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until a condition holds, for at most `timeout_s`, and react to signals; return whether it holds.

        The condition is checked after each call of `changed` or `stop`, and periodically. It must not wait.
        """
        until = None if timeout_s is None else self._clock.monotonic() + timeout_s
        while not condition():
            if self._has_term and self.why is None:  # unlocked: `stop` decides under the lock
                self.stop(Stop.DRAINED)
                continue
            left_s = _SIGNAL_S if until is None else until - self._clock.monotonic()
            if left_s <= 0:
                return False
            self._changed.clear()
            if not condition():
                self._clock.wait(self._changed, min(left_s, _SIGNAL_S))
        return True

    def _wait_for_client(self, life: IO[bytes]) -> None:
        farewell = life.read(1)
        self.stop(Stop.CLIENT_LEFT if farewell == LEAVE_QUIETLY else Stop.CLIENT_DIED)
