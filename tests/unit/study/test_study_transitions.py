"""Transitions and validation: any sequence of transitions leaves a record without a fault, and each fault is found."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.errors import ConfigError
from starburst_executor.study import transitions
from starburst_executor.study.artefacts import Artefact
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import (
    COMPLETE,
    DONE,
    OPEN,
    PENDING,
    RUNNING,
    WAITING,
    Approval,
    StudyRecord,
    Survivor,
)
from starburst_executor.study.selection import Choice
from starburst_executor.study.stage import Stage
from starburst_executor.study.tables import CANCELLED, COMPLETED, FAILED, TrialRow, counted
from starburst_executor.study.transitions import Unfit
from starburst_executor.study.validation import issues_of


def trial(_: Any) -> dict[str, float]:
    return {"score": 1.0}


PLAN = Plan(
    [
        Stage("a", trial, 3),
        Stage("b", trial, 2, gate=True),
        Stage("c", trial, 2, depends_on="a"),
        Stage("d", trial, 2, depends_on=("b", "c")),
    ]
)


def begun() -> StudyRecord:
    return transitions.begun(PLAN, "s", seed=1, settings={}, at=1.0, library="test")


def rows_of(stage: str, states: list[str]) -> list[TrialRow]:
    return [TrialRow(stage, i, state, metrics={"score": i}) for i, state in enumerate(states)]


def decide(record: StudyRecord, name: str, states: list[str] | None = None) -> StudyRecord:
    rows = rows_of(name, states or [COMPLETED] * record.stage(name).trials)
    chosen = tuple(row.index for row in rows if row.is_completed)[:1]
    return transitions.decided(record, PLAN, name, rows, Choice(chosen, "first"), table=f"table-{name}", at=2.0)


def moved(record: StudyRecord, lot: random.Random, name: str, rows: list[TrialRow], step: int) -> StudyRecord:
    chosen = tuple(row.index for row in rows if row.is_completed)
    moves: list[Any] = [
        lambda: transitions.started(record, PLAN, 1.0),
        lambda: transitions.decided(record, PLAN, name, rows, Choice(chosen, "r"), table=f"t{step}", at=2.0),
        lambda: transitions.approved(record, PLAN if lot.random() < 0.5 else None, name, Approval("x", "", 3.0)),
        lambda: transitions.carried(record, {name: f"t{step}"}, session="url"),
        lambda: transitions.aborted(record, "why"),
        lambda: transitions.reopened(record),
        lambda: transitions.restarted(record, PLAN, [name], 4.0),
        lambda: transitions.accepted(record, PLAN, 5.0),
        lambda: transitions.forked(record, PLAN, name, name=f"other-{step}", at=6.0),
        lambda: transitions.driven_by(record, f"driver-{step}"),
    ]
    return lot.choice(moves)()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_sequence_of_transitions_is_without_fault(seed: int) -> None:
    lot = random.Random(seed)
    tables: dict[str, list[TrialRow]] = {}
    record = begun()

    def random_rows(name: str) -> list[TrialRow]:
        states = [COMPLETED, *(lot.choice([COMPLETED, FAILED, CANCELLED]) for _ in range(PLAN[name].trials - 1))]
        return rows_of(name, states)

    for step in range(25):
        name = lot.choice("abcd")
        rows = random_rows(name)
        before = record
        try:
            record = moved(record, lot, name, rows, step)
        except Unfit:
            continue
        tables[f"t{step}"] = rows
        assert issues_of(record, PLAN, table_of=lambda stage: tables[stage.table]) == []
        for stage, old in zip(record.stages, before.stages, strict=True):
            if old.is_decided and stage.edition == old.edition and record.name == before.name:
                assert (stage.survivors, stage.table, stage.completed_at) == (
                    old.survivors,
                    old.table,
                    old.completed_at,
                )


def test_a_study_from_its_beginning_to_its_end() -> None:
    record = transitions.started(begun(), PLAN, 1.0)
    assert [stage.state for stage in record.stages] == [RUNNING, PENDING, PENDING, PENDING]
    record = decide(record, "a", [COMPLETED, FAILED, CANCELLED])
    # The branches start in the same swap as the decision before them.
    assert [stage.state for stage in record.stages] == [DONE, RUNNING, RUNNING, PENDING]
    assert (record.stage("a").completed, record.stage("a").failed, record.stage("a").cancelled) == (1, 1, 1)
    record = decide(decide(record, "b"), "c")
    assert [stage.state for stage in record.stages] == [DONE, WAITING, DONE, PENDING]
    with pytest.raises(Unfit, match="takes survivors of b, which is waiting"):
        transitions.inputs_of(record, PLAN, "d")
    record = transitions.approved(record, PLAN, "b", Approval("ada", "", 3.0))
    assert [one.name for one in transitions.inputs_of(record, PLAN, "d")] == ["b/0", "c/0"]
    record = decide(record, "d")
    assert record.state == COMPLETE


def test_a_stage_is_decided_once_and_with_all_outcomes() -> None:
    record = transitions.started(begun(), PLAN, 1.0)
    with pytest.raises(Unfit, match="has 3 trials, and outcomes of 2"):
        decide(record, "a", [COMPLETED, COMPLETED])
    rows = rows_of("a", [COMPLETED, FAILED, COMPLETED])
    with pytest.raises(Unfit, match="did not complete cannot survive: a/1"):
        transitions.decided(record, PLAN, "a", rows, Choice((1,), "wrong"), table="t", at=2.0)
    with pytest.raises(Unfit, match="stage b is pending"):
        decide(record, "b")
    decided = decide(record, "a")
    with pytest.raises(Unfit, match="stage a is done, and is decided once"):
        decide(decided, "a")
    with pytest.raises(Unfit, match="the study is aborted: why"):
        decide(transitions.aborted(record, "why"), "a")


def test_a_restart_starts_everything_below_over() -> None:
    record = decide(decide(transitions.started(begun(), PLAN, 1.0), "a"), "c")
    again = transitions.restarted(record, PLAN, ["c"], 3.0)
    assert [(stage.state, stage.edition) for stage in again.stages] == [
        (DONE, 1),
        (RUNNING, 1),
        (PENDING, 2),
        (PENDING, 1),
    ]
    again = transitions.restarted(record, PLAN, ["a"], 3.0)
    assert [stage.edition for stage in again.stages] == [2, 2, 2, 1]
    assert again.stage("a").key(7) == "a.2.1/7"
    with pytest.raises(LookupError, match="no stage 'x': there are a, b, c, d"):
        transitions.restarted(record, PLAN, ["x"], 3.0)


def test_what_has_not_started_may_change_and_what_has_is_listed() -> None:
    record = transitions.started(begun(), PLAN, 1.0)
    later = Plan([PLAN["a"], Stage("b", trial, 9), *PLAN.stages[2:]])
    assert transitions.changes_of(record, later) == []
    assert transitions.accepted(record, later, 2.0).stage("b").trials == 9
    started = Plan([Stage("a", trial, 5), *PLAN.stages[1:]])
    assert [str(one) for one in transitions.changes_of(record, started)] == ["stage a: trials was 3, is 5"]
    changed = transitions.accepted(record, started, 2.0)
    assert (changed.stage("a").trials, changed.changes[0].what, changed.changes[0].at) == (5, "trials", 2.0)
    # A decision stands, with its trials.
    decided = transitions.accepted(decide(record, "a"), started, 2.0)
    assert (decided.stage("a").trials, decided.stage("a").state) == (3, DONE)
    assert issues_of(decided, started) == []
    with pytest.raises(ConfigError, match="cannot be left out: a"):
        transitions.accepted(record, Plan([Stage("b", trial, 2)]), 2.0)
    with pytest.raises(ConfigError, match="a has started and cannot depend on z, which has not"):
        transitions.accepted(record, Plan([Stage("z", trial, 1), Stage("a", trial, 3)]), 2.0)


def test_a_fork_keeps_what_is_before_its_stage() -> None:
    record = decide(decide(transitions.started(begun(), PLAN, 1.0), "a"), "c")
    other = transitions.forked(record, PLAN, "c", name="other", at=9.0)
    assert [stage.state for stage in other.stages] == [DONE, PENDING, PENDING, PENDING]
    assert (other.name, other.parent, other.generation, other.session, other.driver) == ("other", "s", 1, "", "")


def test_a_study_is_complete_after_the_cleanup_that_its_stages_ask_for() -> None:
    stages = [Stage("a", trial, 1, keep="survivors", gate=True), Stage("b", trial, 1, depends_on=())]
    plan = Plan(stages)
    record = transitions.started(transitions.begun(plan, "s", seed=1, settings={}, at=1.0, library="test"), plan, 1.0)
    for name in plan.names:
        rows = rows_of(name, [COMPLETED])
        record = transitions.decided(record, plan, name, rows, Choice((0,), "first"), table=f"t-{name}", at=2.0)
    assert not record.needs_cleanup  # the gate is still there
    record = transitions.approved(record, None, "a", Approval("me", "", 3.0))
    assert (record.state, record.needs_cleanup, issues_of(record, plan)) == (OPEN, True, [])
    assert transitions.cleaned(record).state == COMPLETE
    # Or it is to keep everything now.
    plan = Plan([Stage("a", trial, 1, gate=True), stages[1]])
    assert [str(one) for one in transitions.changes_of(record, plan)] == ['stage a: keep was "survivors", is not given']
    assert transitions.accepted(record, plan, 4.0).state == COMPLETE


def test_each_fault_is_found_and_all_at_once() -> None:
    good = decide(transitions.started(begun(), PLAN, 1.0), "a", [COMPLETED, FAILED, COMPLETED])
    tables = {"table-a": rows_of("a", [COMPLETED, FAILED, COMPLETED])}

    def issues(record: StudyRecord, **more: Any) -> list[str]:
        return issues_of(record, PLAN, table_of=lambda stage: tables[stage.table], **more)

    def with_stage(name: str, **fields: Any) -> StudyRecord:
        stages = tuple(replace(one, **fields) if one.name == name else one for one in good.stages)
        return replace(good, stages=stages)

    assert issues(good) == []
    survivor = good.stage("a").survivors[0]
    faults = {
        "counts do not add up: 3 completed + 1 failed + 0 cancelled are 4, not 3": with_stage("a", completed=3),
        "survivor a/9 is unknown": with_stage("a", survivors=(replace(survivor, name="a/9"),)),
        "survivor z/0 is unknown": with_stage("a", survivors=(replace(survivor, name="z/0"),)),
        "survivor a/1 did not finish: it failed": with_stage("a", survivors=(replace(survivor, name="a/1"),)),
        "survivor a/0 has other metrics": with_stage("a", survivors=(Survivor("a/0", {"score": 5}),)),
        "survivor a/0 is there twice": with_stage("a", survivors=(survivor, survivor)),
        "its table cannot be read|table of trials cannot be read": with_stage("a", table="gone"),
        "is done without a table": with_stage("a", table=None),
        "it is pending and has a decision": with_stage("d", survivors=(Survivor("d/0"),)),
        "d has started, and b, on which it depends, is running": with_stage("d", state=RUNNING, started_at=1.0),
        "the study is complete, and not all": replace(good, state=COMPLETE),
        "aborted without a reason": replace(good, state="aborted"),
        "stage a is there 2 times": replace(good, stages=(good.stages[0], *good.stages)),
        "stage d is missing": replace(good, stages=good.stages[:3]),
        "stage z is not in the study": replace(good, stages=(*good.stages, replace(good.stages[3], name="z"))),
        "in another order": replace(good, stages=good.stages[::-1]),
        "there is no stage": replace(good, stages=()),
    }
    for words, record in faults.items():
        assert any(any(word in issue for word in words.split("|")) for issue in issues(record)), (words, issues(record))
    several = with_stage("a", completed=3, survivors=(replace(survivor, name="a/9"), replace(survivor, name="a/1")))
    assert len(issues(several)) >= 4
    saved = with_stage(
        "a", survivors=(replace(survivor, artefacts={"model": Artefact("d1", 1), "log": Artefact("d2", 2)}),)
    )
    found = issues(saved, digest_of=lambda artefact: {"d1": None, "d2": "other"}[artefact.digest])
    assert any("artefact 'model' of a/0 is missing" in issue for issue in found)
    assert any("artefact 'log' of a/0 has another digest" in issue for issue in found)


def test_counts() -> None:
    assert tuple(counted(rows_of("a", [COMPLETED, FAILED, FAILED, CANCELLED]))) == (1, 2, 1)
