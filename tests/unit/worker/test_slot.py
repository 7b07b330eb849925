"""One slot, stepped with a fake clock and a scripted runner: what it claims, runs, commits and gives back."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from starburst_executor.config import Timings
from starburst_executor.errors import (
    RecordInvalid,
)
from starburst_executor.protocol import calls
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import CallBlock, State, Status
from starburst_executor.testing import FakeClock
from starburst_executor.worker import feeder, pace
from starburst_executor.worker.placed import Stretch
from starburst_executor.worker.runner.jobs import Job
from starburst_executor.worker.runner.notes import Note
from tests.support.session_rig import DIGEST, Rig
from tests.support.slot_stage import Act, FakeRunner, Stage, in_slices
from tests.support.spans import pending, with_spans

# --- slices -----------------------------------------------------------------------------------------------------------


def test_tasks_run_and_are_completed() -> None:
    stage = Stage()
    key = stage.rig.submit(3)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 3
    assert [entry.seconds for entry in stage.rig.read(key).entries] == pytest.approx([0.01] * 3)
    assert stage.ran == [(0, 1), (1, 1), (2, 1)]
    assert len(stage.runners) == 1
    assert stage.claims.held() == {}


def test_the_first_slice_is_one_task_and_the_next_about_a_second_of_work() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.1)
    stage.rig.submit(100)
    stage.run()
    assert in_slices(stage)[0] == 1
    # The first of eleven outcomes waits for one second.
    assert in_slices(stage)[1:6] == [11] * 5


@pytest.mark.parametrize(("seconds", "size"), [(1.0, 2), (0.02, 22), (0.01, 32), (0.001, 100)])
def test_a_slice_is_a_fair_share_or_so_much_that_the_swaps_of_all_slots_take_no_longer(
    seconds: float, size: int
) -> None:
    stage = Stage(workers=10)
    stage.default = Act(seconds=seconds)
    stage.rig.submit(100)
    stage.look()
    stage.durations.add(DIGEST, seconds)
    stage.slot.step()
    assert in_slices(stage)[0] == size


def test_a_slot_that_twice_finds_nothing_where_it_should_tries_no_further() -> None:
    stage = Stage(workers=2)
    keys = [stage.rig.submit(1, first=first) for first in range(6)]
    stage.look()
    for key in keys:
        stage.rig.claim(key, "other.1")
    with stage.rig.requests() as counts:
        assert not stage.slot.step()
    assert counts == {"get": 2}
    assert stage.finder.candidates.wanted.is_set()


def test_work_of_milliseconds_is_not_shared() -> None:
    stage = Stage(workers=10)
    stage.default = Act(seconds=1e-5)
    stage.rig.submit(100)
    stage.look()
    stage.durations.add(DIGEST, 1e-5)
    stage.slot.step()
    assert in_slices(stage)[0] == 100


def test_tiny_tasks_cost_two_swaps_an_object_with_two_slots_at_work() -> None:
    stage = Stage(n_slots=2, workers=2)
    stage.default = Act(seconds=1e-5)
    stage.durations.add(DIGEST, 1e-5)
    for first in range(0, 2000, 200):
        stage.rig.submit(200, first=first)
    stage.look()
    with stage.rig.requests() as counts:
        while sum(slot.step() for slot in stage.slots):
            pass
    assert len(stage.ran) == 2000
    # Ten objects and the function are read; each object is claimed and committed, never raced for.
    assert counts == {"get": 11, "swap": 20}


def test_tasks_much_longer_than_they_were_when_claimed_are_given_to_others() -> None:
    stage = Stage(workers=2)
    stage.default = Act(seconds=0.9)  # no single one is an overrun
    key = stage.rig.submit(40)
    stage.look()
    stage.durations.add(DIGEST, 0.02)
    stage.slot.step()
    assert sum(in_slices(stage)) == 30  # a slice, and the next one ahead
    while len(stage.ran) < 2:
        stage.slot.step()
    assert stage.rig.states(key).count(State.PENDING) > 30
    assert stage.rig.bell() is not None


def test_a_single_long_task_costs_one_claim_and_one_commit() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=30.0)
    stage.rig.submit(1)
    stage.look()
    with stage.rig.requests() as counts:
        while stage.slot.step():
            pass
    # Function and object are read; claim and commit are swaps.
    assert counts == {"get": 2, "swap": 2}


def test_a_run_of_short_tasks_costs_one_swap_a_slice() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.1)
    stage.durations.add(DIGEST, 0.1)
    stage.rig.submit(100)
    stage.look()
    with stage.rig.requests() as counts:
        while stage.slot.step():
            pass
    # Function and object; at the end, when all it knew is used up, a look.
    assert counts["get"] == 2
    assert counts["list"] == 1
    assert counts["swap"] <= 16


# --- claiming ahead ---------------------------------------------------------------------------------------------------


def test_outcomes_of_a_long_run_wait_for_seconds_but_not_until_the_session_expires() -> None:
    stage = Stage(workers=1, deadline_at=FakeClock().now() + 600)
    stage.default = Act(seconds=0.9)
    keys = [stage.rig.submit(200, first=first) for first in range(0, 800, 200)]
    stage.look()
    waiting: list[tuple[float, int]] = []
    while (left_s := FakeClock().now() + 600 - stage.rig.clock.now()) > 0.5:
        stage.slot.step()
        n_stored = sum(state == State.COMPLETED for key in keys for state in stage.rig.states(key))
        waiting.append((left_s, len(stage.ran) - n_stored))
    assert max(n for left_s, n in waiting if left_s > 20) >= 5
    assert max(n for left_s, n in waiting if left_s < 4) <= 3


@pytest.mark.parametrize("how", ["value", "printed"])
def test_outcomes_that_wait_in_a_long_run_have_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(pace, "_MOST_BYTES", 10_000)
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    keys = [stage.rig.submit(200, first=first) for first in (0, 200)]
    # The first outcomes are small: an estimate alone would let the following ones wait.
    stage.default = Act(seconds=0.01)
    stage.look()
    stage.step_until(lambda: len(stage.ran) >= 100)
    stage.default = Act(seconds=0.01, **{how: b"x" * 2000})
    waiting: list[int] = []
    sizes: list[int] = []
    while stage.slot.step():
        n_stored = sum(state == State.COMPLETED for key in keys for state in stage.rig.states(key))
        n_claimed = sum(state == State.CLAIMED for key in keys for state in stage.rig.states(key))
        waiting.append(len(stage.ran) - n_stored)
        sizes.append(n_claimed)
    assert len(stage.ran) == 400
    assert max(waiting[30:]) <= 10
    assert max(sizes[-100:]) <= 10  # a slice, and one ahead: a store that is away stops the worker there


def test_who_finds_nothing_to_claim_ahead_tries_elsewhere_while_the_task_runs() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.9)
    keys = [stage.rig.submit(1, first=first) for first in range(6)]
    stage.look()
    stage.durations.add(DIGEST, 0.9)
    for key in keys[1:3]:
        stage.rig.claim(key, "other.1")
    stage.slot.step()
    assert stage.rig.states(keys[0]) == [State.COMPLETED]
    assert list(stage.claims.held().values()) == [keys[3]]


def test_the_next_slice_is_claimed_while_this_one_runs() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.1)
    stage.durations.add(DIGEST, 0.1)
    stage.rig.submit(50)
    stage.look()
    stage.step_until(lambda: len(stage.sent) >= 2)
    assert len(stage.ran) < 10
    assert len(stage.claims.held()) == 2


def test_ahead_goes_to_another_object_when_this_one_is_used_up() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.5)
    stage.durations.add(DIGEST, 0.5)
    keys = {stage.rig.submit(2), stage.rig.submit(2, first=2), stage.rig.submit(2, first=4)}
    stage.look()
    stage.step_until(lambda: len(set(stage.claims.held().values())) == 2)
    assert set(stage.claims.held().values()) < keys
    stage.run()
    assert sorted(stage.ran) == [(index, 1) for index in range(6)]


@pytest.mark.parametrize("reason", ["long", "few"])
def test_nothing_is_claimed_ahead_when_it_would_wait_for_nothing(reason: str) -> None:
    stage = Stage(workers=4 if reason == "few" else 1)
    seconds = 10.0 if reason == "long" else 0.3
    stage.default = Act(seconds=seconds)
    stage.durations.add(DIGEST, seconds)
    stage.rig.submit(4 if reason == "few" else 40)
    stage.look()
    for _ in range(2):
        stage.slot.step()
        assert len(stage.claims.held()) == 1


def test_the_owner_of_one_of_the_last_objects_leaves_its_tasks_to_those_that_become_idle_sooner() -> None:
    stage = Stage(workers=8)
    stage.default = Act(seconds=1.0)
    stage.durations.add(DIGEST, 1.0)
    stage.rig.submit(8)  # more than twice as many as workers on it, but no more than the session has slots
    stage.look()
    began = stage.rig.clock.monotonic()
    stage.slot.step()
    assert len(stage.claims.held()) == 1
    assert stage.rig.clock.monotonic() - began == pytest.approx(0.7)


def test_where_few_are_left_the_next_task_is_claimed_shortly_before_this_one_should_end() -> None:
    stage = Stage(workers=4)
    stage.default = Act(seconds=3.0)
    stage.durations.add(DIGEST, 1.0)
    stage.rig.submit(3)
    stage.look()
    began = stage.rig.clock.monotonic()
    stage.slot.step()
    assert len(stage.claims.held()) == 1
    assert stage.rig.clock.monotonic() - began == pytest.approx(0.7)
    stage.slot.step()
    assert len(stage.claims.held()) == 2


def test_an_object_that_others_work_on_is_passed_over_while_there_is_another() -> None:
    stage = Stage(workers=4)
    shared, own = stage.rig.submit(8), stage.rig.submit(2, first=8)
    stage.look()
    stage.rig.claim(shared, "other.1", 1)
    stage.slot.step()
    assert set(stage.claims.held().values()) == {own}


def test_a_task_with_a_loss_runs_with_nothing_ahead_of_it_or_behind() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.3)
    stage.durations.add(DIGEST, 0.3)
    stage.script[0] = stage.script[5] = [Act(seconds=3.0)]
    key = stage.rig.submit(32)
    suspects = {0, 5}
    stage.rig.write_spans(key, *suspects, losses=1, together=1, cohort="lost.1")
    stage.look()
    together: list[set[int]] = []
    for _ in range(400):
        stage.slot.step()
        together.append({placed.index for stretch in stage.slot._feeder._given for placed in stretch.each()})
    assert stage.rig.states(key) == [State.COMPLETED] * 32
    assert any(len(jobs) > 1 for jobs in together)
    assert all(len(jobs) == 1 for jobs in together if jobs & suspects)


# --- overruns ---------------------------------------------------------------------------------------------------------


def test_nothing_waits_behind_a_task_that_takes_long() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.1)
    stage.durations.add(DIGEST, 0.1)
    stage.script[3] = [Act(seconds=60.0)]
    key = stage.rig.submit(25)
    stage.look()
    stage.step_until(lambda: stage.rig.clock.monotonic() > 5.0)
    states = stage.rig.states(key)
    assert states[:4] == [State.COMPLETED] * 3 + [State.CLAIMED]
    assert set(states[4:]) == {State.PENDING}
    assert len(stage.claims.held()) == 1
    bell = stage.rig.bell()
    assert bell is not None
    assert bell.keys == (key,)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 25
    assert sorted(index for index, _ in stage.ran) == list(range(25))


# --- ends -------------------------------------------------------------------------------------------------------------


def test_draining_finishes_what_runs_and_releases_the_rest() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=3.0)
    stage.durations.add(DIGEST, 0.1)
    key = stage.rig.submit(10)
    stage.look()
    stage.slot.step()
    stage.draining.set()
    while stage.slot.step():
        pass
    states = stage.rig.states(key)
    assert states == [State.COMPLETED] + [State.PENDING] * 9
    assert [entry.losses for entry in stage.rig.read(key).entries] == [0] * 10
    assert stage.claims.held() == {}
    assert stage.slot.is_idle


def test_draining_releases_what_waits_for_a_retry() -> None:
    stage = Stage(retries=5)
    stage.default = Act(error=ValueError("x"))
    key = stage.rig.submit(1)
    stage.look()
    stage.step_until(lambda: bool(stage.ran))
    stage.draining.set()
    assert not stage.slot.step()
    assert stage.rig.states(key) == [State.PENDING]


def test_what_is_released_between_two_tries_has_not_more_of_them() -> None:
    stage = Stage(workers=1, retries=3)
    stage.default = Act(error=ValueError("x"))
    stage.script[1] = [Act(seconds=0.01), Act(seconds=100.0)]
    key = stage.rig.submit(2)
    stage.durations.add(DIGEST, 0.01)
    stage.look()
    # Task 0 fails and waits; whenever it is due task 1 turns out long, or the slot must release waiting tasks.
    for n_tries in range(1, 5):
        stage.step_until(lambda n_tries=n_tries: stage.ran.count((0, n_tries)) or len(stage.ran) >= 2 * n_tries)
        backlog = stage.slot._backlog
        backlog.put_back([Stretch(*waiting.placed) for waiting in backlog._waiting])
        backlog._waiting.clear()
        stage.slot._release_unstarted()
        stage.look()
    stage.run()
    assert stage.rig.states(key)[0] == State.FAILED
    assert stage.rig.read(key).entries[0].failures == 4
    assert sum(index == 0 for index, _ in stage.ran) == 4


def test_when_the_grace_time_is_over_what_ran_is_released_without_a_loss() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.1)
    stage.script[2] = [Act(seconds=1000.0)]
    stage.durations.add(DIGEST, 0.1)
    key = stage.rig.submit(4)
    stage.look()
    stage.step_until(lambda: len(stage.ran) == 2)
    stage.draining.set()
    stage.slot.step()
    stage.slot.hurry()
    while stage.slot.step():
        pass
    assert stage.rig.states(key) == [State.COMPLETED] * 2 + [State.PENDING] * 2
    assert [entry.losses for entry in stage.rig.read(key).entries] == [0] * 4
    assert stage.claims.held() == {}


def test_a_slot_that_is_stopped_writes_nothing_any_more() -> None:
    stage = Stage()
    stage.rig.submit(2)
    stage.look()
    stage.slot.step()
    stage.stopped.set()
    with stage.rig.requests() as counts:
        assert not stage.slot.step()
    assert counts == {}


def test_long_slices_are_committed_as_they_go() -> None:
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.6)
    stage.durations.add(DIGEST, 0.05)
    key = stage.rig.submit(3)
    stage.look()
    stage.step_until(lambda: len(stage.ran) == 2)
    assert stage.rig.states(key) == [State.COMPLETED, State.CLAIMED, State.CLAIMED]


# --- what others see --------------------------------------------------------------------------------------------------


def test_a_slot_tells_what_it_runs_and_for_how_long() -> None:
    stage = Stage()
    stage.default = Act(seconds=100.0)
    stage.rig.submit(1)
    assert stage.slot.running() is None
    stage.look()
    stage.slot.step()
    running = stage.slot.running()
    assert running is not None
    assert running == ("0-0", pytest.approx(stage.rig.clock.monotonic()), -1, None)
    stage.notes[1] = Note(3.0, 8.0, "third")
    running = stage.slot.running()
    assert running is not None
    assert running.note == Note(3.0, 8.0, "third")


def test_races_are_spread_in_time() -> None:
    stage = Stage(timings=Timings())
    key = stage.rig.submit(1)
    stage.look()
    stage.rig.before("swap", key, lambda: stage.rig.claim(key, "other.1"))
    assert not stage.slot.step()
    assert 0.0 < stage.rig.clock.monotonic() <= stage.rig.timings.bell_min_s


# --- the user's own modules -------------------------------------------------------------------------------------------


def test_a_runner_has_one_code_for_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that were sent with other modules go to another runner, once this one has ended what it has."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stage = Stage(workers=1)
    stage.default = Act(seconds=0.01)
    digests = [with_code(stage.rig, body) for body in (a_zip("one"), a_zip("two"))]
    keys = [stage.rig.submit(20, first=20 * i, digest=digests[i // 2]) for i in range(4)]
    stage.run()
    assert [stage.rig.states(key) for key in keys] == [[State.COMPLETED] * 20] * 4
    assert sorted(index for index, _ in stage.ran) == list(range(80))
    assert all(len(code) == 1 for code in stage.codes)
    assert [Path(code[0], "which.py").read_text() for code in stage.codes] == ["one", "two"]
    assert stage.runners[0].stopped


def test_the_initializers_code_is_there_for_functions_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rig = Rig()
    initializer = with_code(rig, a_zip("initializer"), kind="initializer")
    rig.session.manifest.change(lambda manifest: replace(manifest, initializer=initializer))
    stage = Stage(rig=rig)
    stage.rig.submit(1)
    stage.rig.submit(1, first=1, digest=with_code(rig, a_zip("function")))
    stage.run()
    found = [[Path(folder, "which.py").read_text() for folder in code] for code in stage.codes]
    assert found == [["initializer"], ["function", "initializer"]]


def test_code_that_was_changed_costs_the_tasks_that_need_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stage = Stage()
    digest = with_code(stage.rig, a_zip("fine"))
    [line] = stage.rig.objects.list("code/")
    stage.rig.objects.put(line.key, a_zip("evil"))
    bad, good = stage.rig.submit(1, digest=digest), stage.rig.submit(1, first=1)
    stage.run()
    assert isinstance(stage.error_of(bad), RecordInvalid)
    assert stage.rig.states(good) == [State.COMPLETED]
    assert stage.codes == [()]


def a_zip(text: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("which.py", text)
    return stream.getvalue()


def with_code(rig: Rig, body: bytes, kind: str = "function") -> str:
    """A stored function that needs this code; its digest."""
    name = f"2026-04/{hashlib.sha256(body).hexdigest()}"
    rig.objects.create(f"code/{name}", body)
    function = calls.dump_function(pow, name)
    digest = calls.digest(function)
    rig.objects.create(rig.keys.function(digest), rig.sealer.sealed(kind, digest, function))
    return digest


def test_a_runner_has_only_so_much_ahead_of_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is as big as a quarter of what may be ahead."""
    monkeypatch.setattr(feeder, "_FEED_BYTES", 40_000)
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    key = stage.rig.submit(20, call=(b"x" * 10_000,))
    waiting: list[int] = []
    send = FakeRunner.send

    def noted(runner: FakeRunner, jobs: Sequence[Job], functions: Mapping[str, bytes]) -> None:
        send(runner, jobs, functions)
        waiting.append(len(runner.jobs))

    monkeypatch.setattr(FakeRunner, "send", noted)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 20
    assert max(waiting) <= 4, waiting
    assert len(stage.sent) > 4


