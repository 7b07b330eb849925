"""How many tasks a slot claims and when, and when it commits: pure decisions about slices, commits and overruns.

Short tasks are claimed in slices, so that a claim and a commit cost little in proportion; long tasks are claimed one by one,
so that none waits behind another while a worker is idle. All decisions follow from the expected duration of tasks, and
from how long the worker has been busy: the longer a run, the more of its work may be at risk, so slices and the time
between commits grow with it.

    busy for        0 … 50 s      100 s      200 s      750 s and more          (S3; `commit_s` = 1, `commit_most_s` = 15)
    commits within       1 s        2 s        4 s       15 s
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from starburst_executor.config.timings import Timings
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.spans.record import MAX_TASKS, State, Status

__all__ = ["Pace", "has_plenty", "is_shared", "pace_of"]

# A task that takes longer than this many slices is not claimed ahead: claiming later costs a few percent of its time, but
# claiming ahead could leave another worker idle.
_AHEAD_SLICES = 5
# If few tasks are left, the next one is claimed this long before the running one should end: the time of a LIST, a GET and
# a PUT.
LEAD_S = 0.3
# If an object has more pending tasks than this for each worker in it, a claim ahead deprives no worker of work.
_LEFT = 2
# A smaller share of a slice than this is not left to other workers, even idle ones: a claim and a commit take as long, and
# the race between two workers that share an object takes longer.
_LEAST_SLICE = 0.2
# Waiting tasks may take at most this many slices by the current estimate: two, and one for the estimate's noise.
_MOST_HELD = 3
# An outcome waits at most for this share of the time that its worker has been busy: what a SIGKILL repeats is 2 % of the run.
_SHARE_AT_RISK = 0.02
# Slices are so large that the last task should end when the first outcome must be stored. If it ends a little later, one swap stores
# both instead of two.
_LATE_SHARE = 0.05
# While requests wait because the store is busy, a slice lasts for this many waits, so that a claim, its commit and some
# reads take less time than its tasks; and at most this long. It may be up to twice that, to leave nothing of an object, and one
# swap stores all of it.
_WAITS = 5.0
_WAITS_MOST_S = 60.0
_WHOLE = 2
# Outcomes wait in the worker's memory, so a claim holds tasks with about this many bytes of them, and is committed when that
# many bytes wait. Writing them takes about as long as a slice.
_MOST_BYTES = 32 * 2**20
_LEAST_S = 1e-6  # least duration of a task, to avoid division by zero


@dataclass(frozen=True, slots=True)
class Pace:
    """The decisions for a session with these timings.

    `estimate_s` is the expected duration of one task in seconds; None while it is unknown. `busy_s` is the time in seconds
    for which the worker has been busy.

    Args:
        slice_s: The work in seconds that a claim should hold at first.
        commit_s: The longest time in seconds that an outcome waits for its commit at first.
        commit_most_s: The limit of its growth.
        wait_s: Returns how long a request waits because the store is busy; slices and commit intervals grow with it, also where
            few tasks are left.
        swap_s: How long a swap of an object excludes other workers from it.
    """

    slice_s: float
    commit_s: float
    commit_most_s: float
    wait_s: Callable[[], float] = lambda: 0.0
    swap_s: float = 0.0

    def is_single(self, estimate_s: float | None, busy_s: float) -> bool:
        """Return whether a slice is one task, whatever its fair share."""
        return estimate_s is None or max(self.slice_s, self.commit_within_s(busy_s, is_scarce=False)) < estimate_s

    def slice_size(
        self,
        estimate_s: float | None,
        fair_share: int,
        busy_s: float = 0.0,
        *,
        size: float = 0.0,
        n_left: int = 0,
        n_meet: float = 0.0,
    ) -> int:
        """Return how many tasks to claim: about one slice of work, one task while unknown, little more than a fair share.

        A larger slice is committed as a whole, so it is so large that its first outcome waits no longer than permitted. It holds
        at most half a fair share, so that all workers end at about the same time. While the store is busy it may be more: with slices
        of a fair share the requests would wait for longer than their tasks take.

        Args:
            n_left: The object's pending tasks.
            n_meet: How many slots look for tasks in this object.
            size: The estimated bytes of a task's outcome and output. It limits the slice: the outcomes are kept until the commit,
                which may have to wait for the store while the tasks go on.
        """
        if estimate_s is None:
            return 1
        estimate_s = max(estimate_s, _LEAST_S)
        first = min(int(self.slice_s / estimate_s), max(fair_share, self.least_slice(estimate_s)))
        grown = min(1 + int(self._grown_s(busy_s) / estimate_s), fair_share // 2)
        # A slice of k of n pending tasks lasts k tasks and leaves n / k slices, whose requests wait for each other: because one swap of an
        # object at a time succeeds, or because the store is busy. The sum is least for the geometric mean of the slice that this permits
        # and the fair share.
        crowded = _mean_slice(n_meet * self.swap_s / estimate_s, fair_share)
        grown = max(grown, min(crowded, 1 + int(self._grown_s(busy_s) / estimate_s)))
        if busy_store_s := self._busy_store_s():
            grown = max(grown, _mean_slice(busy_store_s / estimate_s, fair_share))
            # Two workers in one object make swaps that fail after a long wait.
            grown = n_left if grown < n_left <= _WHOLE * grown else grown
        return max(1, min(max(first, grown), int(_MOST_BYTES / max(1.0, size)), MAX_TASKS))

    def commit_within_s(self, busy_s: float, *, is_scarce: bool, is_last: bool = False) -> float:
        """Return for how many seconds an outcome may wait for its commit.

        Args:
            is_scarce: Whether fewer tasks are pending than there are slots: then every outcome may be waited for.
            is_last: Whether one task of the slice has not ended: then it may wait for that one a twentieth longer.
        """
        busy_store_s = _WHOLE * self._busy_store_s()
        if is_scarce:
            return max(self.commit_s, busy_store_s)
        within_s = max(self._grown_s(busy_s), busy_store_s)
        return within_s * (1 + _LATE_SHARE) if is_last else within_s

    def has_room(self, n_bytes: int) -> bool:
        """Return whether outcomes of this many bytes may wait for their commit."""
        return n_bytes < _MOST_BYTES

    def least_slice(self, estimate_s: float | None) -> int:
        """Return the number of tasks up to which sharing with another worker is not worthwhile; one while unknown."""
        return 1 if estimate_s is None else max(1, int(_LEAST_SLICE * self.slice_s / max(estimate_s, _LEAST_S)))

    def may_claim_ahead(self, estimate_s: float | None) -> bool:
        """Return whether tasks are so short that one may wait behind another."""
        return estimate_s is not None and estimate_s <= _AHEAD_SLICES * self.slice_s

    def claim_ahead_at(self, estimate_s: float | None, started_at: float) -> float | None:
        """Return the time from which to claim the next task even if tasks are few, because the running one is about to end."""
        if estimate_s is None or estimate_s < LEAD_S or not self.may_claim_ahead(estimate_s):
            return None
        return started_at + estimate_s - LEAD_S

    def overrun_at(self, estimate_s: float | None, started_at: float) -> float:
        """Return the time from which a task counts as an overrun, behind which no other task should wait."""
        expected_s = estimate_s or 0.0
        return started_at + max(2 * expected_s, expected_s + self.slice_s)

    def holds_too_much(self, n_waiting: int, estimate_s: float | None, busy_s: float = 0.0) -> bool:
        """Return whether waiting tasks take far longer than estimated at their claim, so that other workers should get some.

        A slice and the one claimed ahead are two slices of work; a single task is never too much, however long it takes.
        """
        return n_waiting > 1 and n_waiting * (estimate_s or 0.0) > _MOST_HELD * max(
            self.slice_s, self.commit_within_s(busy_s, is_scarce=False)
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    def _grown_s(self, busy_s: float) -> float:
        """Return for how many seconds an outcome may wait that many others follow."""
        return max(self.commit_s, min(self.commit_most_s, _SHARE_AT_RISK * busy_s))

    def _busy_store_s(self) -> float:
        """Return for how many seconds a slice should last because the store is busy; 0 if it is not."""
        return min(_WAITS * self.wait_s(), _WAITS_MOST_S)


def _mean_slice(permitted: float, fair_share: int) -> int:
    """Return the geometric mean of two slices, or the first one if it is smaller."""
    return round(math.sqrt(permitted * min(permitted, fair_share)))


def pace_of(timings: Timings, wait_s: Callable[[], float] = lambda: 0.0) -> Pace:
    """Return the pace of a session with these timings; `wait_s` is as in `Pace`."""
    return Pace(timings.slice_s, timings.commit_s, timings.commit_most_s, wait_s, timings.swap_s)


def has_plenty(current: Status) -> bool:
    """Return whether an object has pending tasks for every worker that works on it."""
    n_pending = sum(span.n for span in current.spans if span.state == State.PENDING)
    return n_pending > _LEFT * max(1, len(set(map(worker_of, current.claims()))))


def is_shared(current: Status) -> bool:
    """Return whether a worker holds tasks of an object."""
    return any(span.state == State.CLAIMED for span in current.spans)
