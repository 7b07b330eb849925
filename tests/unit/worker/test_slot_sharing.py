"""One slot, and what it shares with others: cancelled tasks, limits, resources, solitude."""

from __future__ import annotations

from collections import Counter

from starburst_executor.errors import (
    TaskOutOfMemory,
)
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.stops import cancel_in, held_of, name_claims
from starburst_executor.worker.runner.jobs import Event
from starburst_executor.worker.solitude import Solitude
from starburst_executor.worker.stock import Stock
from tests.support.session_rig import DIGEST
from tests.support.slot_stage import Act, FakeRunner, Stage, running_the_second

# --- cancelled tasks --------------------------------------------------------------------------------------------------


def stop(stage: Stage, key: str, *positions: int) -> None:
    """A client cancels tasks that this worker holds."""
    session = stage.rig.another()
    claims = held_of(session, key, positions)
    name_claims(session, claims)
    _, n_cancelled, left = cancel_in(session, key, positions, claims)
    assert (n_cancelled, left) == (len(positions), frozenset())


def test_a_task_that_is_cancelled_while_it_runs_is_killed_and_the_others_of_its_claim_go_on() -> None:
    stage, key = running_the_second(3)
    stop(stage, key, 1)
    stops = stage.rig.another().manifest.refresh().stops
    assert stops == ("w.1",)
    began = stage.rig.clock.monotonic()
    assert stage.doubts.heard(stops)
    stage.step_until(lambda: stage.rig.states(key)[2] == State.COMPLETED)
    assert stage.rig.clock.monotonic() - began < 2 * stage.rig.timings.commit_s
    assert stage.rig.states(key) == [State.COMPLETED, State.CANCELLED, State.COMPLETED]
    assert [runner.killed for runner in stage.runners] == [True, False]
    assert stage.ran == [(0, 1), (1, 1), (2, 1)]
    assert not stage.claims.held()


def test_what_was_cancelled_before_it_started_never_runs_and_kills_no_runner() -> None:
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.script[0] = [Act(seconds=5.0)]
    key = stage.rig.submit(4)
    stage.look()
    stage.step_until(lambda: bool(stage.sent))
    stop(stage, key, 1, 3)
    assert stage.doubts.heard(stage.rig.another().manifest.refresh().stops)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED, State.CANCELLED, State.COMPLETED, State.CANCELLED]
    assert {index for index, _ in stage.ran} == {0, 2}
    assert not any(runner.killed for runner in stage.runners)


def test_an_outcome_that_waits_for_its_commit_when_its_task_is_cancelled_is_dropped() -> None:
    stage, key = running_the_second(2, Act(seconds=30.0))
    stop(stage, key, 0, 1)
    assert stage.doubts.heard(stage.rig.another().manifest.refresh().stops)
    stage.step_until(lambda: stage.slot.is_idle)
    assert stage.rig.states(key) == [State.CANCELLED, State.CANCELLED]
    assert stage.claims.n_ended == 0


def test_a_claim_that_was_named_before_its_task_is_cancelled_is_looked_at_again() -> None:
    """Its client is slow, and the worker reads the object before anything has changed in it."""
    stage = Stage(workers=1)
    stage.default = Act(seconds=1000.0)
    key = stage.rig.submit(1)
    stage.look()
    stage.step_until(lambda: bool(stage.sent))
    name_claims(stage.rig.another(), ["w.1"])
    assert stage.doubts.heard(["w.1"])
    with stage.rig.requests() as counts:
        until = stage.rig.clock.monotonic() + 100.0
        while stage.rig.clock.monotonic() < until:
            stage.slot.step()
    assert 30 <= sum(counts.values()) <= 37, "the pauses grow to a fifth of a beat interval"
    stop(stage, key, 0)
    began = stage.rig.clock.monotonic()
    stage.step_until(lambda: stage.slot.is_idle)
    assert stage.rig.clock.monotonic() - began <= stage.rig.timings.beat_s / 5 + 2 * stage.rig.timings.commit_s


