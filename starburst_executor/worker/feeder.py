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

from collections.abc import Callable, Iterator

from starburst_executor.errors import (
    LaunchError,
    PayloadError,
    RecordInvalid,
)
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.attempts import FailedTry
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.protocol.resources import MEMORY, amounts_of
from starburst_executor.worker.backlog import Backlog, Found
from starburst_executor.worker.call_reader import Arrived
from starburst_executor.worker.endings import death_of, of_storable_size
from starburst_executor.worker.given import Given
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.placed import Placed, Stretch
from starburst_executor.worker.runner.jobs import BrokenStart, Completed, Died, Finished, Job, Jobs
from starburst_executor.worker.runner.usage import RunningNow
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.shared_values import SharedFile
from starburst_executor.worker.stock import Grant

__all__ = ["Feeder", "Spawn"]

# Most bytes of calls, and of functions that come with them, that the runner has in addition to the running one.
_FEED_BYTES = 64 * 2**20
# Smaller calls are not counted: all that a runner can have together are below the bound.
_BIG_BYTES = 4 * 1024
# After this many deaths before a task started, runners are taken to fail on this machine, and another worker must try.
_STARTS = 3

Spawn = Callable[..., Listener]


class Feeder:
    """The runners of a slot, one after the other, and the tasks for them.

    Args:
        backlog: The slot's waiting tasks.
        spawn: Start a runner with a listener, and with these folders of code at the front of its path.

    Attributes:
        refused: Tasks whose function this worker could not load; the slot releases them.
        broken: The outcome of an initializer that raised.
        grant: The resources of the slot: of its tasks, and GPUs for its next runner.
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
        self._is_unwanted = False  # the runner was killed because its task is no longer this slot's
        self._next_job = 0
        self._given = Given()
        self._files: dict[int, tuple[SharedFile, ...]] = {}  # of shared values that some of these need
        self._sizes: dict[int, int] = {}  # bytes that were handed over with some of these, of `_BIG_BYTES` and more
        self.refused: list[Placed] = []
        self.broken: bytes | None = None
        self.is_leaving = False
        self.grant = Grant("")

    # --- state --------------------------------------------------------------------------------------------------------

    @property
    def n_jobs(self) -> int:
        """Tasks that the runner has."""
        return len(self._given)

    @property
    def has_runner(self) -> bool:
        """Whether there is a runner."""
        return self._listener is not None

    def running(self) -> Placed | None:
        """Return the task that runs, or the next one to run. Any thread may call it."""
        first = self._given.first()
        return None if first is None else first[1]

    def running_now(self) -> RunningNow | None:
        """Return what the beat says of that task. Any thread may call it."""
        number, placed = self._given.first() or (0, None)
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

        Store: 1 GET for each function that is not kept, and the requests of `CallReader.get`, `SharedValues.get` and
        `Results.get`.
        """
        if self._is_unwanted:
            return False  # it is being killed: what it started now would be blamed
        shared, limit = self._shared, self._shared.session.manifest.current.max_tasks_per_child
        if limit is not None and self._n_given >= limit and not self._given:
            self._retire()
        given: list[tuple[int, Stretch]] = []
        jobs: list[Job | Jobs] = []
        functions: dict[str, bytes] = {}
        of_functions: dict[str, tuple[SharedFile, ...]] = {}
        self._files = {number: files for number, files in self._files.items() if self._given.get(number)}
        self._sizes = {number: n_bytes for number, n_bytes in self._sizes.items() if self._given.get(number)}
        room = _FEED_BYTES - sum(self._sizes.values())
        if self._given and room <= 0:
            return False
        calls = self._backlog.next_calls(len(self._backlog) if limit is None else limit - self._n_given, room)
        for i, (stretch, found) in enumerate(calls):
            digest = stretch.claim.digest
            try:
                # Only the first task of a function looks at it.
                function = None if digest in functions else shared.functions.get(digest)
                if function is not None and function.shared:
                    of_functions[digest] = tuple(map(shared.values.get, function.shared))
                call, files = self._with_references(found)
                files += of_functions.get(digest, ())
            except (PayloadError, RecordInvalid) as error:
                for placed in stretch.each():
                    placed.end(Finished.failed(dump_reason(error)))
                continue
            n_bytes = _n_bytes(call) + (0 if function is None else len(function.body))
            # The runner must have ended its jobs before another takes its place, with other code; and each of many functions
            # may be as big as all calls together.
            if (
                function is not None
                and function.code != self._code
                and not self._change_code(function.code, is_busy=bool(self._given or given))
            ) or (jobs and n_bytes > room):
                self._backlog.put_back(later for later, _ in calls[i:])
                break
            room -= n_bytes
            if function is not None:
                functions[digest] = function.body
            number = self._next_job + 1
            self._next_job += stretch.n
            jobs += _jobs(number, stretch, call, files)
            given.append((number, stretch))
            if files:
                self._files.update(dict.fromkeys(range(number, number + stretch.n), files))
            if n_bytes >= _BIG_BYTES:
                self._sizes[self._next_job] = n_bytes
        if not jobs:
            return False
        if self._listener is None:
            self._listener = self._spawn(self._code, gpus) if (gpus := self.grant.gpus) else self._spawn(self._code)
        self._listener.memory_bytes = dict(amounts_of(self.grant.text)).get(MEMORY)
        was_idle = not self._given
        for number, stretch in given:
            self._given.add(number, stretch)
            self._n_given += stretch.n
        self._listener.send(jobs, functions)
        return was_idle

    def _with_references(self, found: Found) -> tuple[list[bytes] | Arrived, tuple[SharedFile, ...]]:
        """Return a call with the results that it refers to, and the files of its shared values.

        Raises: PayloadError, RecordInvalid: it cannot be read. Store: the requests of `SharedValues.get` and `Results.get`.
        """
        if isinstance(found, list):
            return found, ()
        if not isinstance(found, Arrived):
            raise found
        files = tuple(map(self._shared.values.get, found.shared))
        if found.results:
            found = found._replace(pieces=(*found.pieces, *map(self._shared.results.get, found.results)))
        return found, files

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
            if isinstance(event, Finished | Completed):
                has_ended = True
                self._n_bad_starts = 0
                self._ended(event)
            elif isinstance(event, BrokenStart):
                self.broken = event.outcome
            else:
                self._died(event)
        return has_ended

    def take_unstarted(self, *, and_waiting: bool) -> list[Placed]:
        """Take out and return tasks that have not started: the backlog, jobs ahead, and with `and_waiting` those due for a retry."""
        unstarted = self._backlog.take_all(and_waiting=and_waiting)
        if self._listener is not None and len(self._given) > 1:
            unstarted += (placed for stretch in self._retracted(self._listener) for placed in stretch.each())
        return unstarted

    def drop_lost(self) -> None:
        """Drop tasks that their claims have lost: another worker may have them, and they would delay this slot's tasks.

        If such a task is running, it is killed: otherwise it would run twice at the same time, and its outcome be dropped.
        """
        if self._listener is None or all(stretch.is_held for stretch in self._given):
            return
        self._backlog.put_back(held for stretch in self._retracted(self._listener) for held in stretch.held())
        running = self.running()
        if running is not None and not running.is_held:
            self._is_unwanted = True
            self._listener.kill()

    def end_runner(self) -> None:
        """End the runner, if there is one: its GPUs change. It must have no job."""
        self._retire()

    def kill(self) -> None:
        """Kill the runner, if there is one. Any thread may call it."""
        listener = self._listener
        if listener is not None:
            listener.kill()

    def give_up(self) -> list[Placed]:
        """Return the tasks that may have started, when the runner is dead and this worker cannot go on."""
        if self._listener is not None:
            for event in self._listener.take():
                if isinstance(event, Finished | Completed):
                    self._ended(event)
            self._retracted(self._listener)
        return [placed for stretch in self._given for placed in stretch.each()]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _retracted(self, listener: Listener) -> list[Stretch]:
        return self._given.pop_all(frozenset(listener.retract()))

    def _retire(self) -> None:
        """Stop this runner: it has run `max_tasks_per_child` tasks, or the next task needs other code."""
        if self._listener is not None:
            self._listener.stop()
        self._listener, self._n_given = None, 0

    def _ended(self, event: Finished | Completed) -> None:
        """Record the end of a job, or of several ones that returned."""
        if isinstance(event, Finished):
            placed = self._given.pop(event.number)
            if placed is not None:
                self._finished(placed, event)
            return
        for number, stretch in self._given.pop_run(event.number, event.n):
            start = number - event.number
            self._completed(stretch, event.part(start, start + stretch.n))

    def _completed(self, stretch: Stretch, event: Completed) -> None:
        claim, n, sizes = stretch.claim, stretch.n, [*map(len, event.outcomes)]
        self._shared.durations.add(claim.digest, sum(event.seconds) / n, sum(sizes) / n, n)
        limit = self._shared.session.manifest.current.max_result_bytes
        if max(sizes) <= limit:
            claim.end_run(stretch.first, event)
            return
        for placed, end in zip(stretch.each(), event.each(), strict=True):
            placed.end(of_storable_size(placed, end, limit))

    def _finished(self, placed: Placed, event: Finished) -> None:
        if event.ok:
            claim, position = placed
            self._shared.durations.add(claim.digest, event.seconds, event.n_bytes)
            if position in claim.open:
                limit = self._shared.session.manifest.current.max_result_bytes
                claim.end(position, of_storable_size(placed, event, limit))
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
        options, retries = placed.claim.options, self._shared.session.manifest.current.retries
        if options.retries is not None:
            retries = options.retries
        is_final = options.retry_on is not None and not options.tries_again(outcomes.failure_names(event.outcome))
        if n_failures > retries or is_final:
            placed.end(event)
            return
        self._remember(placed, event)
        self._backlog.retry_later(placed, n_failures)

    def _remember(self, placed: Placed, event: Finished) -> None:
        """Note the error of a try that is followed by another one."""
        claim, position = placed
        failure = outcomes.describe_outcome(event.outcome)
        if failure is None:
            return
        span = claim.span(position)
        error = f"{failure.type_name.removeprefix('builtins.')}: {failure.message}"
        attempt = span.attempt + claim.tries[position] - 1
        worker, now = worker_of(claim.claim_id), self._shared.clock.now()
        claim.errors.append(FailedTry(position, span.run, attempt, error, worker, now))

    def _died(self, event: Died) -> None:
        listener, ran_s = self._listener, self._shared.clock.monotonic() - self.started_at
        if listener is None:
            return
        # If a job ended just before its kill for the timeout, the kill hit the next job, which is not to blame.
        is_bystander = self.is_leaving or any(
            hit is not None and hit != event.culprit for hit in (event.timed_out, event.over)
        )
        # Likewise if it was killed for a task that its claim had lost.
        was_unwanted, self._is_unwanted = self._is_unwanted, False
        if was_unwanted and event.culprit is not None and (hit := self._given.get(event.culprit)) is not None:
            is_bystander = is_bystander or hit.is_held
        placed = self._given.pop(event.culprit) if event.culprit is not None and not is_bystander else None
        unstarted = self._retracted(listener)
        # A job that is neither started nor in the queue was in transit: it has not started either.
        unstarted += self._given.clear()
        self._backlog.put_back(unstarted)
        self._listener, self._n_given = None, 0
        if placed is not None:
            reason = dump_reason(death_of(self._shared.session, placed, event))
            self._failed(placed, Finished.failed(reason, event.stdout, event.stderr, ran_s, event.records))
        elif not is_bystander and not was_unwanted:
            self._n_bad_starts += 1
            if self._n_bad_starts >= _STARTS and self.broken is None:
                raise LaunchError(f"runners die before they start a task: {event.reason}")


def _jobs(
    number: int, stretch: Stretch, call: list[bytes] | Arrived, files: tuple[SharedFile, ...]
) -> Iterator[Job | Jobs]:
    """Yield the jobs of tasks with these calls: one for all of them if they refer to nothing."""
    claim, first, _ = stretch
    ordinal, index = claim.ref.ordinal, claim.ref.first + first
    # `current_task()` counts a try under the same claim as a further attempt. Neighbours have not been tried under it.
    attempt = claim.span(first).attempt + claim.tries.get(first, 0)
    if isinstance(call, list) and not files:
        yield Jobs(number, ordinal, index, attempt, claim.digest, call, claim.packed_options)
        return
    shared = tuple((file.name, str(file.path), file.n_bytes) for file in files)
    for i, each in enumerate([Arrived(body, ()) for body in call] if isinstance(call, list) else [call]):
        yield Job(
            *(number + i, ordinal, index + i, attempt, claim.digest),
            *(each.call, each.pieces, shared, claim.packed_options),
        )


def _n_bytes(call: list[bytes] | Arrived) -> int:
    return sum(map(len, call)) if isinstance(call, list) else len(call.call)
