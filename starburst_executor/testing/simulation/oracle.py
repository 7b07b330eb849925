"""The oracle: sees every write and every start of a task, and reports at once any promise that one of them breaks.

It knows more than any process: which workers are alive, which tasks each still runs, and every object's previous state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol import calls, outcomes, pieces, records
from starburst_executor.protocol.keys import SessionKeys, task_id, worker_of
from starburst_executor.protocol.options import DEFAULT, TaskOptions, decoded
from starburst_executor.protocol.pieces import Piece, Result
from starburst_executor.protocol.records import Manifest, SessionState, WorkerState
from starburst_executor.protocol.references import ResultRef
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import blocks, encoding
from starburst_executor.protocol.spans.after import upstream_of
from starburst_executor.protocol.spans.record import BLOCKED, ENDED, Entry, Located, State, Status
from starburst_executor.protocol.spans.transitions import has_blocked
from starburst_executor.session.stops import ALL
from starburst_executor.testing.simulation.limits import LimitChecks
from starburst_executor.testing.simulation.processes import WorkerProcess
from starburst_executor.testing.simulation.scheduler import Process
from starburst_executor.testing.simulation.store import Kept
from starburst_executor.testing.simulation.tasks import Behaviour, value_name
from starburst_executor.worker.runner.jobs import Job

__all__ = ["Execution", "Oracle", "Task"]

# A last beat is read again when claims are taken back, by several watchers, and by each process that sums up beats.
_MAX_REREADS = 5
# Ends of tries: how tasks fail, other than by the worker's or the store's trouble.
_OF_TRIES = ("StarburstError", "TaskCrashed", "TaskTimeout")
_NEARLY_S = 0.01
_FAILED = frozenset({State.FAILED, State.CANCELLED})
_NAMES = {state.value: state.name for state in State}


class Task(NamedTuple):
    """The submitted call of a task: its number and behaviour."""

    number: int
    behaviour: str


class Execution(NamedTuple):
    """One start of a task."""

    task_id: str
    attempt: int
    process: Process


class Oracle:
    """Checks one session's store.

    `stopped` is called when a task was cancelled that a worker holds, with worker, task and attempt: it must not run for long.

    It has more than fifteen attributes because it keeps what each promise needs of the history, beside every object as it was.

    Args:
        workers: Every worker process of the run, by its id.
        fail: Called with each violation.
        quiet_s: The time since the last fault.
    """

    def __init__(
        self,
        keys: SessionKeys,
        sealer: Sealer,
        objects: dict[str, Kept],
        workers: dict[str, WorkerProcess],
        *,
        fail: Callable[[str], None],
        quiet_s: Callable[[], float],
        lost_s: float,
    ) -> None:
        self.keys = keys
        self._sealer = sealer
        self._objects = objects
        self._fail = fail
        self._quiet_s = quiet_s
        self._lost_s = lost_s
        self.manifest: Manifest | None = None
        self._before = Status(0, 0, (), ())  # the status object that is being replaced
        self.statuses: dict[str, Status] = {}
        self.tasks: dict[str, Task] = {}
        self.numbers: dict[int, str] = {}
        self.ended: dict[tuple[str, int], Entry] = {}
        self.executions: dict[str, Execution] = {}
        self._workers = workers
        self.counts: Counter[str] = Counter()
        self.is_deleted = False
        self.stopped: Callable[[WorkerProcess, str, int], None] = lambda *_: None
        self.born_late: set[str] = set()  # status objects that landed when the session was over
        self.limits = LimitChecks(workers, fail=fail, wrongly_lost=self._wrongly_lost)
        self._attempts: dict[tuple[str, str], list[int]] = {}  # task and worker to the attempts that it claimed
        self._failed: Counter[tuple[str, int, str]] = Counter()  # failed tries, by task, attempt and worker
        self._failed_at: dict[str, tuple[WorkerProcess, int, float]] = {}  # the last failed try: worker, attempt, time
        self._keys: dict[str, str] = {}  # task to status object
        self._given_up: set[tuple[str, int]] = set()  # task and attempt that their own worker released or committed
        self._unended: Counter[tuple[int, int]] = Counter()
        self._n_rereads: Counter[tuple[str, str]] = Counter()  # of last beats, by process and beat

    # --- tasks --------------------------------------------------------------------------------------------------------

    def started(self, process: WorkerProcess, job: Job, number: int) -> str:
        """Record that a runner starts a task; return the execution's name."""
        name = f"{number}/{len(self.executions)}"
        claimed = self._attempts.get((job.task_id, process.worker_id), [0])
        self.executions[name] = Execution(job.task_id, claimed[-1], process)
        self.counts["executions"] += 1
        task = self.tasks.get(job.task_id)
        if task is None or task.number != number:
            self._fail(f"another task's call was run: task={job.task_id}, call={number}, known={task}")
        # A worker that claimed the task twice may still have it in the runner of the first claim, if that was taken back.
        # Once the session is over, its worker may be ending.
        is_over = self.manifest is None or self.manifest.state.is_over
        entry = self._entry(job.task_id)
        n_failed = self._failed[job.task_id, claimed[-1], process.worker_id]
        if (
            entry is not None
            and (entry.state, entry.attempt) == (State.CLAIMED, claimed[-1])
            and entry.failures < n_failed
        ):
            self._fail(f"a task was tried again before its failure was stored: task={job.task_id}, failures={n_failed}")
        if entry is not None and self._is_early(process, job, claimed[-1], entry.failures):
            self._fail(f"a task was tried again before its backoff had passed: task={job.task_id}")
        if len(claimed) == 1 and (job.task_id, claimed[0]) in self._given_up and not is_over:
            self._fail(f"a task was started that its worker had given up: task={job.task_id}, attempt={claimed[0]}")
        return name

    def needed(self, job: Job, ref: ResultRef, value: object) -> None:
        """Check that a task that starts has the committed result of the task for which it waits."""
        needed = task_id(ref.ordinal, ref.sequence)
        entry = self._entry(needed)
        execution = self.executions.get(value_name(value))
        self.counts["results passed on"] += 1
        if entry is None or entry.state != State.COMPLETED:
            self._fail(f"a task was started before the task whose result it needs: task={job.task_id}, needs={needed}")
        elif execution is None or (execution.task_id, execution.attempt) != (needed, entry.attempt):
            self._fail(f"a task got a result that was not committed: task={job.task_id}, needs={needed}, value={value}")

    def is_released(self, status: Status, position: int) -> bool:
        """Return whether all tasks for which a task waits have ended, or cannot: one of them has failed or is cancelled."""
        states = self._upstream_states(status, position)
        return all(state == State.COMPLETED for state in states) or bool(_FAILED & {*states})

    def _upstream_states(self, status: Status, position: int) -> list[State | None]:
        found: list[State | None] = []
        for place, at in upstream_of(status).get(position, ()):
            seen = self.statuses.get(self.keys.statuses + place)
            found.append(State.CANCELLED if not place else None if seen is None else seen.entry(at).state)
        return found

    def failed(self, process: WorkerProcess, job: Job) -> None:
        """Record that a started task raised or crashed."""
        claimed = self._attempts.get((job.task_id, process.worker_id), [0])
        self._failed[job.task_id, claimed[-1], process.worker_id] += 1
        self._failed_at[job.task_id] = (process, claimed[-1], process.scheduler.now)

    def _is_early(self, process: WorkerProcess, job: Job, attempt: int, n_failures: int) -> bool:
        """Return whether a task is tried again under the same claim before its backoff has passed, by its worker's clock."""
        backoff = decoded(job.options).backoff
        owner, failed_attempt, at = self._failed_at.get(job.task_id, (None, 0, 0.0))
        if backoff is None or owner is not process or failed_attempt != attempt or not n_failures:
            return False
        return (process.scheduler.now - at) * process.rate < backoff.pause_s(n_failures) - _NEARLY_S

    def _entry(self, task_id: str) -> Entry | None:
        seen = self.statuses.get(self._keys.get(task_id, ""))
        return None if seen is None else seen.entry(int(task_id.partition("-")[2]) - seen.first)

    # --- reads --------------------------------------------------------------------------------------------------------

    def was_read(self, key: str, kept: Kept, process: Process) -> None:
        """Record that a process reads an object: its requests must not grow with the workers that have left."""
        if not key.startswith(self.keys.workers) or process.read.get(key) != kept.etag or self.is_deleted:
            return
        beat = records.decode_beat(kept.body)
        owner = self._workers.get(beat.worker_id)
        if (
            beat.state != WorkerState.LEFT
            or (owner is not None and owner is process)
            or self._has_claims(beat.worker_id)
        ):
            return
        self._n_rereads[process.name, key] += 1
        if self._n_rereads[process.name, key] > _MAX_REREADS:
            self._fail(f"the last beat of a worker that has left is read again and again: {key}, by {process}")

    def _has_claims(self, worker_id: str) -> bool:
        return any(worker_of(claim_id) == worker_id for seen in self.statuses.values() for claim_id in seen.claims())

    # --- writes -------------------------------------------------------------------------------------------------------

    def wrote(self, key: str, before: Kept | None, after: Kept | None, process: Process) -> None:
        """Record that one object changed."""
        if self.is_deleted:
            return
        if key.startswith(self.keys.statuses):
            self._wrote_status(key, after, process)
        elif key == self.keys.manifest:
            self._wrote_manifest(before, after, process)
        elif limit := self.keys.parse_limit(key):
            self.limits.wrote(limit, after, process)
        elif before is not None and after is not None and key != self.keys.bell:
            self._wrote_other(key, before, after, process)

    def _wrote_other(self, key: str, before: Kept, after: Kept, process: Process) -> None:
        if key.startswith(self.keys.workers):
            old, new = records.decode_beat(before.body), records.decode_beat(after.body)
            # A late beat can land only where its condition holds; then it is the next beat.
            if new.number < old.number:
                self._fail(f"a beat went back: worker={new.worker_id}, {old.number} -> {new.number}")
        elif not key.startswith(self.keys.clients) and before.body != after.body:
            self._fail(f"an object that is written once was changed: {key}, by {process}")

    def _wrote_manifest(self, before: Kept | None, after: Kept | None, process: Process) -> None:
        if after is None:
            self.is_deleted = True
            return
        old, new = self.manifest, records.decode_manifest(after.body)
        self.manifest = new
        if before is None or old is None:
            return
        if old.state != new.state and not old.state.may_become(new.state):
            self._fail(f"the session's state went back: {old.state.value} -> {new.state.value}")
        if new.state == SessionState.EXPIRED != old.state and (old.deadline_at or 0.0) > process.clock.now():
            self._fail(f"the session was expired before its deadline, by {process}")
        if [s.client_id for s in new.submitters[: len(old.submitters)]] != [s.client_id for s in old.submitters]:
            self._fail("a submitter's ordinal was lost")
        if any(b.epochs < a.epochs for a, b in zip(old.submitters, new.submitters)):  # noqa: B905 - it may only grow
            self._fail("an epoch was forgotten")
        self._check_listed()

    def _wrote_status(self, key: str, after: Kept | None, process: Process) -> None:
        old = self.statuses.get(key)
        ref = self.keys.parse_status(key)
        if ref is None:
            self._fail(f"a status object under a malformed key: {key}")
            return
        if old is None and self.manifest is not None and self.manifest.state == SessionState.DELETED:
            # An object that lands while the session is being deleted is not read; it is swept with the prefix.
            return
        place = (ref.ordinal, ref.epoch)
        self._unended[place] -= old is not None and not _has_ended(old)
        if after is None:
            self.statuses.pop(key, None)
            return
        try:
            new = encoding.decode(after.body)
        except RecordInvalid as error:
            self._fail(f"a status object was replaced by another that cannot be read: {key}, by {process}: {error}")
            return
        self.statuses[key] = new
        if (len(after.body) % 8, len(after.body) // 8 % 8) != (encoding.size_class(new), encoding.pending_order(new)):
            self._fail(f"the size has another class than the tasks: {key}")
        self._unended[place] += not _has_ended(new)
        if old is None:
            self._born(key, new)
        else:
            if (old.functions, old.n_tasks, old.first) != (new.functions, new.n_tasks, new.first):
                self._fail(f"a status object was replaced by another: {key}, tasks={old.n_tasks} -> {new.n_tasks}")
                return
            self._before = old
            self._check_blocked(old, new, process)
            for index, (a, b) in enumerate(zip(old.entries, new.entries, strict=True)):
                if a.call != b.call and (b.state != State.COMPLETED or b.call is not None):
                    self._fail(
                        f"a call was changed or dropped that may be needed: task={new.ordinal}-{new.first + index}"
                    )
                if a._replace(call=b.call) != b:
                    words = self._judged(old, new, index, process)
                    if words:
                        name = f"{new.ordinal}-{new.first + index}"
                        self._fail(f"{words}: task={name}, by {process}, {_shown(a)} -> {_shown(b)}")
        self._check_listed()

    def _born(self, key: str, new: Status) -> None:
        for digest in new.functions:
            if self.keys.function(digest) not in self._objects and new.calls:
                self._fail(f"a task was stored before its function: {key}")
        ref = self.keys.parse_status(key)
        if self.manifest is not None and self.manifest.state.is_over:
            self.born_late.add(key)
        self.counts["tasks"] += new.n_tasks
        for block in new.calls:
            body = block.place
            if isinstance(body, Located):
                kept = self._objects.get(self.keys.calls(ref.status_id if ref is not None else ""))
                if kept is None:
                    self._fail(f"a task was stored before its call: {key}")
                    continue
                body = kept.body[body.start : body.start + body.length]
            for position, call in enumerate(blocks.open_calls(self._sealer, new, block, body), block.first):
                self._born_task(key, f"{new.ordinal}-{new.first + position}", bytes(call))
                needs = {part.place for part in pieces.decode(bytes(call)) or () if isinstance(part, Result)}
                if needs - {task.place for task in upstream_of(new).get(position, ())}:
                    self._fail(f"a task does not wait for a result that its call needs: {key}, position={position}")

    def _born_task(self, key: str, task_id: str, call: bytes) -> None:
        found = self._pieces(call)
        if found is None:
            self._fail(f"a task was stored before a piece of its call: {key}")
            return
        (number, behaviour, *_), _ = calls.load_call(call, found)
        self._keys[task_id] = key
        self.tasks[task_id] = Task(number, behaviour)
        if self.numbers.setdefault(number, task_id) != task_id:
            self._fail(f"one submit became two tasks: {task_id} and {self.numbers[number]}")

    def _pieces(self, call: bytes) -> dict[bytes, bytes] | None:
        """Return the pieces of a call by name; None if some are not stored."""
        found = {}
        for part in pieces.decode(call) or ():
            if isinstance(part, Piece):
                kept = self._objects.get(self.keys.calls(part.status_id))
                found[part.name] = b"" if kept is None else kept.body[part.start : part.start + part.length]
                if len(found[part.name]) != part.length:
                    return None
        return found

    def unheld(self) -> str | None:
        """Return a claim that stands although its live worker does not know of it."""
        for key, seen in self.statuses.items():
            for claim_id in seen.claims():
                worker = self._workers.get(worker_of(claim_id))
                if worker is not None and worker.goes_on() and claim_id not in worker.held():
                    return f"{claim_id} in {key}"
        return None

    def _check_listed(self) -> None:
        """Check that every task that has not ended is in some open epoch."""
        if self.manifest is None:
            return
        for (ordinal, epoch), n in self._unended.items():
            if n and (ordinal >= len(self.manifest.submitters) or epoch not in self.manifest.submitters[ordinal].open):
                self._fail(f"tasks are in no open epoch: submitter={ordinal}, epoch={epoch}")

    def _check_blocked(self, old: Status, new: Status, process: Process) -> None:
        """Check that tasks that were blocked and are not any more have what they wait for, or will never have it."""
        if not has_blocked(old):
            return
        is_over = self.manifest is None or self.manifest.state.is_over
        for start, span in old.placed():
            for position in range(start, start + span.n) if span.state == BLOCKED else ():
                after, states = new.span(position).state, set(self._upstream_states(old, position))
                is_right = (
                    after in (BLOCKED, State.CANCELLED)
                    or (after == State.PENDING and states <= {State.COMPLETED})
                    or (after == ENDED and (is_over or bool(_FAILED & states)))
                )
                self.counts["released"] += after == State.PENDING
                self.counts["failed with another"] += after == ENDED and not is_over
                if not is_right:
                    name = f"{new.ordinal}-{new.first + position}"
                    self._fail(
                        f"a task that waits for others was changed too early: task={name}, by {process}, {states}"
                    )

    # --- transitions --------------------------------------------------------------------------------------------------

    def _judged(self, old: Status, new: Status, index: int, process: Process) -> str:
        """Return what is wrong with the change of one entry; empty if it is allowed."""
        a, b = old.entries[index], new.entries[index]
        task_id = f"{new.ordinal}-{new.first + index}"
        is_over = self.manifest is None or self.manifest.state.is_over
        if b.run != a.run:
            if b.run == a.run + 1 and a.state == State.FAILED and b.state == State.PENDING and b.attempt == a.attempt:
                self.counts["retries"] += 1
                return ""
            return "a run was opened that must not be opened"
        if a.has_ended:
            return "an outcome has changed within a run"
        if b.attempt != a.attempt + (a.state == State.PENDING and b.state == State.CLAIMED):
            return "the attempt has changed other than by a claim"
        if b.failures < a.failures:
            return "failures were forgotten"
        if b.has_ended:
            self.counts[_NAMES[b.state].lower()] += 1
            self.ended[task_id, b.run] = b
        if a.state == State.PENDING:
            return self._judged_pending(task_id, new, a, b, process, is_over=is_over)
        return self._judged_claimed(task_id, old, new, index, a, b, process, is_over=is_over)

    def _judged_pending(self, task_id: str, new: Status, a: Entry, b: Entry, process: Process, *, is_over: bool) -> str:
        if b.state == State.CLAIMED:
            self.counts["claims"] += 1
            if not isinstance(process, WorkerProcess) or worker_of(b.claim) != process.worker_id:
                return "a process claimed for another worker"
            self._attempts.setdefault((task_id, process.worker_id), []).append(b.attempt)
            backoff = _options(new, b).backoff
            if backoff is not None and b.at < a.at <= b.at + backoff.most:
                return "a task was claimed before its backoff had passed"
            if a.is_suspect:
                return self._judged_lonely(new, b, process)
            return ""
        if b.state == State.CANCELLED:
            return ""
        if b.state == State.FAILED and (is_over or has_blocked(self._before)):
            return ""  # what it waits for is checked in `_check_blocked`
        return "a pending task cannot do that"

    def _judged_lonely(self, new: Status, b: Entry, process: WorkerProcess) -> str:
        """Check that a task with a loss is claimed with few of its cohort, and on its last try its worker has no other task."""
        mates = [new.span(i) for i in new.under(b.claim)]
        if {span.cohort for span in mates} != {b.cohort} or len(mates) > max(1, b.together // 16):
            return "a task with a loss was claimed along with others"
        max_losses = 3 if self.manifest is None else self.manifest.max_losses
        if b.losses < max_losses - 1 or not process.is_alive:
            return ""
        if len(mates) > 1:
            return "tasks on their last try were claimed along with others"
        held = process.held()
        others = [
            e.claim
            for key in {*held.values()}
            for e in (self.statuses[key].spans if key in self.statuses else ())
            if e.state == State.CLAIMED and e.claim != b.claim and e.claim in held
        ]
        return f"a task on its last try was claimed beside others: {others}" if others else ""

    def _judged_claimed(
        self, task_id: str, old: Status, new: Status, index: int, a: Entry, b: Entry, process: Process, *, is_over: bool
    ) -> str:
        owner = self._workers.get(worker_of(a.claim))
        is_own = owner is process
        if b.state == State.CLAIMED:
            return (
                ""
                if is_own and b == a._replace(failures=b.failures, call=b.call)
                else "a claim was replaced by another"
            )
        if b.has_ended and b.losses == a.losses and not is_over:
            if b.state == State.CANCELLED:
                return self._judged_stopped(task_id, a)
            if not is_own:
                return "a process committed for another worker"
        if b.has_ended and b.claim == a.claim and b.losses == a.losses and is_own and b.outcome is not None:
            self._given_up.add((task_id, a.attempt))
            return self._judged_outcome(task_id, new, index, b, process)
        if b.has_ended and is_over:
            return ""
        if is_own:
            self._given_up.add((task_id, a.attempt))
            return "" if b.losses == a.losses and b.cohort == a.cohort else "a worker counted a loss of its own"
        return self._judged_taken_back(task_id, old, a, b, owner, process)

    def _judged_stopped(self, task_id: str, a: Entry) -> str:
        """Check that the claim of a task that is cancelled was named, so that its worker stops the task."""
        stops = () if self.manifest is None else self.manifest.stops
        if a.claim not in stops and not any(mark.startswith(ALL) for mark in stops):
            return "a claimed task was cancelled"
        self.counts["stopped"] += 1
        worker = self._workers.get(worker_of(a.claim))
        if worker is not None and worker.is_alive:
            self.stopped(worker, task_id, a.attempt)
        return ""

    def _judged_taken_back(
        self, task_id: str, old: Status, a: Entry, b: Entry, owner: WorkerProcess | None, process: Process
    ) -> str:
        self.counts["taken back"] += 1
        is_there = owner is not None and owner.is_alive and not owner.is_stopped
        if b.losses == a.losses and b.cohort == a.cohort:
            if is_there and owner is not None and a.claim in owner.held():
                return "a claim was called forgotten that its worker still holds"
            return ""
        if words := self._wrongly_lost(worker_of(a.claim), process):
            return words
        n_together = len(old.under(a.claim))
        max_losses = 3 if self.manifest is None else self.manifest.max_losses
        if n_together > 1 and b.losses > max(0, max_losses - 2):
            return f"a task was blamed that was lost together with {n_together - 1} others"
        if b.has_ended:
            if b.losses < max_losses:
                return "a task failed of too few losses"
            killer = None if owner is None else owner.poisoned_by
            if killer is not None and killer != task_id:
                return f"an innocent task was lost to a poisonous one ({killer})"
        return ""

    def _wrongly_lost(self, worker_id: str, process: Process) -> str:
        """Return what is wrong with calling this worker lost in this process; empty if nothing is."""
        owner = self._workers.get(worker_id)
        if owner is None or not owner.is_alive or owner.is_stopped:
            return ""
        beat = self.keys.worker(worker_id)
        etag, n_looks = process.listed.get(beat, ("", 0))
        if process.read.get(beat) != etag:
            return "a worker was judged lost on another beat than its newest"
        if self.manifest is not None and n_looks <= self.manifest.timings.looks_until_lost:
            return f"a worker was judged lost after {n_looks} looks"
        if min(self._quiet_s(), owner.scheduler.now - owner.was_disturbed_at) > 2 * self._lost_s:
            return "a living worker was judged lost"
        return ""

    def limit_of(self, task_id: str) -> str:
        """Return the limit of a task; empty if it has none."""
        ref = self.keys.parse_status(self._keys.get(task_id, ""))
        return "" if ref is None else ref.limit

    def _judged_failure(self, task_id: str, new: Status, b: Entry, body: bytes) -> str:
        """Check that a task that failed, and was loaded, has used the tries that its options allow."""
        if task_id not in self.tasks or self.tasks[task_id].behaviour == Behaviour.REFUSED.value:
            return ""
        options, failure = _options(new, b), outcomes.describe_outcome(body)
        if failure is None or failure.type_name.rpartition(".")[2] not in _OF_TRIES:
            return ""
        retries = 0 if self.manifest is None else self.manifest.retries
        retries = retries if options.retries is None else options.retries
        n_tries = 1 + retries if options.tries_again(outcomes.failure_names(body)) else 1
        return "" if b.failures == n_tries else f"a task failed after {b.failures} tries, its options allow {n_tries}"

    def _judged_outcome(self, task_id: str, new: Status, index: int, b: Entry, process: Process) -> str:
        """Check that the committed outcome was made by this worker under this attempt, and is stored."""
        assert b.outcome is not None  # the caller has checked  # noqa: S101
        body = b.outcome.place
        if isinstance(body, Located):
            ref = next((self.keys.parse_status(k) for k, s in self.statuses.items() if s is new), None)
            kept = self._objects.get(self.keys.outcomes(ref.status_id, body.part)) if ref is not None else None
            if kept is None:
                return "an outcome was committed before it was stored"
            body = kept.body[body.start : body.start + body.length]
        try:
            opened = blocks.open_outcomes(self._sealer, new, b.outcome, body)[index - b.outcome.first]
        except RecordInvalid:
            return "an outcome was committed under a wrong seal"
        if b.state != State.COMPLETED:
            return self._judged_failure(task_id, new, b, bytes(opened))
        value, _ = outcomes.load_outcome(opened)
        execution = self.executions.get(value_name(value))
        if execution is None or execution.task_id != task_id:
            return f"another task's outcome was committed ({value_name(value)})"
        if execution.process is not process or execution.attempt != b.attempt:
            return f"an outcome was committed that another attempt made ({execution})"
        return ""


def _options(seen: Status, entry: Entry) -> TaskOptions:
    return decoded(seen.options[entry.options - 1]) if entry.options else DEFAULT


def _has_ended(seen: Status) -> bool:
    return all(span.has_ended for span in seen.spans)


def _shown(entry: Entry) -> str:
    claim = f" {entry.claim}" if entry.claim else ""
    return f"{_NAMES[entry.state]} run {entry.run} attempt {entry.attempt} losses {entry.losses}{claim}"
