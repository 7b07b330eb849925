"""Whole studies in simulated worlds: drivers that are killed or stall at any store request, sessions that end, people who intervene.

Each ends as an undisturbed study does, no finished trial runs again, and no stage is decided twice. Mutations of the product are found.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.study import batch, beginning, driver, objects, running, transitions
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import COMPLETE, DONE, RUNNING, Approval
from starburst_executor.study.running import run_trial
from starburst_executor.study.stage import Stage
from starburst_executor.study.tables import COMPLETED
from tests.support.study_world import Life, World, essence

SEEDS = 40


@pytest.fixture(autouse=True)
def no_clock_in_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration of a trial is the one thing that differs from run to run."""

    def timeless(spec: Any, index: int, **more: Any) -> dict[str, Any]:
        return {**run_trial(spec, index, **more), "seconds": 0.0}

    monkeypatch.setattr(running, "run_trial", timeless)


def explore(trial: Any) -> dict[str, float]:
    if trial.index % 5 == 4:
        raise ValueError(f"trial {trial.index} is bad")
    trial.params["x"] = trial.rng().uniform(-1, 1)
    trial.save({"x": trial.params["x"]}, name="point")
    return {"score": -(trial.params["x"] ** 2), "cost": trial.params["x"]}


def refine(trial: Any) -> dict[str, float]:
    start = trial.load("point")["x"] if "point" in trial.case.artefacts else trial.params["x"]
    assert start == trial.params["x"]
    trial.params["x"] += trial.rng().gauss(0, 0.01)
    trial.save({"x": trial.params["x"]}, name="point")
    return {"score": -(trial.params["x"] ** 2), "cost": trial.index}


def remembering(rows: list[Any], state: dict[str, Any]) -> list[Any]:
    """A policy with a state: the two best, and how many trials it has seen in all."""
    state["seen"] = state.get("seen", 0) + len(rows)
    return sorted((row for row in rows if row.is_completed), key=lambda row: -row.metrics["score"])[:2]


@functools.cache
def linear() -> Plan:
    return Plan(
        [
            Stage("explore", explore, 6, select=("score", 3)),
            Stage("refine", refine, 5, select=remembering),
            Stage("last", refine, 3, select=(("score", "cost"), None), metrics={"cost": "min"}),
        ]
    )


@functools.cache
def diamond() -> Plan:
    return Plan(
        [
            Stage("top", explore, 5, select=("score", 2)),
            Stage("left", refine, 4, select=lambda row: row.metrics["score"] > -2, depends_on="top"),
            Stage("right", refine, 3, select=remembering, depends_on="top", options={"priority": 1}),
            Stage("bottom", refine, 4, select=("cost", 1), depends_on=("left", "right")),
        ]
    )


PLANS = {"linear": linear, "diamond": diamond}


def undisturbed(plan: Callable[[], Plan]) -> World:
    world = World(plan)
    assert world.drive().state == COMPLETE
    return world


def check_each_ran_once(world: World) -> None:
    repeated = {key: n for key, n in world.ended.items() if n > 1}
    assert not repeated


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_driver_killed_at_every_request_changes_nothing(name: str, is_after: bool) -> None:
    plain = undisturbed(PLANS[name])
    expected = essence(plain.record)
    number = 0
    while True:
        world = World(PLANS[name])
        life = Life(at=number, is_after=is_after)
        if world.drive(life) is not None:
            break
        assert world.drive().state == COMPLETE
        assert essence(world.record) == expected, f"killed at request {number}"
        check_each_ran_once(world)
        number += 1
    assert number > 40


@pytest.mark.parametrize("name", PLANS)
def test_a_driver_that_stalls_at_any_request_while_another_takes_over_changes_nothing(name: str) -> None:
    expected = essence(undisturbed(PLANS[name]).record)
    number = 0
    while True:
        world = World(PLANS[name])
        life = Life(at=number, is_after=number % 2 == 1)
        life.stalled = lambda world=world: world.drive()
        assert world.drive(life).state == COMPLETE
        assert essence(world.record) == expected, f"stalled at request {number}"
        check_each_ran_once(world)
        if life.n_asked <= number:
            break
        number += 1
    assert number > 40


