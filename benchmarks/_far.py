"""A session of any size in one thread: the real client and the real agents in simulated time, at Amazon's latencies.

This is the simulation of `starburst_executor.testing.simulation` without faults, with its requests counted. Time passes
only while a thread waits, so two hundred workers fit into one process, and a small machine does not slow them: the
figures show the cost of the protocol alone. Computing takes no time, except for `SUBMIT_S` per submit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from benchmarks.s3_endpoint.latency import Latency
from starburst_executor.client import keeper, parts
from starburst_executor.client.executor import StarburstExecutor
from starburst_executor.testing.simulation import threads
from starburst_executor.testing.simulation.plot import Plot
from starburst_executor.testing.simulation.processes import ClientProcess, WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process, current_strand
from starburst_executor.testing.simulation.stage import on_stage
from starburst_executor.testing.simulation.store import Line, Vault
from starburst_executor.testing.simulation.tasks import Behaviour, simulated_task
from starburst_executor.testing.simulation.threads import ProcessClock
from starburst_executor.testing.simulation.weather import CALM
from starburst_executor.testing.simulation.workers import SimulatedLauncher, guarded
from starburst_executor.testing.simulation.world import KEY, World
from starburst_executor.worker import leaving
from starburst_executor.worker.leaving import Stop
from starburst_executor.worker.runner.jobs import Job

__all__ = ["Lone", "Played", "lone_calls", "play"]

SUBMIT_S = 15e-6
_MOST_S = 10 * 86400.0
# The keys of beats and what is read with each.
_BEATS = ("/workers", "/clients", "/manifest")
_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass
class Played:
    """The measurements of one session.

    Attributes:
        seconds: From the first submit to the last result, in simulated time.
        first_s: From the first submit until the client has the first task's result.
        requests: Meanwhile, from all sides, by kind.
        whole: From the start of the session to its end.
    """

    seconds: float = 0.0
    first_s: float = 0.0
    requests: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)


@dataclass
class Lone:
    """The measurements of lone calls.

    Attributes:
        seconds: From each submit to its result, in simulated time.
        requests: For each call, from all sides until the next one, by kind; without polls of the bell and what beats cost.
    """

    seconds: list[float] = field(default_factory=list)
    requests: list[Counter[str]] = field(default_factory=list)


def play(naps: list[float], workers: int, *, seed: int = 1) -> Played:
    """Run tasks of these lengths on `n_workers` workers, which have just run other tasks."""
    played = Played()
    played.whole = _run(workers, seed, partial(_main, naps=naps, played=played))
    return played


def lone_calls(n_calls: int, rest_s: float, workers: int, *, seed: int = 1) -> Lone:
    """Make calls one after the other, each after a rest, on workers that have nothing else to do."""
    lone = Lone()
    _run(workers, seed, partial(_calls, n_calls=n_calls, rest_s=rest_s, lone=lone))
    return lone


def _run(workers: int, seed: int, main: Callable[[_World, Any, Any], None]) -> Counter[str]:
    """Play one session whose workers have just run other tasks; return all its requests by kind."""
    world = _World(seed, workers)
    client = ClientProcess(world.scheduler, "client")
    client.clock = ProcessClock(client, world.lots.fork())
    world.clients.append(client)
    with _stage(world):
        client.spawn("main", partial(guarded, world, client, partial(_session, world, client, workers, main)))
        world.scheduler.run(lambda: not client.is_alive or bool(world.scheduler.errors), _MOST_S)
        for process in world.processes():
            process.kill("it is over")
        if client.executor is not None:
            # The client's memory is gone: it must not end sessions any more.
            client.executor._finalizer.detach()  # noqa: SLF001
            client.executor._engine._pid = -1  # noqa: SLF001
        world.scheduler.run(lambda: False, 0.0)
    if world.scheduler.errors:
        where, error = world.scheduler.errors[0]
        raise RuntimeError(f"a simulated thread failed: {where}") from error
    if not world.is_complete:
        raise RuntimeError(f"the simulated client failed: {client.why}")
    return world.counts


def _session(world: _World, client: Any, workers: int, main: Callable[[_World, Any, Any], None]) -> None:
    strand = current_strand()
    launcher: Any = SimulatedLauncher(world, client)
    executor = StarburstExecutor(workers=workers, store="sim://far", launcher=launcher, key=KEY)
    client.executor = executor
    world.url = executor.url
    executor.submit(_warm_up, 0, Behaviour.WELL.value, 0.0, b"")
    while sum("/workers/" in key for key in world.vault.objects) < workers:
        strand.sleep(0.5)
    # Measurements of real processes begin in the same state: every worker has just run a task.
    for future in [executor.submit(_warm_up, i, Behaviour.WELL.value, 0.2, b"") for i in range(4 * workers)]:
        while not future.done():
            strand.sleep(0.01)
    main(world, executor, strand)
    world.is_complete = True
    executor.shutdown()
    client.executor = None


def _main(world: _World, executor: Any, strand: Any, *, naps: list[float], played: Played) -> None:
    scheduler = world.scheduler
    before, began = world.counts.copy(), scheduler.now
    futures = []
    for number, seconds in enumerate(naps, 1):
        futures.append(executor.submit(simulated_task, number, Behaviour.WELL.value, seconds, b""))
        strand.sleep(SUBMIT_S)
    while not futures[0].done():
        strand.sleep(0.01)
    played.first_s = scheduler.now - began
    for future in futures:
        while not future.done():
            strand.sleep(0.01)
        future.result()
    played.seconds = scheduler.now - began
    played.requests = world.counts - before


def _calls(world: _World, executor: Any, strand: Any, *, n_calls: int, rest_s: float, lone: Lone) -> None:
    for number in range(n_calls):
        strand.sleep(rest_s)
        before, polls, began = world.counts.copy(), world.polls.copy(), world.scheduler.now
        future = executor.submit(_warm_up, number, Behaviour.WELL.value, 0.0, b"")
        while not future.done():
            strand.sleep(0.001)
        lone.seconds.append(world.scheduler.now - began)
        strand.sleep(min(0.5, rest_s))
        lone.requests.append(world.counts - before - (world.polls - polls))


def _warm_up(number: int, behaviour: str, seconds: float, shared: bytes) -> str:
    """Another function than that of the tasks, which no worker has measured before they come."""
    return simulated_task(number, behaviour, seconds, shared)


class _World(World):
    """A world without checks and faults."""

    def __init__(self, seed: int, workers: int) -> None:
        plot = Plot(
            is_detached=False, url="sim://far", n_workers=workers, slots_each=1, tells_deaths=True, tasks=(), retries=0,
            task_timeout=None, max_tasks_per_child=None, absolute_timeout=None, weather=CALM, latency_s=0.0, storm_s=0.0,
            n_clients=0, ends_with="leave",
        )  # fmt: skip
        super().__init__(seed, plot)
        self.counts: Counter[str] = Counter()
        self.polls: Counter[str] = Counter()  # those among them that are made with and without tasks
        self.is_complete = False
        self.vault = _Far(self)

    @property
    def oracle(self) -> Any:
        return self

    def started(self, _: WorkerProcess, job: Job, number: int) -> str:
        return f"{number}/{job.task_id}"

    def limit_of(self, _: str) -> str:
        """Return that no task has a limit."""
        return ""

    def log(self, who: str, what: str) -> None:
        """Keep no history. A worker that cannot go on ends the run, since its replacement would fail as well."""
        if what == f"ends: {Stop.FAILED.value}":
            self.scheduler.errors.append((who, RuntimeError("the worker cannot go on; its log says why")))

    def wrote(self, *_: object) -> None:
        """Nothing is checked."""


class _Far(Vault):
    """Objects with Amazon's latencies; a request takes effect at its end, as at the endpoint."""

    def __init__(self, world: _World) -> None:
        super().__init__(
            world.scheduler, world.lots.fork(), url="sim://far", lost_s=0.0, latency_s=0.0,
            wrote=world.wrote, was_read=lambda *_: None, log=world.log, trouble=world.trouble,
        )  # fmt: skip
        self._latency = Latency("aws", world.lots.bits() % 2**32)
        self._counts = world.counts
        self._polls = world.polls

    def ask(self, kind: str, key: str, effect: Callable[[Process], _A]) -> _A:
        strand = current_strand()
        strand.sleep(self._latency.draw_s(kind))
        kind = "list" if kind == "list_folders" else kind
        self._counts[kind] += 1
        answer = effect(strand.process)
        if kind == "get" and answer is None:
            self._counts["get"] -= 1
            self._counts["not_modified"] += 1
        elif kind == "list" and isinstance(answer, list):
            self._counts["list"] += max(0, -(-len(answer) // 1000) - 1)
        if (kind == "get" and key.endswith("/bell")) or any(part in key for part in _BEATS):
            self._polls["not_modified" if kind == "get" and answer is None else kind] += 1
        return answer


class _Pool:
    """A `ThreadPoolExecutor` with one strand for each item."""

    def __init__(self, *_: object) -> None:
        pass

    def map(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
        results: dict[int, _B] = {}

        def run(number: int, item: _A) -> None:
            results[number] = function(item)

        running = [threads.Thread(target=run, args=each) for each in enumerate(items)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return iter([results[number] for number in range(len(running))])

    def shutdown(self, wait: bool = True) -> None:
        pass


# The stage makes these longer, for fewer steps. Measurements need the real ones.
_PAUSES = ((keeper, "_DEATHS_S"), (leaving, "_SIGNAL_S"))


@contextmanager
def _stage(world: _World) -> Iterator[None]:
    pauses = [(module, name, getattr(module, name)) for module, name in _PAUSES]
    with on_stage(lambda: Line(world.vault), small=False):
        # The stage restores all of them at its end.
        for module, name, value in [*pauses, (parts, "ThreadPoolExecutor", _Pool)]:
            setattr(module, name, value)
        yield