def test_while_nothing_is_cancelled_no_object_is_looked_at_again() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=300.0)
    stage.rig.submit(1)
    stage.look()
    stage.step_until(lambda: bool(stage.sent))
    assert not stage.doubts.heard(())
    assert not stage.doubts.heard(("another-worker.1",))
    with stage.rig.requests() as counts:
        for _ in range(100):
            stage.slot.step()
    assert not counts


def test_a_task_that_began_when_its_runner_was_killed_for_another_one_is_not_blamed() -> None:
    """The cancelled one ended at that moment, and the runner went on to the next."""

    def next_one(runner: FakeRunner) -> list[Event]:
        cancelled, act = runner.first()
        after = [*runner.jobs][1:]
        return [runner.finish(cancelled, act), runner.death("killed by the worker", next(iter(after), None))]

    stage, key = running_the_second(3, Act(seconds=1000.0, last_words=next_one))
    stop(stage, key, 1)
    # It is not taken back: it had started.
    stage.runners[0].retract = list  # type: ignore[method-assign]
    assert stage.doubts.heard(stage.rig.another().manifest.refresh().stops)
    stage.step_until(lambda: stage.rig.states(key)[2].value > State.CLAIMED)
    assert stage.rig.states(key) == [State.COMPLETED, State.CANCELLED, State.COMPLETED]
    assert stage.rig.read(key).entries[2].failures == 0


def test_three_stops_before_a_task_has_started_do_not_end_the_worker() -> None:
    """A runner that is killed while its initializer runs has not failed to start."""
    stage = Stage(workers=1)
    stage.default = Act(seconds=1000.0, last_words=lambda runner: [runner.death("killed by the worker", None)])
    for first in range(4):
        key = stage.rig.submit(1, first=first)
        stage.look()
        n_sent = len(stage.sent)
        stage.step_until(lambda n_sent=n_sent: len(stage.sent) > n_sent)  # type: ignore[misc]
        stop(stage, key, 0)
        stage.doubts.heard(stage.rig.another().manifest.refresh().stops)
        stage.step_until(lambda: stage.slot.is_idle)


# --- limits -----------------------------------------------------------------------------------------------------------


def holders(stage: Stage) -> tuple[str, ...]:
    found = stage.rig.session.limits.read("api")
    assert found is not None
    return found.holders


def test_a_slot_holds_one_permit_while_it_runs_tasks_of_a_limit_and_gives_it_back() -> None:
    stage = Stage(workers=1)
    stage.rig.session.limits.set("api", 2)
    keys = [stage.rig.submit(3, first=3 * i, limit="api") for i in range(2)]
    stage.default = Act(seconds=5.0)
    limit = stage.rig.keys.limit("api")
    stage.look()
    stage.step_until(lambda: bool(stage.sent))
    assert holders(stage) == ("w.0",)
    before = len(stage.rig.asked)
    stage.run()
    assert [stage.rig.states(key) for key in keys] == [[State.COMPLETED] * 3] * 2
    asked = Counter(asked.kind for asked in stage.rig.asked[before:] if asked.key == limit)
    # One more write in all, however many tasks; one reading before each further claim.
    assert asked["swap"] == 1
    assert asked["get"] <= 5 + 3, asked
    assert holders(stage) == ()


def test_tasks_of_a_limit_that_is_full_wait_and_others_do_not() -> None:
    stage = Stage(workers=1)
    stage.rig.session.limits.set("api", 1)
    assert stage.rig.session.limits.take("api", "other.0")
    limited = stage.rig.submit(2, limit="api")
    free = stage.rig.submit(2, first=2)
    stage.run()
    assert stage.rig.states(free) == [State.COMPLETED] * 2
    assert stage.rig.states(limited) == [State.PENDING] * 2
    # Without a ring it is not tried again before the next look, and no look follows at once.
    with stage.rig.requests() as counts:
        for _ in range(10):
            assert not stage.slot.step()
    assert not counts
    assert not stage.finder.candidates.has_run_dry()
    stage.rig.session.limits.give_back("api", "other.0")
    stage.run()
    assert stage.rig.states(limited) == [State.COMPLETED] * 2


