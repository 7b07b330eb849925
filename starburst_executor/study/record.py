"""The record of a study: what is decided, in one object that is changed by swaps alone.

    StudyRecord ── stages: StageRecord ── survivors: Survivor
        └─ changes: Change

Its stored form is `record_form.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starburst_executor.study.artefacts import KEEP_ALL, KEEP_NONE, POLICIES, Artefact

__all__ = [
    "ABORTED",
    "COMPLETE",
    "DONE",
    "OPEN",
    "PENDING",
    "RUNNING",
    "STAGE_STATES",
    "STUDY_STATES",
    "WAITING",
    "Approval",
    "Change",
    "Measure",
    "StageRecord",
    "StudyRecord",
    "Survivor",
]

OPEN, ABORTED, COMPLETE = "open", "aborted", "complete"
STUDY_STATES = (OPEN, ABORTED, COMPLETE)
PENDING, RUNNING, WAITING, DONE = "pending", "running", "waiting", "done"
STAGE_STATES = (PENDING, RUNNING, WAITING, DONE)


@dataclass(frozen=True, slots=True)
class Survivor:
    """A trial that was selected.

    Attributes:
        name: `stage/index`.
        metrics: Its metrics.
        params: Its parameters.
        artefacts: What it saved, by name.
    """

    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    artefacts: Mapping[str, Artefact] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def index(self) -> int:
        return int(self.name.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a gate through: a person, or `timeout`; when, UTC epoch seconds; and a note."""

    by: str
    note: str
    at: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a stage that had started, which was accepted, or a restart."""

    stage: str
    what: str
    before: str
    after: str
    at: float


class Measure(NamedTuple):
    """How the values of a metric are read: which are better, `max` or `min`, and in which unit they are."""

    direction: str
    unit: str


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of a study.

    Attributes:
        name: Its name.
        state: `pending`, `running`, `waiting` (for approval) or `done`.
        trials: Their number.
        edition: How often it was started over, from 1.
        round: How often trials without an outcome were submitted anew, from 1.
        mode: `function` or `command`.
        started_at: UTC epoch seconds; None before.
        completed_at: When it was decided.
        completed: Trials that completed; this and the next two are 0 until it is decided.
        failed: Trials that failed.
        cancelled: Trials that were cancelled or pruned.
        survivors: The chosen trials, the best first.
        reason: The decision, in words.
        policy: The state of the selection.
        table: The digest of the table of its trials, once it is decided.
        carried: The digest of the table of outcomes from earlier rounds.
        approval: Who approved it.
        config: Its settings as short texts, by name.
        code: The names of its functions, and the digest of all own code that they use, by name.
        metadata: The user's own values.
        depends_on: The stages whose survivors it takes.
        measures: The direction and the unit of each declared metric.
        seal: Of its survivors and tables, as hexadecimal digits (`seals.py`); empty if it has none.
    """

    name: str
    state: str = PENDING
    trials: int = 1
    edition: int = 1
    round: int = 1
    mode: str = "function"
    started_at: float | None = None
    completed_at: float | None = None
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    survivors: tuple[Survivor, ...] = ()
    reason: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    table: str | None = None
    carried: str | None = None
    approval: Approval | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    depends_on: tuple[str, ...] = ()
    measures: Mapping[str, Measure] = field(default_factory=dict)
    seal: str = ""

    @property
    def is_decided(self) -> bool:
        return self.state in (WAITING, DONE)

    @property
    def has_started(self) -> bool:
        return self.state != PENDING

    @property
    def keep(self) -> str:
        """Whose artefacts stay when the study ends: one of `POLICIES`. What is none of them removes nothing."""
        given = self.config.get("keep", "").strip('"')
        return given if given in POLICIES else KEEP_ALL

    @property
    def is_searched(self) -> bool:
        """Whether a search proposes its parameters."""
        return any(name.startswith("search.") for name in self.config)

    def key(self, index: int) -> str:
        """Return the key of a trial's task in its session."""
        return f"{self.name}.{self.edition}.{self.round}/{index}"


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """The whole study.

    Attributes:
        name: Its name, unique in its store.
        generation: Counts the swaps, from 1.
        created_at: UTC epoch seconds.
        state: `open`, `aborted` or `complete`.
        reason: Why it is aborted.
        seed: The seed of the study.
        driver: The id of the driver that may decide; empty before the first.
        session: The URL of the session that runs the trials; empty before it exists.
        settings: The options of the session: workers, launcher, budget and so on.
        definition: The digest of the stored stages with their functions.
        stages: One record a stage, in the order in which they were written.
        changes: Changes that were accepted.
        parent: The study from which this one was forked; empty if none.
        library: The version of this library that created it.
    """

    name: str
    generation: int = 1
    created_at: float = 0.0
    state: str = OPEN
    reason: str = ""
    seed: int = 0
    driver: str = ""
    session: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    definition: str = ""
    stages: tuple[StageRecord, ...] = ()
    changes: tuple[Change, ...] = ()
    parent: str = ""
    library: str = ""

    def stage(self, name: str) -> StageRecord:
        """Return the record of a stage. Raises: LookupError."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise LookupError(f"the study {self.name} has no stage {name!r}: there are {', '.join(self.names)}")

    @property
    def is_over(self) -> bool:
        """Whether all of its stages are done."""
        return all(stage.state == DONE for stage in self.stages)

    @property
    def needs_cleanup(self) -> bool:
        """Whether nothing but a cleanup of artefacts is missing before it is complete."""
        return self.state == OPEN and self.is_over and any(stage.keep != KEEP_ALL for stage in self.stages)

    @property
    def removed(self) -> list[str]:
        """The stages of which no artefact is left, or is about to be, but those of baselines."""
        return [stage.name for stage in self.stages if stage.keep == KEEP_NONE] if self.is_over else []

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.stages]
