"""Every change of a study's record, as pure functions: a record in, a record out. Callers swap the result into the store.

    stage:  pending ──started──► running ──decided──► done
                                    │   └──decided, gate──► waiting ──approved──► done
                                    └── restarted: pending, next edition; so are all stages below it
    study:  open ──aborted──► aborted ──reopened──► open          open ──last stage done──► complete

Guarantee: a transition that does not fit the record's state raises `Unfit` and changes nothing: what is decided stays decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from starburst_executor.errors import ConfigError, StarburstError
from starburst_executor.study.changes import changes_of
from starburst_executor.study.plain import plain_copy
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import (
    ABORTED,
    COMPLETE,
    DONE,
    OPEN,
    PENDING,
    RUNNING,
    WAITING,
    Approval,
    Change,
    Measure,
    StageRecord,
    StudyRecord,
    Survivor,
)
from starburst_executor.study.selection import Choice
from starburst_executor.study.tables import TrialRow, counted

__all__ = [
    "Unfit",
    "aborted",
    "accepted",
    "approved",
    "begun",
    "carried",
    "cleaned",
    "decided",
    "defined",
    "driven_by",
    "forked",
    "imported",
    "inputs_of",
    "ready",
    "reopened",
    "restarted",
    "started",
    "without_result",
]


class Unfit(StarburstError):
    """A transition that the record's state does not allow. The caller reads the record again, or gives up."""


def begun(
    plan: Plan,
    name: str,
    *,
    seed: int,
    settings: Mapping[str, Any],
    at: float,
    library: str,
    definition: str = "",
) -> StudyRecord:
    """Return the record of a new study, with every stage pending."""
    return StudyRecord(
        name=name,
        created_at=at,
        seed=seed,
        settings=dict(settings),
        definition=definition,
        stages=tuple(_fresh(plan, stage_name, seed) for stage_name in plan.names),
        library=library,
    )


def _fresh(plan: Plan, name: str, seed: int, *, edition: int = 1) -> StageRecord:
    stage = plan[name]
    return StageRecord(
        name=name,
        trials=stage.trials,
        edition=edition,
        mode=stage.mode,
        config=plan.config(name, seed),
        code=plan.code(name),
        metadata=plain_copy(stage.metadata),
        depends_on=plan.parents(name),
        measures={metric: Measure(one.direction, one.unit) for metric, one in stage.metrics.items()},
    )


def defined(record: StudyRecord, definition: str) -> StudyRecord:
    """Return the record with the digest of its stored stages."""
    return replace(record, definition=definition)


def imported(record: StudyRecord, name: str) -> StudyRecord:
    """Return an exported record as the first generation of a new study: no process drives it, its session is that of the other study."""
    return replace(record, name=name, generation=1, driver="", session="", definition="")


# ---------------------------------------------------------------------------------------------------------------- of a driver


def driven_by(record: StudyRecord, driver: str) -> StudyRecord:
    """Return the record with its driver: from now on another one finds that it is no driver any more."""
    return record if record.driver == driver else replace(record, driver=driver)


def ready(record: StudyRecord, plan: Plan) -> list[str]:
    """Return the stages that can start: by priority, then as they were written."""
    pending = {stage.name for stage in record.stages if stage.state == PENDING}
    return plan.ready(pending, {stage.name for stage in record.stages if stage.state == DONE})


def started(record: StudyRecord, plan: Plan, at: float) -> StudyRecord:
    """Return the record with every stage started that can be. The same record if there is none."""
    _check_open(record)
    for name in ready(record, plan):
        if record.stage(name).state != PENDING:
            raise Unfit(f"stage {name} has started already: study={record.name}")
        record = _with(
            record,
            replace(_fresh(plan, name, record.seed, edition=record.stage(name).edition), state=RUNNING, started_at=at),
        )
    return record


def inputs_of(record: StudyRecord, plan: Plan, name: str) -> tuple[Survivor, ...]:
    """Return the survivors that are the input of a stage. Raises: Unfit: one of its parents is not done."""
    found: list[Survivor] = []
    for parent in plan.parents(name):
        stage = record.stage(parent)
        if stage.state != DONE:
            raise Unfit(f"stage {name} takes survivors of {parent}, which is {stage.state}: study={record.name}")
        found += stage.survivors
    return tuple(found)


