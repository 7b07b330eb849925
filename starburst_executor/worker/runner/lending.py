"""The place of a job that waits for tasks of its own: it goes to another task until the job goes on or ends.

    runner ──LEND number──► Lending ──settle──► Places.lend: one more slot ──PLACE is_given──► runner
           ──RESUME number, or the job has ended──► Places.take_back

The thread that listens to the runner calls all of it, and `settle` without the runner's lock, since `Places` has a lock of its own.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Protocol

from starburst_executor.worker.runner import wire

__all__ = ["Lending", "NoPlaces", "Places"]


class Places(Protocol):
    """The places of a worker, as one runner sees them."""

    def lend(self) -> bool:
        """Let another task run while the job of this runner waits; return False if too many wait already. It must not wait."""

    def take_back(self) -> None:
        """End what `lend` began. It must not wait."""


class NoPlaces:
    """The places of a runner without a worker: no job gives its own up."""

    def lend(self) -> bool:
        return False

    def take_back(self) -> None:
        """Do nothing: nothing was lent."""


class Lending:
    """What one runner has lent of its worker's places: at most the one of the job that runs. Not thread-safe."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._asked: int | None = None
        self._resumed: int | None = None
        self._lent: int | None = None

    def hear(self, kind: int, number: int) -> None:
        """Take in a frame of the runner, for `settle`."""
        if kind == wire.LEND:
            self._asked = number
        else:
            self._resumed = number

    def settle(self, open_jobs: Container[int]) -> bool | None:
        """Lend and take back what is due; return the answer to a job that has asked, None if none has.

        Args:
            open_jobs: The jobs that have not ended.
        """
        resumed, self._resumed = self._resumed, None
        if self._lent is not None and (self._lent == resumed or self._lent not in open_jobs):
            self._lent = None
            self._places.take_back()
        if self._asked is None:
            return None
        number, self._asked = self._asked, None
        if number not in open_jobs or not (self._lent == number or self._places.lend()):
            return False
        self._lent = number
        return True
