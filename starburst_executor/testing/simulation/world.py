"""One seed's world: its processes and its history, shared by the parts of the simulation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from starburst_executor.client.future import StarburstFuture
from starburst_executor.protocol.keys import SessionKeys
from starburst_executor.protocol.seal import Sealer
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.oracle import Oracle
from starburst_executor.testing.simulation.plot import LOST_S, Plot, draw_plot
from starburst_executor.testing.simulation.processes import ClientProcess, WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process, Scheduler, current_process
from starburst_executor.testing.simulation.store import Kept, Vault
from starburst_executor.testing.simulation.weather import Trouble

__all__ = ["KEY", "Broken", "Report", "World", "is_done"]

# The session's key, in hexadecimal.
KEY = "5e" * 32
_MOST_STEPS = 200_000
# The longest time until a worker has stopped a task that was cancelled, whatever its beat interval: two looks at the manifest, a commit
# interval and some late answers, by a slow clock.
_STOPPED_S = 12.0
# What an answer that comes after its sender counts as lost adds to it.
_SLOW_S = 12.0
# The threads of a worker that watch signals, a client or a runner.
LISTENING = ("main", "life", "runner-")


class Broken(Exception):
    """A promise was broken: the simulation ends."""


def is_done(future: StarburstFuture[str]) -> bool:
    """Return whether a future is done, without using it: use would attach its client again if that has left."""
    return future._state not in ("PENDING", "RUNNING")  # noqa: SLF001


@dataclass
class Report:
    """The result of one seed."""

    seed: int
    plot: Plot
    violations: list[str] = field(default_factory=list)
    history: list[tuple[float, str, str]] = field(default_factory=list, repr=False)
    troubles: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    n_steps: int = 0
    n_requests: int = 0
    seconds: float = 0.0

    @property
    def digest(self) -> str:
        """Return a digest of the history, equal for equal histories."""
        return hashlib.sha256(repr(self.history).encode()).hexdigest()[:16]

    def story(self, last: int = 400) -> str:
        """Return the plot, the end of the history and the violations as text."""
        lines = [f"seed {self.seed}: {self.plot}", ""]
        lines += [f"{at:9.3f}  {who:<10} {what}" for at, who, what in self.history[-last:]]
        return "\n".join([*lines, "", *(f"VIOLATION: {words}" for words in self.violations)])


class World:
    """Processes, history and violations of one seed.

    Attributes:
        is_calm: No more faults are injected.
        is_ending: The last client has started.
        has_failed: A promise was broken.
        url: The session's URL, once it was created.
        futures: Every future that a client received, except those that were not done when it died.
        running: By worker and task, whether the start of the task that came last still runs.
    """

    def __init__(self, seed: int, plot: Plot | None) -> None:
        self.lots = Lots(seed)
        self.plot = plot or draw_plot(self.lots.fork())
        self.report = Report(seed, self.plot)
        self.scheduler = Scheduler(self.lots.fork())
        self.is_calm = self.is_ending = self.has_failed = False
        self.last_trouble_at = 0.0
        self.clients: list[ClientProcess] = []
        self.workers: dict[str, WorkerProcess] = {}
        self.url: str | None = None
        self.futures: list[StarburstFuture[str]] = []
        self.tries: dict[int, int] = {}
        self.running: dict[tuple[str, str], Callable[[], bool]] = {}
        self._oracle: Oracle | None = None
        self.vault = Vault(
            self.scheduler,
            self.lots.fork(),
            url=self.plot.url,
            lost_s=LOST_S,
            latency_s=self.plot.latency_s,
            wrote=self._wrote,
            was_read=self._was_read,
            log=self.log,
            trouble=self.trouble,
            asks=self._asks,
        )

    @property
    def oracle(self) -> Oracle:
        """The oracle of the session; it exists as soon as the session does."""
        assert self._oracle is not None  # only called after it is set  # noqa: S101
        return self._oracle

    @property
    def has_session(self) -> bool:
        return self._oracle is not None

    def skewed(self) -> dict[str, float]:
        """Draw rate and error of the clock of a new process."""
        skew = self.plot.weather.skew
        return {"rate": 1 + skew * (2 * self.lots.random() - 1), "ahead_s": self.lots.between(-100.0, 100.0) * skew}

    def given(self, futures: list[StarburstFuture[str]]) -> None:
        """Record futures that the running client received, to check them at the end."""
        self.futures += futures
        # While the strands of a dead process are unwound, its handlers may complete futures; no user sees that.
        current_process().on_end.append(partial(self._forget_undone, futures))

    def _forget_undone(self, futures: list[StarburstFuture[str]]) -> None:
        undone = {id(future) for future in futures if not is_done(future)}
        self.futures = [future for future in self.futures if id(future) not in undone]

    def processes(self) -> list[Process]:
        """Return every process of the run."""
        return [*self.clients, *self.workers.values()]

    def log(self, who: str, what: str) -> None:
        """Add one line to the history."""
        self.report.history.append((self.scheduler.now, who, what))

    def trouble(self, trouble: Trouble, process: Process | None) -> None:
        """Record an injected fault."""
        self.report.troubles[trouble.value] += 1
        self.last_trouble_at = self.scheduler.now
        if process is not None and trouble is not Trouble.NO_BELL:
            process.was_disturbed_at = self.scheduler.now

    def fail(self, words: str) -> None:
        """Record that a promise was broken."""
        self.log("oracle", f"VIOLATION: {words}")
        self.report.violations.append(f"at {self.scheduler.now:.3f} s: {words}")
        self.has_failed = True

    def within(self, limit_s: float, process: Process, is_done: Callable[[], bool], words: str) -> None:
        """Require an action within this number of seconds, whatever the store does, unless the process ended or was stopped."""
        began = self.scheduler.now

        def check() -> None:
            if process.is_alive and not process.is_stopped and process.was_stopped_at < began and not is_done():
                self.fail(f"{words}: {process}, {limit_s:g} s later")

        self.scheduler.at(limit_s, check)

    def _asks(self, process: Process, strand: str) -> None:
        if isinstance(process, WorkerProcess) and strand.startswith(LISTENING):
            self.fail(f"a thread that listens calls the store: {process}/{strand}")

    def until(self, condition: Callable[[], bool], at_most_s: float, words: str = "") -> None:
        """Let time pass until a condition holds; if it does not in time, fail with `words`. Raises: Broken."""
        scheduler = self.scheduler
        done = scheduler.run(
            lambda: self.has_failed or condition() or bool(scheduler.errors) or scheduler.n_steps > _MOST_STEPS,
            at_most_s,
        )
        if scheduler.n_steps > _MOST_STEPS:
            self.fail("it does not end in time")
        for where, error in scheduler.errors:
            self.fail(f"a thread ended in an exception: {where}: {type(error).__name__}: {error}")
        if not done and words:
            self.fail(words)
        if self.has_failed:
            raise Broken

    def _was_read(self, key: str, kept: Kept, process: Process) -> None:
        if self._oracle is not None:
            self._oracle.was_read(key, kept, process)

    def _wrote(self, key: str, before: Kept | None, after: Kept | None, process: Process) -> None:
        if self._oracle is None:
            if not key.endswith("/manifest"):
                return
            session_id = key.split("/")[1]
            self._oracle = Oracle(
                SessionKeys(session_id),
                Sealer(bytes.fromhex(KEY), session_id),
                self.vault.objects,
                self.workers,
                fail=self.fail,
                quiet_s=lambda: self.scheduler.now - self.last_trouble_at,
                lost_s=LOST_S,
            )
            self._oracle.stopped = self._stopped
        self._oracle.wrote(key, before, after, process)

    def _stopped(self, worker: WorkerProcess, task_id: str, attempt: int) -> None:
        """Require that a task that was cancelled while its worker held it does not run on, once the store answers."""
        began = self.scheduler.now
        runs = self.running.get((worker.worker_id, task_id), lambda: False)
        has_slow_answers = self.plot.weather.slow or self.plot.weather.stuck
        limit_s = _STOPPED_S + (_SLOW_S if has_slow_answers else 0.0)

        def check() -> None:
            times = (began, self.last_trouble_at, self.vault.away_until, worker.cut_off_until, worker.was_stopped_at)
            if not worker.is_alive or not worker.goes_on() or not runs():
                return
            if self.scheduler.now - max(times) > limit_s:
                self.fail(f"a task runs on that was cancelled: task={task_id}, attempt={attempt}, {worker}")
                return
            self.scheduler.at(limit_s / 4, check)

        if runs():
            self.scheduler.at(limit_s, check)