def story(seed: int) -> World:
    """A study in which much goes wrong: several drivers die or stall, sessions end, a stage is started over."""
    lot = random.Random(seed)
    world = World(PLANS[lot.choice(sorted(PLANS))], seed, may_end=lot.choice([0.0, 0.0, 0.02, 0.1]))
    for _ in range(lot.randint(1, 6)):
        life = Life(at=lot.randint(0, 90), is_after=lot.random() < 0.5)
        if lot.random() < 0.3:
            # While this one stands still, another takes over, and may die as well.
            at = lot.randint(0, 60)
            life.stalled = lambda at=at: world.drive(Life(at=at))
        options: dict[str, Any] = {}
        if lot.random() < 0.15 and world.has_record and world.record.stages[1].has_started:
            options["restart"] = (world.record.stages[lot.randint(0, 1)].name,)
        world.drive(life, **options)
        if lot.random() < 0.1:
            for session in world.sessions.values():
                session.state = session.state or "expired: by hand"
    world.may_end = 0.0
    record = world.drive()
    assert record.state == COMPLETE, record.reason
    return world


def result(world: World) -> list[Any]:
    """What does not depend on how often a stage was started over."""
    return [(one[0], *one[3:9]) for one in essence(world.record)]


def check_story(seed: int, expected: dict[str, list[Any]]) -> None:
    world = story(seed)
    name = "diamond" if world.record.names[0] == "top" else "linear"
    assert result(world) == expected[name], f"seed {seed}"
    check_each_ran_once(world)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[Any]]:
    return {name: result(undisturbed(plan)) for name, plan in PLANS.items()}


def test_a_study_to_which_much_happens_ends_as_an_undisturbed_one(expected: dict[str, list[Any]]) -> None:
    for seed in range(SEEDS):
        check_story(seed, expected)


@pytest.mark.stress
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("part", range(1, 9))
def test_many_studies_to_which_much_happens(part: int, expected: dict[str, list[Any]]) -> None:
    for seed in range(part * 500, (part + 1) * 500):
        check_story(seed, expected)


# ------------------------------------------------------------------------------------------------------------ mutations


def decide_twice(patch: pytest.MonkeyPatch) -> None:
    """A driver whose study another drives decides stages again that were decided, and the record lets it; what it writes has its seals."""
    plain = transitions.decided

    def decided(record: Any, plan: Any, name: str, rows: Any, choice: Any, *, table: str, at: float) -> Any:
        stages = tuple(replace(one, state=RUNNING) if one.name == name else one for one in record.stages)
        return plain(replace(record, stages=stages, state="open"), plan, name, rows, choice, table=table, at=at)

    def change(self: Any, step: Any) -> Any:
        return self._objects.change(lambda record: self._seals.sealed(step(record), record))

    patch.setattr(transitions, "decided", decided)
    patch.setattr(driver.Driver, "_change", change)


def count_a_failure_as_completed(patch: pytest.MonkeyPatch) -> None:
    plain = running.row_of_error

    def row(spec: Any, index: int, error: BaseException) -> Any:
        return replace(plain(spec, index, error), state=COMPLETED, kind="")

    patch.setattr(batch, "row_of_error", row)


def skip_an_unfinished_stage(patch: pytest.MonkeyPatch) -> None:
    """A stage that was running when its driver died counts as finished: its trials without an outcome are not run."""
    plain = beginning.Beginning.take_over

    def take_over(self: Any, options: Any, *more: Any) -> Any:
        return plain(self, replace(options, unfinished=False), *more)

    patch.setattr(beginning.Beginning, "take_over", take_over)


def take_survivors_of_an_older_generation(patch: pytest.MonkeyPatch) -> None:
    """A stage that is started over leaves those below it as they are, with the survivors of its edition before."""
    plain = transitions.restarted

    def restarted(record: Any, plan: Any, names: Any, at: float) -> Any:
        changed = plain(record, plan, names, at)
        kept = {name: record.stage(name) for name in record.names if name not in names}
        stages = tuple(kept.get(one.name, one) for one in changed.stages)
        return replace(changed, stages=stages)

    patch.setattr(transitions, "restarted", restarted)


def read_the_generation_before(patch: pytest.MonkeyPatch) -> None:
    """A new driver goes on from `previous`."""
    plain = objects.StudyObjects.read

    def read(self: Any) -> Any:
        is_first = self._latest.version is None
        record = plain(self)
        if is_first:
            with contextlib.suppress(LookupError):
                record = self.previous()
                self._latest._version = replace(self._latest.version, value=record)
        return record

    patch.setattr(objects.StudyObjects, "read", read)


def forget_the_carried_outcomes(patch: pytest.MonkeyPatch) -> None:
    plain = batch.Batch.__init__
    patch.setattr(batch.Batch, "__init__", lambda self, spec, trials, carried: plain(self, spec, trials, []))


def take_a_cancelled_trial_for_an_outcome(patch: pytest.MonkeyPatch) -> None:
    """What ended with its session counts as failed."""
    patch.setattr(batch, "is_of_session", lambda error: False)


