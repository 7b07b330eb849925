"""What a report of a study shows, from its record and its tables. Pure, except for `read_study_facts`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starburst_executor.client.money import Cost
from starburst_executor.errors import StarburstError
from starburst_executor.report.study.style import is_drawn
from starburst_executor.study.exporting import plain_json, plain_value
from starburst_executor.study.live import read_live
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import Measure, StageRecord, StudyRecord, Survivor
from starburst_executor.study.status import StudyStatus, status_of
from starburst_executor.study.tables import FAILED, TrialRow
from starburst_executor.study.wheel import read_holder

__all__ = ["Ancestor", "FailureOfTrials", "StageFacts", "StudyFacts", "cost_of_session", "facts_of", "read_study_facts"]

_MOST_ANCESTORS = 1000


@dataclass(frozen=True, slots=True)
class FailureOfTrials:
    """Trials that failed in one way.

    Attributes:
        stage: Their stage.
        kind: `raised`, `crashed`, `timed out`, `memory` and so on.
        n: Their number.
        error: The most frequent first line of their errors.
        trials: The names of the first of them.
    """

    stage: str
    kind: str
    n: int
    error: str
    trials: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One step of a lineage.

    Attributes:
        trial: `stage/index`.
        metrics: Its metrics.
        params: Its parameters.
        changed: The parameters that differ from those of the trial before it, in the lineage.
    """

    trial: str
    metrics: Mapping[str, float]
    params: Mapping[str, Any]
    changed: tuple[str, ...]

    @property
    def stage(self) -> str:
        return self.trial.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class StageFacts:
    """One stage: its record, and its trials: all if it is decided, those that have ended so far, or some of them, while it runs."""

    record: StageRecord
    rows: Sequence[TrialRow] = ()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def survivors(self) -> set[str]:
        return {survivor.name for survivor in self.record.survivors}

    @property
    def work_s(self) -> float:
        """Seconds of all trials that returned."""
        return sum(row.seconds for row in self.rows)

    @property
    def wall_s(self) -> float | None:
        """Seconds from its start to its decision."""
        start, end = self.record.started_at, self.record.completed_at
        return None if start is None or end is None else max(0.0, end - start)

    def metrics(self) -> list[str]:
        """Return the names of its finite metrics: the declared ones first, then by name."""
        return self._metrics(math.isfinite)

    def drawn_metrics(self) -> list[str]:
        """Return those of them that have a place in figures."""
        return self._metrics(is_drawn)

    def _metrics(self, is_shown: Callable[[float], bool]) -> list[str]:
        found = {name for row in self.rows for name, value in row.metrics.items() if is_shown(value)}
        declared = [name for name in self.record.measures if name in found]
        return declared + sorted(found - set(declared))

    def params(self) -> list[str]:
        """Return the names of its parameters that have one plain value and are not the same in all trials, by name."""
        values: dict[str, set[Any]] = {}
        for row in self.rows:
            for name, value in row.params.items():
                if value is None or isinstance(value, (str, int, float)):
                    values.setdefault(name, set()).add(value)
        return sorted(name for name, different in values.items() if len(different) > 1)


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """A study at one moment.

    Attributes:
        status: Its status, with the progress of running stages.
        stages: Its stages, in the order in which they were written.
        store: The URL of its store.
        cost: The estimated cost of its newest session; None if that is not there any more.
        at: When it was read, UTC epoch seconds.
    """

    record: StudyRecord
    status: StudyStatus
    stages: Sequence[StageFacts]
    store: str = ""
    cost: Cost | None = None
    at: float = 0.0
    _by_name: dict[str, StageFacts] = field(default_factory=dict)

    def stage(self, name: str) -> StageFacts:
        """Return one stage. Raises: LookupError."""
        if not self._by_name:
            self._by_name.update({stage.name: stage for stage in self.stages})
        return self._by_name[name]

    @property
    def n_trials(self) -> int:
        return sum(stage.trials for stage in self.status.stages)

    @property
    def n_ended(self) -> int:
        return sum(stage.completed + stage.failed + stage.cancelled for stage in self.status.stages)

    @property
    def n_failed(self) -> int:
        return sum(stage.failed for stage in self.status.stages)

    @property
    def work_s(self) -> float:
        return sum(stage.work_s for stage in self.stages)

    @property
    def wall_s(self) -> float:
        """Seconds from the first start to the last decision."""
        starts = [stage.started_at for stage in self.record.stages if stage.started_at is not None]
        ends = [stage.completed_at for stage in self.record.stages if stage.completed_at is not None]
        return max(0.0, max(ends) - min(starts)) if starts and ends else 0.0

    def measure(self, metric: str) -> Measure:
        """Return how a metric is read; the highest is best if no stage declares it."""
        return next(
            (stage.record.measures[metric] for stage in reversed(self.stages) if metric in stage.record.measures),
            Measure("max", ""),
        )

    def objective(self, stage: StageFacts) -> str | None:
        """Return the metric of a stage by which its trials are compared: the first declared one, or the first by name, that can be drawn."""
        return next(iter(stage.drawn_metrics()), None)

    def winner(self) -> Survivor | None:
        """Return the best survivor of the last stage that has one."""
        for stage in reversed(self.record.stages):
            if stage.survivors:
                return stage.survivors[0]
        return None

    def parent(self, trial: str) -> str | None:
        """Return the survivor that was the case of a trial; None for a trial with a case of its own stage, or an unknown trial."""
        if not self.has_trial(trial):
            return None
        name, _, index = trial.rpartition("/")
        stage = self.stage(name).record
        inputs = [
            survivor.name
            for parent in stage.depends_on
            if parent in self.record.names
            for survivor in self.stage(parent).record.survivors
        ]
        return inputs[int(index) % len(inputs)] if inputs else None

    def lineage(self, trial: str) -> list[Ancestor]:
        """Return a trial and the survivors that led to it, the first case first; from the first one on that the tables have."""
        names: list[str] = []
        step: str | None = trial
        while step is not None and len(names) < _MOST_ANCESTORS and self.has_trial(step):
            names.append(step)
            step = self.parent(step)
        found: list[Ancestor] = []
        before: Mapping[str, Any] = {}
        for name in reversed(names):
            row = self.row(name)
            changed = tuple(key for key, value in row.params.items() if key not in before or before[key] != value)
            found.append(Ancestor(name, row.metrics, row.params, changed if found else ()))
            before = row.params
        return found

    def row(self, trial: str) -> TrialRow:
        """Return the outcome of a trial of a decided stage. Raises: LookupError."""
        name, _, index = trial.rpartition("/")
        return self.stage(name).rows[int(index)]

    def has_trial(self, trial: str) -> bool:
        """Return whether a trial is in the table of a stage."""
        name, _, index = trial.rpartition("/")
        return name in self.record.names and index.isdecimal() and int(index) < len(self.stage(name).rows)

    def failures(self) -> list[FailureOfTrials]:
        """Return the ways in which trials failed or were cancelled, the most frequent first."""
        by_kind: dict[tuple[str, str], list[TrialRow]] = {}
        for stage in self.stages:
            for row in stage.rows:
                if row.state == FAILED or row.kind:
                    by_kind.setdefault((stage.name, row.kind or row.state), []).append(row)
        found = [
            FailureOfTrials(
                stage,
                kind,
                len(rows),
                Counter(row.error for row in rows).most_common(1)[0][0],
                tuple(row.name for row in rows[:5]),
            )
            for (stage, kind), rows in by_kind.items()
        ]
        return sorted(found, key=lambda one: -one.n)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON: the status, each trial of decided stages and those of running ones so far, the winner's lineage."""
        winner = self.winner()
        return {
            "status": plain_value(self.status.to_dict()),
            "store": self.store,
            "cost_usd": None if self.cost is None else self.cost.total_usd,
            "stages": {
                stage.name: {
                    "wall_s": stage.wall_s,
                    "work_s": stage.work_s,
                    "depends_on": list(stage.record.depends_on),
                    "measures": {name: one._asdict() for name, one in stage.record.measures.items()},
                    "trials": [plain_json(row) for row in stage.rows],
                }
                for stage in self.stages
            },
            "failures": [
                {"stage": one.stage, "kind": one.kind, "trials": one.n, "error": one.error} for one in self.failures()
            ],
            "winner": None if winner is None else winner.name,
            "lineage": [] if winner is None else [one.trial for one in self.lineage(winner.name)],
        }