def test_a_slot_whose_permit_was_taken_away_claims_no_more() -> None:
    """Its worker was stopped and seemed lost: another one has the permit now."""
    stage = Stage(workers=1)
    stage.rig.session.limits.set("api", 1)
    stage.default = Act(seconds=20.0)
    key = stage.rig.submit(3, limit="api")
    stage.look()
    stage.step_until(lambda: bool(stage.sent))
    stage.rig.session.limits.give_back("api", "w.0")
    assert stage.rig.session.limits.take("api", "other.0")
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED, State.PENDING, State.PENDING]
    assert holders(stage) == ("other.0",)


def test_a_slot_with_other_work_gives_its_permit_to_the_next_one() -> None:
    stage = Stage(workers=1)
    stage.rig.session.limits.set("api", 1)
    stage.rig.session.limits.set("db", 1)
    for first, limit in enumerate(("api", "", "db")):
        stage.rig.submit(1, first=first, limit=limit)
    most = Counter[str]()
    for _ in range(100):
        if not stage.slot.step():
            stage.look()
        held = [name for name, found in stage.rig.session.limits.held().items() if found.holders]
        assert len(held) <= 1
        most.update(held)
    assert set(most) == {"api", "db"}
    assert holders(stage) == ()


def test_a_worker_that_drains_gives_its_permit_back() -> None:
    stage = Stage(workers=1)
    stage.rig.session.limits.set("api", 1)
    stage.rig.submit(2, limit="api")
    stage.look()
    stage.step_until(lambda: bool(stage.sent))
    stage.draining.set()
    stage.step_until(lambda: stage.slot.is_idle)
    assert not stage.slot.step()
    assert holders(stage) == ()


# --- resources --------------------------------------------------------------------------------------------------------


def test_a_slot_has_the_gpus_that_its_tasks_asked_for_and_gives_them_back() -> None:
    stage = Stage(workers=2, n_slots=2, stock=Stock({"gpu": 2}, ("0", "3")))
    keys = [stage.rig.submit(2, first=2 * i, resources="1xgpu") for i in range(2)]
    stage.default = Act(seconds=5.0)
    stage.look()
    for slot in stage.slots:
        slot.step()
    assert sorted(stage.gpus) == [("0",), ("3",)]
    assert not stage.stock.fits("1xgpu")
    for _ in range(200):
        for slot in stage.slots:
            slot.step()
    assert [stage.rig.states(key) for key in keys] == [[State.COMPLETED] * 2] * 2
    assert stage.stock.fits("2xgpu")
    # A process that has used a GPU keeps memory there.
    assert all(runner.stopped for runner in stage.runners)


def test_tasks_whose_resources_are_in_use_wait_for_them_and_others_do_not() -> None:
    stage = Stage(workers=2, n_slots=2, stock=Stock({"license": 1}))
    licensed = [stage.rig.submit(1, first=i, resources="1xlicense") for i in range(2)]
    free = stage.rig.submit(1, first=2)
    stage.default = Act(seconds=5.0)
    stage.look()
    one, other = stage.slots
    one.step()
    n_running = []
    for _ in range(60):
        states = [stage.rig.states(key)[0] for key in licensed]
        n_running.append(states.count(State.CLAIMED))
        other.step()
        one.step()
    assert max(n_running) == 1
    assert [stage.rig.states(key) for key in (*licensed, free)] == [[State.COMPLETED]] * 3


def test_what_a_worker_never_has_is_no_candidate_and_no_reason_to_look_again() -> None:
    stage = Stage(workers=1, stock=Stock({"gpu": 1}, ("0",)))
    key = stage.rig.submit(1, resources="2xgpu")
    stage.look()
    assert not stage.slot.step()
    assert not stage.finder.candidates.has_any()
    assert not stage.finder.candidates.has_run_dry()
    assert stage.rig.states(key) == [State.PENDING]


def test_a_gpu_is_given_back_when_the_task_that_has_it_is_killed() -> None:
    stage = Stage(workers=1, stock=Stock({"gpu": 1}, ("0",)))
    stage.script[0] = [Act(dies="killed by SIGKILL, possibly out of memory")]
    keys = [stage.rig.submit(1, first=i, resources="1xgpu") for i in range(2)]
    stage.run()
    assert [stage.rig.states(key) for key in keys] == [[State.FAILED], [State.COMPLETED]]
    assert stage.gpus == [("0",), ("0",)]
    assert stage.stock.fits("1xgpu")


