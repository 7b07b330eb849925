"""The state of a study at one moment, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from starburst_executor.study.record import RUNNING, StudyRecord
from starburst_executor.study.wheel import Holder

__all__ = ["StageStatus", "StudyStatus", "status_of"]

# Of what programs get: it changes when a field is taken away or changes its meaning.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class StageStatus:
    """One stage of a study.

    Attributes:
        name: Its name.
        state: `pending`, `running`, `waiting` (for approval) or `done`.
        trials: Their number.
        completed: Trials that completed; of a running stage as its driver has counted at its last beat.
        failed: Trials that failed, likewise.
        cancelled: Trials that were cancelled or pruned, likewise.
        survivors: The names of the chosen trials, the best first.
        metrics: The metrics of each survivor.
        reason: The decision, in words.
        started_at: UTC epoch seconds; None before.
        completed_at: When it was decided.
        edition: How often it was started over, from 1.
    """

    name: str
    state: str
    trials: int
    completed: int
    failed: int
    cancelled: int
    survivors: tuple[str, ...]
    metrics: tuple[Mapping[str, float], ...]
    reason: str
    started_at: float | None
    completed_at: float | None
    edition: int


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """The state of a study; `str()` gives a summary for people.

    Attributes:
        name: Its name.
        state: `open`, `aborted` or `complete`.
        reason: Why it is aborted.
        stages: One a stage.
        is_driven: Whether a driver holds the wheel; it may have died since.
        session: The URL of the session that runs its trials; empty before there is one.
        created_at: UTC epoch seconds.
        generation: The number of the record's changes, from 1.
        changes: Accepted changes and restarts, in words.
    """

    name: str
    state: str
    reason: str
    stages: tuple[StageStatus, ...]
    is_driven: bool
    session: str
    created_at: float
    generation: int
    changes: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        return self.state == "complete"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, with the number of this `format`."""
        return {"format": FORMAT, **asdict(self)}

    def rows(self) -> list[tuple[str, str, str]]:
        """Return the funnel: name, state and counts of each stage, as `str()` shows them."""
        return [(stage.name, stage.state, _counts(stage)) for stage in self.stages]

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        driven = "" if self.state != "open" or self.is_driven else ", without a driver"
        width = max(len(stage.name) for stage in self.stages)
        lines = [f"  {name:<{width}}  {state:<8} {counts}" for name, state, counts in self.rows()]
        return "\n".join([f"study {self.name}: {self.state}{why}{driven}", *lines])


def _counts(stage: StageStatus) -> str:
    ended = [
        f"{n:,} {word}"
        for n, word in ((stage.completed, "completed"), (stage.failed, "failed"), (stage.cancelled, "cancelled"))
        if n
    ]
    survive = f"; {len(stage.survivors):,} survive" if stage.completed_at is not None else ""
    return f"{stage.trials:,} trials{': ' if ended else ''}{', '.join(ended)}{survive}"


def status_of(record: StudyRecord, holder: Holder | None) -> StudyStatus:
    """Return the status of a study, from its record and its driver's last beat."""
    progress = {} if holder is None or holder.progress is None else holder.progress
    stages = []
    for stage in record.stages:
        counts = (stage.completed, stage.failed, stage.cancelled)
        if stage.state == RUNNING and stage.name in progress:
            completed, failed, cancelled = progress[stage.name]
            counts = (completed, failed, cancelled)
        stages.append(
            StageStatus(
                stage.name,
                stage.state,
                stage.trials,
                *counts,
                survivors=tuple(survivor.name for survivor in stage.survivors),
                metrics=tuple(survivor.metrics for survivor in stage.survivors),
                reason=stage.reason,
                started_at=stage.started_at,
                completed_at=stage.completed_at,
                edition=stage.edition,
            )
        )
    return StudyStatus(
        record.name,
        record.state,
        record.reason,
        tuple(stages),
        holder is not None and not holder.has_left and not holder.is_dead,
        record.session,
        record.created_at,
        record.generation,
        tuple(f"stage {one.stage}: {one.what} was {one.before}, is {one.after}" for one in record.changes),
    )
