"""Limiter: how many requests a process may make when the store refuses some because there are too many.

            no refusals for a while, and nothing waits
        ┌──────────────────────────────────────────────┐
        ▼                  first 503 or 429            │
      OPEN ─────────────────────────────────────► LIMITED: at most `window` in flight, `rate` started per second
      (counts nothing)                              │  first round: measures both; then in each × a cut, or + growth
                                                    └─► waiting requests start by urgency, then by age

Reads and writes have a lane each, because S3 limits them separately. Requests that are `VITAL` never wait, but their
refusals count. This module decides and waits for nothing: time is passed in, and callers wait.

Source: docs/design/0010-limiter.md
"""

from __future__ import annotations

import math
import os
import threading
from bisect import insort
from enum import IntEnum
from typing import TypeAlias
from weakref import WeakSet

__all__ = ["READ", "WRITE", "Lane", "Limiter", "Ticket", "Urgency", "limiter_of"]

# A round is the time over which the share of refusals is measured: several requests of a busy process.
_ROUND_S = 1.0
# The share of refusals that a process tolerates: above it the rate is cut, down to the half if all is refused; up to it the rate
# grows. Refusals cost the service almost nothing, while a rate that is too low leaves it idle; and a service that refuses
# some requests for another reason than load is not made slower.
_TOLERATED = 0.3
_CUT = 0.5
_FEW = 8  # answers; with fewer in a round, the share is averaged over about this many
# Growth per round of the root of the rate. The smaller rate grows by the larger share, so all processes come to the same
# rate. It is multiplied by the root of the number of waiting requests, so that rates are in proportion to these: a client that
# reads the results of hundreds of workers has as many times the rate of one of them as it has requests.
_GROWTH = 0.0625
# … for each second of the round, up to this many: a round of a small rate lasts long, and one answer in it shows as much.
_COUNTS_S = 5.0
_DOUBLES_S = 10.0  # without refusals; then growth doubles: other processes have left
_DOUBLINGS = 5.0
_OPENS_S = 30.0  # without refusals and without waiting requests
# Never zero: only a request can show that the service has recovered. S3 carries out that much for 250,000 processes.
_LEAST_RATE = 1.0 / 75
# Below half of the last rate that was good, the rate doubles in each round without refusals: after minutes in which all was
# refused it is back within seconds. A refused round lowers what counts as good by a tenth, so that it is forgotten where
# refusals are the rule.
_FORGETS = 0.9
_FIRST_RATE = 2.0  # at least, however few requests the process made in the round that was measured
_BURST_S = 0.25  # of the rate may start at once
# What a request takes from the rate, by urgency; where rates grow, a waiting request counts as much less. Hundreds of idle workers that poll would otherwise have most requests of a busy store, and be the cause of most
# refusals, while one client reads the results of all.
_COSTS = (1.0, 1.0, 2.0, 16.0)
# A request that waits for another one to end asks again after about one latency, and every request does so after this time.
_LATENCY_S = 0.05
_ASKS_AGAIN_S = 5.0
# A request overtakes those of the next lower urgency that have waited less than this, so that none waits for ever.
_HEAD_START_S = 20.0
# If none of the requests in flight has ended for this long, they are no longer counted: they hang, or their threads were
# interrupted. A try ends after a minute without an answer.
_HANGS_S = 120.0
_LEAST_S = 1e-3  # between two calls for the same request
# The average wait rises with this share of each longer one. It falls slowly, over about this time, whatever the number of requests: slices
# that follow it would otherwise grow and shrink in turns, and what was claimed for a long wait would be too much at once.
_WEIGHT_UP = 0.5
_FALLS_S = 60.0

READ, WRITE = 0, 1

# A waiting request: its place in time, its number, its urgency.
Ticket: TypeAlias = "tuple[float, int, Urgency]"


class Urgency(IntEnum):
    """How urgent a request is: in a queue, lower numbers go first, unless the others have waited for long."""

    VITAL = 0  # beats, looks at beats, repair: never queued, because a worker must not be lost while the store is busy
    COMMIT = 1  # makes results durable, and everything that is not one of the others
    CLAIM = 2  # finds and claims work
    POLL = 3  # asks for news, or announces it


