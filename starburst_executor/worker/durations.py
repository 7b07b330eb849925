"""Measured durations and outcome sizes of a function's tasks, from which the size of the next slice follows."""

from __future__ import annotations

from starburst_executor.protocol.spans.record import State, Status

__all__ = ["Durations"]

_PENDING = int(State.PENDING)
# Weight of a new measurement: the estimate is steady under noise and correct again after a dozen tasks.
_WEIGHT = 0.2
# Largest number of estimates, about 2 MB. If each task has its own function, estimates are of no use anyway.
_MOST = 10_000


class Durations:
    """Estimates by function digest. Shared by the slots of a worker; each call is one or two dictionary accesses."""

    def __init__(self) -> None:
        self._estimates: dict[str, float] = {}  # in seconds
        self._sizes: dict[str, float] = {}  # in bytes
        self.latest: float | None = None  # the estimate of the function that was measured last

    def add(self, digest: str, seconds: float, n_bytes: float = 0, n: int = 1) -> None:
        """Add a measurement: a task's duration, and the bytes of its outcome and output; or the means of `n` tasks."""
        known, weight = self._estimates.get(digest), 1 - (1 - _WEIGHT) ** n
        self.latest = seconds if known is None else known + weight * (seconds - known)
        if known is None and len(self._estimates) >= _MOST:
            # Replaced in one step, because other slots read it meanwhile.
            self._estimates, self._sizes = {}, {}
        self._estimates[digest] = self.latest
        size = self._sizes.get(digest, n_bytes)
        self._sizes[digest] = size + weight * (n_bytes - size)

    def of(self, digest: str) -> float | None:
        """Return the estimate for one function; None while unknown."""
        return self._estimates.get(digest)

    def of_next(self, current: Status) -> float | None:
        """Return the estimate for an object's next pending task: from own measurements, or from its ended tasks."""
        for span in current.spans:
            if span.state == _PENDING:
                known = self._estimates.get(current.functions[span.function])
                return known if known is not None else _mean_seconds(current)
        return None

    def size_of_next(self, current: Status) -> float:
        """Return the estimated bytes that the end of an object's next pending task takes; 0 while unknown."""
        for span in current.spans:
            if span.state == _PENDING:
                return self._sizes.get(current.functions[span.function], 0.0)
        return 0.0


def _mean_seconds(current: Status) -> float | None:
    """Return the mean duration of the tasks that have completed; those that failed may have ended early."""
    n_tasks, seconds = 0, 0.0
    for start, span in current.placed():
        for block in current.outcome_blocks(start, span):
            durations = block.durations()
            low, high = max(start - block.first, 0), min(start + span.n - block.first, block.n)
            completed = set(range(low, high)).difference(block.failed)
            n_tasks += len(completed)
            seconds += sum(durations[i] for i in completed) if durations else 0.0
    return seconds / n_tasks if n_tasks else None
