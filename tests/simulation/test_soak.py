"""Ten days of one session, simulated: clients and workers come and go, two of them stay, and these must not grow.

A day is a hundred tasks, a dozen of functions, a visitor that submits and leaves, a worker that joins and one that ends.
What stays of a visitor or a worker that was there once is an entry or two, since the store still lists it; what stays of
a task, a claim or a function is nothing.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from starburst_executor.client import batches, keeper, stored_functions, tasks
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.config import Timings
from starburst_executor.testing.simulation.plot import draw_plot
from starburst_executor.testing.simulation.processes import ClientProcess
from starburst_executor.testing.simulation.scheduler import current_strand
from starburst_executor.testing.simulation.simulation import _no_collector
from starburst_executor.testing.simulation.stage import on_stage
from starburst_executor.testing.simulation.store import Line
from starburst_executor.testing.simulation.tasks import Behaviour
from starburst_executor.testing.simulation.threads import ProcessClock
from starburst_executor.testing.simulation.workers import SimulatedLauncher, guarded, start_worker
from starburst_executor.testing.simulation.world import KEY, Broken, World
from starburst_executor.worker import durations, leaving, listener
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.recent import Recent
from tests.support.inside import engine_of

DAYS, WARM_DAYS = 10, 4
DAY_S = 86_400.0
TASKS_A_DAY, FUNCTIONS_A_DAY = 96, 12
# Of a visitor and of a worker: what the store lists of them, and what the manifest says of the visitor.
MOST_MORE_A_DAY = 20
# All that takes seconds takes half an hour, so that a day is no more work than a minute.
TIMINGS = replace(
    Timings(),
    beat_s=1800.0, look_s=1800.0, commit_s=1.0, commit_most_s=1.0, slice_s=60.0, poll_min_s=1.0, poll_max_s=600.0, bell_min_s=1.0, bell_max_s=600.0, ring_gap_s=5.0,
    idle_exit_s=1e9, client_gone_s=1e9, launch_s=7200.0, rank_s=7200.0,
)  # fmt: skip
# Looks at what is no request, which are too many in a week.
SELDOM: tuple[tuple[Any, str], ...] = ((leaving, "_SIGNAL_S"), (keeper, "_DEATHS_S"), (listener, "_TURN_S"))


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is bounded is full after a few days."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    monkeypatch.setattr(tasks, "_KEPT_BYTES", 50 * tasks._FUTURE_BYTES)
    monkeypatch.setattr(batches, "_REMEMBERED", 20)
    monkeypatch.setattr(stored_functions, "_REMEMBERED", 20)
    monkeypatch.setattr(durations, "_MOST", 20)
    monkeypatch.setitem(Functions.__init__.__kwdefaults__, "keep_bytes", 20_000)


class Session:
    """The world of one session, and what is counted of it each day."""

    def __init__(self) -> None:
        world = self.world = World(7, None)
        calm = replace(draw_plot(world.lots.fork()), url="sim://bucket", latency_s=0.05, n_workers=3, slots_each=1)
        world.plot = calm
        self.counts: list[dict[str, int]] = []
        self._numbers = itertools.count()

    def start(self, name: str, do: Callable[[ClientProcess], None]) -> ClientProcess:
        world = self.world
        client = ClientProcess(world.scheduler, name)
        client.clock = ProcessClock(client, world.lots.fork())
        client.spawn("main", partial(guarded, world, client, partial(do, client)))
        return client

    def settings(self, client: ClientProcess) -> dict[str, Any]:
        return {"launcher": SimulatedLauncher(self.world, client), "key": KEY}

    def stay(self, client: ClientProcess) -> None:
        """The client that stays: it submits what it drops."""
        executor = client.executor = DetachedExecutor(
            workers=3, store="sim://bucket", timings=TIMINGS, **self.settings(client)
        )
        self.world.url = executor.url
        for day in range(DAYS):
            for number in range(TASKS_A_DAY):
                executor.submit(function(day, number % FUNCTIONS_A_DAY), *self.call())
                if number % 8 == 0:
                    current_strand().sleep(DAY_S / 24)
            executor.submit(function(day, 0), *self.call()).result()
            self.start(f"visitor-{day}", self.visit)
            current_strand().sleep(DAY_S / 4)
            self.change_workers()
            self.count(executor)

    def call(self) -> tuple[int, str, float, bytes]:
        return next(self._numbers), Behaviour.WELL.value, 1.0, b""

    def visit(self, client: ClientProcess) -> None:
        assert self.world.url is not None
        executor = DetachedExecutor.reattach(self.world.url, **self.settings(client))
        executor.submit(function(0, 0), *self.call()).result()
        executor.detach()
        client.kill("done")

    def change_workers(self) -> None:
        """One joins; all others but the two oldest end, in good order or not: the client replaces some, and those that stay have work."""
        living = [worker for worker in self.world.workers.values() if worker.is_alive]
        start_worker(self.world, 1, None)
        for worker in living[2:]:
            worker.sigterm() if len(self.counts) % 2 else worker.kill("SIGKILL")

    def count(self, executor: DetachedExecutor) -> None:
        gc.collect()
        agents = {w.name: w.agent for w in self.world.workers.values() if w.is_alive and w.agent is not None}
        self.counts.append({name: n_objects(root) for name, root in {"client": engine_of(executor), **agents}.items()})

    def growth(self) -> dict[str, float]:
        """How many objects more each process that stays has each day.

        Chance decides which workers find tasks on a day, so those of all workers of the first day count that are still there.
        """
        first, last = self.counts[WARM_DAYS], self.counts[-1]
        stay = self.counts[0].keys() & last.keys()
        assert len(stay) > 2, "the client and two workers stay"
        return {name: (last[name] - first[name]) / (DAYS - 1 - WARM_DAYS) for name in sorted(stay)}


def function(day: int, number: int) -> Callable[..., str]:
    """One of a script's, that no other day has."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(f"def work(number, behaviour, seconds, shared): return '{day} {number}'", namespace)
    made: Callable[..., str] = namespace["work"]
    return made


