"""Studies in simulated worlds: the real driver over a store in memory and workers that run in the test's own thread.

A driver's life ends at a given store request, before it is carried out or after; or it stalls there while another driver takes over,
and then goes on as if nothing had happened. The store and the session outlive it. What must hold is checked at every write of the record.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from starburst_executor.errors import SessionExpired
from starburst_executor.protocol.seal import Sealer
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.study import record_form as records
from starburst_executor.study import transitions
from starburst_executor.study.driver import Driver
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.options import Pace, RunOptions
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import RUNNING, StudyRecord
from starburst_executor.study.validation import issues_of
from starburst_executor.study.wheel import Wheel
from starburst_executor.testing import MemoryStore
from starburst_executor.testing.clock import FakeClock

NAME = "campaign"
LOOKS = 4
_numbers = itertools.count()


class Killed(BaseException):
    """The driver's process is gone."""


@dataclass
class Life:
    """How one driver's life goes: it is killed, or stalls, at the request of that number.

    Attributes:
        at: The number of the request, from 0; None for a long life.
        is_after: Whether that request is carried out.
        stalled: Called instead of dying.
    """

    at: int | None = None
    is_after: bool = False
    stalled: Callable[[], None] | None = None
    n_asked: int = 0
    is_dead: bool = False

    def ask(self, carry_out: Callable[[], Any]) -> Any:
        if self.is_dead:
            raise Killed
        number, self.n_asked = self.n_asked, self.n_asked + 1
        if number != self.at:
            return carry_out()
        if self.stalled is not None:
            if self.is_after:
                answer = carry_out()
                self.stalled()
                return answer
            self.stalled()
            return carry_out()
        if self.is_after:
            with suppress(Exception):  # a refusal that no process is left to receive
                carry_out()
        self.is_dead = True
        raise Killed


