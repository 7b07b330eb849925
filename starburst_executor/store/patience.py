"""Patience: makes a request again until its answer is clear, its time is over, or its owner must leave."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TypeVar

from starburst_executor.clock import Backoff, Clock
from starburst_executor.errors import StoreUnavailable
from starburst_executor.store.requests import Requests

__all__ = ["Patience"]

_FIRST_PAUSE_S = 0.05
_MOST_PAUSE_S = 5.0

_T = TypeVar("_T")


class Patience:
    """How long the requests of one store wait for a clear answer. Thread-safe.

    The last try begins when the time is over: a try that hung until then shows nothing about a store that has recovered
    meanwhile.

    Args:
        url: The store's URL, for the error.
        patience_s: How long to retry; may be `math.inf`.
        stop: Once set, no more pauses are made: an unclear answer is raised at once.

    Attributes:
        patience_s: As given; may be changed, for requests that begin afterwards.
    """

    def __init__(
        self, url: Callable[[], str], clock: Clock, requests: Requests, patience_s: float, stop: threading.Event | None
    ) -> None:
        self.patience_s = patience_s
        self._url = url
        self._clock = clock
        self._requests = requests
        self._stop = stop
        self._until = math.inf  # by the clock: the time after which each request is one try
        self._limited = threading.Event()  # set, and replaced by a new one, when `_until` has changed

    def limit(self, left_s: float) -> None:
        """End all retries after this time; each request from then on is one try. A later call sets another time.

        Requests that pause now look at the new time at once, unless they wait for `stop` too.
        """
        self._until = self._clock.monotonic() + left_s
        limited, self._limited = self._limited, threading.Event()
        limited.set()

    def cleared(self, ask: Callable[[], _T]) -> _T:
        """Return the first clear answer of `ask`. Raises: StoreUnavailable if there is none in time."""
        started = self._clock.monotonic()
        try:
            return ask()
        except StoreUnavailable as error:
            return self._asked_again(ask, error, started)

    def _asked_again(self, ask: Callable[[], _T], first: StoreUnavailable, started: float) -> _T:
        backoff = Backoff(self._clock, _FIRST_PAUSE_S, _MOST_PAUSE_S)
        began, last = started, first
        while not self._is_stopped and began < self._deadline(started):
            left_s = max(0.0, self._deadline(started) - self._clock.monotonic())
            self._clock.wait(self._stop or self._limited, min(backoff.next_s(), left_s))
            began = self._clock.monotonic()
            self._requests.count("retried")
            try:
                return ask()
            except StoreUnavailable as error:
                last = error
        waited_s = self._clock.monotonic() - started
        raise StoreUnavailable(f"no clear answer from {self._url()} for {waited_s:.0f} s: last error: {last}") from last

    @property
    def _is_stopped(self) -> bool:
        return self._stop is not None and self._stop.is_set()

    def _deadline(self, started: float) -> float:
        return min(started + self.patience_s, self._until)
