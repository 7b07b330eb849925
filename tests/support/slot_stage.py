"""One slot on a stage: stepped with a fake clock and a scripted runner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starburst_executor.protocol import outcomes
from starburst_executor.testing import FakeClock
from starburst_executor.worker import code_root
from starburst_executor.worker.busy import Busy
from starburst_executor.worker.call_reader import CallReader
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.code import Code
from starburst_executor.worker.doubts import Doubts
from starburst_executor.worker.durations import Durations
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.results import Results
from starburst_executor.worker.runner.jobs import (
    BrokenStart,
    Died,
    Event,
    Finished,
    Job,
    Jobs,
    Started,
    each_job,
    gathered,
)
from starburst_executor.worker.runner.notes import Note
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.shared_values import SharedValues
from starburst_executor.worker.slot import Slot
from starburst_executor.worker.solitude import Solitude
from starburst_executor.worker.stock import Stock
from tests.support.session_rig import DIGEST, Rig


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
        self.killed = self.stopped = self.is_dead = False
        self.is_ready = not self.starting_s
        self.pid = -1

    def note(self, number: int) -> Note | None:
        return self.stage.notes.get(number)

    def send(self, together: Sequence[Job | Jobs], functions: Mapping[str, bytes]) -> None:
        jobs = list(each_job(together))
        self.jobs.update({job.number: job for job in jobs})
        self.stage.sent.append([job.index for job in jobs])
        self.stage.given += jobs

    def retract(self) -> list[int]:
        """All but the first, which has started, if this runner is alive."""
        numbers = list(self.jobs)[0 if self.is_dead or self.starting_s else 1 :]
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
        return list(gathered(finished))

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
        self.killed = self.is_dead = True
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

    def __init__(
        self,
        *,
        n_slots: int = 1,
        rig: Rig | None = None,
        worker_id: str = "w",
        stock: Stock | None = None,
        **manifest: Any,
    ) -> None:
        self.stock = stock = stock or Stock()
        self.rig = rig or Rig(**manifest)
        session = self.rig.another()
        session.manifest.refresh()
        self.script: dict[int, list[Act]] = {}
        self.default = Act()
        self.starting_s = 0.0
        self.broken: bytes | None = None
        self.reasons: list[bytes] = []
        self.runners: list[FakeRunner] = []
        self.gpus: list[tuple[str, ...]] = []  # of each runner
        self.codes: list[tuple[str, ...]] = []  # of each runner
        self.sent: list[list[int]] = []
        self.given: list[Job] = []
        self.notes: dict[int, Note] = {}
        self.ran: list[tuple[int, int]] = []
        self.draining, self.stopped = threading.Event(), threading.Event()
        self.claims = Claims(session, worker_id, self.rig.clock)
        self.finder = Finder(session, self.rig.clock, n_slots, stock)
        self.durations, self.solitude = Durations(), Solitude()
        self.clock = StageClock(self.rig.clock)
        timings = session.manifest.current.timings
        self.doubts = Doubts(self.claims, self.rig.clock, timings.commit_s, timings.beat_s)
        code = Code(session, code_root.new_name())
        shared = Shared(
            session=session,
            claims=self.claims,
            finder=self.finder,
            functions=Functions(session, code),
            call_reader=CallReader(session),
            values=SharedValues(session, code.folder_of_worker),
            results=Results(session),
            durations=self.durations,
            solitude=self.solitude,
            busy=Busy(self.clock, session.manifest.current.timings.commit_s),
            doubts=self.doubts,
            stock=self.stock,
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

    def listen(self, news: threading.Event, code: Sequence[str], gpus: Sequence[str] = ()) -> Listener:
        """A runner whose listener is the thread that waits for its events."""
        self.gpus.append(tuple(gpus))
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


def running_the_second(n_tasks: int, act: Act | None = None) -> tuple[Stage, str]:
    """A slot that has run the first task of an object, whose claim waits for its commit, and runs the second; and the object's key.

    Args:
        act: What the second task does; it runs for 1,000 s unless given.
    """
    stage = Stage(workers=1)
    stage.durations.add(DIGEST, 0.01)
    stage.script[1] = [act or Act(seconds=1000.0)]
    key = stage.rig.submit(n_tasks)
    stage.look()
    stage.step_until(lambda: stage.ran == [(0, 1)])
    return stage, key


def in_slices(stage: Stage) -> list[int]:
    """How many tasks each claim took, in order."""
    return [len(numbers) for numbers in stage.sent]


# --- slices -----------------------------------------------------------------------------------------------------------
