"""Virtual time, processes and their strands: one thread, in which a seed decides the order of events.

    heap of (time, number, do) ──► hub ──switch──► strand: runs until it waits or makes a request ──switch──► hub

A strand is a greenlet and stands for a thread. A process is a set of strands that is killed, stopped and woken as one.
The result of a wait arrives through `resume`, which drops it if the process is dead and keeps it if the process is
stopped.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import Any

from greenlet import getcurrent, greenlet

from starburst_executor.testing.simulation.lock_order import LockOrder
from starburst_executor.testing.simulation.lots import Lots

__all__ = ["Killed", "Process", "Scheduler", "Strand", "current_process", "current_strand"]


class Killed(BaseException):
    """The process of this strand is dead: its further actions have no effect."""


class Scheduler:
    """Virtual time. Everything in it runs in the thread that calls `run`."""

    def __init__(self, lots: Lots) -> None:
        self.lots = lots
        self.now = 0.0
        self.n_steps = 0
        self.hub: greenlet = getcurrent()
        self.preempt_rate = 0.0
        self.errors: list[tuple[str, BaseException]] = []
        self.lock_order = LockOrder()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._n_events = 0

    def at(self, delay_s: float, do: Callable[[], object]) -> None:
        """Schedule an action of the hub this number of seconds from now."""
        self._n_events += 1
        heapq.heappush(self._events, (self.now + delay_s, self._n_events, do))

    def run(self, until: Callable[[], bool], at_most_s: float) -> bool:
        """Let time pass until a condition holds; return False if it does not hold within the limit."""
        end = self.now + at_most_s
        while not until():
            if not self._events or self._events[0][0] > end:
                self.now = max(self.now, end)
                return until()
            self.now, _, do = heapq.heappop(self._events)
            self.n_steps += 1
            do()
        return True


class Process:
    """One simulated process.

    It has more than fifteen attributes because they are the memory of a process that the parts of the simulation give it.

    Args:
        rate: How fast its clock runs.
        ahead_s: The error of its wall clock.
    Attributes:
        clock: Its `Clock`.
        read: The ETag under which it last read each object.
        listed: The ETag under which it last saw each object in a listing, and in how many listings in a row.
    """

    clock: Any = None

    def __init__(self, scheduler: Scheduler, name: str, *, rate: float = 1.0, ahead_s: float = 0.0) -> None:
        self.scheduler = scheduler
        self.name = name
        self.rate = rate
        self.ahead_s = ahead_s
        self.is_alive = True
        self.is_stopped = False
        self.was_disturbed_at = float("-inf")  # the last time at which it could not run or not reach the store
        self.was_stopped_at = float("-inf")  # by SIGSTOP, for the last time
        self.cut_off_until = float("-inf")
        self.started_at = scheduler.now
        self.ended_at: float | None = None
        self.why = ""
        self.n_requests = 0
        self.read: dict[str, str] = {}
        self.listed: dict[str, tuple[str, int]] = {}
        self.on_end: list[Callable[[], object]] = []
        self._strands: dict[Strand, None] = {}
        self._kept: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return self.name

    def spawn(self, name: str, target: Callable[[], object]) -> Strand:
        """Start a strand; it runs as soon as the hub gets to it."""
        strand = Strand(self, name, target)
        self._strands[strand] = None
        self.scheduler.at(0.0, partial(strand.resume, strand.arm(), None))
        return strand

    def kill(self, why: str) -> None:
        """End the process; its strands take no further action. Harmless if it has ended."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.why = why
        self.ended_at = self.scheduler.now
        for do in self.on_end:
            do()
        self.scheduler.at(0.0, self._reap)

    def stop(self) -> None:
        """Stop the process, as SIGSTOP does."""
        self.is_stopped = True
        self.was_stopped_at = self.scheduler.now

    def wake(self) -> None:
        """Continue the process, as SIGCONT does."""
        self.was_disturbed_at = self.was_stopped_at = self.scheduler.now
        self.is_stopped = False
        kept, self._kept = self._kept, []
        for do in kept:
            self.scheduler.at(0.0, do)

    def keep(self, do: Callable[[], object]) -> None:
        self._kept.append(do)

    def ended(self, strand: Strand) -> None:
        self._strands.pop(strand, None)

    def _reap(self) -> None:
        for strand in list(self._strands):
            if strand:  # it has started and not ended
                strand.throw(Killed)
        self._strands.clear()


class Strand(greenlet):
    """One thread of a process."""

    def __init__(self, process: Process, name: str, target: Callable[[], object]) -> None:
        super().__init__(parent=process.scheduler.hub)
        self.process = process
        self.name = name
        self.thread: Any = None
        self.held: list[str] = []  # the locks that it holds, in order
        self._target = target
        self._token = 0
        self._waits = False

    def run(self, *_: object) -> None:
        try:
            if self.process.is_alive:
                self._target()
        except Killed:
            pass
        except BaseException as error:  # every exception that escapes a thread goes into the report
            self.process.scheduler.errors.append((f"{self.process.name}/{self.name}", error))
        finally:
            self.process.ended(self)

    def arm(self) -> int:
        """Begin to wait; return the token that `resume` must be called with."""
        self._token += 1
        self._waits = True
        return self._token

    def resume(self, token: int, value: object) -> None:
        """Continue the strand with a value, if it still waits with this token. Called by the hub."""
        if not self._waits or self._token != token or not self.process.is_alive:
            return
        if self.process.is_stopped:
            self.process.keep(partial(self.resume, token, value))
            return
        self._waits = False
        self.switch(value)

    def suspend(self) -> Any:
        """Wait for `resume`. Called by the strand itself, after `arm`."""
        if not self.process.is_alive:
            raise Killed
        value = self.process.scheduler.hub.switch()
        if not self.process.is_alive:
            raise Killed
        return value

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        if not self.process.is_alive:
            raise Killed
        self.process.scheduler.at(seconds, partial(self.resume, self.arm(), None))
        self.suspend()


def current_strand() -> Strand:
    """Return the running strand. Raises: RuntimeError outside of a strand."""
    strand = getcurrent()
    if not isinstance(strand, Strand):
        raise RuntimeError("only a strand of a simulated process can wait or make requests")  # noqa: TRY004
    return strand


def current_process() -> Process:
    """Return the process of the running strand."""
    return current_strand().process
