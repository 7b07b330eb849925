"""What happens in a study, for people and programs: one event at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from starburst_executor.study.tables import TrialRow

__all__ = ["Event", "StageProgress", "Tell"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event.

    Attributes:
        kind: `study`, `stage`, `progress`, `gate`, `driver`.
        text: One line for people.
        at: UTC epoch seconds.
        data: Facts for programs.
    """

    kind: str
    text: str
    at: float
    data: Mapping[str, Any] = field(default_factory=dict)


Tell: TypeAlias = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a running stage is: the argument of a function in `abort_if`.

    Attributes:
        stage: Its name.
        trials: Their number.
        completed: Trials that completed.
        failed: Trials that failed.
        cancelled: Trials that were cancelled or pruned.
        idle_s: Seconds since a trial ended last, by the driver's clock.
        cost_usd: The estimated cost of the session so far; 0 unless a rule needs it.
        kinds: Failed trials by kind.
        budget_usd: The budget of the study; None if it has none.
        outcomes: The outcomes of the trials that have ended, by index.
        directions: `max` or `min`, for each declared metric.
        inputs: The metrics of each survivor that is an input of this stage.
        best: The best value of each metric among the survivors of all decided stages.
    """

    stage: str
    trials: int
    completed: int
    failed: int
    cancelled: int
    idle_s: float
    cost_usd: float
    kinds: Mapping[str, int]
    budget_usd: float | None = None
    outcomes: Mapping[int, TrialRow] = field(default_factory=dict)
    directions: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[Mapping[str, float], ...] = ()
    best: Mapping[str, float] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled
