"""Which trials of a stage survive: the best by a metric, a Pareto front, those that a predicate accepts, or what a function says.

    rows of all trials ──► Selection.choose ──► survivors in order, the reason, the state of the policy

Guarantee: a choice depends on the rows and the state alone, and not on their order. Ties are broken by the trial's index, the lower first.
No trial that did not complete survives, nor one whose metric is missing or not a number.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from starburst_executor.errors import ConfigError
from starburst_executor.study.own_policies import OWN_SELECTING, OwnPolicy
from starburst_executor.study.plain import check_params
from starburst_executor.study.policies import SELECTING, Within, policy_of

if TYPE_CHECKING:
    from starburst_executor.study.tables import TrialRow

__all__ = ["All", "By", "Choice", "Pareto", "Selection", "Top", "Where", "selection_of"]

Directions: TypeAlias = Mapping[str, str]
_NO_DIRECTIONS: Directions = {}
_FORMS = (
    "('metric', k), (('metric', 'metric'), k or None), a predicate of one argument, a function of table and state, or a policy: "
    + ", ".join(SELECTING)
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision: the indexes of the survivors, the best first; why; and the state that the policy wants to have stored."""

    survivors: tuple[int, ...]
    reason: str
    state: Mapping[str, Any] = field(default_factory=dict)


class Selection(Protocol):
    """A rule that chooses survivors."""

    def choose(self, rows: Sequence[TrialRow], directions: Directions, state: Mapping[str, Any]) -> Choice:
        """Choose among the rows of all trials. `directions` has `max` or `min` for declared metrics."""

    def described(self) -> dict[str, Any]:
        """Return the rule as plain values, for fingerprints and for people."""


@dataclass(frozen=True, slots=True)
class All:
    """Every completed trial, in the order of their indexes."""

    def choose(self, rows: Sequence[TrialRow], directions: Directions, state: Mapping[str, Any]) -> Choice:  # noqa: ARG002 - the protocol's
        completed = _completed(rows)
        return Choice(tuple(row.index for row in completed), f"all {len(completed)} completed trials", state)

    def described(self) -> dict[str, Any]:
        return {"all": True}


@dataclass(frozen=True, slots=True)
class Top:
    """The best `k` trials by one metric."""

    metric: str
    k: int

    def choose(self, rows: Sequence[TrialRow], directions: Directions, state: Mapping[str, Any]) -> Choice:
        eligible = _with_metrics(rows, [self.metric])
        best = sorted(eligible, key=lambda row: (_costs(row, [self.metric], directions), row.index))[: self.k]
        direction = directions.get(self.metric, "max")
        return Choice(
            tuple(row.index for row in best),
            f"best {self.k} by {self.metric} ({direction}) of {len(eligible)} with that metric",
            state,
        )

    def described(self) -> dict[str, Any]:
        return {"top": {"metric": self.metric, "k": self.k}}


@dataclass(frozen=True, slots=True)
class Pareto:
    """The trials that no other beats in every metric; with `most`, whole fronts one after the other until there are that many."""

    metrics: tuple[str, ...]
    most: int | None = None

    def choose(self, rows: Sequence[TrialRow], directions: Directions, state: Mapping[str, Any]) -> Choice:
        eligible = _with_metrics(rows, self.metrics)
        costs = {row.index: _costs(row, self.metrics, directions) for row in eligible}
        chosen: list[int] = []
        left = sorted(costs, key=lambda index: (costs[index], index))
        n_fronts = 0
        while left and (n_fronts == 0 or (self.most is not None and len(chosen) < self.most)):
            front = _front(left, costs)
            chosen += front
            members = set(front)
            left = [index for index in left if index not in members]
            n_fronts += 1
        kept = chosen if self.most is None else chosen[: self.most]
        fronts = "the Pareto front" if n_fronts <= 1 else f"{n_fronts} Pareto fronts"
        return Choice(
            tuple(kept), f"{fronts} of {', '.join(self.metrics)}, of {len(eligible)} with these metrics", state
        )

    def described(self) -> dict[str, Any]:
        return {"pareto": {"metrics": list(self.metrics), "most": self.most}}


