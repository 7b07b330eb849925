"""What has happened in a study, as events in the order of time, from its record and its tables. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from starburst_executor.study.events import Event
from starburst_executor.study.record import COMPLETE, StageRecord, StudyRecord
from starburst_executor.study.tables import TrialRow

__all__ = ["history_of"]

# At one moment: a decision starts what depends on it.
_DECIDED, _APPROVED, _STARTED = range(3)


def history_of(record: StudyRecord, table_of: Callable[[StageRecord], Iterable[TrialRow]]) -> Iterator[Event]:
    """Yield the events of a study. A decided stage's trials come directly before its decision, by index."""
    yield Event("study", f"study {record.name} created", record.created_at, {"study": record.name, "seed": record.seed})
    happened: list[tuple[float, int, StageRecord]] = []
    for stage in record.stages:
        if stage.started_at is not None:
            happened.append((stage.started_at, _STARTED, stage))
        if stage.completed_at is not None:
            happened.append((stage.completed_at, _DECIDED, stage))
        if stage.approval is not None:
            happened.append((stage.approval.at, _APPROVED, stage))
    last = record.created_at
    for at, kind, stage in sorted(happened, key=lambda one: one[:2]):
        last = max(last, at)
        if kind == _STARTED:
            yield Event("stage", f"stage {stage.name} started", at, {"stage": stage.name, "trials": stage.trials})
        elif kind == _DECIDED:
            for row in table_of(stage):
                yield _trial(row, at)
            yield _decision(stage, at)
        elif stage.approval is not None:
            facts = {"stage": stage.name, "by": stage.approval.by, "note": stage.approval.note}
            yield Event("gate", f"stage {stage.name} approved by {stage.approval.by}", at, facts)
    for change in record.changes:
        text = f"stage {change.stage}: {change.what} was {change.before}, is {change.after}"
        yield Event("change", text, change.at, {"stage": change.stage, "what": change.what})
    if record.state == COMPLETE or record.reason:
        yield Event(
            "study", f"study {record.name} is {record.state}", last, {"state": record.state, "reason": record.reason}
        )


def _trial(row: TrialRow, at: float) -> Event:
    facts = {
        "trial": row.name,
        "state": row.state,
        "failure": row.kind,
        "error": row.error,
        "metrics": dict(row.metrics),
        "params": dict(row.params),
        "seconds": row.seconds,
    }
    return Event("trial", f"trial {row.name} {row.state}{f': {row.kind}' if row.kind else ''}", at, facts)


def _decision(stage: StageRecord, at: float) -> Event:
    facts = {
        "stage": stage.name,
        "completed": stage.completed,
        "failed": stage.failed,
        "cancelled": stage.cancelled,
        "survivors": [survivor.name for survivor in stage.survivors],
        "reason": stage.reason,
    }
    return Event("stage", f"stage {stage.name} decided: {len(stage.survivors)} survive", at, facts)
