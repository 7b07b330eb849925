"""One simulation, from its seed to its report.

    storm   clients submit, cancel, retry, leave and come back; workers start and die; the store fails
    calm    nothing fails any more: a client attaches, and every task must end in time
    end     cleanup, terminate, expiry or leaving: every worker ends, and no other objects are left than expected

All decisions are made by the product's own code: executors, engines, agents. This module adds only processes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from starburst_executor.protocol.records import SessionState
from starburst_executor.testing.simulation.checks import Watch, check_end
from starburst_executor.testing.simulation.plot import TIMINGS, Plot
from starburst_executor.testing.simulation.stage import on_stage
from starburst_executor.testing.simulation.store import Line
from starburst_executor.testing.simulation.storm import Storm
from starburst_executor.testing.simulation.users import Users
from starburst_executor.testing.simulation.world import Broken, Report, World

__all__ = ["simulate"]

_START_S = 100.0
_END_S = 900.0
_GO_S = 200.0


def simulate(seed: int, plot: Plot | None = None) -> Report:
    """Run one seed. The same seed gives the same report, in any process.

    Args:
        plot: Replaces the one that the seed draws.
    """
    world = World(seed, plot)
    with _no_collector(), on_stage(lambda: Line(world.vault)):
        try:
            with suppress(Broken):
                _play(world)
        finally:
            # Nothing of this world continues after its simulation.
            for process in world.processes():
                process.kill("the simulation is over")
            world.scheduler.run(lambda: False, 0.0)
    report = world.report
    report.n_steps, report.n_requests, report.seconds = (
        world.scheduler.n_steps,
        world.vault.n_requests,
        world.scheduler.now,
    )
    if world.has_session:
        report.counts.update(world.oracle.counts)
    return report


def _play(world: World) -> None:
    plot, scheduler = world.plot, world.scheduler
    users, storm = Users(world), Storm(world)
    first = users.start_first()
    world.until(lambda: world.url is not None or not first.is_alive, _START_S, "the session was not created")
    if world.url is None:
        return
    Watch(world).start()
    storm.brew()
    if plot.is_detached:
        for number in range(1, plot.n_clients + 1):
            scheduler.at(world.lots.between(5.0, plot.storm_s), partial(users.start_visitor, f"client-{number}"))
        if plot.absolute_timeout is not None:
            # Close enough to the deadline for extending or expiring.
            at_s = max(1.0, plot.absolute_timeout - scheduler.now - world.lots.between(0.0, 3.0))
            scheduler.at(at_s, partial(users.start_extender, "client-x"))
    world.until(lambda: False, plot.storm_s)
    storm.calm()
    _end_detached(world, users) if plot.is_detached else _end_attached(world, users)
    check_end(world)


def _end_detached(world: World, users: Users) -> None:
    leaves = world.report.seed % 3 == 0 and _takes_more(world)
    if world.lots.chance(0.5) and not leaves:
        # This client stays until all others have left; without it a detached session may have no client that repairs.
        users.start_companion("client-y")
    if leaves:
        users.start_leaver("client-l")
    world.until(lambda: not users.alive(), _END_S, "a client does not end in time")
    world.is_ending = True
    last = users.start_last("client-z")
    world.until(lambda: not last.is_alive, _END_S, "the last client does not end in time")
    world.until(lambda: not _alive(world), _GO_S, "processes are left that should have ended")


def _takes_more(world: World) -> bool:
    """Return whether the session is open and stays open until the last client ends it."""
    manifest = world.oracle.manifest
    return manifest is not None and manifest.state == SessionState.OPEN and manifest.deadline_at is None


def _end_attached(world: World, users: Users) -> None:
    world.until(lambda: not users.alive(), _END_S, "the client does not end in time")
    world.until(
        lambda: not _alive(world), _GO_S + TIMINGS.client_gone_s + TIMINGS.unheard_s, "workers outlive their client"
    )


def _alive(world: World) -> bool:
    return any(process.is_alive for process in world.processes())


@contextmanager
def _no_collector() -> Iterator[None]:
    """Turn off the cyclic garbage collector: it runs at any time, and may run finalizers of other code in this interpreter."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