def test_a_task_that_is_killed_for_its_memory_fails_with_what_it_used() -> None:
    stage = Stage(workers=1, stock=Stock({"memory": 4 * 10**9}))
    stage.script[0] = [Act(dies="killed by SIGKILL, possibly out of memory")]
    key = stage.rig.submit(1, resources="2000000000xmemory")
    stage.run()
    _, error = outcomes.load_outcome(stage.rig.outcome(key, 0))
    assert isinstance(error, TaskOutOfMemory)
    assert "asked for 2.00 GB" in str(error)


# --- solitude ---------------------------------------------------------------------------------------------------------


def test_the_last_try_of_a_task_has_the_worker_to_itself() -> None:
    stage = Stage(n_slots=2, workers=2)
    first, second = stage.slots
    stage.default = Act(seconds=50.0)
    busy = stage.rig.submit(1)
    stage.look()
    second.step()
    assert stage.rig.states(busy) == [State.CLAIMED]
    last = stage.rig.submit(1, first=1)
    stage.rig.write_spans(last, losses=2, together=1, cohort="lost.1")
    stage.look()
    first.step()
    assert stage.rig.states(last) == [State.PENDING]
    # Others wait as long as it may yet become alone by itself, and not much longer than a beat interval.
    stage.rig.clock.advance(stage.rig.timings.beat_s + 1)
    assert not first.step()
    more = stage.rig.submit(1, first=2)
    stage.look()
    while not second.is_idle:
        second.step()
    assert stage.rig.states(busy) == [State.COMPLETED]
    assert not second.step()
    assert first.step()
    assert stage.rig.states(last) == [State.CLAIMED]
    assert not second.step()
    assert stage.rig.states(more) == [State.PENDING]
    while first.step() and stage.rig.states(last) != [State.COMPLETED]:
        pass
    assert stage.rig.states(last) == [State.COMPLETED]
    stage.look()
    second.step()
    assert stage.rig.states(more) == [State.CLAIMED]


def test_a_busy_slot_claims_nothing_more_while_another_waits_to_be_alone() -> None:
    stage = Stage(n_slots=2, workers=2)
    first, second = stage.slots
    stage.default = Act(seconds=0.5)
    stage.durations.add(DIGEST, 0.5)
    stage.script[0] = [Act(seconds=50.0)]
    last = stage.rig.submit(1)
    stage.rig.write_spans(last, losses=2, together=1, cohort="lost.1")
    stage.rig.submit(200, first=1)
    stage.look()
    second.step()
    stage.finder.candidates.saw(last, stage.rig.read(last))
    stage.rig.clock.advance(stage.rig.timings.beat_s + 1)
    assert not first.step()
    for _ in range(50):
        if not second.step():
            break
    assert second.is_idle
    assert first.step()
    assert stage.rig.states(last) == [State.CLAIMED]


def test_after_the_last_try_the_others_work_again() -> None:
    """The slot that had the worker to itself does not go on from there alone."""
    stage = Stage(n_slots=2, workers=2)
    first, second = stage.slots
    key = stage.rig.submit(50)
    stage.rig.write_spans(key, 0, losses=2, together=1, cohort="lost.1")
    stage.finder.candidates.saw(key, stage.rig.read(key))
    first.step()
    assert stage.sent == [[0]]
    while not first.is_idle:
        first.step()
    assert stage.rig.states(key)[0] == State.COMPLETED
    stage.look()
    second.step()
    assert not second.is_idle or State.COMPLETED in stage.rig.states(key)[1:]


def test_two_slots_are_never_alone_at_once() -> None:
    solitude = Solitude()
    assert solitude.enter(0)
    assert solitude.have(0, insist=False)
    assert not solitude.enter(1)
    assert not solitude.have(1, insist=True)
    assert solitude.is_wanted(0)
    assert solitude.is_reserved
    solitude.give_up(1)
    assert solitude.is_reserved
    solitude.give_up(0)
    assert solitude.enter(1)
    assert not solitude.have(0, insist=False)
    assert not solitude.is_reserved
    assert not solitude.have(0, insist=True)
    assert solitude.is_reserved
    solitude.leave(1)
    assert solitude.have(0, insist=False)
