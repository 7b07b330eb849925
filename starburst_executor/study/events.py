"""What happens in a study, for people and programs: one event at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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
        cost_usd: The estimated cost of the session so far; 0 unless `budget_usd` is given.
        kinds: Failed trials by kind.
    """

    stage: str
    trials: int
    completed: int
    failed: int
    cancelled: int
    idle_s: float
    cost_usd: float
    kinds: Mapping[str, int]

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled
