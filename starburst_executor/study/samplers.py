"""Optuna's samplers as a search, through Optuna's own interface; Optuna's storage is the log of the search.

    ask, tell ──► optuna.Study ──► JournalStorage ──append──► lines of the next entry (`asks.py`)

Trial i of the stage is trial i of the Optuna study. What Optuna stores is in the journal; a sampler's random numbers are in its pickle.
Optuna is imported where a search is described or begins, never by the package itself.
"""

from __future__ import annotations

import inspect
import io
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starburst_executor.errors import ConfigError
from starburst_executor.study.optuna_api import STUDY_NAME, check_part, optuna_module, part_name, quiet, trial_id_of
from starburst_executor.study.reports import points_of
from starburst_executor.study.search import Objective, Searcher
from starburst_executor.study.spaces import Choices, Space

if TYPE_CHECKING:
    from starburst_executor.study.pruners import OptunaPruner
    from starburst_executor.study.tables import TrialRow

__all__ = ["OptunaSearch", "optuna_search"]

_SAMPLER = "TPESampler"


@dataclass(frozen=True, slots=True)
class OptunaSearch:
    """A search by a sampler of Optuna.

    Attributes:
        space: What it proposes.
        objectives: What it improves.
        ahead: As for every search.
        sampler: The name of a class in `optuna.samplers`, a function that makes a sampler, or a sampler.
        options: Arguments of that class or function.
        pruner: The stage's, if the sampler sees the trials of one bracket alone.
    """

    space: Space
    objectives: tuple[Objective, ...]
    ahead: int | None
    sampler: Any
    options: Mapping[str, Any]
    pruner: OptunaPruner | None = None

    def described(self) -> dict[str, Any]:
        described = {
            "optuna": self.space.described(),
            "metric": [[one.metric, one.direction] for one in self.objectives],
            "ahead": self.ahead,
            "sampler": part_name(self.sampler),
            "options": dict(self.options),
        }
        return described if self.pruner is None else {**described, "pruner": self.pruner.described()}

    def code(self) -> list[Any]:
        return [] if isinstance(self.sampler, str) else [self.sampler]

    def begin(self, seed: int, trials: int) -> Searcher:  # noqa: ARG002 - the protocol's
        return _Sampling(self, self.made(seed), [], self._made_pruner())

    def restore(self, seed: int, trials: int, state: bytes, journal: Sequence[Any]) -> Searcher:  # noqa: ARG002 - the protocol's
        loaded = pickle.load(io.BytesIO(state))  # noqa: S301 - from a sealed entry
        sampler, pruner = (loaded, None) if self.pruner is None else loaded
        return _Sampling(self, sampler, list(journal), pruner)

    def adopt(
        self,
        seed: int,
        trials: int,  # noqa: ARG002 - the protocol's
        proposed: Sequence[Mapping[str, Any]],
        rows: Sequence[TrialRow],
    ) -> Searcher:
        sampling = _Sampling(self, self.made(seed), [], self._made_pruner())
        for index, params in enumerate(proposed):
            sampling.add(params, rows[index] if index < len(rows) else None)
        return sampling

    def _made_pruner(self) -> Any:
        return None if self.pruner is None else self.pruner.made()

    def made(self, seed: int) -> Any:
        """Return a new sampler: with this seed, unless the user gave a sampler."""
        optuna = optuna_module()
        sampler = getattr(optuna.samplers, self.sampler) if isinstance(self.sampler, str) else self.sampler
        if isinstance(sampler, optuna.samplers.BaseSampler):
            return pickle.loads(pickle.dumps(sampler))  # noqa: S301 - made here
        known = inspect.signature(sampler).parameters
        # Running trials are taken into account: not by default in every version of Optuna.
        defaults = {"seed": seed % 2**32, "constant_liar": True}
        return sampler(**{**{name: value for name, value in defaults.items() if name in known}, **self.options})


def optuna_search(
    space: Space,
    objectives: tuple[Objective, ...],
    ahead: int,
    where: str,
    *,
    pruner: OptunaPruner | None = None,
    sampler: Any = _SAMPLER,
    options: Mapping[str, Any] | None = None,
) -> OptunaSearch:
    """Return a search of Optuna's. Raises: ConfigError: no such sampler, or its options are wrong; the extra is missing."""
    if not isinstance(options or {}, Mapping):
        raise ConfigError(f"{where}: options={options!r}: must be a mapping of the sampler's arguments")
    bracketed = pruner if pruner is not None and pruner.divides_trials else None
    search = OptunaSearch(space, objectives, ahead, sampler, dict(options or {}), bracketed)
    is_sampler = isinstance(sampler, optuna_module().samplers.BaseSampler)
    if not isinstance(sampler, str) and not callable(sampler) and not is_sampler:
        raise ConfigError(f"{where}: sampler={sampler!r}: must be the name of one of Optuna's, a class or a sampler")
    check_part("sampler", sampler, lambda: search.made(0), where)
    return search


