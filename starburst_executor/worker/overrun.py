"""Notices that tasks wait for too long behind the running one, so that the slot releases them to other workers."""

from __future__ import annotations

from starburst_executor.worker.backlog import Backlog
from starburst_executor.worker.feeder import Feeder
from starburst_executor.worker.pace import Pace
from starburst_executor.worker.shared import Shared

__all__ = ["Overrun"]


class Overrun:
    """Whether the running task of a slot takes longer than estimated. The slot's thread owns it.

    Attributes:
        is_on: Whether the running task is an overrun; the tasks behind it have been released, and none may be claimed ahead.
    """

    def __init__(self, shared: Shared, pace: Pace, backlog: Backlog, feeder: Feeder) -> None:
        self._shared = shared
        self._pace = pace
        self._backlog = backlog
        self._feeder = feeder
        self.is_on = False

    def due_at(self) -> float | None:
        """Return the time from which the running task counts as an overrun; None if no task waits behind it."""
        running = self._feeder.running()
        if self.is_on or running is None or not self._n_behind():
            return None
        return self._pace.overrun_at(self._shared.durations.of(running.digest), self._feeder.started_at)

    def begins(self) -> bool:
        """Return whether the slot must release the tasks that have not started now; the running task then is an overrun."""
        running = self._feeder.running()
        if running is None or self.is_on or not self._feeder.has_runner:
            return False
        due_at = self.due_at()
        is_late = due_at is not None and self._shared.clock.monotonic() >= due_at
        self.is_on = is_late or self._pace.holds_too_much(
            self._n_behind(), self._shared.durations.of(running.digest), self._shared.busy.seconds()
        )
        return self.is_on

    def _n_behind(self) -> int:
        return self._feeder.n_jobs + len(self._backlog) - 1
