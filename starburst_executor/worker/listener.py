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
from starburst_executor.worker.runner.handle import Died, Event, Finished, Job, Runner
from starburst_executor.worker.runner.notes import Note

__all__ = ["Listener"]

_log = logging.getLogger(__name__)

# Longest single wait for a runner; a deadline before then shortens the wait.
_TURN_S = 60.0
# If tasks are shorter than this, the listener lets the outcomes of half a slice gather, because waking the agent for each
# would cost more than the task. It waits at most `_LULL_S`, and not for the last `_FEW_JOBS` jobs.
_TINY_S = 1e-4
_LULL_S = 2e-3
_FEW_JOBS = 8
# Outcomes within this time of each other wake the slot once, since it would only record them. The runner's last outcome, a
# failure and a death wake it at once. Outcomes that are held back behind a long task are taken at the slot's next commit.
_GATHER_S = 5e-3
# A retired runner has a second to end (`Runner.stop`); then it is killed.
_STOP_S = 5.0


class Listener:
    """A slot's interface to its runner. One thread calls `listen`; any thread may call the other methods.

    Args:
        task_timeout: Seconds after which a task is stopped, or None.
        heard: Called when there are events to take. It must not wait.
    """

    def __init__(
        self, runner: Runner, clock: Clock, *, task_timeout: float | None, heard: Callable[[], object]
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._task_timeout = task_timeout
        self._heard = heard
        self._lock = threading.Lock()  # guards: _jobs, _started_at, _recent_s, _timed_out, _events, _told_at
        self._jobs: dict[int, None] = {}  # jobs sent and not known to have ended, in order
        self._started_at = clock.monotonic()
        self._recent_s = 1.0  # recent duration of tasks, used for the lull only
        self._timed_out: int | None = None  # the job that the runner was killed for
        self._events: list[Event] = []
        self._told_at = float("-inf")  # when the slot was last woken
        self._is_stopping = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def started_at(self) -> float:
        """The time at which the oldest open job was started, as far as is known, by the clock's `monotonic`."""
        return self._started_at  # unlocked: one number

    @property
    def has_ended(self) -> bool:
        """Whether the runner has ended."""
        return self._ended.is_set()

    # --- for the slot -------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Listen in a thread with this name until the runner has ended."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def send(self, jobs: Sequence[Job], functions: Mapping[str, bytes]) -> None:
        """Send jobs to the runner, like `Runner.send`."""
        with self._lock:
            if not self._jobs:
                self._started_at = self._clock.monotonic()
            self._jobs.update(dict.fromkeys(job.number for job in jobs))
        self._runner.send(jobs, functions)

    def retract(self) -> list[int]:
        """Take back the jobs that have not started, like `Runner.retract`."""
        taken = self._runner.retract()
        with self._lock:
            for number in taken:
                self._jobs.pop(number, None)
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
        if was_ready and (lull_s := self._lull_s()):
            self._clock.wait(self._ended, lull_s)
        events = runner.poll(min(timeout_s, self._until_deadline_s()))
        now = self._clock.monotonic()
        with self._lock:
            if not was_ready:
                # The initializer's time does not count as the first task's.
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
            # Only the running task can be the cause, so it is the culprit; the slot continues with another runner.
            _log.exception("listening to a runner failed")
            self._runner.close()
            with self._lock:
                self._events.append(Died(f"its worker could not listen to it: {error}", next(iter(self._jobs), None)))
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
        """Return whether these events must wake the slot at once. Called with the lock held."""
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
        """Return how many seconds to let outcomes gather before listening."""
        with self._lock:
            n_jobs, recent_s = len(self._jobs), self._recent_s
        if n_jobs <= _FEW_JOBS or recent_s > _TINY_S:
            return 0.0
        return min(_LULL_S, n_jobs / 2 * recent_s)