class _Sampling:
    """An Optuna study over our journal."""

    def __init__(self, search: OptunaSearch, sampler: Any, journal: list[Any], pruner: Any) -> None:
        optuna = optuna_module()
        self._search = search
        self._journal = _journal(journal)
        self._distributions = {name: _distribution(part) for name, part in search.space.parts.items()}
        self._storage: Any = optuna.storages.JournalStorage(self._journal)
        if not journal:
            directions = ["minimize" if one.direction == "min" else "maximize" for one in search.objectives]
            with quiet():
                optuna.create_study(storage=self._storage, study_name=STUDY_NAME, directions=directions)
        self._study: Any = optuna.load_study(
            study_name=STUDY_NAME, storage=self._storage, sampler=sampler, pruner=pruner
        )
        # Outside of Optuna's own loop its `stop` raises what says nothing to a user of studies.
        self._study.stop = self._stopped
        self._pruner = pruner

    def _stopped(self) -> None:
        """Called by a sampler that has proposed every point, and asked for more would propose some of them again."""
        trials = self._study.get_trials(deepcopy=False)
        n_points = len({repr(sorted(trial.params.items())) for trial in trials})
        sampler = type(self._study.sampler).__name__
        raise ConfigError(
            f"{sampler} has {n_points:,} points, fewer than the stage has trials: give it trials={n_points}"
        )

    def ask(self, index: int) -> Mapping[str, Any]:
        if self._pruner is not None:
            # Where Optuna runs the trials itself, each of them asks it. It makes its brackets at that.
            self._pruner.prune(self._study, _nothing_reported())
        trial = self._study.ask(self._distributions)
        if trial.number != index:
            raise RuntimeError(f"trial {index} of the stage is number {trial.number} of its Optuna study")
        return dict(trial.params)

    def tell(self, row: TrialRow, proposed: Mapping[str, Any]) -> None:  # noqa: ARG002 - it has its own
        state, values = self._outcome(row)
        if points := self._points(row):
            trial_id = trial_id_of(self._storage, row.index)
            for step, value in points.items():
                self._storage.set_trial_intermediate_value(trial_id, step, value)
        self._study.tell(row.index, values, state)

    def add(self, params: Mapping[str, Any], row: TrialRow | None) -> None:
        """Add a trial that another search proposed. What this space does not have is left out."""
        optuna = optuna_module()
        parts = self._search.space.parts
        known = {name: value for name, value in params.items() if name in parts and parts[name].has(value)}
        state, values = (optuna.trial.TrialState.RUNNING, None) if row is None else self._outcome(row)
        if state == optuna.trial.TrialState.PRUNED:
            values = None
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values,
                params=known,
                distributions={name: self._distributions[name] for name in known},
            )
        )

    def dump(self) -> tuple[bytes, list[Any]]:
        state = self._study.sampler if self._pruner is None else (self._study.sampler, self._pruner)
        return pickle.dumps(state), self._journal.fresh()

    def _points(self, row: TrialRow) -> dict[int, float]:
        """Return the curve of a pruned trial, for a pruner of any: for others their outcome says it all."""
        is_needed = row.kind == "pruned" or (self._search.pruner is not None and row.is_completed)
        if len(self._search.objectives) != 1 or not is_needed:
            return {}
        return points_of(row.curve, self._search.objectives[0].metric)

    def _outcome(self, row: TrialRow) -> tuple[Any, list[float] | None]:
        states = optuna_module().trial.TrialState
        if row.kind == "pruned":
            return states.PRUNED, None
        values = [float(row.metrics.get(one.metric, math.nan)) for one in self._search.objectives]
        if not row.is_completed or any(map(math.isnan, values)):
            return states.FAIL, None
        return states.COMPLETE, values


def _nothing_reported() -> Any:
    optuna = optuna_module()
    return optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)


def _distribution(part: Any) -> Any:
    distributions = optuna_module().distributions
    if isinstance(part, Choices):
        return distributions.CategoricalDistribution(part.choices)
    if part.is_whole:
        return distributions.IntDistribution(part.low, part.high, log=part.log, step=part.step or 1)
    return distributions.FloatDistribution(float(part.low), float(part.high), log=part.log, step=part.step)


def _journal(lines: list[Any]) -> Any:
    base: Any = optuna_module().storages.journal.BaseJournalBackend

    class Journal(base):  # type: ignore[misc]  # imported when it is needed
        """The operations of an Optuna study, in memory; the last ones are still to be stored."""

        def __init__(self) -> None:
            self._lines = lines
            self._n_stored = len(lines)

        def read_logs(self, log_number_from: int) -> list[Any]:
            return self._lines[log_number_from:]

        def append_logs(self, logs: list[Any]) -> None:
            self._lines.extend(logs)

        def fresh(self) -> list[Any]:
            found, self._n_stored = self._lines[self._n_stored :], len(self._lines)
            return found

    return Journal()