class Lane:
    """The limits of one kind of request. Not thread-safe.

    It has more than fifteen attributes because they are the state of one control law, which reads and changes them together.

    Attributes:
        is_open: Whether nothing is limited, nor counted.
        rate: Requests that may start per second; infinite while the lane is open, and in the first round after that.
        window: Requests that may be in flight; the same.
        n_in_flight: Requests that have started and not ended, without vital ones and those of an open lane.
        waiting: The requests in the queue, the next one first.
    """

    __slots__ = (
        "_calm_s",
        "_clean_s",
        "_filled_at",
        "_good_rate",
        "_held",
        "_most_in_flight",
        "_moved_at",
        "_n_answered",
        "_n_refused",
        "_n_started",
        "_round_at",
        "_share",
        "_tokens",
        "is_open",
        "n_in_flight",
        "rate",
        "waiting",
        "window",
    )

    def __init__(self) -> None:
        self.is_open = True
        self.rate = self.window = math.inf
        self.n_in_flight = 0
        self._most_in_flight = 0
        self.waiting: list[Ticket] = []
        self._tokens = 1.0
        self._filled_at = 0.0
        self._good_rate = 0.0
        self._share = 0.0  # of refusals, averaged
        self._moved_at = -math.inf  # when a request last started or ended
        self._clean_s = 0.0  # since the last refusal
        self._calm_s = 0.0  # since the last refusal or waiting request
        # Of this round.
        self._round_at = -math.inf
        self._n_started = self._n_answered = self._n_refused = 0
        self._held = 0.0  # the most requests that waited at once, each divided by its cost

    def due_s(self, now: float, urgency: Urgency) -> float:
        """Return in how many seconds the next request may start if it has this urgency; 0 if it may start now."""
        if self.rate == math.inf:
            return 0.0
        if self.n_in_flight >= self.window:
            if now < self._moved_at + _HANGS_S:
                return _LATENCY_S
            self.n_in_flight = 0
        self._fill(now)
        return max(0.0, (_COSTS[urgency] - self._tokens) / self.rate)

    def hold(self, ticket: Ticket) -> None:
        """Put a request that has to wait in the queue."""
        insort(self.waiting, ticket)
        self._held = max(self._held, self._n_waiting())

    def start(self, now: float, urgency: Urgency) -> None:
        """Note that a request starts."""
        self.n_in_flight += 1
        self._n_started += 1
        self._moved_at = now
        if self.rate == math.inf:
            self._most_in_flight = max(self._most_in_flight, self.n_in_flight)
        else:
            self._fill(now)
            self._tokens -= _COSTS[urgency]

    def end(self, now: float) -> None:
        """Note that a request that `start` has counted is no longer in flight."""
        if self.n_in_flight:
            self.n_in_flight -= 1
        self._moved_at = now

    def answered(self, now: float, *, refused: bool) -> None:
        """Take in a clear answer, of a vital request too, and adapt the limits."""
        self._n_answered += 1
        self._share += (float(refused) - self._share) / _FEW
        if refused:
            self._n_refused += 1
            if self.is_open:
                self._close(now)
        if now >= self._round_at + _ROUND_S:
            self._end_round(now)

    def _close(self, now: float) -> None:
        """Begin to count; the limits follow at the end of this round."""
        self.is_open = False
        self.n_in_flight = self._most_in_flight = 0
        self._share = _TOLERATED + (1.0 - _TOLERATED) / _FEW
        self._clean_s = self._calm_s = 0.0
        self._begin_round(now)
        self._n_answered = self._n_refused = 1

    def _end_round(self, now: float) -> None:
        round_s = now - self._round_at
        if self.rate == math.inf:
            self.rate = self._good_rate = max(_FIRST_RATE, self._n_started / round_s)
            self.window = float(max(1, self._most_in_flight))
            self._tokens, self._filled_at = 0.0, now
        share = self._n_refused / self._n_answered if self._n_answered >= _FEW else self._share
        if self._n_refused and share > _TOLERATED:
            kept = 1.0 - _CUT * (share - _TOLERATED) / (1.0 - _TOLERATED)
            self.rate = max(_LEAST_RATE, self.rate * kept)
            self.window = max(1.0, self.window * kept)
            self._good_rate = max(self.rate, self._good_rate * _FORGETS)
            self._clean_s = self._calm_s = 0.0
        elif self._held:
            self._clean_s = 0.0 if self._n_refused else self._clean_s + round_s
            self._calm_s = 0.0
            faster = 2.0 ** min(self._clean_s / _DOUBLES_S, _DOUBLINGS)
            grown = _GROWTH * faster * min(round_s, _COUNTS_S) * math.sqrt(self._held)
            self.rate = (math.sqrt(self.rate) + grown) ** 2
            if self.rate < self._good_rate / 2:
                self.rate *= 2
            self._good_rate = max(self.rate, self._good_rate)
            self.window += 1.0
        else:
            self._clean_s = 0.0 if self._n_refused else self._clean_s + round_s
            self._calm_s = 0.0 if self._n_refused else self._calm_s + round_s
            if self._calm_s >= _OPENS_S:
                self.is_open, self.rate, self.window = True, math.inf, math.inf
        self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        self._round_at = now
        self._n_started = self._n_answered = self._n_refused = 0
        self._held = self._n_waiting()

    def _n_waiting(self) -> float:
        return sum(1.0 / _COSTS[urgency] for _, _, urgency in self.waiting)

    def _fill(self, now: float) -> None:
        most = max(_COSTS[-1], self.rate * _BURST_S)
        self._tokens = min(most, self._tokens + max(0.0, now - self._filled_at) * self.rate)
        self._filled_at = now


