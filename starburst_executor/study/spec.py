"""What the trials of one stage have in common, as it travels to workers once; and what differs by the index alone. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starburst_executor.study.metrics import Metric
from starburst_executor.study.stage import Stage, TrialOptions

if TYPE_CHECKING:
    from starburst_executor.study.record import StudyRecord, Survivor

__all__ = ["TrialSpec", "spec_of", "trial_seed"]


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """One stage for workers: its function or command, its inputs, and where a trial may store what it saves.

    Attributes:
        store: The URL of the store.
        study: The study's name, which is part of keys; the trial's function does not see it.
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
    prune: tuple[str, int] | None
    store: str
    study: str

    def case(self, index: int) -> Any:
        """Return the case of a trial: with inputs, the survivor index mod K; otherwise the stage's own case; None without."""
        if self.inputs:
            return self.inputs[index % len(self.inputs)]
        return self.cases[index % len(self.cases)] if self.cases else None

    def params(self, index: int) -> dict[str, Any]:
        """Return the parameters of a trial: those of its input, and then those of the stage's own case."""
        if not self.inputs:
            case = self.case(index)
            return dict(case) if isinstance(case, Mapping) else {}
        params = dict(self.inputs[index % len(self.inputs)].params)
        if self.cases:
            params.update(self.cases[index // len(self.inputs) % len(self.cases)])
        return params


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


def trial_seed(seed: int, stage: str, index: int) -> int:
    """Return the seed of a trial, 0 up to 2**63 - 1: independent of the study's name, the worker and the attempt."""
    digest = hashlib.sha256(f"{seed}\0{stage}\0{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
