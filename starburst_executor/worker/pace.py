"""How much a slot takes at a time, and when: pure decisions about slices, claims ahead and overruns.

Short tasks are claimed by the slice, so that a claim and a commit cost little beside them; long ones one by one, so that
none waits behind another while a worker is idle. Everything here follows from how long tasks are expected to take.
"""

from __future__ import annotations

from dataclasses import dataclass

from starburst_executor.protocol import status
from starburst_executor.protocol.status import State, Status

__all__ = ["Pace", "has_plenty", "is_shared"]

# A task that takes longer than this many slices' worth of time is not claimed ahead: the claim would cost a few percent
# of its time, but an idle worker would have to wait for it.
_AHEAD_SLICES = 5
# Where few tasks are left the next one is claimed this long before the one that runs should end: a LIST, a GET and a PUT.
LEAD_S = 0.3
# With more pending tasks in an object than this for each worker in it, a claim ahead keeps no worker from work.
_LEFT = 2
# Less than this share of a slice is not left to others, however many are idle: a claim and a commit take as long, and the
# race between two that share an object longer.
_LEAST_SLICE = 0.2
# More slices' worth of waiting tasks than this is too much, as measured by now: two and some for the estimate's noise.
_MOST_HELD = 3
_LEAST_S = 1e-6  # what a task takes at the least, so that there is something to divide by


@dataclass(frozen=True, slots=True)
class Pace:
    """Decides by one session's `slice_s`: about how much work a claim should hold. All durations are in seconds.

    `estimate_s` is how long one task is expected to take; None while that is unknown.
    """

    slice_s: float

    def slice_size(self, estimate_s: float | None, fair_share: int) -> int:
        """How many tasks to claim: about a slice's worth, one while unknown, not much more than a fair share."""
        if estimate_s is None:
            return 1
        wanted = self.slice_s / max(estimate_s, _LEAST_S)
        return max(1, min(int(wanted), max(fair_share, self.least_slice(estimate_s)), status.MAX_TASKS))

    def least_slice(self, estimate_s: float | None) -> int:
        """How many tasks are not worth sharing with another worker; one while unknown."""
        return 1 if estimate_s is None else max(1, int(_LEAST_SLICE * self.slice_s / max(estimate_s, _LEAST_S)))

    def may_claim_ahead(self, estimate_s: float | None) -> bool:
        """Whether tasks are short enough that one may wait behind another."""
        return estimate_s is not None and estimate_s <= _AHEAD_SLICES * self.slice_s

    def claim_ahead_at(self, estimate_s: float | None, started_at: float) -> float | None:
        """From when on the next task is claimed even if others may want it: the one that runs is about to end."""
        if estimate_s is None or estimate_s < LEAD_S or not self.may_claim_ahead(estimate_s):
            return None
        return started_at + estimate_s - LEAD_S

    def overrun_at(self, estimate_s: float | None, started_at: float) -> float:
        """From when on a task counts as an overrun that others should not wait behind."""
        expected_s = estimate_s or 0.0
        return started_at + max(2 * expected_s, expected_s + self.slice_s)

    def holds_too_much(self, n_waiting: int, estimate_s: float | None) -> bool:
        """Whether waiting tasks turned out so much longer than when they were claimed that others should have some.

        A slice and the one claimed ahead are two slices' worth; a single task is none too much, however long it takes.
        """
        return n_waiting > 1 and n_waiting * (estimate_s or 0.0) > _MOST_HELD * self.slice_s


def has_plenty(seen: Status) -> bool:
    """Whether an object has pending tasks for every worker that looks for some there."""
    n_pending = sum(entry.state == State.PENDING for entry in seen.entries)
    claims = {entry.claim for entry in seen.entries if entry.state == State.CLAIMED}
    return n_pending > _LEFT * max(1, len({claim.partition(".")[0] for claim in claims}))


def is_shared(seen: Status) -> bool:
    """Whether others work on an object."""
    return any(entry.state == State.CLAIMED for entry in seen.entries)
