"""Optuna's pruners for `Trial.should_prune`, through Optuna's own interface; what they look at are the reports of trials (`reports.py`).

    Stage(prune=…) ──prune_of──► OptunaPruner, a description ──on a worker──► Judge: an Optuna study in memory ──► prune or go on

Trial i of the stage is trial i of the Optuna study. Optuna is imported where a pruner is described or asked, never by the package itself.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starburst_executor.errors import ConfigError
from starburst_executor.study.optuna_api import STUDY_NAME, check_part, optuna_module, part_name, quiet, trial_id_of
from starburst_executor.study.reports import COMPLETED, PRUNED, TrialReport

__all__ = ["Judge", "OptunaPruner", "prune_of"]

_FORMS = "a metric and a number of trials or a pruner of Optuna, as in ('loss', 5) or ('loss', 'HyperbandPruner')"


@dataclass(frozen=True, slots=True)
class OptunaPruner:
    """A pruner of Optuna: a part of a stage. Immutable, can be pickled.

    Attributes:
        metric: What it looks at.
        pruner: The name of a class in `optuna.pruners`, a function that makes a pruner, or a pruner.
        options: Arguments of that class or function.
    """

    metric: str
    pruner: Any
    options: Mapping[str, Any]

    def described(self) -> dict[str, Any]:
        """Return the description as plain values, for fingerprints."""
        is_made = not isinstance(self.pruner, str) and not callable(self.pruner)
        return {
            "metric": self.metric,
            "pruner": part_name(self.pruner),
            "options": _attributes(self.pruner) if is_made else dict(self.options),
        }

    def code(self) -> list[Any]:
        """Return the functions and classes of the user's that it consists of, for fingerprints."""
        given = self.pruner
        return [] if isinstance(given, str) else [given if callable(given) else type(given)]

    def made(self) -> Any:
        """Return a new pruner, which has seen nothing."""
        optuna = optuna_module()
        given = getattr(optuna.pruners, self.pruner) if isinstance(self.pruner, str) else self.pruner
        if isinstance(given, optuna.pruners.BasePruner):
            return pickle.loads(pickle.dumps(given))  # noqa: S301 - made here
        return given(**self.options)

    @property
    def divides_trials(self) -> bool:
        """Whether a sampler sees the trials of one bracket alone, as with Hyperband."""
        return isinstance(self.made(), optuna_module().pruners.HyperbandPruner)


def prune_of(given: object, where: str) -> tuple[str, int] | OptunaPruner | None:
    """Return the rule of `Trial.should_prune` that a user described. Raises: ConfigError."""
    if given is None:
        return None
    wrong = ConfigError(f"{where}={given!r}: must be {_FORMS}")
    if isinstance(given, Mapping):
        named = {str(name): value for name, value in given.items() if value is not None}
        if set(named) == {"metric", "after"}:
            given = named["metric"], named["after"]
        elif {"metric", "pruner"} <= set(named) <= {"metric", "pruner", "options"}:
            return _pruner_of(named["metric"], named["pruner"], named.get("options", {}), where)
        else:
            raise ConfigError(
                f"{where}={dict(given)!r}: must have metric, and either after or pruner, perhaps with options"
            )
    if not isinstance(given, (tuple, list)) or len(given) != 2:  # noqa: PLR2004 - a pair
        raise wrong
    metric, rule = given
    if type(rule) is not int:
        return _pruner_of(metric, rule, {}, where)
    if not isinstance(metric, str) or rule < 1:
        raise wrong
    return metric, rule


def _pruner_of(metric: object, given: object, options: object, where: str) -> OptunaPruner:
    if not isinstance(metric, str) or not isinstance(options, Mapping):
        raise ConfigError(f"{where}: metric={metric!r}, options={options!r}: must be a name and a mapping")
    if not isinstance(given, str) and not callable(given) and not hasattr(given, "prune"):
        raise ConfigError(f"{where}=({metric!r}, {given!r}): must be {_FORMS}")
    pruner = OptunaPruner(metric, given, {str(name): value for name, value in options.items()})
    check_part("pruner", given, pruner.made, where)
    return pruner


def _attributes(pruner: Any) -> dict[str, Any]:
    """Return what a pruner was made with, as plain values."""
    found: dict[str, Any] = {}
    for name in inspect.signature(type(pruner)).parameters:
        value = getattr(pruner, f"_{name}", None)
        if hasattr(value, "prune"):
            value = {type(value).__qualname__: _attributes(value)}
        found[name] = value if value is None or isinstance(value, (str, int, float, dict)) else repr(value)
    return found


class Judge:
    """A pruner that is asked about one trial, over what the other trials have reported. Not thread-safe.

    Args:
        direction: Of the metric, `max` or `min`.
        index: Of the trial.
    """

    def __init__(self, pruner: OptunaPruner, direction: str, index: int) -> None:
        self._pruner = pruner.made()
        self._direction = "minimize" if direction == "min" else "maximize"
        self._index = index
        self._attributes: dict[str, Any] = {}
        self._n_known = 0
        self._study: Any = None
        self._storage: Any = None
        self._trial_id = -1

    @property
    def attributes(self) -> dict[str, Any]:
        """What the pruner keeps of the trial."""
        return dict(self._attributes)

    def learn(self, others: Mapping[int, TrialReport]) -> None:
        """Take the reports of other trials, in the place of those before."""
        optuna = optuna_module()
        self._storage = optuna.storages.InMemoryStorage()
        with quiet():
            self._study = optuna.create_study(
                storage=self._storage, study_name=STUDY_NAME, direction=self._direction, pruner=self._pruner
            )
        own = TrialReport("", None, {}, self._attributes)
        nothing = TrialReport("", None, {}, {})
        for index in range(max([self._index, *others]) + 1):
            report = own if index == self._index else others.get(index, nothing)
            self._study.add_trial(_trial_of(report))
        self._trial_id = trial_id_of(self._storage, self._index)
        self._n_known = 0

    def says(self, points: Mapping[int, float]) -> bool:
        """Return whether the trial, which has reported these points, is to stop."""
        for step, value in list(points.items())[self._n_known :]:
            self._storage.set_trial_intermediate_value(self._trial_id, step, value)
        self._n_known = len(points)
        says = bool(self._pruner.prune(self._study, self._storage.get_trial(self._trial_id)))
        self._attributes = dict(self._storage.get_trial(self._trial_id).system_attrs)
        return says


def _trial_of(report: TrialReport) -> Any:
    states = optuna_module().trial.TrialState
    state = {COMPLETED: states.COMPLETE, PRUNED: states.PRUNED}.get(report.state, states.RUNNING)
    return optuna_module().trial.create_trial(
        state=state,
        value=report.value if state == states.COMPLETE else None,
        intermediate_values=dict(report.points),
        system_attrs=dict(report.attributes),
    )
