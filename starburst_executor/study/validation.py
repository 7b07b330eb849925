"""Finds every fault of a study's record at once: what no sequence of transitions can lead to. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from starburst_executor.study.artefacts import Artefact
from starburst_executor.study.exporting import plain_value
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import ABORTED, COMPLETE, DONE, OPEN, PENDING, StageRecord, StudyRecord
from starburst_executor.study.tables import TrialRow, counted

__all__ = ["issues_of"]


def issues_of(
    record: StudyRecord,
    plan: Plan | None = None,
    *,
    table_of: Callable[[StageRecord], Iterable[TrialRow]] | None = None,
    digest_of: Callable[[Artefact], str | None] | None = None,
) -> list[str]:
    """Return every fault of a record, in words; an empty list if there is none.

    Args:
        plan: The stages as they are written: adds gaps and wrong order.
        table_of: Returns the rows of a decided stage, or raises with the reason why it cannot: adds counts and survivors.
        digest_of: Returns the digest of a stored artefact's bytes, None if it is missing: adds artefacts.
    """
    found = list(_of_study(record))
    for stage in record.stages:
        found += _of_stage(stage)
    if plan is not None:
        found += _of_order(record, plan)
    if table_of is not None:
        for stage in record.stages:
            if stage.table is not None:
                found += _of_table(stage, table_of)
    if digest_of is not None:
        found += _of_artefacts(record, digest_of)
    return found


def _of_study(record: StudyRecord) -> Iterator[str]:
    names = record.names
    if not names:
        yield "there is no stage"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"stage {name} is there {names.count(name)} times"
    for stage in record.stages:
        for parent in stage.depends_on:
            if parent not in names:
                yield f"stage {stage.name} depends on {parent}, which is no stage"
    if record.state == COMPLETE and not record.is_over:
        yield "the study is complete, and not all of its stages are done"
    if record.state == OPEN and record.is_over and names and not record.needs_cleanup:
        yield "all stages are done, and the study is not complete"
    if record.state == ABORTED and not record.reason:
        yield "the study is aborted without a reason"


def _of_stage(stage: StageRecord) -> Iterator[str]:
    name = f"stage {stage.name}"
    n_ended = stage.completed + stage.failed + stage.cancelled
    if stage.trials < 1 or stage.edition < 1 or stage.round < 1:
        yield f"{name}: trials, edition and round are at least 1"
    if stage.is_decided:
        if n_ended != stage.trials:
            yield (
                f"{name}: counts do not add up: {stage.completed} completed + {stage.failed} failed + {stage.cancelled} "
                f"cancelled are {n_ended}, not {stage.trials}"
            )
        if stage.table is None:
            yield f"{name}: it is {stage.state} without a table of its trials"
        if stage.started_at is None or stage.completed_at is None:
            yield f"{name}: it is {stage.state} without the times at which it started and was decided"
    elif n_ended or stage.survivors or stage.table is not None:
        yield f"{name}: it is {stage.state} and has a decision"
    if stage.state == PENDING and (stage.started_at is not None or stage.carried is not None):
        yield f"{name}: it is pending and has started"
    if len(stage.survivors) > stage.completed and stage.is_decided:
        yield f"{name}: {len(stage.survivors)} survivors of {stage.completed} completed trials"
    seen: set[str] = set()
    for survivor in stage.survivors:
        of, _, index = survivor.name.rpartition("/")
        if of != stage.name or not index.isdecimal() or int(index) >= stage.trials:
            yield f"{name}: survivor {survivor.name} is unknown: it is no trial of this stage"
        if survivor.name in seen:
            yield f"{name}: survivor {survivor.name} is there twice"
        seen.add(survivor.name)


def _of_order(record: StudyRecord, plan: Plan) -> Iterator[str]:
    by_name = {stage.name: stage for stage in record.stages}
    for name in plan.names:
        if name not in by_name:
            yield f"stage {name} is missing"
    for stage in record.stages:
        if stage.name not in plan:
            yield f"stage {stage.name} is not in the study"
            continue
        for parent in plan.parents(stage.name):
            before = by_name.get(parent)
            if before is None or not stage.has_started:
                continue
            if before.state != DONE:
                yield f"stage {stage.name} has started, and {parent}, on which it depends, is {before.state}"
    order = [plan.names.index(stage.name) for stage in record.stages if stage.name in plan]
    if order != sorted(order):
        yield f"the stages are in another order than in the study: {', '.join(record.names)}"


def _of_table(stage: StageRecord, table_of: Callable[[StageRecord], Iterable[TrialRow]]) -> Iterator[str]:
    name = f"stage {stage.name}"
    try:
        rows = list(table_of(stage))
    except Exception as error:
        yield f"{name}: its table of trials cannot be read: {error}"
        return
    by_index: Mapping[int, TrialRow] = {row.index: row for row in rows}
    missing = [index for index in range(stage.trials) if index not in by_index]
    if missing or len(rows) != stage.trials:
        yield f"{name}: its table has {len(rows)} rows for {stage.trials} trials" + (
            f", without {stage.name}/{missing[0]}" if missing else ""
        )
    counts = counted(rows)
    if counts != (stage.completed, stage.failed, stage.cancelled):
        yield (
            f"{name}: its table has {counts.completed} completed, {counts.failed} failed and {counts.cancelled} cancelled, the record "
            f"{stage.completed}, {stage.failed} and {stage.cancelled}"
        )
    for survivor in stage.survivors:
        if not survivor.name.rpartition("/")[2].isdecimal():
            continue
        row = by_index.get(survivor.index)
        if row is not None and not row.is_completed:
            yield f"{name}: survivor {survivor.name} did not finish: it {row.state}"
        elif row is not None and plain_value(row.metrics) != plain_value(
            survivor.metrics
        ):  # one that is NaN is equal, too
            yield f"{name}: survivor {survivor.name} has other metrics than the trial in its table"


def _of_artefacts(record: StudyRecord, digest_of: Callable[[Artefact], str | None]) -> Iterator[str]:
    known: dict[Artefact, str | None] = {}
    removed = record.removed
    for stage in record.stages:
        if stage.name in removed:
            continue
        for survivor in stage.survivors:
            for name, artefact in survivor.artefacts.items():
                if artefact not in known:
                    known[artefact] = digest_of(artefact)
                if known[artefact] is None:
                    yield f"stage {stage.name}: artefact {name!r} of {survivor.name} is missing: digest={artefact.digest}"
                elif known[artefact] != artefact.digest:
                    yield f"stage {stage.name}: artefact {name!r} of {survivor.name} has another digest: {known[artefact]}"
