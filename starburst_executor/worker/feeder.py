"""Feeds one slot's runner: what waits for it, what it has, what became of that, and which tries are made again.

    add(claim) ──► backlog ──jobs──► listener ──Finished | Died──► claim.found     (a commit is the slot's business)
                     ▲  ▲               │   │
                     │  └── retry ◄─────┘   └──► refused: the function could not be loaded here
                     └───── a death: what had not started

# Guarantee: each task of a claim that was added is in exactly one place: in the backlog, in the runner, waiting for its
next try, refused, found, or taken out by `take_unstarted`. A claim may lose tasks at any time (its worker was taken for
lost); what the runner has of those is dropped by `drop_lost`, and none of them is found.

Owned by the thread of its slot. Functions and calls are read from the store; nothing else of it is called here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starburst_executor.errors import LaunchError, PayloadError, RecordInvalid, StarburstError, TaskCrashed, TaskTimeout
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import task_id
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.worker.arguments import Arrived, Trouble, Wanted
from starburst_executor.worker.claims import Claim
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.runner.jobs import BrokenStart, Died, Finished, Job
from starburst_executor.worker.shared import Shared

__all__ = ["Feeder", "Placed", "Spawn"]

# Calls handed to the runner ahead of the one that runs, at the most.
_FEED_BYTES = 64 * 2**20
# A runner that dies this often without having started a task will not do better on this machine: another is to try.
_STARTS = 3

Spawn = Callable[[Sequence[str]], Listener]


@dataclass(frozen=True, slots=True)
class Placed:
    """A task in a claim: what a job stands for."""

    claim: Claim
    index: int

    @property
    def is_held(self) -> bool:
        """Whether the claim still holds it."""
        return self.index in self.claim.open

    @property
    def digest(self) -> str:
        """Names its function."""
        seen = self.claim.seen.status
        return seen.functions[seen.entries[self.index].function]

    @property
    def sequence(self) -> int:
        """Its place among its submitter's tasks."""
        return self.claim.ref.first + self.index

    @property
    def task_id(self) -> str:
        """For people."""
        return task_id(self.claim.ref.ordinal, self.sequence)

    def end(self, finished: Finished) -> None:
        """It has ended, and waits for its commit; unless it was lost meanwhile."""
        if self.is_held:
            self.claim.found[self.index] = finished


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A failed task that keeps its claim until its next try."""

    due: float
    placed: Placed


class Feeder:
    """One runner after the other, and the tasks for it.

    Args:
        spawn: Makes a runner that is listened to, with these folders of code at the front of its path.

    Attributes:
        refused: Tasks whose function could not be loaded here, for the slot to release.
        broken: The outcome of an initializer that raised.
        is_leaving: What a killed runner was running is nobody's fault: the grace time is over.
    """

    def __init__(self, shared: Shared, spawn: Spawn) -> None:
        self._shared = shared
        self._spawn = spawn
        self._listener: Listener | None = None
        self._code: tuple[str, ...] = ()  # the runner's: modules that it has imported cannot be exchanged
        self._n_given = 0  # tasks this runner has been given, for max_tasks_per_child
        self._n_bad_starts = 0
        self._next_job = 0
        self._jobs: dict[int, Placed] = {}
        self._backlog: deque[Placed] = deque()
        self._waiting: list[_Waiting] = []
        self.refused: list[Placed] = []
        self.broken: bytes | None = None
        self.is_leaving = False

    # --- how things stand ---------------------------------------------------------------------------------------------

    @property
    def n_jobs(self) -> int:
        """Tasks that the runner has."""
        return len(self._jobs)

    @property
    def n_backlog(self) -> int:
        """Tasks that wait for the runner."""
        return len(self._backlog)

    @property
    def has_runner(self) -> bool:
        """Whether there is a runner to be listened to."""
        return self._listener is not None

    def running(self) -> Placed | None:
        """The task that runs, or is the next to. May be called by another thread."""
        return next(iter(list(self._jobs.values())[:1]), None)

    @property
    def started_at(self) -> float:
        """When that task was started, as far as is known."""
        listener = self._listener
        return self._shared.clock.monotonic() if listener is None else listener.started_at

    def next_try_at(self) -> float | None:
        """When the next failed task is due again."""
        return min((waiting.due for waiting in self._waiting), default=None)

    # --- in -----------------------------------------------------------------------------------------------------------

    def add(self, claim: Claim) -> None:
        """Take over a new claim."""
        self._backlog.extend(Placed(claim, index) for index in sorted(claim.open))

    def requeue_due(self) -> list[Placed]:
        """Have failed tasks tried again whose pause is over; which these are."""
        now = self._shared.clock.monotonic()
        due = [waiting.placed for waiting in self._waiting if waiting.due <= now]
        if due:
            self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
            self._backlog.extend(due)
        return due

    def feed(self) -> bool:
        """Hand the backlog to the runner, as much as it may have; whether it was idle and has something now.

        Store: 1 GET for each function that is new here, and for what `Arguments.get` says.
        """
        shared, limit = self._shared, self._shared.session.manifest.max_tasks_per_child
        if limit is not None and self._n_given >= limit and not self._jobs:
            self._retire()
        given: dict[int, Placed] = {}
        jobs: list[Job] = []
        functions: dict[str, bytes] = {}
        calls = self._next_calls(len(self._backlog) if limit is None else limit - self._n_given)
        for i, (placed, call) in enumerate(calls):
            try:
                if not isinstance(call, Arrived):
                    raise call
                function = shared.functions.get(placed.digest)
            except (PayloadError, RecordInvalid) as error:
                placed.end(Finished.failed(dump_reason(error)))
                continue
            if function.code != self._code:
                if self._jobs or given:
                    # It needs another runner: when this one has ended what it has.
                    self._backlog.extendleft(later for later, _ in reversed(calls[i:]))
                    break
                self._retire()
                self._code = function.code
            jobs.append(self._job(placed, call))
            functions[placed.digest] = function.body
            given[jobs[-1].number] = placed
        if not jobs:
            return False
        if self._listener is None:
            self._listener = self._spawn(self._code)
        was_idle = not self._jobs
        self._jobs.update(given)
        self._n_given += len(jobs)
        self._listener.send(jobs, functions)
        return was_idle

    def _next_calls(self, at_most: int) -> list[tuple[Placed, Arrived | Trouble]]:
        """The next of the backlog with their calls, read together, or with what is wrong with those."""
        some: list[Placed] = []
        wanted: list[Wanted] = []
        while self._backlog and len(some) < at_most:
            placed = self._backlog.popleft()
            if not placed.is_held:
                continue
            call, ref = placed.claim.entry(placed.index).call, placed.claim.ref
            if call is None:
                error = PayloadError(f"a task without its call: task={placed.task_id}")
                placed.end(Finished.failed(dump_reason(error)))
                continue
            some.append(placed)
            wanted.append(Wanted(ref, call, status.call_label(ref.ordinal, placed.sequence, placed.digest)))
        calls = self._shared.arguments.get(wanted, _FEED_BYTES) if wanted else []
        self._backlog.extendleft(reversed(some[len(calls) :]))
        return list(zip(some, calls, strict=False))

    def _job(self, placed: Placed, call: Arrived) -> Job:
        self._next_job += 1
        # A task that is tried again under the same claim is on a further attempt for a caller of `current_task()`.
        attempt = placed.claim.entry(placed.index).attempt + placed.claim.tries.get(placed.index, 0)
        return Job(self._next_job, placed.sequence, attempt, placed.task_id, placed.digest, call.call, call.pieces)

    # --- out ----------------------------------------------------------------------------------------------------------

    def hear(self) -> bool:
        """Take in what the runner has said; whether a task has ended. Raises: LaunchError: none can be started here."""
        has_ended = False
        for event in [] if self._listener is None else self._listener.take():
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
        """Take out what has not started: the backlog, what the runner has ahead, also what waits for its next try."""
        unstarted = list(self._backlog)
        self._backlog.clear()
        if and_waiting:
            unstarted += [waiting.placed for waiting in self._waiting]
            self._waiting.clear()
        if self._listener is not None and len(self._jobs) > 1:
            unstarted += self._retracted(self._listener)
        return unstarted

    def drop_lost(self) -> None:
        """Let go of tasks that their claims have lost: they are another worker's now, and would be in the way of others.

        What runs of them is stopped: it would be run twice at a time, for an outcome that is dropped.
        """
        lost = [placed for placed in self._jobs.values() if not placed.is_held]
        if not lost or self._listener is None:
            return
        self._backlog.extendleft(reversed([placed for placed in self._retracted(self._listener) if placed.is_held]))
        running = self.running()
        if running is not None and not running.is_held:
            self._listener.kill()

    def kill(self) -> None:
        """Kill the runner, if there is one. May be called by any thread."""
        listener = self._listener
        if listener is not None:
            listener.kill()

    def give_up(self) -> list[Placed]:
        """The runner is dead and this worker cannot go on: what may have started."""
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
        """Let this runner go: it has had its `max_tasks_per_child`, or has other code than what is next."""
        if self._listener is not None:
            self._listener.stop()
        self._listener, self._n_given = None, 0

    def _finished(self, placed: Placed, event: Finished) -> None:
        if event.ok:
            self._shared.durations.add(placed.digest, event.seconds)
            placed.end(self._of_storable_size(placed, event))
        elif event.loaded:
            self._failed(placed, event)
        elif placed.claim.entry(placed.index).refusals:
            placed.end(event)
        else:
            # Another worker may be able to load the function, once; then it fails.
            self.refused.append(placed)

    def _failed(self, placed: Placed, event: Finished) -> None:
        """A failed try: the next one after a pause if retries are left, else the task fails."""
        if not placed.is_held:
            return
        n_failures = placed.claim.count_failure(placed.index)
        if n_failures > self._shared.session.manifest.retries:
            placed.end(event)
            return
        timings, clock = self._shared.session.manifest.timings, self._shared.clock
        pause_s = min(timings.retry_first_s * 2 ** (n_failures - 1), timings.retry_most_s)
        self._waiting.append(_Waiting(clock.monotonic() + pause_s * (0.5 + clock.random() / 2), placed))

    def _died(self, event: Died) -> None:
        listener, ran_s = self._listener, self._shared.clock.monotonic() - self.started_at
        if listener is None:
            return
        # A job that ended just before it was killed leaves the one after it to be hit, which is not to blame.
        is_bystander = self.is_leaving or (event.timed_out is not None and event.culprit != event.timed_out)
        placed = self._jobs.pop(event.culprit, None) if event.culprit is not None and not is_bystander else None
        unstarted = self._retracted(listener)
        # What is neither started nor to be found in the queue was being handed over: it has not started either.
        unstarted += self._jobs.values()
        self._jobs.clear()
        self._backlog.extendleft(reversed(unstarted))
        self._listener, self._n_given = None, 0
        if placed is not None:
            reason = dump_reason(self._death(placed, event))
            self._failed(placed, Finished.failed(reason, event.stdout, event.stderr, ran_s))
        elif not is_bystander:
            self._n_bad_starts += 1
            if self._n_bad_starts >= _STARTS and self.broken is None:
                raise LaunchError(f"the processes that should run tasks die at once: {event.reason}")

    def _death(self, placed: Placed, event: Died) -> StarburstError:
        session = self._shared.session
        where = f"task={placed.task_id}, session={session.session_id}"
        if event.timed_out is not None:
            limit_s = session.manifest.task_timeout
            return TaskTimeout(f"the task ran longer than task_timeout={limit_s:g} s and was stopped: {where}")
        return TaskCrashed(f"the process that ran the task died: {event.reason}: {where}")

    def _of_storable_size(self, placed: Placed, event: Finished) -> Finished:
        limit = self._shared.session.manifest.max_result_bytes
        if len(event.outcome) <= limit:
            return event
        reason = PayloadError(
            f"the task's result is too large to store: bytes={len(event.outcome)}, max_result_bytes={limit}, "
            f"task={placed.task_id}; return less, write it to storage of your own, or raise max_result_bytes"
        )
        return event._replace(ok=False, outcome=dump_reason(reason))
