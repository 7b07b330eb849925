"""Patience: makes a request again until its answer is clear, its time is over, or its owner must leave.

    answer                        what follows
    clear                         returned, or raised if it is a refusal
    none, or unclear              pause, 50 ms to 5 s; patience counts
    503, 429: the store is busy   the limiter decides when; patience starts anew, because the store does answer

Time in the limiter's queue is no patience.

A long wait says why: after ten seconds without a clear answer the error is logged as a warning, and then once a minute.

Guarantee: a request ends. Twelve times `patience_s` after the store last carried out a request of this process, the store
counts as unavailable, even if it still answers that it is busy.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from starburst_executor.clock import Backoff, Clock
from starburst_executor.errors import StoreUnavailable

if TYPE_CHECKING:
    from starburst_executor.store.limiter import Limiter
    from starburst_executor.store.requests import Requests
    from starburst_executor.store.tries import Tries

__all__ = ["Patience"]

_FIRST_PAUSE_S = 0.05
_MOST_PAUSE_S = 5.0
# A vital request is not paced by the limiter: about one try a second finds a gap, and adds little to the load.
_VITAL_PAUSE_S = 1.0
# A busy store has this many times the patience to carry out any request of this process: with an endless series of 503 a
# gateway may stand before a store that is gone.
_BUSY_TIMES = 12.0
# A request that waits for longer says so, unless another one has done so within a minute.
_QUIET_S = 10.0
_SAY_EVERY_S = 60.0

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Patience:
    """How long the requests of one store wait for a clear answer. Thread-safe.

    The last try begins when the time is over: a try that hung until then shows nothing about a store that has recovered
    meanwhile.

    Args:
        url: Returns the store's URL, for the error.
        limiter: The limits of the process's requests, if there are any.
        patience_s: How long to retry; may be `math.inf`.
        stop: Once set, no more pauses are made: an unclear answer is raised at once.

    Attributes:
        patience_s: As given; may be changed, for requests that begin afterwards.
        trouble: The last error of a request that has waited for ten seconds and waits still; empty if none does.
    """

    def __init__(
        self,
        url: Callable[[], str],
        clock: Clock,
        requests: Requests,
        limiter: Limiter | None,
        patience_s: float,
        stop: threading.Event | None,
    ) -> None:
        self.patience_s = patience_s
        self._url = url
        self._clock = clock
        self._requests = requests
        self._limiter = limiter
        self._stop = stop
        self._until = math.inf  # by the clock: the time after which each request is one try
        self._limited = threading.Event()  # set, and replaced by a new one, when `_until` has changed
        self._lock = threading.Lock()  # guards: _say_at, _troubles
        self._say_at = -math.inf  # the next time at which a warning is due
        self._troubles: dict[int, str] = {}  # the last error of each request that waits for long, by its thread

    @property
    def trouble(self) -> str:
        """Described in the class."""
        with self._lock:
            return next(iter(self._troubles.values()), "")

    def limit(self, left_s: float) -> None:
        """End all retries after this time; each request from then on is one try. A later call sets another time.

        Requests that pause now look at the new time at once, unless they wait for `stop` too.
        """
        self._until = self._clock.monotonic() + left_s
        limited, self._limited = self._limited, threading.Event()
        limited.set()

    @property
    def is_over(self) -> bool:
        """Whether no request may wait any longer, because the owner must leave."""
        return (self._stop is not None and self._stop.is_set()) or self._clock.monotonic() >= self._until

    def pause(self, pause_s: float) -> bool:
        """Wait this long, or until the owner must leave; return False, at once, if it must."""
        if self.is_over:
            return False
        left_s = max(0.0, self._until - self._clock.monotonic())
        self._clock.wait(self._stop or self._limited, min(pause_s, left_s))
        return True

    def cleared(self, tries: Tries, ask: Callable[[], _T], *, is_vital: bool) -> _T:
        """Return the first clear answer of `ask`, which makes `tries`. Raises: StoreUnavailable if there is none in time."""
        started = self._clock.monotonic()
        try:
            return ask()
        except StoreUnavailable as error:
            return self._asked_again(tries, ask, error, started, is_vital=is_vital)

    def _asked_again(
        self, tries: Tries, ask: Callable[[], _T], first: StoreUnavailable, started: float, *, is_vital: bool
    ) -> _T:
        try:
            return self._asked_until(tries, ask, first, started, is_vital=is_vital)
        finally:
            with self._lock:
                self._troubles.pop(threading.get_ident(), None)

    def _asked_until(
        self, tries: Tries, ask: Callable[[], _T], first: StoreUnavailable, started: float, *, is_vital: bool
    ) -> _T:
        backoff = Backoff(self._clock, _FIRST_PAUSE_S, _MOST_PAUSE_S)
        # Without the time in the queue: when patience started to count, and when the last try began.
        since = began = started
        last = first
        while not self.is_over:
            now = self._clock.monotonic()
            unserved_s = now - max(started, self._served_at())
            left_s = _BUSY_TIMES * self.patience_s - unserved_s
            if last.is_busy:
                since = now - tries.waited_s
            else:
                left_s = min(left_s, since + self.patience_s - (now - tries.waited_s))
            if unserved_s >= _BUSY_TIMES * self.patience_s or began >= since + self.patience_s:
                break
            self._say(last, now - started, left_s)
            self.pause(min(max(0.0, left_s), self._pause_s(last, backoff, is_vital=is_vital)))
            began = self._clock.monotonic() - tries.waited_s
            self._requests.count("retried")
            try:
                return ask()
            except StoreUnavailable as error:
                last = error
        waited_s = self._clock.monotonic() - started
        raise StoreUnavailable(
            f"no clear answer from {self._url()} for {waited_s:.0f} s: last error: {last}", is_busy=last.is_busy
        ) from last

    def _say(self, last: StoreUnavailable, waited_s: float, left_s: float) -> None:
        """Warn that a request waits, and why, if that is due."""
        if waited_s < _QUIET_S:
            return
        now = self._clock.monotonic()
        with self._lock:
            self._troubles[threading.get_ident()] = str(last)
            if now < self._say_at:
                return
            self._say_at = now + _SAY_EVERY_S
        limit = "" if math.isinf(left_s) else f" for up to {left_s:.0f} s"
        words = "no clear answer from %s for %.0f s; trying again%s: last error: %s"
        _log.warning(words, self._url(), waited_s, limit, last)

    def _pause_s(self, last: StoreUnavailable, backoff: Backoff, *, is_vital: bool) -> float:
        if not last.is_busy or self._limiter is None:
            return backoff.next_s()
        return (_VITAL_PAUSE_S if is_vital else _FIRST_PAUSE_S) * (0.5 + self._clock.random())

    def _served_at(self) -> float:
        return -math.inf if self._limiter is None else self._limiter.served_at