MUTATIONS = [
    decide_twice,
    count_a_failure_as_completed,
    skip_an_unfinished_stage,
    take_survivors_of_an_older_generation,
    read_the_generation_before,
    forget_the_carried_outcomes,
    take_a_cancelled_trial_for_an_outcome,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_simulation_finds_a_mutation(
    mutation: Callable[[pytest.MonkeyPatch], None], expected: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation(monkeypatch)
    for seed in range(SEEDS):
        try:
            check_story(seed, expected)
            story_of_stalls(seed, expected)
        except (AssertionError, transitions.Unfit, LookupError):
            return
    pytest.fail("not found")


def story_of_stalls(seed: int, expected: dict[str, list[Any]]) -> None:
    world = World(linear, seed)
    life = Life(at=30 + seed, is_after=False)
    life.stalled = lambda: world.drive()
    world.drive(life)
    assert result(world) == expected["linear"]


# --------------------------------------------------------------------------------------------------------------- cleanup


@functools.cache
def keeping() -> Plan:
    return Plan(
        [
            Stage("explore", explore, 6, select=("score", 2), keep="survivors"),
            Stage("refine", refine, 2, select=("score", 1)),
            Stage("last", refine, 2, keep="none"),
        ]
    )


def check_kept(world: World) -> None:
    """What is left are the artefacts of the first stage's survivors, of all trials of the second, and of the baseline."""
    record, objects = world.record, world.objects()
    assert record.state == COMPLETE, record.reason
    named = {artefact.digest for one in record.stage("explore").survivors for artefact in one.artefacts.values()}
    rows = objects.read_table(record.stage("refine").table or "")
    named |= {artefact.digest for row in rows for artefact in row.artefacts.values()}
    assert len(named) == 4
    folder = objects.keys.artefacts
    assert {one.key.removeprefix(folder) for one in world.store.list(folder)} == named | {BASELINE}


BASELINE = hashlib.sha256(b"of a baseline").hexdigest()


def world_with_baseline() -> World:
    world = World(keeping)
    artefacts = world.objects().artefacts
    artefacts.keep_for("base", [artefacts.write(io.BytesIO(b"of a baseline"), "bytes")])
    return world


def kill_at_each_request() -> None:
    expected = essence(undisturbed(keeping).record)
    for is_after in (False, True):
        number = 0
        while True:
            world = world_with_baseline()
            if world.drive(Life(at=number, is_after=is_after)) is not None:
                break
            assert world.drive().state == COMPLETE
            assert essence(world.record) == expected, f"killed at request {number}"
            check_kept(world)
            number += 1
        check_kept(world)


def test_a_driver_killed_at_every_request_keeps_what_the_policies_say() -> None:
    kill_at_each_request()


def test_a_driver_that_stalls_in_a_cleanup_while_another_takes_over_keeps_what_the_policies_say() -> None:
    n_requests = Life()
    world_with_baseline().drive(n_requests)
    for number in range(n_requests.n_asked - 14, n_requests.n_asked):
        world = world_with_baseline()
        life = Life(at=number, is_after=number % 2 == 1)
        life.stalled = lambda world=world: world.drive()
        assert world.drive(life).state == COMPLETE
        check_kept(world)


def test_the_simulation_finds_a_study_that_is_complete_before_its_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = driver.Driver._clean

    def complete_first(self: Any, record: Any) -> None:
        self._change(transitions.cleaned)
        plain(self, record)

    monkeypatch.setattr(driver.Driver, "_clean", complete_first)
    with pytest.raises(AssertionError):
        kill_at_each_request()


# ---------------------------------------------------------------------------------------------------------------- people


def test_a_gate_waits_for_approval_and_is_let_through_once() -> None:
    def plan() -> Plan:
        return Plan([Stage("first", explore, 4, select=("score", 2), gate=True), Stage("second", refine, 2)])

    world = World(plan)
    record = world.drive(wait=False)
    assert record.stage("first").state == "waiting"
    assert record.stage("second").state == "pending"
    approval = Approval("ada", "looks right", world.clock.now())
    world.objects().change(lambda record: transitions.approved(record, None, "first", approval))
    with pytest.raises(transitions.Unfit, match="does not wait"):
        world.objects().change(lambda record: transitions.approved(record, None, "first", approval))
    record = world.drive(wait=False)
    assert record.state == COMPLETE
    assert record.stage("first").approval == approval


@pytest.mark.parametrize(("then", "state"), [("abort", "aborted"), ("approve", "complete")])
def test_a_gate_with_a_time_limit(then: str, state: str) -> None:
    world = World(
        lambda: Plan([Stage("first", explore, 4, gate={"timeout": 30, "then": then}), Stage("second", refine, 2)])
    )
    record = world.drive()
    assert record.state == state
    if then == "approve":
        assert record.stage("first").approval.by == "timeout"
    else:
        assert "not approved within 30 s" in record.reason


def failing(trial: Any) -> dict[str, float]:
    raise OSError(28, "No space left on device")


def test_too_many_failures_abort_and_a_change_goes_on() -> None:
    world = World(lambda: Plan([Stage("only", failing, 8, abort_if={"failed": 0.4, "after": 3})]))
    record = world.drive()
    assert record.state == "aborted"
    assert "disk full" in record.reason
    assert world.drive().state == "aborted"  # not by itself
    rules = {"failed": 0.9, "after": 3}
    world.plan = functools.cache(lambda: Plan([Stage("only", explore, 8, abort_if=rules, select=("score", 1))]))
    # What had failed has an outcome, and does not run again unless that is asked for.
    assert world.drive(continue_aborted=True, is_changed=True).state == "aborted"
    record = world.drive(continue_aborted=True, failed=True)
    assert (record.state, record.stage("only").failed) == (COMPLETE, 1)
    assert [change.what for change in record.changes] == ["select", "abort_if.failed", "run"]


def test_failed_trials_run_again_if_that_is_asked_for() -> None:
    fails = {"now": True}

    def flaky(trial: Any) -> dict[str, float]:
        if fails["now"] and trial.index % 2:
            raise ValueError("not yet")
        return {"score": trial.index}

    world = World(lambda: Plan([Stage("only", flaky, 6, select=("score", 2))]))
    assert world.drive(Life(at=20)) is None
    assert world.record.stage("only").state == RUNNING
    assert sum(world.ended.values()) == 6
    fails["now"] = False
    record = world.drive(failed=True)
    assert (record.state, record.stage("only").completed) == (COMPLETE, 6)
    assert [one.name for one in record.stage("only").survivors] == ["only/5", "only/4"]


def test_unfinished_trials_are_left_if_that_is_asked_for() -> None:
    world = World(linear)
    while world.drive(Life(at=24)) is None and world.record.stages[0].state != RUNNING:
        pass
    record = world.drive(unfinished=False)
    assert record.state in (COMPLETE, "aborted")
    first = record.stage("explore")
    assert first.state != DONE or first.completed + first.failed + first.cancelled == 6


def test_a_stage_without_survivors_stops_before_what_depends_on_it() -> None:
    world = World(lambda: Plan([Stage("first", explore, 4, select=lambda row: False), Stage("second", refine, 2)]))
    record = world.drive()
    assert record.state == "aborted"
    assert "no survivors" in record.reason
    assert (record.stage("first").state, record.stage("second").state) == ("running", "pending")
    # A selection that was mended goes on from the same trials.
    world.plan = lambda: Plan([Stage("first", explore, 4, select=("score", 2)), Stage("second", refine, 2)])
    assert world.drive(continue_aborted=True, is_changed=True).state == COMPLETE
    check_each_ran_once(world)


def test_a_selection_that_raises_aborts_the_study_with_its_reason() -> None:
    def select(rows: list[Any], state: dict[str, Any]) -> list[Any]:
        return rows[99]

    world = World(lambda: Plan([Stage("only", explore, 4, select=select)]))
    record = world.drive()
    assert (record.state, record.stage("only").state) == ("aborted", RUNNING)
    assert "IndexError" in record.reason


@pytest.mark.parametrize("n_stages", [1, 2, 10])
def test_the_record_costs_at_most_four_requests_a_stage(n_stages: int) -> None:
    world = World(
        lambda: Plan([Stage(f"s{i}", explore if i == 0 else refine, 4, select=("score", 2)) for i in range(n_stages)])
    )
    assert world.drive().state == COMPLETE
    requests = dict(world.record_requests)
    # Conditional reads go by time, one a beat.
    assert requests.pop("get", 0) <= world.clock.monotonic()
    assert requests == {"create": 1 + n_stages, "put": n_stages, "swap": n_stages}
    assert sum(requests.values()) <= 4 * n_stages


def test_a_complete_study_is_no_error_and_new_stages_go_on() -> None:
    world = World(lambda: Plan([Stage("first", explore, 4, select=("score", 2))]))
    assert world.drive().state == COMPLETE
    before = dict(world.ended)
    assert world.drive().state == COMPLETE
    world.plan = lambda: Plan([Stage("first", explore, 4, select=("score", 2)), Stage("second", refine, 3)])
    record = world.drive(is_changed=True)
    assert (record.state, record.stage("second").completed) == (COMPLETE, 3)
    assert all(world.ended[key] == n for key, n in before.items())