def policy_of(record: StudyRecord, plan: Plan, name: str) -> dict[str, Any]:
    """Return the state that the selection of a stage begins with: that of its parents, of later ones first."""
    state: dict[str, Any] = {}
    for parent in plan.parents(name):
        state.update(record.stage(parent).policy)
    return state


def decided(
    record: StudyRecord,
    plan: Plan,
    name: str,
    rows: Sequence[TrialRow],
    choice: Choice,
    *,
    table: str,
    at: float,
) -> StudyRecord:
    """Return the record with a stage's survivors, and with every stage started that became ready.

    Args:
        rows: One a trial, sorted by index.
        table: The digest of these rows, which are stored already.

    Raises: Unfit: the stage is not running; it was decided before, or a trial has no row.
    """
    _check_open(record)
    stage = record.stage(name)
    if stage.state != RUNNING:
        raise Unfit(f"stage {name} is {stage.state}, and is decided once: study={record.name}")
    if [row.index for row in rows] != list(range(stage.trials)):
        raise Unfit(f"stage {name} has {stage.trials} trials, and outcomes of {len(rows)}: study={record.name}")
    by_index = {row.index: row for row in rows}
    wrong = [index for index in choice.survivors if not by_index[index].is_completed]
    if wrong:
        raise Unfit(f"a trial that did not complete cannot survive: {name}/{wrong[0]}")
    survivors = tuple(_survivor(by_index[index]) for index in choice.survivors)
    counts = counted(rows)
    record = _with(
        record,
        replace(
            stage,
            state=DONE if plan[name].gate is None else WAITING,
            completed_at=at,
            completed=counts.completed,
            failed=counts.failed,
            cancelled=counts.cancelled,
            survivors=survivors,
            reason=choice.reason,
            policy=plain_copy(choice.state),
            table=table,
        ),
    )
    return _completed(started(record, plan, at))


def _survivor(row: TrialRow) -> Survivor:
    return Survivor(row.name, dict(row.metrics), plain_copy(row.params), dict(row.artefacts))


def without_result(plan: Plan, name: str, rows: Sequence[TrialRow], choice: Choice) -> str:
    """Return why a study cannot go on after this choice; empty if it can."""
    counts = counted(rows)
    if not counts.completed:
        first = next((f"; {row.name} {row.kind}: {row.error}" for row in rows if row.error), "")
        return f"no trial of stage {name} completed: {counts.failed} failed, {counts.cancelled} cancelled{first}"
    below = plan.below(name)
    if below and not choice.survivors:
        return f"stage {name} has no survivors, and {below[0]} depends on it: {choice.reason}"
    return ""


def carried(record: StudyRecord, tables: Mapping[str, str | None], *, session: str) -> StudyRecord:
    """Return the record with the next round of these running stages.

    Args:
        tables: The digest of each stage's outcomes so far; None if it has none.
        session: The URL of the session of the next round.
    """
    _check_open(record)
    record = replace(record, session=session)
    for name, table in tables.items():
        stage = record.stage(name)
        if stage.state != RUNNING:
            raise Unfit(f"stage {name} is {stage.state}, it has no further round: study={record.name}")
        record = _with(record, replace(stage, carried=table, round=stage.round + 1))
    return record


def cleaned(record: StudyRecord) -> StudyRecord:
    """Return the record of a study whose artefacts were cleaned up: it is complete. The same record if that does not fit any more."""
    return replace(record, state=COMPLETE) if record.needs_cleanup else record


def aborted(record: StudyRecord, reason: str) -> StudyRecord:
    """Return the record of an aborted study. Everything is kept. Raises: Unfit: it is aborted or complete already."""
    _check_open(record)
    return replace(record, state=ABORTED, reason=reason)


def reopened(record: StudyRecord) -> StudyRecord:
    """Return the record of an aborted study that goes on; its running stages get a further round by `carried`."""
    if record.state != ABORTED:
        raise Unfit(f"the study is {record.state}, not aborted: study={record.name}")
    return replace(record, state=OPEN, reason="")


# ---------------------------------------------------------------------------------------------------------------- of people


