"""The behaviour of simulated tasks, and their runners: no process and no user code, only virtual time.

A call states how its task behaves; the value of a successful task names the execution that made it, so that the oracle
can tell which execution counted.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Protocol

from starburst_executor.errors import LaunchError, StarburstError
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.pieces import PIECE_BYTES, Result
from starburst_executor.protocol.references import ResultRef
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.processes import WorkerProcess
from starburst_executor.testing.simulation.threads import Event
from starburst_executor.worker.runner.jobs import Died, Finished, Job, Jobs, Started, each_job, gathered
from starburst_executor.worker.runner.jobs import Event as RunnerEvent

__all__ = ["SHARED", "Behaviour", "SimulatedNursery", "Starts", "simulated_task", "value_name"]

# Arguments that many tasks share, too big to be repeated in each call.
SHARED = tuple(bytes([number]) * PIECE_BYTES for number in range(3))
_BIG = "x" * 140_000  # does not fit inline, however few tasks an object has


class Behaviour(str, Enum):
    """How a task behaves."""

    WELL = "returns"
    BIG = "returns much"
    PRINTS = "prints and returns"
    RAISES = "raises, always"
    FLAKY = "raises the first time"
    CRASHES = "kills its runner"
    POISON = "kills its worker"
    REFUSED = "cannot be loaded"


def simulated_task(number: int, behaviour: str, seconds: float, shared: bytes) -> str:
    """The submitted function. It is never called: the simulated runner plays its part."""
    call = f"{number}, {behaviour!r}, {seconds}, {len(shared)} bytes"
    raise AssertionError(f"simulated runners play tasks and never call them: simulated_task({call})")


class Starts(Protocol):
    """Receives every start of a task, which it gives a name, and every failure."""

    def started(self, process: WorkerProcess, job: Job, number: int) -> str: ...

    def needed(self, job: Job, ref: ResultRef, value: object) -> None: ...

    def failed(self, process: WorkerProcess, job: Job) -> None: ...


class SimulatedNursery:
    """Makes runners for one worker.

    Args:
        poisoned: Called when a task kills the worker.
        tries: How often each task was executed so far, by all workers.

    Attributes:
        started: Called with each job that starts, and with a function that returns whether it still runs.
    """

    root_name = "nothing is unpacked"

    def __init__(
        self,
        process: WorkerProcess,
        lots: Lots,
        starts: Starts,
        tries: dict[int, int],
        poisoned: Callable[[WorkerProcess, str], None],
    ) -> None:
        self.process = process
        self.lots = lots
        self.starts = starts
        self.tries = tries
        self.poisoned = poisoned
        self.started: Callable[[Job, Callable[[], bool]], None] = lambda *_: None
        self._runners: list[SimulatedRunner] = []
        self._is_closed = False

    def spawn(self, _code: object = (), **_: object) -> SimulatedRunner:
        if self._is_closed:
            raise LaunchError("the process that starts runners is gone; replace this worker")
        runner = SimulatedRunner(self)
        self._runners.append(runner)
        return runner

    def close(self) -> None:
        self._is_closed = True
        for runner in self._runners:
            runner.close()


class SimulatedRunner:
    """One simulated runner process, with the interface that a slot uses."""

    def __init__(self, nursery: SimulatedNursery) -> None:
        self.is_ready = True
        self.pid = -1
        self._nursery = nursery
        self._process = nursery.process
        self._open: dict[int, Job] = {}
        self._current: int | None = None
        self._started_at = 0.0  # when the current job was started, in the scheduler's seconds
        self._events: list[RunnerEvent] = []
        self._news = Event()
        self._ended = False

    def send(self, jobs: Sequence[Job | Jobs], _: Mapping[str, bytes]) -> None:
        for job in each_job(jobs):
            self._open[job.number] = job
        self._start_next()
        self.wake()

    def wake(self) -> None:
        self._news.set()

    def note(self, _: int) -> None:
        return None

    def retract(self) -> list[int]:
        taken = [number for number in self._open if number != self._current]
        for number in taken:
            del self._open[number]
        return taken

    def started(self, _since: float) -> Started | None:
        current = self._current
        return None if current is None else Started(current, self._started_at * self._process.rate)

    def oldest(self) -> int | None:
        return next(iter(self._open), None)

    def poll(self, timeout_s: float = 0.0) -> list[RunnerEvent]:
        if not self._events and not self._ended:
            self._news.clear()
            self._news.wait(max(timeout_s, 0.001) / self._process.rate)
        events, self._events = self._events, []
        return list(gathered(events))

    def kill(self) -> None:
        self._process.scheduler.at(0.05, partial(self._die, "killed by the worker"))

    def stop(self) -> None:
        self.close()

    def close(self) -> None:
        self._die("killed by the worker")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        if self._current is not None or self._ended or not self._open or not self._process.is_alive:
            return
        self._current = next(iter(self._open))
        self._started_at = self._process.scheduler.now
        job = self._open[self._current]
        (number, behaviour, seconds, shared), _ = calls.load_call(job.call, dict(job.pieces))
        name = self._nursery.starts.started(self._process, job, number)
        if isinstance(shared, ResultRef):
            self._nursery.starts.needed(job, shared, _result(job, shared))
        self._nursery.tries[number] = self._nursery.tries.get(number, 0) + 1
        self._nursery.started(job, lambda: not self._ended and self._current == job.number)
        self._process.scheduler.at(seconds, partial(self._end, job, number, Behaviour(behaviour), name, seconds))

    def _end(self, job: Job, number: int, behaviour: Behaviour, name: str, seconds: float) -> None:
        if self._ended or not self._process.is_alive or self._current != job.number:
            return
        if behaviour is Behaviour.POISON:
            self._nursery.poisoned(self._process, job.task_id)
            return
        if behaviour is Behaviour.CRASHES:
            self._nursery.starts.failed(self._process, job)
            self._die("killed by SIGKILL, possibly out of memory")
            return
        ok, loaded, outcome, printed = True, True, b"", b""
        if behaviour is Behaviour.REFUSED:
            ok = loaded = False
            outcome = outcomes.dump_reason(StarburstError("no such module"))
        elif behaviour is Behaviour.RAISES or (behaviour is Behaviour.FLAKY and self._nursery.tries[number] < 2):  # noqa: PLR2004 - the first time
            ok = False
            self._nursery.starts.failed(self._process, job)
            outcome = outcomes.dump_reason(StarburstError(name))
        else:
            value = f"{name}/{_BIG}" if behaviour is Behaviour.BIG else name
            outcome = bytes(outcomes.dump_value(value))
            printed = b"a line\n" if behaviour is Behaviour.PRINTS else b""
        del self._open[job.number]
        self._current = None
        self._events.append(Finished(job.number, ok, loaded, outcome, seconds, printed, b""))
        self._news.set()
        self._start_next()

    def _die(self, reason: str) -> None:
        if self._ended or not self._process.is_alive:
            return
        culprit, self._current = self._current, None
        if culprit is not None:
            del self._open[culprit]
        self._events.append(Died(reason, culprit, b"", b""))
        self._ended = True
        self._news.set()


def _result(job: Job, ref: ResultRef) -> Any:
    """Return the result that a job got with its call; None if it got none."""
    pickled = dict(job.pieces).get(Result(ref.ordinal, ref.sequence).name)
    return None if pickled is None else pickle.loads(pickled)  # noqa: S301 - made by this module


def value_name(value: Any) -> str:
    """Return the execution that made a value."""
    return "/".join(str(value).split("/")[:2])