def n_objects(root: object) -> int:
    """How many objects can be reached from here, within the product: no modules, no classes, nothing of the simulation."""
    seen: dict[int, object] = {}
    todo = [root]
    while todo:
        one = todo.pop()
        if id(one) in seen or is_elsewhere(one):
            continue
        seen[id(one)] = one
        todo += (one.__closure__ or ()) if isinstance(one, FunctionType) else gc.get_referents(one)
    return len(seen)


def is_elsewhere(one: object) -> bool:
    return isinstance(one, (ModuleType, type, CodeType, BuiltinFunctionType)) or type(one).__module__.startswith(
        ("starburst_executor.testing.", "logging")
    )


def soaked() -> Session:
    session = Session()
    world = session.world
    # Undone before the stage is, which replaces the same names.
    seldom = pytest.MonkeyPatch.context()
    with _no_collector(), on_stage(lambda: Line(world.vault), small=False), seldom as patch, suppress(Broken):
        for module, name in SELDOM:
            patch.setattr(module, name, 900.0)
        client = session.start("client", session.stay)
        try:
            world.scheduler.run(lambda: not client.is_alive or bool(world.scheduler.errors), 2 * DAYS * DAY_S)
        finally:
            for process in [client, *world.processes()]:
                if process is client and client.executor is not None:
                    client.executor._finalizer.detach()
                    engine_of(client.executor)._pid = -1
                process.kill("the simulation is over")
            world.scheduler.run(lambda: False, 0.0)
    assert not world.scheduler.errors
    # Signals are looked at every quarter of an hour here.
    assert not [words for words in world.report.violations if "outlives its grace time" not in words]
    assert len(session.counts) == DAYS, client.why
    return session


def test_who_stays_for_days_does_not_grow() -> None:
    before = [getattr(module, name) for module, name in SELDOM]
    session = soaked()
    assert [getattr(module, name) for module, name in SELDOM] == before
    print(session.growth())
    assert max(session.growth().values()) <= MOST_MORE_A_DAY, session.counts


def keep_every_function(patch: pytest.MonkeyPatch) -> None:
    """A worker forgets no function."""

    def add(self: Recent[Any, Any], name: Any, value: Any, n_bytes: int) -> list[Any]:
        self._kept[name] = (value, n_bytes)
        return []

    patch.setattr(Recent, "add", add)


def keep_every_future(patch: pytest.MonkeyPatch) -> None:
    """A client of a detached session holds what has ended."""
    patch.setattr(tasks, "_KEPT_BYTES", 2**40)


def remember_every_function_that_was_sent(patch: pytest.MonkeyPatch) -> None:
    """A client forgets no digest."""
    patch.setattr(stored_functions, "_REMEMBERED", None)


def hold_every_claim(patch: pytest.MonkeyPatch) -> None:
    """A worker goes on naming claims that have ended."""
    patch.setattr(Claims, "_forget", lambda self, claim_id: None)


# One of a worker and one of a client each time, since a soak takes long and neither grows by the other's.
@pytest.mark.parametrize(
    ("of_worker", "of_client"),
    [(keep_every_function, remember_every_function_that_was_sent), (hold_every_claim, keep_every_future)],
)
def test_leaks_are_found(
    of_worker: Callable[[pytest.MonkeyPatch], None],
    of_client: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of_worker(monkeypatch)
    of_client(monkeypatch)
    growth = soaked().growth()
    print(growth)
    assert growth.pop("client") > MOST_MORE_A_DAY
    assert max(growth.values()) > MOST_MORE_A_DAY
