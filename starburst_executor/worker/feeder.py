"""Feeds one slot's runner: sends it jobs from the backlog, records their ends, and schedules retries.

    backlog ──jobs──► listener ──Finished | Died──► claim.ended     (the slot commits it)
     ▲  ▲                │   │
     │  └── retry ◄──────┘   └──► refused: this worker could not load the function
     └───── a death: jobs that had not started

Guarantee: each task of an added claim is in exactly one place: in the backlog, in the runner, waiting for its next try,
refused, in `claim.ended`, or taken out by `take_unstarted`. A claim may lose tasks at any time, if watchers judge its worker
lost. `drop_lost` then removes them from the runner, and none of them gets into `claim.ended`.

The slot's thread owns it. It reads functions from the store, the backlog reads calls; neither makes other store requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starburst_executor.errors import LaunchError, PayloadError, RecordInvalid, StarburstError, TaskCrashed, TaskTimeout
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.backlog import Backlog
from starburst_executor.worker.call_reader import Arrived
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.placed import Placed
from starburst_executor.worker.runner.jobs import BrokenStart, Died, Finished, Job
from starburst_executor.worker.runner.usage import RunningNow
from starburst_executor.worker.shared import Shared

__all__ = ["Feeder", "Spawn"]

# Most bytes of calls, and of functions that come with them, that the runner has in addition to the running one.
_FEED_BYTES = 64 * 2**20
# Smaller calls are not counted: all that a runner can have together are below the bound.
_BIG_BYTES = 4 * 1024
# After this many deaths before a task started, runners are taken to fail on this machine, and another worker must try.
_STARTS = 3

Spawn = Callable[[Sequence[str]], Listener]


class Feeder:
    """The runners of a slot, one after the other, and the tasks for them.

    Args:
        backlog: The slot's waiting tasks.
        spawn: Start a runner with a listener, and with these folders of code at the front of its path.

    Attributes:
        refused: Tasks whose function this worker could not load; the slot releases them.
        broken: The outcome of an initializer that raised.
        is_leaving: Whether the grace time is over: no task is then blamed for the death of a runner.
    """

    def __init__(self, shared: Shared, backlog: Backlog, spawn: Spawn) -> None:
        self._shared = shared
        self._backlog = backlog
        self._spawn = spawn
        self._listener: Listener | None = None
        self._code: tuple[str, ...] = ()  # of the current runner, which cannot exchange modules that it has imported
        self._n_given = 0  # tasks that this runner has got, for max_tasks_per_child
        self._n_bad_starts = 0
        self._next_job = 0
        self._jobs: dict[int, Placed] = {}
        self._sizes: dict[int, int] = {}  # bytes that were handed over with some of these, of `_BIG_BYTES` and more
        self.refused: list[Placed] = []
        self.broken: bytes | None = None
        self.is_leaving = False

    # --- state --------------------------------------------------------------------------------------------------------

    @property
    def n_jobs(self) -> int:
        """Tasks that the runner has."""
        return len(self._jobs)

    @property
    def has_runner(self) -> bool:
        """Whether there is a runner."""
        return self._listener is not None

    def running(self) -> Placed | None:
        """Return the task that runs, or the next one to run. Any thread may call it."""
        return next(iter(list(self._jobs.values())[:1]), None)

    def running_now(self) -> RunningNow | None:
        """Return what the beat says of that task. Any thread may call it."""
        number, placed = next(iter(list(self._jobs.items())[:1]), (0, None))
        listener = self._listener
        if placed is None or listener is None:
            return None
        seconds = self._shared.clock.monotonic() - listener.started_at
        return RunningNow(placed.task_id, seconds, listener.pid, listener.note(number))

    @property
    def started_at(self) -> float:
        """The time at which that task was started, as far as is known."""
        listener = self._listener
        return self._shared.clock.monotonic() if listener is None else listener.started_at

    # --- in -----------------------------------------------------------------------------------------------------------

    def feed(self) -> bool:
        """Send the backlog to the runner, as far as its limits permit; return whether it was idle and now has a task.

        Store: 1 GET for each function that is not kept, and the requests of `CallReader.get`.
        """
        shared, limit = self._shared, self._shared.session.manifest.current.max_tasks_per_child
        if limit is not None and self._n_given >= limit and not self._jobs:
            self._retire()
        given: dict[int, Placed] = {}
        jobs: list[Job] = []
        functions: dict[str, bytes] = {}
        self._sizes = {number: n_bytes for number, n_bytes in self._sizes.items() if number in self._jobs}
        room = _FEED_BYTES - sum(self._sizes.values())
        if self._jobs and room <= 0:
            return False
        calls = self._backlog.next_calls(len(self._backlog) if limit is None else limit - self._n_given, room)
        for i, (placed, call) in enumerate(calls):
            digest = placed.claim.digest
            try:
                if not isinstance(call, Arrived):
                    raise call
                # Only the first task of a function looks at it.
                function = None if digest in functions else shared.functions.get(digest)
            except (PayloadError, RecordInvalid) as error:
                placed.end(Finished.failed(dump_reason(error)))
                continue
            n_bytes = len(call.call) + (0 if function is None else len(function.body))
            # The runner must have ended its jobs before another takes its place, with other code; and each of many functions
            # may be as big as all calls together.
            if (
                function is not None
                and function.code != self._code
                and not self._change_code(function.code, is_busy=bool(self._jobs or given))
            ) or (jobs and n_bytes > room):
                self._backlog.put_back(later for later, _ in calls[i:])
                break
            room -= n_bytes
            if function is not None:
                functions[digest] = function.body
            self._next_job = number = self._next_job + 1
            jobs.append(_job(number, placed, call))
            given[number] = placed
            if n_bytes >= _BIG_BYTES:
                self._sizes[number] = n_bytes
        if not jobs:
            return False
        if self._listener is None:
            self._listener = self._spawn(self._code)
        was_idle = not self._jobs
        self._jobs.update(given)
        self._n_given += len(jobs)
        self._listener.send(jobs, functions)
        return was_idle

    def _change_code(self, code: tuple[str, ...], *, is_busy: bool) -> bool:
        """Have the next runner use other code; return False if this one has jobs, which must end before."""
        if is_busy:
            return False
        self._retire()
        self._code = code
        return True

    # --- out ----------------------------------------------------------------------------------------------------------

    def hear(self) -> bool:
        """Process the runner's events; return whether a task has ended. Raises: LaunchError: runners cannot start."""
        if self._listener is None:
            return False
        has_ended = False
        for event in self._listener.take():
            if isinstance(event, Finished):
                has_ended = True
                self._n_bad_starts = 0
                placed = self._jobs.pop(event.number, None)
                if placed is not None:
                    self._finished(placed, event)
            elif isinstance(event, BrokenStart):
                self.broken = event.outcome
            else:
                self._died(event)
        return has_ended

    def take_unstarted(self, *, and_waiting: bool) -> list[Placed]:
        """Take out and return tasks that have not started: the backlog, jobs ahead, and with `and_waiting` those due for a retry."""
        unstarted = self._backlog.take_all(and_waiting=and_waiting)
        if self._listener is not None and len(self._jobs) > 1:
            unstarted += self._retracted(self._listener)
        return unstarted

    def drop_lost(self) -> None:
        """Drop tasks that their claims have lost: another worker may have them, and they would delay this slot's tasks.

        If such a task is running, it is killed: otherwise it would run twice at the same time, and its outcome be dropped.
        """
        lost = [placed for placed in self._jobs.values() if not placed.is_held]
        if not lost or self._listener is None:
            return
        self._backlog.put_back(placed for placed in self._retracted(self._listener) if placed.is_held)
        running = self.running()
        if running is not None and not running.is_held:
            self._listener.kill()

    def kill(self) -> None:
        """Kill the runner, if there is one. Any thread may call it."""
        listener = self._listener
        if listener is not None:
            listener.kill()

    def give_up(self) -> list[Placed]:
        """Return the tasks that may have started, when the runner is dead and this worker cannot go on."""
        if self._listener is not None:
            for event in self._listener.take():
                if isinstance(event, Finished) and (placed := self._jobs.pop(event.number, None)) is not None:
                    self._finished(placed, event)
            self._retracted(self._listener)
        return list(self._jobs.values())

    # --- inside -------------------------------------------------------------------------------------------------------

    def _retracted(self, listener: Listener) -> list[Placed]:
        return [self._jobs.pop(number) for number in listener.retract() if number in self._jobs]

    def _retire(self) -> None:
        """Stop this runner: it has run `max_tasks_per_child` tasks, or the next task needs other code."""
        if self._listener is not None:
            self._listener.stop()
        self._listener, self._n_given = None, 0

    def _finished(self, placed: Placed, event: Finished) -> None:
        if event.ok:
            claim, position = placed
            self._shared.durations.add(claim.digest, event.seconds, event.n_bytes)
            if position in claim.open:
                limit = self._shared.session.manifest.current.max_result_bytes
                claim.end(position, _of_storable_size(placed, event, limit))
        elif event.loaded:
            self._failed(placed, event)
        elif placed.was_refused:
            placed.end(event)
        else:
            # Another worker gets one chance to load the function; after that the task fails.
            self.refused.append(placed)

    def _failed(self, placed: Placed, event: Finished) -> None:
        """Schedule the next try after a pause if retries are left; otherwise the task fails."""
        if not placed.is_held:
            return
        n_failures = placed.claim.count_failure(placed.position)
        if n_failures > self._shared.session.manifest.current.retries:
            placed.end(event)
            return
        self._backlog.retry_later(placed, n_failures)

    def _died(self, event: Died) -> None:
        listener, ran_s = self._listener, self._shared.clock.monotonic() - self.started_at
        if listener is None:
            return
        # If a job ended just before its kill for the timeout, the kill hit the next job, which is not to blame.
        is_bystander = self.is_leaving or (event.timed_out is not None and event.culprit != event.timed_out)
        placed = self._jobs.pop(event.culprit, None) if event.culprit is not None and not is_bystander else None
        unstarted = self._retracted(listener)
        # A job that is neither started nor in the queue was in transit: it has not started either.
        unstarted += self._jobs.values()
        self._jobs.clear()
        self._backlog.put_back(unstarted)
        self._listener, self._n_given = None, 0
        if placed is not None:
            reason = dump_reason(_death(self._shared.session, placed, event))
            self._failed(placed, Finished.failed(reason, event.stdout, event.stderr, ran_s, event.records))
        elif not is_bystander:
            self._n_bad_starts += 1
            if self._n_bad_starts >= _STARTS and self.broken is None:
                raise LaunchError(f"runners die before they start a task: {event.reason}")


