"""Listens to one runner: receives its tasks' outcomes, enforces their time limit, bounds their output.

    slot ── send, retract, kill, stop ──► Listener ◄──poll── Runner
    slot ◄── heard(), then take() ────────── │
                                             └── a task exceeds `task_timeout`: kill

Guarantee: this module never calls the store, so it works while a slot waits for an unreachable store: a task is stopped at
its deadline, its output stays bounded, outcomes are received as they arrive, and `kill` ends the running task.
`tests/test_architecture.py` and the simulation check this.

`listen` performs one step; `start` runs it in a thread that does nothing else, as long as the runner lives.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from starburst_executor.clock import Clock
from starburst_executor.protocol import options
from starburst_executor.worker.runner.handle import Completed, Died, Event, Finished, Job, Jobs, Runner, Started
from starburst_executor.worker.runner.notes import Note
from starburst_executor.worker.runner.usage import consumed_by_group

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

# Longest single wait for a runner; a deadline before then shortens the wait.
_TURN_S = 60.0
# Outcomes within this time of each other wake the slot once, since it would only record them. The runner's last outcome, a
# failure and a death wake it at once. Outcomes that are held back behind a long task are taken at the slot's next commit.
_GATHER_S = 5e-3
# A task that is over its time is stopped if it still runs this long afterwards: what is read from a runner's memory may be torn.
_SURELY_S = 1e-3
# A retired runner has a second to end (`Runner.stop`); then it is killed.
_STOP_S = 5.0
# How often the memory of a task that asked for some is measured: it reads `/proc` for a few milliseconds.
_MEMORY_S = 0.5


class Listener:
    """A slot's interface to its runner. One thread calls `listen`; any thread may call the other methods.

    Args:
        task_timeout: Seconds after which a task is stopped, or None; a task's options may have another limit.
        heard: Called when there are events to take. It must not wait.

    Attributes:
        memory_bytes: The memory that each job may use, with all processes that it starts; None for no limit.
    """

    def __init__(
        self, runner: Runner, clock: Clock, *, task_timeout: float | None, heard: Callable[[], object]
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._task_timeout = task_timeout
        self._heard = heard
        # guards: _n_jobs, _limits, _since, _timed_out, _events, _told_at
        self._lock = threading.Lock()
        self._n_jobs = 0  # sent and not known to have ended
        self._limits: dict[int, float] = {}  # of the jobs among them whose options have a limit
        self._since = clock.monotonic()  # when the last of them ended, or the first was sent
        self._timed_out: int | None = None  # the job that the runner was killed for
        self._events: list[Event] = []
        self._told_at = float("-inf")  # when the slot was last woken
        self.memory_bytes: int | None = None
        self._over: int | None = None  # the job that used too much
        self._peak = (-1, 0)  # of which job, and how much
        self._is_stopping = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def started_at(self) -> float:
        """The time at which the oldest open job was started, as far as is known, by the clock's `monotonic`."""
        started = self._started()
        return self._since if started is None else started.at  # unlocked: one number

    @property
    def has_ended(self) -> bool:
        """Whether the runner has ended."""
        return self._ended.is_set()

    # --- for the slot -------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Listen in a thread with this name until the runner has ended."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, jobs: Sequence[Job | Jobs], functions: Mapping[str, bytes]) -> None:
        """Send jobs to the runner, like `Runner.send`."""
        with self._lock:
            if not self._n_jobs:
                self._since = self._clock.monotonic()
            for job in jobs:
                self._n_jobs += len(job.numbers)
                if job.options and (limit_s := options.decoded(job.options).timeout) is not None:
                    self._limits.update(dict.fromkeys(job.numbers, limit_s))
        self._runner.send(jobs, functions)

    def retract(self) -> list[int]:
        """Take back the jobs that have not started, like `Runner.retract`."""
        taken = self._runner.retract()
        with self._lock:
            self._forget(taken)
        return taken

    @property
    def pid(self) -> int:
        """The runner's process id, which is also the id of its process group and session."""
        return self._runner.pid

    def note(self, number: int) -> Note | None:
        """Return what a running job has reported of its progress; None if it has reported nothing."""
        return self._runner.note(number)

    def take(self) -> list[Event]:
        """Return the events since the last call, in order. Does not wait."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def kill(self) -> None:
        """Kill the runner and all processes that it started; `Died` follows. Harmless if it is dead."""
        self._runner.kill()

    def stop(self) -> None:
        """End the runner between tasks and wait for its end. Events that were not taken are lost. The last call."""
        if self._thread is None:
            self._runner.stop()
            return
        self._is_stopping = True
        self._runner.wake()
        self._clock.wait(self._ended, _STOP_S)

    # --- for the thread that listens ----------------------------------------------------------------------------------

    def listen(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the runner, record its events, enforce the deadline."""
        runner = self._runner
        was_ready = runner.is_ready
        limit = self.memory_bytes
        wait_s = min(timeout_s, self._until_deadline_s(), _TURN_S if limit is None else _MEMORY_S)
        self._note(runner.poll(wait_s), was_ready=was_ready)
        if limit is not None:
            self._measure(limit)
        if (late := self._late()) is None:
            return
        # Once more: it may have ended by now, or its number and its start, which are read one after the other, do not belong together.
        self._note(runner.poll(_SURELY_S), was_ready=True)
        if self._late() == late:
            with self._lock:
                self._timed_out = late.number
            runner.kill()

    def _measure(self, limit: int) -> None:
        """Note what the running job uses, and kill it if that is too much."""
        started = self._started()
        if started is None or self._over is not None:
            return
        used = consumed_by_group({self._runner.pid}).get(self._runner.pid)
        if used is None:
            return
        before = self._peak[1] if self._peak[0] == started.number else 0
        self._peak = (started.number, max(before, used.memory_bytes))
        if used.memory_bytes > limit:
            self._over = started.number
            self._runner.kill()

    def _run(self) -> None:
        try:
            while not self._ended.is_set() and not self._is_stopping:
                self.listen(_TURN_S)
            if self._is_stopping:
                self._runner.stop()
        except Exception as error:
            # Only the running task can be the cause, so it is the culprit; the slot continues with another runner.
            _log.exception("listening to a runner failed")
            culprit = self._runner.oldest()
            self._runner.close()
            with self._lock:
                self._events.append(Died(f"its worker could not listen to it: {error}", culprit))
            self._heard()
        finally:
            self._ended.set()

    def _note(self, events: Sequence[Event], *, was_ready: bool) -> None:
        """Keep events for the slot, and wake it if it should know at once."""
        if was_ready and not events:
            return
        now = self._clock.monotonic()
        with self._lock:
            # The initializer's time does not count as the first task's.
            self._since = now
            for event in events:
                if isinstance(event, Completed):
                    self._forget(range(event.number, event.number + event.n))
                    self._events.append(event)
                elif isinstance(event, Finished):
                    self._forget([event.number])
                    self._events.append(event)
                elif isinstance(event, Died):
                    self._n_jobs = 0
                    self._limits.clear()
                    self._ended.set()
                    self._events.append(self._explained(event))
                else:
                    self._events.append(event)
            is_news = self._is_news(events, now)
        if is_news:
            self._heard()

    def _forget(self, numbers: Sequence[int]) -> None:
        """Forget jobs that have ended or were taken back. Called with the lock held."""
        self._n_jobs -= len(numbers)
        for number in numbers if self._limits else ():
            self._limits.pop(number, None)

    def _explained(self, event: Died) -> Died:
        number, peak_bytes = self._peak
        return event._replace(
            timed_out=self._timed_out, over=self._over, peak_bytes=peak_bytes if number == event.culprit else 0
        )

    def _is_news(self, events: Sequence[Event], now: float) -> bool:
        """Return whether these events must wake the slot at once. Called with the lock held."""
        if not events:
            return False
        may_wait = self._n_jobs and all(_is_well(event) for event in events)
        if may_wait and now - self._told_at < _GATHER_S:
            return False
        self._told_at = now
        return True

    def _started(self) -> Started | None:
        return self._runner.started(self._since)  # unlocked: one number

    def _until_deadline_s(self) -> float:
        with self._lock:
            limits: list[float] = list(self._limits.values())
            if self._task_timeout is not None:
                limits.append(self._task_timeout)
            if not limits or not self._n_jobs or self._timed_out is not None:
                return _TURN_S
        started = self._started()
        if started is None:
            # Without a task that runs none can be late; one that starts now cannot be late earlier than this.
            return min(limits)
        limit_s = self._limit_s(started.number)
        return _TURN_S if limit_s is None else max(0.0, started.at + limit_s - self._clock.monotonic())

    def _limit_s(self, number: int) -> float | None:
        """Return the seconds that a job may run; None for no limit."""
        return self._limits.get(number, self._task_timeout)  # unlocked: one entry

    def _late(self) -> Started | None:
        """Return the job that has run for longer than it may; None if there is none, or if it was stopped."""
        limits = self._limits  # unlocked: a job that gets a limit now is not late yet
        has_none = self._task_timeout is None and not limits
        if has_none or self._timed_out is not None:  # unlocked: only this thread sets it
            return None
        started = self._started()
        limit_s = None if started is None else self._limit_s(started.number)
        is_late = started is not None and limit_s is not None and self._clock.monotonic() >= started.at + limit_s
        return started if is_late else None


def _is_well(event: Event) -> bool:
    return isinstance(event, Completed) or (isinstance(event, Finished) and event.ok)
