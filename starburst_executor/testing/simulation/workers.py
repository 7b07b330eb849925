"""Worker processes and the launcher that starts them: real agents with simulated runners."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import IO, Any, cast

from starburst_executor.clock import Clock
from starburst_executor.errors import StarburstError
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.launch.bootstrap import new_worker_id
from starburst_executor.protocol.options import decoded
from starburst_executor.protocol.seal import Sealer
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from starburst_executor.store.url import split_url
from starburst_executor.testing.simulation.plot import TIMINGS
from starburst_executor.testing.simulation.processes import ClientProcess, WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process, current_strand
from starburst_executor.testing.simulation.store import Line
from starburst_executor.testing.simulation.tasks import SimulatedNursery
from starburst_executor.testing.simulation.threads import Event, ProcessClock, Thread
from starburst_executor.testing.simulation.weather import Trouble
from starburst_executor.testing.simulation.world import KEY, World
from starburst_executor.worker.agent import Agent
from starburst_executor.worker.leaving import Leaving
from starburst_executor.worker.runner.jobs import Job

__all__ = ["SimulatedLauncher", "guarded", "start_worker"]

# How long a worker retries a store that does not answer.
_AWAY_S = 400.0
# The longest duration of immediate actions: a look at a flag, a kill, a last request, by a slow clock.
_LATE_S = 8.0
_SLOWEST = 0.8
_DEAD_S = _LATE_S / _SLOWEST
_TERM_S = (TIMINGS.grace_s + _LATE_S) / _SLOWEST


class Life:
    """The pipe that binds a worker to its client."""

    def __init__(self) -> None:
        self.on_end: Callable[[], object] = lambda: None
        self._ended = Event()
        self._said = b""

    def read(self, _: int) -> bytes:
        self._ended.wait()
        return self._said

    def end(self, said: bytes) -> None:
        if not self._ended.is_set():
            self._said = said
            self._ended.set()
            self.on_end()


class SimulatedLauncher:
    """Starts simulated workers for one client."""

    name = spec = "simulated"
    launch_s = 60.0
    keeps_trying = False

    def __init__(self, world: World, client: ClientProcess) -> None:
        self._world = world
        self._client = client
        self._lives: dict[str, Life] = {}

    def check(self, n_slots: int) -> None:
        """Accept any number."""

    def usd_per_hour(self, n_slots: int) -> float | None:  # noqa: ARG002 - simulated workers are free
        return None

    def start(self, order: Order, handle: str = "") -> Started:  # noqa: ARG002 - one step starts them all
        started = []
        left = order.n_slots
        while left > 0:
            n_slots = min(left, self._world.plot.slots_each)
            left -= n_slots
            life = None if order.detached else Life()
            worker = start_worker(self._world, n_slots, life)
            if life is not None:
                self._lives[worker.worker_id] = life
                self._client.on_end.append(partial(life.end, b""))
            started.append(worker.worker_id)
        return Started(",".join(started), order.n_slots)

    def resume(self, handle: str) -> SimulatedWorkers:
        started = [self._world.workers[worker_id] for worker_id in handle.split(",")]
        return SimulatedWorkers(self._world, started, self._lives)

    def open(self, clock: Clock | None = None) -> SimulatedLauncher:  # noqa: ARG002 - each process has the world's
        """Return this launcher: it belongs to one client, which uses it for one session."""
        return self


class SimulatedWorkers:
    """The workers of one launch."""

    def __init__(self, world: World, started: list[WorkerProcess], lives: dict[str, Life]) -> None:
        self._world = world
        self._started = started
        self._lives = lives

    def deaths(self) -> list[Death]:
        if not self._world.plot.tells_deaths:
            return []
        return [Death(worker.worker_id, worker.why) for worker in self._started if not worker.is_alive]

    def slots_alive(self) -> int:
        return sum(worker.n_slots for worker in self._started if worker.is_alive)

    def interruptions(self) -> int:
        """Return 0: the world reclaims no machines."""
        return 0

    def expected(self) -> list[str]:
        """Return none: no single worker can be given up."""
        return []

    def give_up(self, worker_id: str, words: str) -> bool:  # noqa: ARG002 - see `expected`
        return False

    def describe(self) -> str:
        """Return nothing: no reader needs it."""
        return ""

    def shed(self, n_slots: int) -> int:  # noqa: ARG002 - all or none
        self.drain()
        return self.slots_alive()

    def drained(self) -> list[str]:
        return [worker.worker_id for worker in self._started if worker.is_alive and worker.is_drained]

    def drain(self) -> None:
        for worker in self._started:
            if worker.is_alive:
                worker.is_drained = True
                worker.sigterm()

    def kill(self) -> None:
        for worker in self._started:
            worker.kill("stopped by the launcher")

    def end_session(self) -> None:
        self.kill()

    def forget(self) -> None:
        """Do nothing: no state is kept."""

    def let_go(self) -> None:
        for worker in self._started:
            if worker.worker_id in self._lives:
                self._lives[worker.worker_id].end(b"q")


def start_worker(world: World, n_slots: int, life: Life | None) -> WorkerProcess:
    """Start a worker process, as a launcher or a user does."""
    worker = WorkerProcess(world.scheduler, f"worker-{len(world.workers)}", **world.skewed())
    worker.clock = clock = ProcessClock(worker, world.lots.fork())
    worker.worker_id = new_worker_id(clock)
    worker.n_slots = n_slots
    world.workers[worker.worker_id] = worker
    worker.on_end.append(lambda: world.log(worker.name, f"ends: {worker.why}"))
    world.log(worker.name, f"starts: {worker.worker_id}, slots={n_slots}")
    worker.spawn("main", partial(guarded, world, worker, partial(_work, world, worker, life)))
    return worker


def _work(world: World, worker: WorkerProcess, life: Life | None) -> None:
    """Run an agent, as `worker/__main__.py` does."""
    assert world.url is not None  # there is a session  # noqa: S101
    strand = current_strand()
    strand.sleep(world.lots.between(0.1, 2.0))
    _, session_id = split_url(world.url)
    clock: ProcessClock = worker.clock
    leaving = Leaving(clock)

    def sigterm() -> None:
        leaving.on_sigterm()
        world.within(_TERM_S, worker, lambda: False, "a worker outlives its grace time")

    worker.sigterm = sigterm
    if life is not None:
        leaving.watch(cast("IO[bytes]", life))
        life.on_end = lambda: world.within(_DEAD_S, worker, lambda: False, "a worker outlives its client")
    opened: list[Agent | StarburstError] = []

    def opening() -> None:
        try:
            opened.append(_opened(world, worker, session_id, leaving, bound=life is not None))
        except StarburstError as error:
            opened.append(error)
        leaving.changed()

    Thread(target=opening, name="opening").start()
    leaving.wait(lambda: bool(opened) or leaving.is_leaving)
    if leaving.is_leaving:
        worker.why = "asked to leave before it had started"
    elif isinstance(opened[0], StarburstError):
        raise opened[0]
    else:
        worker.why = opened[0].run().value


def _opened(world: World, worker: WorkerProcess, session_id: str, leaving: Leaving, *, bound: bool) -> Agent:
    clock: ProcessClock = worker.clock
    store = PatientStore(Line(world.vault), clock, patience_s=_AWAY_S)
    session = SessionStore(store, session_id, Sealer(bytes.fromhex(KEY), session_id), clock)
    session.manifest.refresh()
    session.manifest.check_python()
    nursery: Any = SimulatedNursery(worker, world.lots.fork(), world.oracle, world.tries, partial(_poisoned, world))
    limit_s = session.manifest.current.task_timeout

    def started(job: Job, still_runs: Callable[[], bool]) -> None:
        world.running[worker.worker_id, job.task_id] = still_runs
        if limit := world.oracle.limit_of(job.task_id):
            n_running = sum(
                world.oracle.limit_of(task_id) == limit and runs()
                for (worker_id, task_id), runs in world.running.items()
                if worker_id == worker.worker_id
            )
            world.oracle.limits.started(limit, worker, n_running)
        own_s = decoded(job.options).timeout
        if (most_s := limit_s if own_s is None else own_s) is not None:
            world.within(
                (most_s + _LATE_S) / _SLOWEST, worker, lambda: not still_runs(), "a task runs on past its task_timeout"
            )

    nursery.started = started
    agent = Agent(session, store, worker.worker_id, nursery, clock, leaving, n_slots=worker.n_slots, bound=bound)
    worker.agent = agent
    keeper = agent._keeper  # noqa: SLF001 - what only the worker itself knows
    worker.held = keeper._claims.held  # noqa: SLF001
    worker.is_idle = lambda: agent._slots.are_idle() and not leaving.is_asked  # noqa: SLF001
    worker.goes_on = lambda: worker.is_alive and not leaving.is_asked
    return agent


def _poisoned(world: World, worker: WorkerProcess, task: str) -> None:
    world.report.troubles[Trouble.POISON.value] += 1
    worker.poisoned_by = task
    worker.kill(f"killed by task {task}")


def guarded(world: World, process: Process, do: Callable[[], None]) -> None:
    """Run a process's first strand: the process ends with it, and exceptions that the design allows are not faults."""
    try:
        do()
    except StarburstError as error:
        world.log(process.name, f"{type(error).__name__}: {error}")
        process.why = str(error)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        world.log(process.name, str(error))
    if process.is_alive:
        process.kill(process.why or "done")
