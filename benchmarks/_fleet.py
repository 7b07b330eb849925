"""A client and any number of workers in virtual time: the product's own executor, engine and agents on a simulated S3.

    Fleet(n_workers, …).run(n_tasks, task_s) ──► Flight: times, requests by second, useful time

Processes, threads, time, the store and the runners are simulated. The code that decides on store requests and their
times is the real one. Computing takes no virtual time, so the limits of a client's processor do not show; `million.py`
measures those.
"""

from __future__ import annotations

import gc
import importlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

from benchmarks._simulated_s3 import SimulatedS3
from starburst_executor import StarburstExecutor, Timings
from starburst_executor.launch.bootstrap import new_worker_id
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import split_url
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.processes import ClientProcess, WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process, Scheduler, current_strand
from starburst_executor.testing.simulation.stage import on_stage
from starburst_executor.testing.simulation.tasks import Behaviour, SimulatedNursery, simulated_task
from starburst_executor.testing.simulation.threads import Event, ProcessClock, Thread
from starburst_executor.worker.agent import Agent
from starburst_executor.worker.leaving import Leaving, Stop
from starburst_executor.worker.runner.jobs import Job

__all__ = ["Fleet", "Flight"]

_KEY = "5e" * 32
_COLLECT_S = 5.0
_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass
class Flight:
    """One run.

    Attributes:
        seconds: From the first submit to the last result, as the client sees it.
        by_second: Requests by kind, `503` for refused ones, for each second of the run.
        useful: Share of the workers' time between these two moments that they spent in tasks.
        steady: The same over the middle half, without the first claims and the last tasks.
        n_steps: Number of steps of the simulation.
        n_started: How often tasks were started; more often than there are tasks if a worker counted as lost.
    """

    seconds: float
    by_second: list[Counter[str]]
    useful: float
    steady: float
    n_steps: int
    n_started: int
    requests: Counter[str] = field(default_factory=Counter)


class Fleet:
    """A session whose workers are running.

    Args:
        n_workers: Agents with one slot each.
        limits: S3 refuses requests beyond this share of its documented rates; None for no limit.
    """

    def __init__(self, n_workers: int, *, limits: float | None = None, seed: int = 1) -> None:
        self._n_workers = n_workers
        self._lots = Lots(seed)
        self._scheduler = Scheduler(self._lots.fork())
        self._s3 = SimulatedS3(self._scheduler, limits=limits, seed=seed)
        self._url: str | None = None
        self._n_up = 0
        self._starts = _Starts(self._scheduler)
        self._tries: dict[int, int] = {}
        self._workers: list[WorkerProcess] = []
        self._seconds: tuple[float, float] | None = None

    def run(self, n_tasks: int, task_s: float, *, at_most_s: float = 3600.0) -> Flight:
        """Submit `n_tasks` tasks of `task_s` seconds each and wait for all results. Raises: RuntimeError if that fails."""
        scheduler = self._scheduler
        client = ClientProcess(scheduler, "client")
        client.clock = ProcessClock(client, self._lots.fork())
        with _collector_of(scheduler), _parsed_once(), on_stage(self._s3.line, small=False):
            importlib.import_module("starburst_executor.client.parts").ThreadPoolExecutor = _Pool  # type: ignore[attr-defined]
            client.spawn("main", partial(self._use, client, n_tasks, task_s))
            try:
                scheduler.run(lambda: self._url is not None, 60.0)
                for _ in range(self._n_workers):
                    self._start_worker()
                scheduler.run(lambda: self._seconds is not None or bool(scheduler.errors), at_most_s)
            finally:
                for process in (client, *self._workers):
                    process.on_end.clear()
                    process.kill("the run is over")
                if client.executor is not None:
                    # The client's memory is gone: it must not end sessions any more.
                    client.executor._finalizer.detach()  # noqa: SLF001
                    client.executor._engine._pid = -1  # noqa: SLF001
                scheduler.run(lambda: False, 0.0)
        if scheduler.errors or self._seconds is None:
            raise RuntimeError(f"the run did not end well: errors={scheduler.errors[:3]}, at={scheduler.now:.0f} s")
        started, ended = self._seconds
        by_second = [self._s3.by_second[second] for second in range(int(started), int(ended) + 1)]
        seconds = ended - started
        middle = (started + seconds / 4, ended - seconds / 4)
        in_tasks_s = sum(max(0.0, min(at + task_s, middle[1]) - max(at, middle[0])) for at in self._starts.at)
        return Flight(
            seconds,
            by_second,
            useful=n_tasks * task_s / (self._n_workers * seconds),
            steady=in_tasks_s / (self._n_workers * seconds / 2),
            n_steps=scheduler.n_steps,
            n_started=len(self._starts.at),
            requests=sum(by_second, Counter()),
        )

    def _use(self, client: ClientProcess, n_tasks: int, task_s: float) -> None:
        clock: Any = client.clock
        executor: Any = StarburstExecutor(
            workers=self._n_workers, store="sim://bucket", launcher="none", key=_KEY, timings=Timings.remote()
        )
        client.executor = executor
        self._url = executor.url
        while self._n_up < self._n_workers:
            clock.wait(Event(), 1.0)
        started = self._scheduler.now
        n_left = n_tasks

        def done(future: Future[str]) -> None:
            nonlocal n_left
            future.result()
            n_left -= 1
            if not n_left:
                self._seconds = started, self._scheduler.now

        for i in range(n_tasks):
            executor.submit(simulated_task, i, Behaviour.WELL.value, task_s, b"").add_done_callback(done)
        # Not by `result()`, which waits with a real lock; only the threads of this process are simulated.
        clock.wait(Event(), 1e9)

    def _start_worker(self) -> None:
        worker = WorkerProcess(self._scheduler, f"worker-{len(self._workers)}")
        worker.clock = ProcessClock(worker, self._lots.fork())
        worker.worker_id = new_worker_id(worker.clock)
        self._workers.append(worker)
        worker.spawn("main", partial(self._work, worker))

    def _work(self, worker: WorkerProcess) -> None:
        """Run one worker, as `worker/__main__.py` does."""
        # Not all at the same moment: beats and looks must be as spread as in a fleet that has run for a while.
        current_strand().sleep(self._lots.between(0.0, Timings.remote().beat_s))
        _, session_id = split_url(self._url or "")
        clock: Any = worker.clock
        store: Any = PatientStore(self._s3.line(), clock, patience_s=300.0, stop=Event())  # type: ignore[arg-type]
        session = SessionStore(store, session_id, Sealer(bytes.fromhex(_KEY), session_id), clock)
        session.manifest.refresh()
        nursery: Any = SimulatedNursery(worker, self._lots.fork(), self._starts, self._tries, _nobody_is_poisoned)
        leaving = Leaving(clock)
        agent = Agent(session, store, worker.worker_id, nursery, clock, leaving, n_slots=1)
        self._n_up += 1
        if agent.run() is Stop.FAILED:
            raise RuntimeError(f"a worker cannot go on: {leaving.words}")


