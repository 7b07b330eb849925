"""What the trials of one stage have in common, as it travels to workers once; and what differs by the index alone. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starburst_executor.study.metrics import Metric
from starburst_executor.study.stage import Stage, TrialOptions

if TYPE_CHECKING:
    from starburst_executor.study.pruners import OptunaPruner
    from starburst_executor.study.record import StudyRecord, Survivor

__all__ = ["TrialSpec", "search_seed", "spec_of", "trial_seed"]


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One stage for workers: its function or command, its inputs, and where a trial may store what it saves.

    Attributes:
        store: The URL of the store.
        study: The study's name, which is part of keys; the trial's function does not see it.
        proposed: What a search proposed, by index: on a worker, for its own trial alone.
    """

    stage: str
    edition: int
    seed: int
    cases: tuple[Any, ...]
    inputs: tuple[Survivor, ...]
    run: Callable[..., Any] | None
    command: str | tuple[str, ...] | None
    here: str
    metrics: Mapping[str, Metric]
    options: TrialOptions
    prune: tuple[str, int] | OptunaPruner | None
    store: str
    study: str
    proposed: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def direction(self, metric: str) -> str:
        """Return which values of a metric are better, `max` or `min`."""
        declared = self.metrics.get(metric)
        return "max" if declared is None else declared.direction

    def case(self, index: int) -> Any:
        """Return the case of a trial: with inputs, the survivor index mod K; otherwise the stage's own case; None without."""
        if self.inputs:
            return self.inputs[index % len(self.inputs)]
        return self.cases[index % len(self.cases)] if self.cases else None

    def params(self, index: int) -> dict[str, Any]:
        """Return the parameters of a trial: those of its input, then those of the stage's own case, then those of its search."""
        proposed = self.proposed.get(index, {})
        if not self.inputs:
            case = self.case(index)
            return {**(case if isinstance(case, Mapping) else {}), **proposed}
        params = dict(self.inputs[index % len(self.inputs)].params)
        if self.cases:
            params.update(self.cases[index // len(self.inputs) % len(self.cases)])
        return {**params, **proposed}


def spec_of(stage: Stage, record: StudyRecord, inputs: tuple[Survivor, ...], *, store: str) -> TrialSpec:
    """Return what the trials of a stage have in common."""
    return TrialSpec(
        stage=stage.name,
        edition=record.stage(stage.name).edition,
        seed=record.seed if stage.seed is None else stage.seed,
        cases=stage.cases,
        inputs=inputs,
        run=stage.run,
        command=stage.command,
        here=stage.here,
        metrics=stage.metrics,
        options=stage.options,
        prune=stage.prune,
        store=store,
        study=record.name,
    )


def search_seed(seed: int, stage: str) -> int:
    """Return the seed of a stage's search: another one than those of its trials."""
    return trial_seed(seed, f"{stage}\0search", 0)


def trial_seed(seed: int, stage: str, index: int) -> int:
    """Return the seed of a trial, 0 up to 2**63 - 1: independent of the study's name, the worker and the attempt."""
    digest = hashlib.sha256(f"{seed}\0{stage}\0{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
