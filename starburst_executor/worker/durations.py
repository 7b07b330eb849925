"""How long a function's tasks take, as measured: what decides the size of the next slice."""

from __future__ import annotations

from starburst_executor.protocol.status import State, Status

__all__ = ["Durations"]

# A new measurement moves the estimate by a fifth: steady under noise, and right again after a dozen tasks.
_WEIGHT = 0.2
# Estimates at a time, about 2 MB. Where each task has a function of its own they are of no use anyway.
_MOST = 10_000


class Durations:
    """Estimates by function digest, in seconds. Shared by the slots of a worker; each call is one dictionary access."""

    def __init__(self) -> None:
        self._estimates: dict[str, float] = {}
        self.latest: float | None = None  # of the function that was measured last

    def add(self, digest: str, seconds: float) -> None:
        """Take in one measurement."""
        known = self._estimates.get(digest)
        self.latest = seconds if known is None else known + _WEIGHT * (seconds - known)
        if known is None and len(self._estimates) >= _MOST:
            # All at once, in one step: other slots read meanwhile.
            self._estimates = {}
        self._estimates[digest] = self.latest

    def of(self, digest: str) -> float | None:
        """The estimate for one function; None while unknown."""
        return self._estimates.get(digest)

    def of_next(self, seen: Status) -> float | None:
        """The estimate for the next pending task of an object: own measurements, else what its ended tasks took."""
        for entry in seen.entries:
            if entry.state == State.PENDING:
                known = self._estimates.get(seen.functions[entry.function])
                return known if known is not None else _mean_seconds(seen)
        return None


def _mean_seconds(seen: Status) -> float | None:
    ended = [e.seconds for e in seen.entries if e.state == State.COMPLETED]
    return sum(ended) / len(ended) if ended else None