class Limiter:
    """The limits of one process's requests to one service. Thread-safe; no call waits.

    Attributes:
        lanes: Of reads and of writes.
        served_at: When the service last carried out a request, by the caller's clock; while both lanes are open it may have
            been later.
        wait_s: How long commits and claims recently waited because of the limits, until they were carried out; 0 without
            limits.
    """

    __slots__ = ("__weakref__", "_lock", "_n_tickets", "_waited_at", "lanes", "served_at", "wait_s")

    def __init__(self) -> None:
        self.reset()
        _all.add(self)

    def reset(self) -> None:
        """Forget everything, in a child after a fork: none of its threads waits, and its requests are its own."""
        self._lock = threading.Lock()  # guards everything below
        self.lanes = (Lane(), Lane())
        self._n_tickets = 0
        self.served_at = -math.inf
        self.wait_s = 0.0
        self._waited_at = -math.inf  # when `wait_s` changed

    @property
    def rates(self) -> tuple[float, float]:
        """Reads and writes that may start per second."""
        return self.lanes[READ].rate, self.lanes[WRITE].rate

    def start(self, lane: int, urgency: Urgency, now: float) -> bool:
        """Start a request in a limited lane if nothing holds it up; otherwise return False: `queue` it."""
        chosen = self.lanes[lane]
        with self._lock:
            if chosen.waiting or chosen.due_s(now, urgency):
                return False
            chosen.start(now, urgency)
            return True

    def queue(self, lane: int, urgency: Urgency, now: float) -> Ticket:
        """Put a request in the queue; `start_queued` or `leave` removes it."""
        chosen = self.lanes[lane]
        with self._lock:
            self._n_tickets += 1
            ticket = (now + _HEAD_START_S * urgency, self._n_tickets, urgency)
            chosen.hold(ticket)
            return ticket

    def start_queued(self, lane: int, ticket: Ticket, now: float) -> float:
        """Start a queued request if it is its turn, and return 0; otherwise return in how many seconds to call again.

        The caller adds some time at random: otherwise many processes at the least rate, all refused at the same moment, would
        ask at the same moment again, and be refused again.
        """
        chosen = self.lanes[lane]
        with self._lock:
            n_before = chosen.waiting.index(ticket)
            due_s = chosen.due_s(now, ticket[2])
            if n_before or due_s:
                return min(_ASKS_AGAIN_S, max(_LEAST_S, due_s + n_before / chosen.rate))
            chosen.waiting.remove(ticket)
            chosen.start(now, ticket[2])
            return 0.0

    def leave(self, lane: int, ticket: Ticket) -> None:
        """Remove a request from the queue: it is not made, or made without waiting."""
        with self._lock:
            self.lanes[lane].waiting.remove(ticket)

    def end(
        self, lane: int, now: float, *, refused: bool | None, waited_s: float | None = None, counts: bool = True
    ) -> None:
        """End a request.

        Args:
            refused: Whether the service refused it because it is busy; None if there was no clear answer.
            waited_s: How long the caller's operation has waited in queues, and for refused tries; None for polls and vital
                requests, whose waits say nothing of others.
            counts: Whether `start` or `start_queued` has started it. Vital requests are only ended.
        """
        chosen = self.lanes[lane]
        with self._lock:
            if counts:
                chosen.end(now)
            if refused is None or (chosen.is_open and not refused):
                return
            if chosen.is_open:
                self.served_at = now  # until now every request was carried out
            chosen.answered(now, refused=refused)
            if refused:
                return
            self.served_at = now
            if waited_s is not None and (waited_s or self.wait_s):
                falls = 1.0 - math.exp(-max(0.0, now - self._waited_at) / _FALLS_S)
                self.wait_s += (_WEIGHT_UP if waited_s > self.wait_s else falls) * (waited_s - self.wait_s)
                self._waited_at = now
                if self.lanes[READ].is_open and self.lanes[WRITE].is_open:
                    self.wait_s = 0.0


_all: WeakSet[Limiter] = WeakSet()
_limiters: dict[str, Limiter] = {}


def limiter_of(service: str) -> Limiter:
    """Return this process's limiter for a service, the same for each store that uses it."""
    return _limiters.setdefault(service, Limiter())


def _after_fork() -> None:
    for limiter in list(_all):
        limiter.reset()


os.register_at_fork(after_in_child=_after_fork)