class MortalStore:
    """A store as one driver uses it, until its life ends."""

    limiter = None

    def __init__(self, world: World, life: Life) -> None:
        self._store, self._world, self._life = world.store, world, life

    @property
    def url(self) -> str:
        return self._store.url

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
        return self._ask("get", key, lambda: self._store.get(key, start=start, length=length))

    def get_if_changed(self, key: str, etag: str, *, start: int = 0, length: int | None = None) -> Stored | None:
        return self._ask("get", key, lambda: self._store.get_if_changed(key, etag, start=start, length=length))

    def create(self, key: str, body: Body) -> str:
        return self._ask("create", key, lambda: self._written(key, lambda: self._store.create(key, body)))

    def swap(self, key: str, body: Body, expected: str) -> str:
        return self._ask("swap", key, lambda: self._written(key, lambda: self._store.swap(key, body, expected)))

    def put(self, key: str, body: Body) -> str:
        return self._ask("put", key, lambda: self._store.put(key, body))

    def list_folders(self, prefix: str) -> list[str]:
        return self._ask("list", prefix, lambda: self._store.list_folders(prefix))

    def list(self, prefix: str) -> list[Listed]:
        return self._ask("list", prefix, lambda: self._store.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        self._ask("delete", "", lambda: self._store.delete(keys))

    def close(self) -> None:
        pass

    def _ask(self, kind: str, key: str, carry_out: Callable[[], Any]) -> Any:
        if key.rpartition("/")[2] in ("record", "previous") or "/trials/" in key:
            self._world.record_requests[kind] += 1
        return self._life.ask(carry_out)

    def _written(self, key: str, carry_out: Callable[[], str]) -> str:
        etag = carry_out()
        if key.endswith("/record"):
            self._world.oracle.look()
        return etag


@dataclass
class Task:
    function: Callable[[Any], Any]
    call: Any
    value: Any = None
    error: BaseException | None = None
    is_done: bool = False

    @property
    def index(self) -> int:
        return self.call if isinstance(self.call, int) else self.call[0]


@dataclass
class Session:
    url: str
    state: str = ""
    tasks: dict[str, Task] = field(default_factory=dict)


class MortalFleet:
    """A session as one driver uses it. Submitting is acknowledged key by key, in any order."""

    def __init__(self, world: World, session: Session, life: Life) -> None:
        self._world, self._session, self._life = world, session, life
        self._futures: list[tuple[Task, Future[Any]]] = []

    @property
    def url(self) -> str:
        return self._session.url

    @property
    def store_url(self) -> str:
        return self._world.store.url

    def submit(
        self,
        function: Callable[[int], Any],
        calls: Sequence[Any],
        keys: Sequence[str],
        timeout: float | None,
    ) -> list[Future[Any]]:
        order = list(range(len(keys)))
        self._world.random.shuffle(order)
        tasks = self._session.tasks
        for i in order:
            if keys[i] not in tasks:

                def put(i: int = i) -> None:
                    if keys[i] not in tasks:
                        self._world.oracle.submitted(function, keys[i])
                        tasks[keys[i]] = Task(function, calls[i])

                self._life.ask(put)
        return [self._future(tasks[key]) for key in keys]

    def find(self, keys: Sequence[str]) -> Mapping[str, Future[Any]]:
        return self._life.ask(
            lambda: {key: self._future(self._session.tasks[key]) for key in keys if key in self._session.tasks}
        )

    def wait(self, futures: Iterable[Future[Any]], timeout_s: float) -> None:
        if self._life.is_dead:
            raise Killed
        self._world.clock.advance(timeout_s)
        self._world.work(self._session)
        self._complete()

    def scale(self, workers: int) -> None:
        self._life.ask(lambda: None)

    def cancel(self) -> None:
        def cancel() -> None:
            for task in self._session.tasks.values():
                if not task.is_done:
                    task.is_done, task.error = True, CancelledError()

        self._life.ask(cancel)
        self._complete()

    def over(self) -> str:
        return self._life.ask(lambda: self._session.state)

    def cost_usd(self) -> float:
        return 0.0

    def leave(self, *, ends: bool = False, deletes: bool = False) -> None:
        if self._life.is_dead:
            raise Killed

    def _future(self, task: Task) -> Future[Any]:
        future: Future[Any] = Future()
        self._futures.append((task, future))
        self._complete()
        return future

    def _complete(self) -> None:
        for task, future in self._futures:
            if task.is_done and not future.done():
                if isinstance(task.error, CancelledError):
                    future.cancel()
                elif task.error is not None:
                    future.set_exception(task.error)
                else:
                    future.set_result(task.value)
        self._futures = [pair for pair in self._futures if not pair[1].done()]


class MortalWorkers:
    def __init__(self, world: World, life: Life) -> None:
        self._world, self._life = world, life

    def open(self, url: str) -> MortalFleet | None:
        def find() -> MortalFleet | None:
            if not url:
                fresh = f"{self._world.store.url}/session-{len(self._world.sessions)}"
                self._world.sessions[fresh] = Session(fresh)
                return MortalFleet(self._world, self._world.sessions[fresh], self._life)
            session = self._world.sessions.get(url)
            return None if session is None else MortalFleet(self._world, session, self._life)

        return self._life.ask(find)


class World:
    """What outlives drivers: the store, the sessions, the clock; and what has been seen.

    Args:
        may_end: The chance that the session expires at a moment of work.
    """

    def __init__(self, plan: Callable[[], Plan], seed: int = 0, *, may_end: float = 0.0) -> None:
        self.plan = plan
        self.random = random.Random(seed)
        self.clock = FakeClock(seed)
        self.store = MemoryStore(f"study-{next(_numbers)}", clock=self.clock)
        self.sessions: dict[str, Session] = {}
        self.may_end = may_end
        self.ended: Counter[str] = Counter()  # how often a trial of a stage's edition ended
        self.record_requests: Counter[str] = Counter()
        self.oracle = Oracle(self)
        self.n_drivers = 0
        self.said: list[str] = []

    def objects(self, life: Life | None = None) -> StudyObjects:
        return StudyObjects(MortalStore(self, life or Life()), NAME, self.clock)

    @property
    def record(self) -> StudyRecord:
        return records.decode(self.store.get(f"studies/{NAME}/record").body)

    @property
    def has_record(self) -> bool:
        return StudyObjects(self.store, NAME, self.clock).exists()

    def drive(self, life: Life | None = None, **options: Any) -> StudyRecord | None:
        """Let one driver live; return the record, None if it was killed."""
        life = life or Life()
        self.n_drivers += 1
        try:
            objects, name = self.objects(life), f"driver-{self.n_drivers}"
            wheel = Wheel(objects.store, objects.keys.driver, self.clock, name, looks=LOOKS)
            driver = Driver(
                objects,
                self.plan(),
                wheel,
                MortalWorkers(self, life),
                self.clock,
                definition="none",
                settings={},
                pace=Pace(beat_s=1.0, look_s=1.0),
                tell=lambda event: self.said.append(event.text),
                stop=threading.Event(),
                beats=False,
                sealer=Sealer(b"k" * 32, f"study/{NAME}"),
            )
            fresh = transitions.begun(
                self.plan(), NAME, seed=7, settings={}, at=self.clock.now(), library="test", definition="none"
            )
            driver.create(fresh) or objects.create(fresh)
            return driver.run(RunOptions(**options))
        except Killed:
            return None

    def work(self, session: Session) -> None:
        """Run some of the pending trials, in any order; now and then end the session."""
        if session.state:
            return
        if self.random.random() < self.may_end:
            session.state = "expired: absolute_timeout passed"
            for task in session.tasks.values():
                if not task.is_done:
                    task.is_done, task.error = True, SessionExpired("the session's absolute_timeout has passed")
            return
        pending = [key for key, task in session.tasks.items() if not task.is_done]
        for key in self.random.sample(pending, self.random.randint(0, min(4, len(pending)))):
            task = session.tasks[key]
            try:
                task.value = task.function(task.call)
            except Exception as error:  # the trial's own
                task.error = error
            task.is_done = True
            self.oracle.ended(key)


class Oracle:
    """Checks every write of the record, and everything that is submitted and ends."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last: StudyRecord | None = None
        self.is_patient_with_rounds = False

    def look(self) -> None:
        record = self._world.record
        before, self._last = self._last, record
        objects = StudyObjects(self._world.store, NAME, self._world.clock)
        faults = issues_of(
            record,
            None,
            table_of=lambda stage: objects.read_table(stage.table or ""),
            digest_of=objects.artefacts.digest_of,
        )
        assert not faults, "; ".join(faults)
        if before is None:
            assert record.generation == 1
            return
        assert record.generation == before.generation + 1
        previous = objects.previous()
        assert previous.generation <= before.generation
        for stage in record.stages:
            if stage.name not in before.names:
                continue
            old = before.stage(stage.name)
            assert stage.edition >= old.edition
            if stage.edition == old.edition and old.is_decided:
                same = replace(
                    stage,
                    state=old.state,
                    approval=old.approval,
                    config=old.config,
                    code=old.code,
                    metadata=old.metadata,
                )
                assert same == old, f"decided twice: {stage.name}"
                assert stage.is_decided
        self._check_truth(record)

    def _check_truth(self, record: StudyRecord) -> None:
        """The counts of a decided stage are those of what really happened to its trials."""
        for stage in record.stages:
            if not stage.is_decided:
                continue
            ended = {key: task for session in self._world.sessions.values() for key, task in session.tasks.items()}
            of_stage = [
                task
                for key, task in ended.items()
                if key.startswith(f"{stage.name}.{stage.edition}.") and task.is_done and not is_no_outcome(task)
            ]
            by_index: dict[int, list[Task]] = {}
            for task in of_stage:
                by_index.setdefault(task.index, []).append(task)
            completed = sum(any(task.error is None for task in tasks) for tasks in by_index.values())
            assert stage.completed <= completed, (
                f"{stage.name}: {stage.completed} counted as completed, {completed} did"
            )
            assert len(by_index) >= stage.completed + stage.failed

    def submitted(self, function: Any, key: str) -> None:
        """The inputs of a trial are the survivors that its parents have now."""
        record = self._world.record
        spec = function.args[0].spec
        stage = record.stage(spec.stage)
        # A driver that stalled may submit what is of an earlier edition or round: wasted, and seen by no one.
        if key == stage.key(int(key.rpartition("/")[2])):
            assert stage.state == RUNNING, f"submitted while {stage.state}: {key}"
            assert spec.inputs == transitions.inputs_of(record, self._world.plan(), spec.stage)

    def ended(self, key: str) -> None:
        stage, _, index = key.partition("/")
        name, edition, _ = stage.rsplit(".", 2)
        self._world.ended[f"{name}.{edition}/{index}"] += 1


def is_no_outcome(task: Task) -> bool:
    return isinstance(task.error, (CancelledError, SessionExpired))


def essence(record: StudyRecord) -> list[Any]:
    """Everything that two runs of equal studies have in common."""
    return [
        (
            one.name,
            one.state,
            one.edition,
            one.completed,
            one.failed,
            one.cancelled,
            one.survivors,
            one.reason,
            one.policy,
            one.table,
        )
        for one in record.stages
    ]
