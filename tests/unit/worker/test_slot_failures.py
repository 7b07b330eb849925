"""One slot, and tasks that fail, are late, lose their claim, or have children."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.errors import (
    AccessDenied,
    LaunchError,
    PayloadError,
    RecordInvalid,
    TaskCrashed,
    TaskTimeout,
)
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import State
from starburst_executor.worker.runner.jobs import Event
from tests.support.session_rig import DIGEST, Rig
from tests.support.slot_stage import Act, FakeRunner, Stage, running_the_second

# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_task_that_raises_fails_with_its_error() -> None:
    stage = Stage()
    stage.script[0] = [Act(error=ValueError("no"))]
    key = stage.rig.submit(2)
    stage.run()
    assert stage.rig.states(key) == [State.FAILED, State.COMPLETED]
    assert stage.rig.read(key).entries[0].failures == 1
    assert repr(stage.error_of(key)) == "ValueError('no')"


def test_retries_keep_the_claim_and_pause_ever_longer() -> None:
    stage = Stage(retries=3)
    stage.script[0] = [Act(error=ValueError("no")), Act(error=ValueError("no")), Act(error=ValueError("no")), Act()]
    key = stage.rig.submit(1)
    stage.run()
    entry = stage.rig.read(key).entries[0]
    assert (entry.state, entry.attempt, entry.failures) == (State.COMPLETED, 1, 3)
    assert len(stage.ran) == 4
    # Half of 0.5 + 1 + 2 seconds at the least, all of it and the tasks' time at the most.
    assert 1.75 <= stage.rig.clock.monotonic() <= 3.6


def test_when_retries_are_used_up_the_last_error_counts() -> None:
    stage = Stage(retries=1)
    stage.script[0] = [Act(error=ValueError("first")), Act(error=ValueError("last"))]
    key = stage.rig.submit(1)
    stage.run()
    assert str(stage.error_of(key)) == "last"
    assert len(stage.ran) == 2


def test_a_failure_is_stored_before_the_next_try_which_may_cost_the_worker_its_life() -> None:
    rig = Rig(retries=2, workers=1)
    one = Stage(rig=rig)
    one.script[0] = [Act(error=ValueError("no"))]
    key = rig.submit(1)
    one.look()
    one.step_until(lambda: len(one.ran) == 2)
    (entry,) = rig.read(key).entries
    assert (entry.state, entry.attempt, entry.failures) == (State.CLAIMED, 1, 1)
    # Its worker dies now; the one that comes after it counts on.
    rig.write(
        key,
        lambda seen: transitions.take_back(
            seen, {entry.claim}, lost=True, max_losses=3, now=0.0, outcome=lambda *_: b"lost"
        ),
    )
    two = Stage(rig=rig, worker_id="x")
    two.script[0] = [Act(error=ValueError("still no"))]
    two.run()
    (entry,) = rig.read(key).entries
    assert (entry.state, entry.attempt, entry.failures, entry.losses) == (State.FAILED, 2, 3, 1)
    assert [attempt for _, attempt in one.ran + two.ran] == [1, 2, 2, 3]


def test_a_stored_failure_costs_one_swap() -> None:
    stage = Stage(retries=1, workers=1)
    stage.script[0] = [Act(error=ValueError("no")), Act()]
    stage.rig.submit(1)
    stage.look()
    with stage.rig.requests() as counts:
        while stage.slot.step():
            pass
    # Function and object are read; claim, failure and commit are swaps.
    assert counts == {"get": 2, "swap": 3}


def test_others_run_while_one_waits_for_its_retry() -> None:
    stage = Stage(retries=1, workers=1)
    stage.script[0] = [Act(error=ValueError("x")), Act()]
    stage.durations.add(DIGEST, 0.1)
    stage.rig.submit(4)
    stage.run()
    assert [index for index, _ in stage.ran] == [0, 1, 2, 3, 0]


def test_no_slot_waits_for_a_long_pause_before_a_retry() -> None:
    """After the fifth or sixth failure it is more than five seconds: the task is released until then, and others run on its slot."""
    stage = Stage(retries=6, workers=1)
    stage.script[0] = [Act(error=ValueError("x"))]
    key = stage.rig.submit(1)
    stage.run()
    (entry,) = stage.rig.read(key).entries
    n_tries = len(stage.ran)
    assert (entry.state, entry.failures) == (State.PENDING, n_tries)
    assert n_tries in (5, 6)
    assert 5 < entry.at - stage.rig.clock.now() <= 17
    other = stage.rig.submit(1, first=1)
    stage.run()
    assert stage.rig.states(other) == [State.COMPLETED]
    assert [index for index, _ in stage.ran] == [0] * n_tries + [1]
    stage.rig.clock.advance(17)
    stage.script[0] = [Act()]
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED]


def test_a_death_costs_only_the_task_that_ran() -> None:
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.script[2] = [Act(dies="killed by SIGKILL, possibly out of memory")]
    key = stage.rig.submit(5)
    stage.run()
    states = stage.rig.states(key)
    assert states == [State.COMPLETED, State.COMPLETED, State.FAILED, State.COMPLETED, State.COMPLETED]
    error = stage.error_of(key, 2)
    assert isinstance(error, TaskCrashed)
    assert "SIGKILL" in str(error)
    assert "task=0-2, session=a-session" in str(error)
    assert len(stage.ran) == 5
    assert len(stage.runners) == 2
    assert stage.reasons == []


def test_a_runner_that_dies_between_tasks_costs_none() -> None:
    stage = Stage()
    key = stage.rig.submit(1)
    stage.look()
    deaths = [None, None]
    spawn = stage.spawn

    def dying(code: tuple[str, ...]) -> FakeRunner:
        runner = spawn(code)
        if deaths:
            deaths.pop()
            runner.poll = lambda _: [runner.death("of old age", None)]  # type: ignore[method-assign]
        return runner

    stage.spawn = dying  # type: ignore[method-assign]
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED]
    assert stage.ran == [(0, 1)]
    assert stage.reasons == []


def test_runners_that_always_die_before_they_work_end_this_worker_and_nothing_else() -> None:
    stage = Stage()
    key = stage.rig.submit(1)
    stage.look()
    spawn = stage.spawn

    def dying(code: tuple[str, ...]) -> FakeRunner:
        runner = spawn(code)
        runner.poll = lambda _: [runner.death("exited with status 1", None)]  # type: ignore[method-assign]
        return runner

    stage.spawn = dying  # type: ignore[method-assign]
    with pytest.raises(LaunchError, match="exited with status 1"):
        stage.step_until(lambda: len(stage.runners) > 5, most=5)
    assert len(stage.runners) == 3
    # Nothing has been said of the session: another machine may do better, and its tasks have lost nothing.
    assert stage.reasons == []
    stage.slot.give_back()
    (entry,) = stage.rig.read(key).entries
    assert (entry.state, entry.losses) == (State.PENDING, 0)
    assert stage.claims.held() == {}


def test_what_a_worker_that_cannot_go_on_has_not_started_goes_back_and_what_runs_stays_its_own() -> None:
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.05)
    stage.default = Act(seconds=0.05)
    stage.script[1] = [Act(seconds=9.0)]
    key = stage.rig.submit(10)
    stage.look()
    stage.step_until(lambda: len(stage.ran) == 1)
    stage.slot.give_back()
    states = stage.rig.states(key)
    assert states[:2] == [State.COMPLETED, State.CLAIMED]
    assert states[2:] == [State.PENDING] * 8
    assert len(stage.claims.held()) == 1


def test_who_cannot_read_a_function_has_lost_no_task() -> None:
    stage = Stage()
    key = stage.rig.submit(2)
    stage.look()
    get = stage.rig.objects.get

    def denied(key: str, **options: Any) -> Any:
        if "/functions/" in key:
            raise AccessDenied("no right to read it")
        return get(key, **options)

    stage.rig.objects.get = denied  # type: ignore[method-assign]
    with pytest.raises(AccessDenied):
        stage.step_until(lambda: False, most=5)
    stage.slot.give_back()
    assert [(entry.state, entry.losses) for entry in stage.rig.read(key).entries] == [(State.PENDING, 0)] * 2


def test_an_initializer_that_raises_breaks_the_session() -> None:
    stage = Stage()
    stage.broken = outcomes.dump_error(ValueError("not here"))
    stage.rig.submit(1)
    stage.look()
    stage.slot.step()
    assert stage.reasons[0] == stage.broken


def test_a_function_that_cannot_be_loaded_is_released_once_and_then_fails() -> None:
    stage = Stage()
    stage.default = Act(error=ModuleNotFoundError("no such module"), loaded=False)
    key = stage.rig.submit(1)
    stage.look()
    stage.step_until(lambda: len(stage.ran) == 1)
    assert stage.rig.states(key) == [State.PENDING]
    assert stage.rig.read(key).entries[0].refusals == 1
    stage.run()
    assert stage.rig.states(key) == [State.FAILED]
    assert isinstance(stage.error_of(key), ModuleNotFoundError)
    assert len(stage.ran) == 2


def test_a_result_too_large_fails_its_task_alone() -> None:
    stage = Stage(max_result_bytes=1000)
    stage.script[0] = [Act(value="x" * 2000)]
    key = stage.rig.submit(2)
    stage.run()
    assert stage.rig.states(key) == [State.FAILED, State.COMPLETED]
    error = stage.error_of(key)
    assert isinstance(error, PayloadError)
    assert "max_result_bytes=1000, task=0-0" in str(error)


def test_a_call_with_a_wrong_seal_or_without_its_function_fails_alone() -> None:
    stage = Stage()
    moved, fine = stage.rig.submit(2), stage.rig.submit(2, first=2)
    (given,) = stage.rig.read(fine).calls
    stage.rig.write(moved, lambda seen: replace(seen, calls=(seen.calls[0]._replace(place=given.place),)))
    gone = stage.rig.submit(1, first=4, digest="0" * 32)
    stage.run()
    assert stage.rig.states(moved) == [State.FAILED] * 2
    assert stage.rig.states(fine) == [State.COMPLETED] * 2
    assert isinstance(stage.error_of(moved), RecordInvalid)
    assert "task=0-1" in str(stage.error_of(moved, 1))
    assert stage.rig.states(gone) == [State.FAILED]
    assert isinstance(stage.error_of(gone), PayloadError)


def test_an_object_that_cannot_be_read_is_left_alone() -> None:
    stage = Stage()
    broken = stage.rig.submit(1)
    stage.rig.objects.put(broken, b"\xc1" * 8)
    key = stage.rig.submit(1, first=1)
    stage.look()
    for _ in range(10):
        stage.slot.step()
    assert stage.rig.states(key) == [State.COMPLETED]


# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_a_task_that_runs_too_long_is_killed_and_fails() -> None:
    stage = Stage(task_timeout=5.0)
    stage.script[1] = [Act(seconds=1000.0)]
    key = stage.rig.submit(3)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED, State.FAILED, State.COMPLETED]
    error = stage.error_of(key, 1)
    assert isinstance(error, TaskTimeout)
    assert "task_timeout=5 s" in str(error)
    assert 5.0 <= stage.rig.clock.monotonic() < 6.5


def test_each_task_of_a_slice_has_its_own_time() -> None:
    stage = Stage(task_timeout=5.0, workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.default = Act(seconds=4.0)
    key = stage.rig.submit(3)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 3


def test_the_initializers_time_is_not_the_first_tasks() -> None:
    stage = Stage(task_timeout=5.0)
    stage.starting_s = 60.0
    stage.default = Act(seconds=4.5)
    key = stage.rig.submit(1)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED]
    assert len(stage.runners) == 1


def test_a_kill_that_comes_too_late_blames_nobody_else() -> None:
    """The task ended just before its runner was killed, and the next one had begun."""
    stage = Stage(task_timeout=5.0, workers=1)
    stage.durations.add(DIGEST, 0.01)

    def last_words(runner: FakeRunner) -> list[Event]:
        numbers = list(runner.jobs)
        events: list[Event] = [runner.finish(numbers[0], Act(seconds=5.0))]
        events.append(runner.death("killed by the worker", numbers[1] if len(numbers) > 1 else None))
        return events

    stage.script[0] = [Act(seconds=1000.0, last_words=last_words)]
    key = stage.rig.submit(3)
    stage.look()
    # No overrun is to take the others out of its way.
    stage.slot._overrun.due_at = lambda: None  # type: ignore[method-assign]
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 3
    assert stage.reasons == []


# --- lost claims ---


def with_a_lost_claim() -> tuple[Stage, str]:
    """A slot that runs the second of two tasks, while its claim was taken back and another worker has claimed them; and their key."""
    stage, key = running_the_second(2)
    stage.rig.write(
        key,
        lambda seen: transitions.take_back(seen, {"w.1"}, lost=False, now=0.0, max_losses=3, outcome=lambda *_: b""),
    )
    stage.rig.claim(key, "other.1")
    return stage, key


def test_a_slot_whose_claim_was_lost_stops_what_runs_of_it_and_takes_other_work() -> None:
    """Its worker was stopped for longer than its lease: the task that runs is another worker's by now."""
    stage, key = with_a_lost_claim()
    more = stage.rig.submit(1, first=2)
    began = stage.rig.clock.monotonic()
    stage.finder.look()
    stage.step_until(lambda: stage.rig.states(more) == [State.COMPLETED])
    assert stage.rig.clock.monotonic() - began < 10
    assert stage.runners[0].killed
    assert stage.ran == [(0, 1), (1, 1), (2, 1)]
    assert {entry.claim for entry in stage.rig.read(key).entries} == {"other.1"}
    assert stage.rig.read(key).entries[1].failures == 0


def test_a_slot_that_still_runs_what_it_has_lost_is_not_idle() -> None:
    stage, _ = with_a_lost_claim()
    stage.step_until(lambda: not stage.claims.held())
    assert not stage.slot.is_idle
    stage.step_until(lambda: stage.slot.is_idle)
    assert stage.slot.running() is None


# --- children -----------------------------------------------------------------------------------------------------


def test_a_runner_is_replaced_after_its_number_of_tasks() -> None:
    stage = Stage(max_tasks_per_child=2, workers=1)
    stage.durations.add(DIGEST, 0.01)
    key = stage.rig.submit(5)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 5
    assert len(stage.runners) == 3
    assert [runner.stopped for runner in stage.runners] == [True, True, False]
    assert max(map(len, stage.sent)) <= 2
