"""Listens to one runner: hears what its tasks come to, keeps their deadline, bounds their output.

    slot ── send, retract, kill, stop ──► Listener ◄──poll── Runner
    slot ◄── heard(), then take() ────────── │
                                             └── a task is over its `task_timeout`: kill

# Guarantee: nothing here calls the store, so a slot that waits for it delays none of this: a task is stopped at its
deadline, its output stays bounded, an outcome is taken in as it comes, and `kill` ends what runs, also while the store is
away. `tests/test_architecture.py` and the simulation hold it to that.

A listener is stepped by `listen`; `start` gives it a thread that does nothing else, for as long as the runner lives.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from starburst_executor.clock import Clock
from starburst_executor.worker.runner.handle import Died, Event, Finished, Job, Runner

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

# How long to wait for a runner without another look at the clock: what is due before then is waited for exactly.
_TURN_S = 60.0
# Of tasks shorter than this the outcomes of half a slice are waited for, so that not each of them wakes the agent, which
# costs more than the task. Never for longer than a commit is late anyway, and never for the last few.
_TINY_S = 1e-4
_LULL_S = 2e-3
_FEW_JOBS = 8
# Outcomes that follow each other closer than this wake the slot together: it would only note them. The last of those that
# the runner has, a failure and a death are news at once; what a long task leaves unheard, the slot's next commit takes in.
_GATHER_S = 5e-3
# A retired runner has a second to end (`Runner.stop`); then it is killed.
_STOP_S = 5.0


class Listener:
    """What a slot has of its runner. `listen` is called by one thread, the rest by any.

    Args:
        task_timeout: After how many seconds a task is stopped.
        heard: Called when there is something to take. Must not wait.
    """

    def __init__(
        self, runner: Runner, clock: Clock, *, task_timeout: float | None, heard: Callable[[], object]
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._task_timeout = task_timeout
        self._heard = heard
        self._lock = threading.Lock()  # guards all that follows
        self._jobs: dict[int, None] = {}  # sent and not known to have ended, in order
        self._started_at = clock.monotonic()
        self._recent_s = 1.0  # how long tasks take, for the lull alone
        self._timed_out: int | None = None  # the job that the runner was killed for
        self._events: list[Event] = []
        self._told_at = float("-inf")  # when the slot was last woken
        self._is_stopping = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def started_at(self) -> float:
        """When the oldest job that has not ended was started, as far as is known, by the clock's `monotonic`."""
        return self._started_at

    @property
    def has_ended(self) -> bool:
        """Whether the runner's death has been heard."""
        return self._ended.is_set()

    # --- for the slot -------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Listen in a thread of that name until the runner has ended."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, jobs: Sequence[Job], functions: Mapping[str, bytes]) -> None:
        """Give the runner jobs; as `Runner.send`."""
        with self._lock:
            if not self._jobs:
                self._started_at = self._clock.monotonic()
            self._jobs.update(dict.fromkeys(job.number for job in jobs))
        self._runner.send(jobs, functions)

    def retract(self) -> list[int]:
        """Take back the jobs that have not started; as `Runner.retract`."""
        taken = self._runner.retract()
        with self._lock:
            for number in taken:
                self._jobs.pop(number, None)
        return taken

    def take(self) -> list[Event]:
        """What has been heard since the last call, in order. Does not wait."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def kill(self) -> None:
        """Kill the runner with all it started; `Died` follows. Harmless if it is dead."""
        self._runner.kill()

    def stop(self) -> None:
        """Let the runner end between tasks and wait for that. Its last use; events that were not taken are lost."""
        if self._thread is None:
            self._runner.stop()
            return
        self._is_stopping = True
        self._runner.wake()
        self._clock.wait(self._ended, _STOP_S)

    # --- for the thread that listens ----------------------------------------------------------------------------------

    def listen(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for the runner, take in what it says, keep the deadline."""
        runner = self._runner
        was_ready = runner.is_ready
        if was_ready and (lull_s := self._lull_s()):
            self._clock.wait(self._ended, lull_s)
        events = runner.poll(min(timeout_s, self._until_deadline_s()))
        now = self._clock.monotonic()
        with self._lock:
            if not was_ready:
                # The initializer's time is not the first task's.
                self._started_at = now
            for event in events:
                self._events.append(self._noted(event, now))
            is_late = self._is_late(now)
            if is_late:
                self._timed_out = next(iter(self._jobs))
            is_news = self._is_news(events, now)
        if is_late:
            runner.kill()
        if is_news:
            self._heard()

    def _run(self) -> None:
        try:
            while not self._ended.is_set() and not self._is_stopping:
                self.listen(_TURN_S)
            if self._is_stopping:
                self._runner.stop()
        except Exception as error:
            # The task that runs is the only one that can have to do with it; the slot goes on with another runner.
            _log.exception("a runner can no longer be listened to")
            self._runner.close()
            with self._lock:
                self._events.append(Died(f"its worker failed to listen to it: {error}", next(iter(self._jobs), None)))
            self._heard()
        finally:
            self._ended.set()

    def _noted(self, event: Event, now: float) -> Event:
        if isinstance(event, Finished):
            self._jobs.pop(event.number, None)
            self._started_at = now
            self._recent_s += (event.seconds - self._recent_s) / 2
        elif isinstance(event, Died):
            self._jobs.clear()
            self._ended.set()
            return event._replace(timed_out=self._timed_out)
        return event

    def _is_news(self, events: Sequence[Event], now: float) -> bool:
        """Whether the slot is to hear of these at once. Called with the lock held."""
        if not events:
            return False
        may_wait = self._jobs and all(isinstance(event, Finished) and event.ok for event in events)
        if may_wait and now - self._told_at < _GATHER_S:
            return False
        self._told_at = now
        return True

    def _until_deadline_s(self) -> float:
        with self._lock:
            if self._task_timeout is None or not self._jobs or self._timed_out is not None:
                return _TURN_S
            return max(0.0, self._started_at + self._task_timeout - self._clock.monotonic())

    def _is_late(self, now: float) -> bool:
        limit_s = self._task_timeout
        return (
            limit_s is not None and bool(self._jobs) and self._timed_out is None and now >= self._started_at + limit_s
        )

    def _lull_s(self) -> float:
        """How long to let outcomes gather before listening, in seconds."""
        n_jobs, recent_s = len(self._jobs), self._recent_s
        if n_jobs <= _FEW_JOBS or recent_s > _TINY_S:
            return 0.0
        return min(_LULL_S, n_jobs / 2 * recent_s)