def read_study_facts(objects: StudyObjects, at: float, cost: Cost | None = None) -> StudyFacts:
    """Read what a report needs. Needs no key. Raises: StudyNotFound, RecordInvalid, VersionMismatch. Store: 2 GETs, 1 GET a decided or running stage."""
    record = objects.read()
    status = status_of(record, read_holder(objects.store, objects.keys.driver))
    return facts_of(record, status, _tables(objects, record), store=objects.store.url, cost=cost, at=at)


def facts_of(
    record: StudyRecord, status: StudyStatus, tables: Mapping[str, Sequence[TrialRow]], **more: Any
) -> StudyFacts:
    """Return the facts of a study. `tables` has the trials of decided stages, and those of running ones so far, by stage."""
    return StudyFacts(
        record, status, [StageFacts(stage, tables.get(stage.name, ())) for stage in record.stages], **more
    )


def _tables(objects: StudyObjects, record: StudyRecord) -> dict[str, Sequence[TrialRow]]:
    tables: dict[str, Sequence[TrialRow]] = {name: one.rows for name, one in read_live(objects, record).items()}
    return tables | {stage.name: objects.read_table(stage.table) for stage in record.stages if stage.table is not None}


def cost_of_session(url: str) -> Cost | None:
    """Return the estimated cost of a session; None if it cannot be read. Needs no key."""
    from starburst_executor.client.finding import visit
    from starburst_executor.client.money import cost_of
    from starburst_executor.clock import SystemClock
    from starburst_executor.session.beats import read_beats

    if not url:
        return None
    try:
        clock = SystemClock()
        with visit(url, clock) as visited:
            beats = [beat for beat, _ in read_beats(visited.session)]
            return cost_of(visited.session.manifest.current, clock.now(), beats, (), {}, visited.store.url)
    except StarburstError:
        return None
