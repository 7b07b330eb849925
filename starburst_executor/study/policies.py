"""Policies that studies share: predicates for `select`, and rules for `abort_if`, by name in files and as values in Python.

    select:    at_least, at_most, within        of a row, or of the table
    abort_if:  budget_left, no_improvement, doomed        of a `StageProgress`

Each is an immutable value with a text that says what it does, which is part of a decision's reason and of the stage's fingerprint. Users register
their own beside them (`own_policies.py`). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from starburst_executor.errors import ConfigError
from starburst_executor.study.own_policies import OwnPolicy, aborting, own_policy, selecting

if TYPE_CHECKING:
    from starburst_executor.study.events import StageProgress
    from starburst_executor.study.tables import TrialRow

__all__ = [
    "ABORTING",
    "SELECTING",
    "BudgetLeft",
    "Doomed",
    "NoImprovement",
    "NotAbove",
    "NotBelow",
    "OwnPolicy",
    "Within",
    "aborting",
    "policy_of",
    "selecting",
]

_DIRECTIONS = ("max", "min")


@dataclass(frozen=True, slots=True)
class NotBelow:
    """Select the trials whose metric is at least a value."""

    metric: str
    value: float

    def __call__(self, row: TrialRow) -> bool:
        return row.metrics.get(self.metric, math.nan) >= self.value

    @property
    def text(self) -> str:
        """What it selects, in words."""
        return f"{self.metric} at least {self.value:g}"


@dataclass(frozen=True, slots=True)
class NotAbove:
    """Select the trials whose metric is at most a value."""

    metric: str
    value: float

    def __call__(self, row: TrialRow) -> bool:
        return row.metrics.get(self.metric, math.nan) <= self.value

    @property
    def text(self) -> str:
        """What it selects, in words."""
        return f"{self.metric} at most {self.value:g}"


@dataclass(frozen=True, slots=True)
class Within:
    """Select the trials whose metric is within a share of the best one of their stage, the best first.

    Attributes:
        share: 0.05: not worse than the best by more than 5 % of its absolute value.
        direction: `max` or `min`: which values are better; None: as the stage's `metrics` say, or else `max`.
        most: At most this number; None for all.
    """

    metric: str
    share: float
    direction: str | None = None
    most: int | None = None

    def directed(self, directions: Mapping[str, str]) -> Within:
        """Return this policy in a stage whose metrics have these directions."""
        return replace(self, direction=self.direction or directions.get(self.metric, "max"))

    def __call__(self, rows: list[TrialRow], state: dict[str, Any]) -> Iterable[int]:  # noqa: ARG002 - the form of a selection
        sign = 1.0 if self.direction == "min" else -1.0
        costs = {row.index: sign * row.metrics.get(self.metric, math.nan) for row in rows if row.is_completed}
        costs = {index: cost for index, cost in costs.items() if not math.isnan(cost)}
        if not costs:
            return []
        best = min(costs.values())
        limit = best if math.isinf(best) else best + self.share * abs(best)
        return sorted((i for i, cost in costs.items() if cost <= limit), key=lambda i: (costs[i], i))[: self.most]

    @property
    def text(self) -> str:
        """What it selects, in words."""
        most = "" if self.most is None else f", at most {self.most}"
        return f"{self.metric} ({self.direction or 'max'}) within {self.share:.4g} of the best{most}"


@dataclass(frozen=True, slots=True)
class BudgetLeft:
    """Abort when less than this is left of the study's `budget_usd`, so that later stages can still run.

    Attributes:
        usd: Dollars.
    """

    usd: float

    def __call__(self, progress: StageProgress) -> str:
        if progress.budget_usd is None or progress.budget_usd - progress.cost_usd >= self.usd:
            return ""
        return f"${progress.budget_usd - progress.cost_usd:.2f} of ${progress.budget_usd:.2f} are left, less than ${self.usd:.2f}"

    @property
    def text(self) -> str:
        """When it aborts, in words."""
        return f"less than ${self.usd:g} left"


@dataclass(frozen=True, slots=True)
class NoImprovement:
    """Abort when the best value of a metric has not become better over this number of trials, counted in the order of their indexes.

    The order in which trials end does not matter: a trial counts once all before it have ended.

    Attributes:
        by: Smaller improvements do not count.
    """

    metric: str
    trials: int
    by: float = 0.0

    def __call__(self, progress: StageProgress) -> str:
        sign = 1.0 if progress.directions.get(self.metric, "max") == "min" else -1.0
        best, best_at, index = math.inf, -1, 0
        while (row := progress.outcomes.get(index)) is not None:
            cost = sign * row.metrics.get(self.metric, math.nan) if row.is_completed else math.nan
            if cost < best - (0.0 if math.isinf(best) else self.by):
                best, best_at = cost, index
            index += 1
        # Before the first value there is nothing to improve.
        if best_at < 0 or index - 1 - best_at < self.trials:
            return ""
        return f"{self.metric} has not improved over {index - 1 - best_at:,} trials; the best is {sign * best:g}"

    @property
    def text(self) -> str:
        """When it aborts, in words."""
        return f"no improvement of {self.metric} by more than {self.by:g} over {self.trials:,} trials"


@dataclass(frozen=True, slots=True)
class Doomed:
    """Abort when no survivor that is this stage's input can reach the best value of the study so far.

    Attributes:
        reach: What this stage can gain at most: 0.2 for 20 % of the absolute value of its best input.
    """

    metric: str
    reach: float

    def __call__(self, progress: StageProgress) -> str:
        sign = 1.0 if progress.directions.get(self.metric, "max") == "min" else -1.0
        inputs = [sign * one[self.metric] for one in progress.inputs if not math.isnan(one.get(self.metric, math.nan))]
        found = progress.best.get(self.metric, math.nan)
        own = [sign * row.metrics[self.metric] for row in progress.outcomes.values() if self.metric in row.metrics]
        if not inputs or math.isnan(found):
            return ""
        best_input = min(inputs)
        within_reach = best_input if math.isinf(best_input) else best_input - self.reach * abs(best_input)
        if min([within_reach, *own]) <= sign * found:
            return ""
        return f"no survivor can reach the best {self.metric} so far, {found:g}: the best input has {sign * best_input:g}, its reach is {self.reach:.4g}"

    @property
    def text(self) -> str:
        """When it aborts, in words."""
        return f"doomed: {self.metric} cannot reach the best within {self.reach:.4g}"


SELECTING: dict[str, type[Any]] = {"at_least": NotBelow, "at_most": NotAbove, "within": Within}
ABORTING: dict[str, type[Any]] = {"budget_left": BudgetLeft, "no_improvement": NoImprovement, "doomed": Doomed}


def policy_of(
    given: object, registry: Mapping[str, type[Any]], own: Mapping[str, Callable[..., Any]], where: str
) -> Callable[..., Any]:
    """Return the policy that a mapping names: its name, and a mapping of its arguments. Raises: ConfigError.

    Args:
        registry: The policies that it may name.
        own: Likewise, those that users have registered.
    """
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in {*registry, *own}:
        raise ConfigError(
            f"{where}={given!r}: must be a mapping of one of {', '.join([*registry, *own])} to its arguments"
        )
    [(name, arguments)] = given.items()
    if name in own:
        return own_policy(name, arguments, own, where)
    kind = registry[name]
    known = [field.name for field in fields(kind)]
    if not isinstance(arguments, Mapping) or not set(arguments) <= set(known):
        raise ConfigError(f"{where}: {name}={arguments!r}: must be a mapping of {', '.join(known)}")
    try:
        made = kind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{where}: {name}: needs {', '.join(known)}: {error}") from error
    for field in fields(kind):
        value = getattr(made, field.name)
        if not _fits(field.name, value):
            raise ConfigError(f"{where}: {name}: {field.name}={value!r}: must be {_WANTED[field.name]}")
    return made  # type: ignore[no-any-return]  # a policy


_WANTED = {
    "metric": "the name of a metric",
    "value": "a number",
    "share": "a share, 0 or more",
    "reach": "a share, 0 or more",
    "usd": "a number, 0 or more",
    "by": "a number, 0 or more",
    "trials": "a whole number, at least 1",
    "most": "a whole number, at least 1",
    "direction": "max or min",
}


def _fits(name: str, value: Any) -> bool:
    if name == "metric":
        return isinstance(value, str) and bool(value)
    if name == "direction":
        return value is None or value in _DIRECTIONS
    if name in ("trials", "most"):
        return (name == "most" and value is None) or (type(value) is int and value >= 1)
    is_number = type(value) in (int, float) and math.isfinite(value)
    return is_number and (name == "value" or value >= 0)
