"""One slot, stepped with a fake clock and a scripted runner: what it claims, runs, commits and gives back."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.config import Timings
from starburst_executor.errors import (
    AccessDenied,
    LaunchError,
    PayloadError,
    RecordInvalid,
    TaskCrashed,
    TaskTimeout,
)
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import CallBlock, State, Status
from starburst_executor.testing import FakeClock
from starburst_executor.worker import code_root, feeder, pace
from starburst_executor.worker.busy import Busy
from starburst_executor.worker.call_reader import CallReader
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.code import Code
from starburst_executor.worker.durations import Durations
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.runner.jobs import BrokenStart, Died, Event, Finished, Job, Started
from starburst_executor.worker.runner.notes import Note
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.slot import Slot
from starburst_executor.worker.solitude import Solitude
from tests.support.session_rig import DIGEST, Rig
from tests.support.spans import pending, with_spans


@dataclass
class Act:
    """The end of one job: it takes `seconds` and returns 8 by default."""

    seconds: float = 0.01
    error: Exception | None = None
    dies: str = ""
    loaded: bool = True
    value: object = 8
    printed: bytes = b""
    # What the runner tells after its kill, in place of this job's death.
    last_words: Callable[[FakeRunner], list[Event]] | None = None


class FakeRunner:
    """Runs jobs by the script, on the fake clock; keeps the promises of `runner.Runner`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.jobs: dict[int, Job] = {}
        self.left_s: float | None = None
        self.starting_s = stage.starting_s
        self.killed = self.stopped = False
        self.is_ready = not self.starting_s
        self.pid = -1

    def note(self, number: int) -> Note | None:
        return self.stage.notes.get(number)

    def send(self, jobs: Sequence[Job], functions: Mapping[str, bytes]) -> None:
        self.jobs.update({job.number: job for job in jobs})
        self.stage.sent.append([job.index for job in jobs])
        self.stage.given += jobs

    def retract(self) -> list[int]:
        """All but the first, which has started, if this runner is alive."""
        numbers = list(self.jobs)[0 if self.killed or self.starting_s else 1 :]
        for number in numbers:
            del self.jobs[number]
        return numbers

    def started(self, since: float) -> Started | None:
        """The first, as long as the caller thinks, if this runner is alive."""
        return None if self.killed or self.starting_s or not self.jobs else Started(self.oldest() or 0, since)

    def oldest(self) -> int | None:
        return next(iter(self.jobs), None)

    def poll(self, timeout_s: float) -> list[Event]:
        clock = self.stage.rig.clock
        if self.killed:
            number, act = self.first()
            if act.last_words is not None:
                return act.last_words(self)
            return [self.death("killed by the worker", number)]
        if self.starting_s:
            pause_s = min(self.starting_s, timeout_s)
            clock.advance(pause_s)
            self.starting_s -= pause_s
            self.is_ready = not self.starting_s
            return []
        if self.stage.broken is not None:
            return [BrokenStart(self.stage.broken), self.death("initializer", None)]
        if not self.jobs:
            clock.advance(timeout_s)
            return []
        number, act = self.first()
        self.left_s = act.seconds if self.left_s is None else self.left_s
        if self.left_s > timeout_s:
            self.left_s -= timeout_s
            clock.advance(timeout_s)
            return []
        clock.advance(self.left_s)
        self.left_s = None
        if act.dies:
            return [self.death(act.dies, number)]
        finished: list[Event] = [self.finish(number, act)]
        # The outcomes of tiny tasks come together.
        while act.seconds < 1e-4 and self.jobs and len(finished) < 100:
            number, act = self.first()
            clock.advance(act.seconds)
            finished.append(self.finish(number, act))
        return finished

    def first(self) -> tuple[int, Act]:
        number = next(iter(self.jobs))
        return number, self.stage.act(self.jobs[number])

    def finish(self, number: int, act: Act) -> Finished:
        job = self.jobs.pop(number)
        self.stage.ran.append((job.index, job.attempt))
        outcome = outcomes.dump_value(act.value) if act.error is None else outcomes.dump_error(act.error)
        return Finished(number, act.error is None, act.loaded, outcome, act.seconds, act.printed, b"")

    def death(self, reason: str, culprit: int | None) -> Died:
        if culprit is not None:
            job = self.jobs.pop(culprit)
            self.stage.ran.append((job.index, job.attempt))
        self.killed = True
        return Died(reason, culprit, b"", b"")

    def kill(self) -> None:
        self.killed = True

    def stop(self) -> None:
        self.stopped = True


