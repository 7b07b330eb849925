"""The storm: faults that are independent of requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starburst_executor.testing.simulation.plot import LOST_S, TIMINGS
from starburst_executor.testing.simulation.processes import WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process
from starburst_executor.testing.simulation.weather import CALM, Trouble
from starburst_executor.testing.simulation.world import World

__all__ = ["Storm"]


class Storm:
    """Kills, stops and disconnects processes until it is over."""

    def __init__(self, world: World) -> None:
        self._world = world

    def brew(self) -> None:
        """Begin the storm."""
        weather = self._world.plot.weather
        self._world.vault.weather = weather
        self._world.scheduler.preempt_rate = weather.preempt
        for rate, do in (
            (weather.kill, self._kill),
            (weather.stop, self._stop),
            (weather.term, self._term),
            (weather.outage, self._outage),
            (weather.cut_off, self._cut_off),
            (weather.clock, self._set_clock),
        ):
            if rate:
                self._next(rate, do)

    def _next(self, rate: float, do: Callable[[], None]) -> None:
        def happen() -> None:
            if not self._world.is_calm:
                do()
                self._next(rate, do)

        self._world.scheduler.at(self._world.lots.between(0.0, 2.0) / rate, happen)

    def _someone(self, share_of_clients: float) -> Process | None:
        clients = [c for c in self._world.clients if c.is_alive]
        workers = [w for w in self._world.workers.values() if w.is_alive]
        if clients and self._world.lots.chance(share_of_clients):
            return self._world.lots.choice(clients)
        return self._world.lots.choice(workers) if workers else None

    def _kill(self) -> None:
        self._do(Trouble.KILL, self._someone(0.2), lambda process: process.kill("SIGKILL"))

    def _stop(self) -> None:
        def stop(process: Process) -> None:
            process.stop()
            self._world.scheduler.at(LOST_S * self._world.lots.between(0.2, 3.0), partial(self._go_on, process))

        self._do(Trouble.STOP, self._someone(0.2), stop)

    def _go_on(self, process: Process) -> None:
        if process.is_alive and process.is_stopped:
            self._world.log(process.name, "SIGCONT")
            self._world.last_trouble_at = self._world.scheduler.now
            process.wake()

    def _term(self) -> None:
        def term(process: Process) -> None:
            if isinstance(process, WorkerProcess):
                process.sigterm()
                # As a platform does: SIGKILL some time after.
                self._world.scheduler.at(TIMINGS.grace_s * 4, partial(process.kill, "SIGKILL after SIGTERM"))

        self._do(Trouble.TERM, self._someone(0.0), term)

    def _outage(self) -> None:
        self._world.trouble(Trouble.OUTAGE, None)
        away_s = self._world.lots.between(2.0, 50.0)
        self._world.log("store", f"away for {away_s:.1f} s")
        self._world.vault.away_until = self._world.scheduler.now + away_s

    def _cut_off(self) -> None:
        def cut(process: Process) -> None:
            process.cut_off_until = self._world.scheduler.now + LOST_S * self._world.lots.between(0.2, 3.0)

        self._do(Trouble.CUT_OFF, self._someone(0.2), cut)

    def _set_clock(self) -> None:
        def jump(process: Process) -> None:
            process.ahead_s += self._world.lots.between(-3600.0, 3600.0)

        # In a session with a deadline, a change of a wall clock may end the session, as `absolute_timeout` documents.
        if self._world.plot.absolute_timeout is None:
            self._do(Trouble.CLOCK, self._someone(0.3), jump)

    def _do(self, trouble: Trouble, process: Process | None, do: Callable[[Process], object]) -> None:
        if process is not None:
            self._world.trouble(trouble, process)
            self._world.log(process.name, trouble.value)
            do(process)

    def calm(self) -> None:
        """End the storm: inject no more faults, and continue stopped processes."""
        self._world.is_calm = True
        self._world.scheduler.preempt_rate = 0.0
        self._world.log("world", "calm from here on")
        self._world.vault.weather = CALM
        self._world.vault.away_until = float("-inf")
        self._world.last_trouble_at = self._world.scheduler.now
        for process in self._world.processes():
            process.cut_off_until = float("-inf")
            self._go_on(process)