def test_tasks_of_several_functions_are_claimed_one_function_at_a_time() -> None:
    stage = Stage(workers=1)
    bodies = [calls.dump_function(partial(bytes.count, bytes([i]))) for i in range(4)]
    digests = [calls.digest(body) for body in bodies]
    for digest, body in zip(digests, bodies, strict=True):
        stage.rig.objects.create(stage.rig.keys.function(digest), stage.rig.sealer.sealed("function", digest, body))
        stage.durations.add(digest, 0.01)
    key = stage.rig.submit(20)

    def of_several(seen: Status) -> Status:
        found = [pending(stage.rig.sealer, [calls.dump_call((b"x",), {})] * 20, digest=digest) for digest in digests]
        stored = [found[i].calls[0]._replace(function=i) for i in range(4)]
        seen = replace(seen, functions=tuple(digests), calls=tuple(stored))
        for i in range(20):
            seen = with_spans(seen, [i], function=i % 4)
        return seen

    stage.rig.write(key, of_several)
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 20
    assert [{index % 4 for index in sent} for sent in stage.sent] == [{0}, {1}, {2}, {3}]
    assert sorted(index for index, _ in stage.ran) == list(range(20))


def test_tasks_lost_with_a_worker_are_run_in_few_rounds_apart_from_others() -> None:
    """One of them killed it; 63 innocent ones are run four at a time, and the others as always."""
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.script[2] = [Act(seconds=2.0)]
    key = stage.rig.submit(80)
    stage.rig.claim(key, "dead.1", 64)
    stage.rig.write(
        key,
        lambda seen: transitions.take_back(seen, {"dead.1"}, lost=True, max_losses=3, now=0.0, outcome=lambda *_: b""),
    )
    stage.run()
    assert stage.rig.states(key) == [State.COMPLETED] * 80
    suspects = set(range(64))
    together = [jobs for sent in stage.sent if (jobs := set(sent)) & suspects]
    assert all(jobs <= suspects for jobs in together)
    assert max(map(len, together)) == 4
    assert max(map(len, stage.sent)) > 4


def test_calls_that_were_written_anew_count() -> None:
    """Tasks that were retried with other functions have call blocks beside, or over, those of their neighbours."""
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    key = stage.rig.submit(8, call=("old",))

    def anew(seen: Status) -> Status:
        parts = blocks.sealed_calls(stage.rig.sealer, 0, 3, DIGEST, [calls.dump_call(("new",), {})] * 2)
        return replace(seen, calls=(*seen.calls, CallBlock(3, 2, 0, b"".join(parts))))

    stage.rig.write(key, anew)
    stage.look()
    stage.slot.step()
    given = {job.index: calls.load_call(bytes(job.call), {})[0][0] for job in stage.given}
    assert given == {i: "new" if i in (3, 4) else "old" for i in range(8)}