class StageClock:
    """A slot's view of the fake clock: while it waits for news of its runner, it listens to that itself."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.listeners: dict[threading.Event, Listener] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.clock, name)

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        listener, until = self.listeners.get(event), self.clock.monotonic() + timeout_s
        if listener is None or listener.has_ended:
            return self.clock.wait(event, timeout_s)
        while not event.is_set():
            listener.listen(max(0.0, until - self.clock.monotonic()))
            if self.clock.monotonic() >= until:
                break
        return event.is_set()


class Stage:
    """One worker with slots that a test steps, and the script of what its runners do."""

    def __init__(self, *, n_slots: int = 1, rig: Rig | None = None, worker_id: str = "w", **manifest: Any) -> None:
        self.rig = rig or Rig(**manifest)
        session = self.rig.another()
        session.manifest.refresh()
        self.script: dict[int, list[Act]] = {}
        self.default = Act()
        self.starting_s = 0.0
        self.broken: bytes | None = None
        self.reasons: list[bytes] = []
        self.runners: list[FakeRunner] = []
        self.codes: list[tuple[str, ...]] = []  # of each runner
        self.sent: list[list[int]] = []
        self.given: list[Job] = []
        self.notes: dict[int, Note] = {}
        self.ran: list[tuple[int, int]] = []
        self.draining, self.stopped = threading.Event(), threading.Event()
        self.claims = Claims(session, worker_id, self.rig.clock)
        self.finder = Finder(session, self.rig.clock, n_slots)
        self.durations, self.solitude = Durations(), Solitude()
        self.clock = StageClock(self.rig.clock)
        shared = Shared(
            session=session,
            claims=self.claims,
            finder=self.finder,
            functions=Functions(session, Code(session, code_root.new_name())),
            call_reader=CallReader(session),
            durations=self.durations,
            solitude=self.solitude,
            busy=Busy(self.clock, session.manifest.current.timings.commit_s),
            clock=self.clock,
        )
        self.slots = []
        for number in range(n_slots):
            news = threading.Event()
            self.slots.append(
                Slot(
                    number,
                    shared,
                    spawn=partial(self.listen, news),
                    news=news,
                    draining=self.draining,
                    stopped=self.stopped,
                    broken=self.reasons.append,
                )
            )
        self.slot = self.slots[0]

    def listen(self, news: threading.Event, code: Sequence[str]) -> Listener:
        """A runner whose listener is the thread that waits for its events."""
        runner: Any = self.spawn(tuple(code))
        timeout_s = self.rig.session.manifest.current.task_timeout
        self.clock.listeners[news] = Listener(runner, self.rig.clock, task_timeout=timeout_s, heard=news.set)
        return self.clock.listeners[news]

    def spawn(self, code: tuple[str, ...]) -> FakeRunner:
        self.codes.append(code)
        self.runners.append(FakeRunner(self))
        return self.runners[-1]

    def act(self, job: Job) -> Act:
        acts = self.script.get(job.index, [])
        return acts[min(job.attempt + self.n_tries(job) - 1, len(acts) - 1)] if acts else self.default

    def n_tries(self, job: Job) -> int:
        """How often this attempt of the task has been tried: a retry keeps its attempt."""
        return sum((index, attempt) == (job.index, job.attempt) for index, attempt in self.ran)

    def look(self) -> None:
        self.finder.look()

    def step_until(self, condition: Callable[[], bool], most: int = 2000) -> None:
        for _ in range(most):
            if condition():
                return
            self.slot.step()
        raise AssertionError("it never came to pass")

    def run(self) -> None:
        """Step until there is nothing to do."""
        self.look()
        for _ in range(2000):
            if not self.slot.step():
                self.look()
                if not self.slot.step():
                    return
        raise AssertionError("it never ends")

    def error_of(self, key: str, index: int = 0) -> BaseException | None:
        return outcomes.load_outcome(self.rig.outcome(key, index))[1]


def in_slices(stage: Stage) -> list[int]:
    """How many tasks each claim took, in order."""
    return [len(numbers) for numbers in stage.sent]


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


@pytest.mark.parametrize(("seconds", "size"), [(0.02, 10), (0.01, 20), (0.001, 100)])
def test_a_slice_is_a_fair_share_or_as_much_work_as_a_claim_and_a_commit_take(seconds: float, size: int) -> None:
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
    # Ten objects and the function are read; each object is claimed and committed, never raced for. Then, a look for more.
    assert counts == {"get": 12, "swap": 20, "list": 1}


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
    assert counts["get"] == 3
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
        together.append({placed.index for placed in stage.slot._feeder._jobs.values()})
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


def test_a_slot_whose_claim_was_lost_stops_what_runs_of_it_and_takes_other_work() -> None:
    """Its worker was stopped for longer than its lease: the task that runs is another worker's by now."""
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.script[1] = [Act(seconds=1000.0)]
    key = stage.rig.submit(2)
    stage.look()
    stage.step_until(lambda: stage.ran == [(0, 1)])
    # While it is stopped its claim is taken back, and another worker claims.
    stage.rig.write(
        key,
        lambda seen: transitions.take_back(seen, {"w.1"}, lost=False, now=0.0, max_losses=3, outcome=lambda *_: b""),
    )
    stage.rig.claim(key, "other.1")
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
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.script[1] = [Act(seconds=1000.0)]
    key = stage.rig.submit(2)
    stage.look()
    stage.step_until(lambda: stage.ran == [(0, 1)])
    stage.rig.write(
        key,
        lambda seen: transitions.take_back(seen, {"w.1"}, lost=False, now=0.0, max_losses=3, outcome=lambda *_: b""),
    )
    stage.rig.claim(key, "other.1")
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
        backlog._queue.extend(waiting.placed for waiting in backlog._waiting)
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
