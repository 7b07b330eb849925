"""The gates of a study: which of those that wait for approval have waited too long, by their driver's own clock. No request."""

from __future__ import annotations

from starburst_executor.study.plan import Plan
from starburst_executor.study.record import RUNNING, WAITING, StudyRecord

__all__ = ["Gates", "are_all_that_is_left"]


class Gates:
    """How long each gate has waited since this driver saw it first. Not thread-safe."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._since: dict[str, float] = {}

    def due(self, record: StudyRecord, now: float) -> str | None:
        """Return a waiting stage whose gate's time has passed; None if there is none."""
        for stage in record.stages:
            gate = self._plan[stage.name].gate
            if stage.state != WAITING or gate is None or gate.timeout is None:
                continue
            if now - self._since.setdefault(stage.name, now) >= gate.timeout:
                return stage.name
        return None


def are_all_that_is_left(record: StudyRecord) -> bool:
    """Return whether nothing but gates is left to wait for."""
    states = {stage.state for stage in record.stages}
    return WAITING in states and RUNNING not in states