def _job(number: int, placed: Placed, call: Arrived) -> Job:
    claim, position = placed
    # `current_task()` counts a try under the same claim as a further attempt.
    attempt = claim.span(position).attempt + claim.tries.get(position, 0)
    return Job(number, claim.ref.ordinal, claim.ref.first + position, attempt, claim.digest, call.call, call.pieces)


def _death(session: SessionStore, placed: Placed, event: Died) -> StarburstError:
    """Return the error of a task whose runner died while it ran it."""
    where = f"task={placed.task_id}, session={session.session_id}"
    if event.timed_out is not None:
        limit_s = session.manifest.current.task_timeout
        return TaskTimeout(f"the task ran longer than task_timeout={limit_s:g} s and was stopped: {where}")
    return TaskCrashed(f"the process that ran the task died: {event.reason}: {where}")


def _of_storable_size(placed: Placed, event: Finished, limit: int) -> Finished:
    """Return the end of a task, or its failure if its result is larger than `limit` bytes."""
    if len(event.outcome) <= limit:
        return event
    reason = PayloadError(
        f"the task's result is too large to store: bytes={len(event.outcome)}, max_result_bytes={limit}, "
        f"task={placed.task_id}; return less, write it to your own storage, or raise max_result_bytes"
    )
    return event._replace(ok=False, outcome=dump_reason(reason))