class _Starts:
    """Records when tasks were started; names each execution, as the interface requires."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.at: list[float] = []
        self._scheduler = scheduler

    def started(self, process: Process, job: Job, number: int) -> str:
        self.at.append(self._scheduler.now)
        return f"{process.name}/{job.task_id}/{number}"


def _nobody_is_poisoned(worker: WorkerProcess, task: str) -> None:
    raise RuntimeError(f"a task that only sleeps killed its worker: worker={worker}, task={task}")


class _Pool:
    """Replaces `ThreadPoolExecutor` by parallel strands."""

    def __init__(self, n_threads: int, *_: object) -> None:
        self._n_threads = n_threads

    def map(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
        listed = list(items)
        results: dict[int, Any] = {}
        errors: list[BaseException] = []
        left = iter(range(len(listed)))

        def work() -> None:
            for i in left:
                try:
                    results[i] = function(listed[i])
                except Exception as error:  # raised where the results are read
                    errors.append(error)

        threads = [Thread(target=work, name=f"fetch-{i}") for i in range(min(self._n_threads, len(listed)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return iter([results[i] for i in range(len(listed))])

    def shutdown(self, wait: bool = True) -> None:
        """Do nothing: the strands end by themselves."""


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse each listed key once for all workers: a thousand workers that list a thousand keys share one processor here."""
    parse = SessionKeys.parse_status
    SessionKeys.parse_status = lru_cache(maxsize=None)(parse)  # type: ignore[method-assign]
    try:
        yield
    finally:
        SessionKeys.parse_status = parse  # type: ignore[method-assign]


@contextmanager
def _collector_of(scheduler: Scheduler) -> Iterator[None]:
    """Collect garbage in the hub only: otherwise finalizers would run in an arbitrary strand."""

    def collect() -> None:
        gc.collect()
        scheduler.at(_COLLECT_S, collect)

    gc.collect()
    gc.freeze()
    gc.disable()
    scheduler.at(_COLLECT_S, collect)
    try:
        yield
    finally:
        gc.enable()
