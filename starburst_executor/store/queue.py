"""Queue: where the requests of one urgency wait until the process's limiter lets them start."""

from __future__ import annotations

from starburst_executor.clock import Clock
from starburst_executor.store.limiter import Limiter, Urgency
from starburst_executor.store.patience import Patience

__all__ = ["Queue"]


class Queue:
    """Waits for the limiter on behalf of requests of one urgency. Thread-safe.

    Guarantee: vital requests do not wait, and no request waits after its owner must leave (`Patience.is_over`).
    """

    __slots__ = ("_clock", "_is_measured", "_patience", "limiter", "urgency")

    def __init__(self, limiter: Limiter, urgency: Urgency, clock: Clock, patience: Patience) -> None:
        self.limiter = limiter
        self.urgency = urgency
        self._clock = clock
        self._patience = patience
        self._is_measured = urgency in (Urgency.COMMIT, Urgency.CLAIM)

    def enter(self, lane: int) -> tuple[bool, float, float]:
        """Wait until a request may start; return whether the limiter has counted its start, when it starts, how long it waited."""
        now = self._clock.monotonic()
        if self.urgency is Urgency.VITAL:
            return False, now, 0.0
        if self.limiter.start(lane, self.urgency, now):
            return True, now, 0.0
        return self._wait(lane, now)

    def leave(self, lane: int, began: float, refused: bool | None, counts: bool, waited_s: float) -> float:
        """Report a request's end to the limiter; return how long it took if it was refused, otherwise 0.

        Args:
            began: When it started.
            refused: Whether the store refused it because of load; None if there was no clear answer.
            counts: Whether the limiter has counted its start.
            waited_s: How long its operation has waited so far.
        """
        now = self._clock.monotonic()
        self.limiter.end(lane, now, refused=refused, waited_s=waited_s if self._is_measured else None, counts=counts)
        return now - began if refused else 0.0

    def _wait(self, lane: int, began: float) -> tuple[bool, float, float]:
        limiter, clock = self.limiter, self._clock
        ticket = limiter.queue(lane, self.urgency, began)
        now = began
        try:
            while due_s := limiter.start_queued(lane, ticket, now):
                if not self._patience.pause(due_s * (1.0 + clock.random() / 2)):
                    limiter.leave(lane, ticket)
                    return False, now, now - began
                now = clock.monotonic()
        except BaseException:  # such as ^C
            limiter.leave(lane, ticket)
            raise
        return True, now, now - began