@dataclass(frozen=True, slots=True)
class Where:
    """The completed trials that a predicate accepts."""

    predicate: Callable[[TrialRow], Any]

    def choose(self, rows: Sequence[TrialRow], directions: Directions, state: Mapping[str, Any]) -> Choice:  # noqa: ARG002 - the protocol's
        completed = _completed(rows)
        accepted = tuple(row.index for row in completed if self.predicate(row))
        return Choice(accepted, f"{_name(self.predicate)} accepts {len(accepted)} of {len(completed)} completed", state)

    def described(self) -> dict[str, Any]:
        return {"where": _name(self.predicate)}


@dataclass(frozen=True, slots=True)
class By:
    """What a function over the table says; its second argument is a dict that is stored with the decision."""

    function: Callable[[list[TrialRow], dict[str, Any]], Iterable[Any]]

    def choose(self, rows: Sequence[TrialRow], directions: Directions, state: Mapping[str, Any]) -> Choice:  # noqa: ARG002 - the protocol's
        from starburst_executor.study.tables import TrialRow

        table = sorted(rows, key=lambda row: row.index)
        changed = copy.deepcopy(dict(state))
        known = {row.index: row for row in table}
        names = {row.name: row.index for row in table}
        chosen: dict[int, None] = {}
        for one in self.function(list(table), changed):
            index = one.index if isinstance(one, TrialRow) else names.get(one, one)
            if index not in known:
                raise ValueError(f"{_name(self.function)} selects {one!r}, which is no trial of this stage")
            if not known[index].is_completed:
                raise ValueError(f"{_name(self.function)} selects {known[index].name}, which is {known[index].state}")
            chosen[index] = None
        check_params(changed, f"the state of {_name(self.function)}, which is stored")
        return Choice(tuple(chosen), f"{_name(self.function)} selects {len(chosen)} of {len(table)}", changed)

    def described(self) -> dict[str, Any]:
        return {"function": _name(self.function)}


def selection_of(given: object, where: str, directions: Directions = _NO_DIRECTIONS) -> Selection:
    """Return the selection that a user described. Raises: ConfigError.

    Args:
        directions: Of the stage's metrics.
    """
    if given is None:
        return All()
    if isinstance(given, (All, Top, Pareto, Where, By)):
        return given
    if isinstance(given, (tuple, list)) and len(given) == 2:  # noqa: PLR2004 - a pair
        metric, k = given
        is_count = isinstance(k, int) and not isinstance(k, bool) and k >= 1
        if isinstance(metric, str) and is_count:
            return Top(metric, k)
        are_names = isinstance(metric, (tuple, list)) and metric and all(isinstance(one, str) for one in metric)
        if are_names and (k is None or is_count):
            return Pareto(tuple(metric), k)
    elif isinstance(given, Mapping):
        return selection_of(policy_of(given, SELECTING, OWN_SELECTING, where), where, directions)
    elif isinstance(given, Within):
        return By(given.directed(directions))
    elif callable(given):
        n_arguments = _n_arguments(given.function if isinstance(given, OwnPolicy) else given)
        if n_arguments == 1:
            return Where(given)
        if n_arguments == 2:  # noqa: PLR2004 - the table and the state
            return By(given)
    raise ConfigError(f"{where}={given!r}: must be {_FORMS}")


def _n_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(one.kind in kinds and one.default is inspect.Parameter.empty for one in parameters)


def _completed(rows: Sequence[TrialRow]) -> list[TrialRow]:
    return sorted((row for row in rows if row.is_completed), key=lambda row: row.index)


def _with_metrics(rows: Sequence[TrialRow], metrics: Sequence[str]) -> list[TrialRow]:
    return [
        row for row in _completed(rows) if all(not math.isnan(row.metrics.get(metric, math.nan)) for metric in metrics)
    ]


def _costs(row: TrialRow, metrics: Sequence[str], directions: Directions) -> tuple[float, ...]:
    """Return the metrics so that lower is better."""
    return tuple(
        row.metrics[metric] if directions.get(metric, "max") == "min" else -row.metrics[metric] for metric in metrics
    )


def _front(indexes: Sequence[int], costs: Mapping[int, tuple[float, ...]]) -> list[int]:
    """Return those that no other dominates. `indexes` are sorted by their costs, so only earlier ones can dominate."""
    front: list[int] = []
    for index in indexes:
        if not any(_dominates(costs[other], costs[index]) for other in front):
            front.append(index)
    return front


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _name(function: Callable[..., Any]) -> str:
    if type(function) in (*SELECTING.values(), OwnPolicy):
        return str(function.text)  # type: ignore[attr-defined]  # of a policy
    return getattr(function, "__qualname__", type(function).__qualname__)
