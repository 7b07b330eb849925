"""Adds up what a look knows of a session's tasks: counts, rates, durations, kinds of failure, and the time left.

Tasks of objects that were not read are estimated from those of the same size class that were.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.statuses import ListedStatus

__all__ = ["RECENT_S", "Seen", "Tally", "quantile", "time_left"]

RECENT_S = 60.0
_SURE = 2.0  # standard deviations: 95 of 100 estimates lie within


@dataclass(slots=True)
class Seen:
    """What is remembered of a status object that was read."""

    etag: str
    counts: Counter[State]
    retries: int = 0
    losses: int = 0
    ended_at: array[float] = field(default_factory=lambda: array("d"))  # ascending
    seconds: array[float] = field(default_factory=lambda: array("f"))  # of tasks that ran
    began_at: float | None = None
    running: list[tuple[str, str, float]] = field(default_factory=list)  # worker, task, since when
    kinds: Counter[str] = field(default_factory=Counter)


class Tally:
    """Adds up what was read of a session."""

    def __init__(self, listing: Sequence[ListedStatus], known: Mapping[str, Seen], now: float) -> None:
        self.is_exact = True
        self.n_tasks = 0
        self.n_recent = 0.0
        self.retries = self.losses = 0
        self.began_at: float | None = None
        self.last_at: float | None = None
        self.seconds: array[float] = array("f")
        self.kinds: Counter[str] = Counter()
        self.running: list[tuple[str, str, float]] = []
        totals: dict[State, float] = dict.fromkeys(State, 0.0)
        read: dict[SizeClass, Counter[State]] = {}
        unread: Counter[SizeClass] = Counter()
        # Tasks of recent objects that were read, and of these those that ended recently; tasks of others.
        fresh = [0, 0, 0]
        since = now - RECENT_S
        for listed in listing:
            n_tasks, size_class = listed.ref.n_tasks, listed.size_class
            self.n_tasks += n_tasks
            seen = known.get(listed.key)
            is_current, n_recent = seen is not None and seen.etag == listed.etag, 0
            if seen is not None and is_current:
                self._add(seen)
                n_recent = len(seen.ended_at) - bisect_right(seen.ended_at, since)
                self.n_recent += n_recent
                read.setdefault(size_class, Counter()).update(seen.counts)
                for state, n in seen.counts.items():
                    totals[state] += n
            elif size_class.all_in is not None:
                totals[size_class.all_in] += n_tasks
            else:
                unread[size_class] += n_tasks
            if listed.modified_at > since and size_class != SizeClass.ALL_PENDING:
                if is_current:
                    fresh[0] += n_tasks
                    fresh[1] += n_recent
                else:
                    fresh[2] += n_tasks
            if size_class.has_ended:
                self.last_at = max(self.last_at or 0.0, listed.modified_at)
        if fresh[2]:
            self.n_recent += fresh[2] * (fresh[1] / fresh[0] if fresh[0] else 1.0)
        for size_class, n_tasks in unread.items():
            self.is_exact = False
            for state, share in _shares(size_class, read.get(size_class, Counter())):
                totals[state] += n_tasks * share
        self.counts = _rounded(totals, self.n_tasks)
        n_failed, n_read = self.counts[State.FAILED], sum(self.kinds.values())
        if n_read and not self.is_exact:
            self.kinds = Counter({kind: round(n * n_failed / n_read) for kind, n in self.kinds.items()})

    def _add(self, seen: Seen) -> None:
        self.retries += seen.retries
        self.losses += seen.losses
        self.seconds.extend(seen.seconds)
        self.kinds.update(seen.kinds)
        self.running += seen.running
        if seen.began_at is not None:
            self.began_at = seen.began_at if self.began_at is None else min(self.began_at, seen.began_at)


def _shares(size_class: SizeClass, read: Counter[State]) -> list[tuple[State, float]]:
    """Return the share of each state in objects of this class that were not read, by those that were."""
    n_read = sum(read.values())
    if n_read:
        return [(state, n / n_read) for state, n in read.items()]
    guess = {
        SizeClass.SOME_PENDING: State.PENDING,
        SizeClass.SOME_CLAIMED: State.CLAIMED,
        SizeClass.BLOCKED: State.PENDING,
        SizeClass.ALL_ENDED: State.COMPLETED,
    }
    return [(guess.get(size_class, State.COMPLETED), 1.0)]


def _rounded(totals: Mapping[State, float], n_tasks: int) -> Counter[State]:
    """Return whole numbers with the right sum."""
    counts = Counter({state: round(n) for state, n in totals.items()})
    largest = max(counts, key=lambda state: counts[state])
    counts[largest] += n_tasks - sum(counts.values())
    return counts


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value below which this share of ascending values lies; None if there are none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def time_left(
    n_left: int, per_s: float, n_recent: float, slots: int, seconds: Sequence[float], running_s: Sequence[float]
) -> tuple[float, float | None, float | None] | None:
    """Return an estimate of the seconds left, and the bounds within which it is in 95 of 100 cases; None if nothing tells.

    Args:
        n_left: Tasks that have not ended.
        per_s: The rate at which tasks ended recently.
        n_recent: How many they are.
        seconds: How long each ended task ran, ascending.
        running_s: For how long each running task has run.
    """
    if not n_left:
        return None
    rests = [_rest_s(seconds, ran_s) for ran_s in running_s]
    known = [rest for rest in rests if rest is not None]
    if len(running_s) >= n_left:
        # Nothing waits: what ended before tells only how long such tasks run.
        return (max(known), None, None) if len(known) == len(rests) else None
    p90_s = quantile(seconds, 0.9)
    if n_recent:
        left_s, error = n_left / per_s, _SURE / n_recent**0.5
        # Ends come one by one, so their number varies with its root. The last task may be a long one.
        # No bound holds if one runs already for longer than any that has ended.
        most_s = left_s / (1 - error) + (p90_s or 0.0) if error < 1 and len(known) == len(rests) else None
        return left_s, left_s / (1 + error), most_s
    if seconds and slots:
        return n_left * (sum(seconds) / len(seconds)) / slots, None, None
    return None


def _rest_s(seconds: Sequence[float], ran_s: float) -> float | None:
    """Return how much longer a task may run, by those that ran for longer than it has; None if none did."""
    longer = quantile(seconds[bisect_right(seconds, ran_s) :], 0.5)
    return None if longer is None else longer - ran_s