def approved(record: StudyRecord, plan: Plan | None, name: str, approval: Approval) -> StudyRecord:
    """Return the record with a gate let through.

    Args:
        plan: If given, the stages that became ready are started; otherwise the next driver starts them.

    Raises: Unfit: the stage does not wait, or was let through before.
    """
    _check_open(record)
    stage = record.stage(name)
    if stage.state != WAITING:
        raise Unfit(f"stage {name} is {stage.state} and does not wait for approval: study={record.name}")
    record = _with(record, replace(stage, state=DONE, approval=approval))
    return _completed(record if plan is None else started(record, plan, approval.at))


def restarted(record: StudyRecord, plan: Plan, names: Iterable[str], at: float) -> StudyRecord:
    """Return the record with these stages and all below them pending again, each in its next edition; the study is open."""
    wanted: dict[str, None] = {}
    for name in names:
        record.stage(name)  # raises LookupError
        wanted.update(dict.fromkeys([name, *plan.below(name)]))
    changes = list(record.changes)
    for name in wanted:
        stage = record.stage(name)
        if stage.state == PENDING:
            continue
        changes.append(Change(name, "restart", f"edition {stage.edition}", f"edition {stage.edition + 1}", at))
        record = _with(record, _fresh(plan, name, record.seed, edition=stage.edition + 1))
    return replace(record, state=OPEN, reason="", changes=tuple(changes))


def accepted(record: StudyRecord, plan: Plan, at: float) -> StudyRecord:
    """Return the record with the stages as they are written now: pending ones as they are, started ones with the change listed.

    A decision stands, and so does the number of trials of a decided stage.

    Raises: ConfigError: a stage that has started is gone, or a stage that has started would depend on one that has not.
    """
    changes = changes_of(record, plan)
    gone = [change.stage for change in changes if change.stage not in plan]
    if gone:
        raise ConfigError(f"stages that have started cannot be left out: {', '.join(gone)}: study={record.name}")
    known = {stage.name: stage for stage in record.stages}
    stages = []
    for name in plan.names:
        fresh = _fresh(plan, name, record.seed)
        stage = known.get(name)
        if stage is None:
            stages.append(fresh)
        elif not stage.has_started:
            stages.append(replace(fresh, edition=stage.edition))
        else:
            trials = stage.trials if stage.is_decided else fresh.trials
            stages.append(replace(stage, config=fresh.config, code=fresh.code, trials=trials, metadata=fresh.metadata))
    started_names = {stage.name for stage in stages if stage.has_started}
    for name in plan.names:
        later = [parent for parent in plan.parents(name) if parent not in started_names]
        if name in started_names and later:
            raise ConfigError(
                f"stage {name} has started and cannot depend on {later[0]}, which has not: study={record.name}"
            )
    listed = tuple(Change(change.stage, change.what, change.before, change.after, at) for change in changes)
    changed = replace(record, stages=tuple(stages), changes=(*record.changes, *listed))
    if record.state == COMPLETE and not changed.is_over:  # stages were added: it goes on
        return replace(changed, state=OPEN)
    # One that waited for its cleanup alone is complete if its stages keep everything now.
    return _completed(changed) if record.state == OPEN else changed


def forked(record: StudyRecord, plan: Plan, stage: str, *, name: str, at: float) -> StudyRecord:
    """Return the record of a new study that keeps everything but this stage and those below it."""
    record.stage(stage)  # raises LookupError
    kept = set(plan.before(stage))
    stages = tuple(
        one if one.name in kept and one.is_decided else _fresh(plan, one.name, record.seed) for one in record.stages
    )
    return replace(
        record, name=name, generation=1, created_at=at, state=OPEN, reason="", driver="", session="", stages=stages, changes=(),
        parent=record.name,
    )  # fmt: skip


def _completed(record: StudyRecord) -> StudyRecord:
    return replace(record, state=COMPLETE) if record.is_over and not record.needs_cleanup else record


def _check_open(record: StudyRecord) -> None:
    if record.state != OPEN:
        raise Unfit(f"the study is {record.state}{': ' if record.reason else ''}{record.reason}: study={record.name}")


def _with(record: StudyRecord, stage: StageRecord) -> StudyRecord:
    return replace(record, stages=tuple(stage if one.name == stage.name else one for one in record.stages))
