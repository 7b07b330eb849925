"""One slot of a worker: claims slices, feeds its runner, watches deadlines, commits what has ended.

    finder ──key──► claims ──Claim──► backlog ──jobs──► runner ──Finished | Died──► Claim.found ──► claims.commit
                                        ▲                  │                                          │
                                        └── retry, after a │ death: the unstarted ones                └─► next slice
                                                           └── overrun or SIGTERM: unstarted ones are released

A slot is stepped by one thread; nothing in it is shared but what it is given. A step never waits longer than until the
next thing that is due, so a test can step it with a fake clock and a fake runner.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    LaunchError,
    PayloadError,
    RecordInvalid,
    StarburstError,
    TaskCrashed,
    TaskTimeout,
    VersionMismatch,
)
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import task_id
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.protocol.status import State, Status
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.arguments import Arguments, Arrived, Trouble, Wanted
from starburst_executor.worker.claims import Claim, Claims, Finding
from starburst_executor.worker.durations import Durations
from starburst_executor.worker.finder import Finder
from starburst_executor.worker.functions import Functions
from starburst_executor.worker.runner.handle import BrokenStart, Died, Finished, Job, Runner
from starburst_executor.worker.solitude import Solitude

__all__ = ["Slot"]

_log = logging.getLogger(__name__)

# Calls handed to the runner ahead of the one that runs, at the most.
_FEED_BYTES = 64 * 2**20
# A task that takes longer than so many slices' worth of time is not claimed ahead: the claim would cost a few percent
# of its time, but an idle worker would have to wait for it.
_AHEAD_SLICES = 5
# Where few tasks are left the next one is claimed so long before the one that runs should end: a LIST, a GET and a PUT.
_LEAD_S = 0.3
# With more pending tasks in an object than so many for each who works on it, nobody is kept from work by a claim ahead.
_LEFT = 2
# Less than this share of a slice is not left to others, however many idle: a claim and a commit take as long, and the race
# between two that share an object longer.
_LEAST_SLICE = 0.2
# Of tasks shorter than this the outcomes of half a slice are waited for, so that not each of them wakes the agent, which
# costs more than the task. Never for longer than a commit is late anyway, and never for the last few.
_TINY_S = 1e-4
_LULL_S = 2e-3
_FEW_JOBS = 8
# So many slices' worth of waiting tasks is too much, as measured by now: two and some for the estimate's noise.
_MOST_HELD = 3
# Many look for their next object at the same time, and some lose a race; the task that runs leaves time for another.
_TRIES_AHEAD = 4
# A runner that dies so often without having started a task will not do better on this machine: another is to try.
_STARTS = 3


@dataclass(frozen=True, slots=True)
class _Placed:
    """A task in a claim: what a job stands for."""

    claim: Claim
    index: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A failed task that keeps its claim until its next try."""

    due: float
    placed: _Placed


class Slot:
    """One task at a time, many in a row. Stepped by one thread.

    Args:
        number: Which slot of its worker.
        spawn: Makes a runner with these folders of code at the front of its path.
        draining: Set when the worker should stop: nothing is claimed, what has not started is released.
        stopped: Set when the worker stops at once: nothing is written any more.
        broken: Called with an outcome when the initializer raised.

    Attributes:
        hurry: Set when the grace time of draining is over: what still runs is killed and released.
    """

    def __init__(
        self,
        number: int,
        session: SessionStore,
        claims: Claims,
        finder: Finder,
        functions: Functions,
        arguments: Arguments,
        durations: Durations,
        solitude: Solitude,
        clock: Clock,
        *,
        spawn: Callable[[tuple[str, ...]], Runner],
        draining: threading.Event,
        stopped: threading.Event,
        broken: Callable[[bytes], None],
    ) -> None:
        self._number = number
        self._session = session
        self._claims = claims
        self._finder = finder
        self._functions = functions
        self._arguments = arguments
        self._durations = durations
        self._solitude = solitude
        self._clock = clock
        self._spawn = spawn
        self._draining = draining
        self._stopped = stopped
        self.hurry = threading.Event()
        self._broken = broken
        self._timings = session.manifest.timings
        self._runner: Runner | None = None
        self._code: tuple[str, ...] = ()  # the runner's: modules that it has imported cannot be exchanged
        self._n_in_runner = 0  # tasks this runner has been given, for max_tasks_per_child
        self._n_bad_starts = 0
        self._next_job = 0
        self._open: list[Claim] = []
        self._jobs: dict[int, _Placed] = {}
        self._backlog: deque[_Placed] = deque()
        self._waiting: list[_Waiting] = []
        self._started = 0.0  # when the runner's oldest job was started, as far as we know
        self._committed = 0.0
        self._overrun = False
        self._timed_out: int | None = None  # the job that the runner was killed for
        self._races = 0

    @property
    def is_idle(self) -> bool:
        """Holds no claim."""
        return not self._open

    def running(self) -> tuple[str, float] | None:
        """The task that runs and how many seconds it has, for the beat. May be called by another thread."""
        for placed in list(self._jobs.values())[:1]:
            ref = placed.claim.ref
            return task_id(ref.ordinal, ref.first + placed.index), self._clock.monotonic() - self._started
        return None

    def step(self) -> bool:
        """One turn: take work if there is none, wait for the runner or the next deadline, commit. False if idle."""
        if self._stopped.is_set():
            return False
        if self.hurry.is_set():
            self._abandon()
        elif self._draining.is_set():
            self._release_unstarted()
        elif not self._open and not self._acquire():
            return False
        if not self._open:
            return False
        self._requeue_due()
        self._feed()
        self._claim_ahead()
        self._listen()
        self._check_deadlines()
        self._commit_due()
        if not self._open:
            self._solitude.leave(self._number)
            self._solitude.give_up(self._number)
        return True

    def _abandon(self) -> None:
        """Kill what runs, commit what has ended, release the rest: the grace time is over. Store: 1 swap a claim."""
        if self._runner is not None:
            self._runner.kill()
            self._listen_until_dead()
        for claim in list(self._open):
            if claim.found:
                self._commit(claim)
            self._claims.release(claim, set(claim.open))
        self._open.clear()
        self._jobs.clear()
        self._backlog.clear()

    def give_back(self) -> None:
        """This worker cannot go on: let others have at once what has not started. Called when nothing steps it any more.

        What may have started stays claimed, and is lost with this worker. Store: 1 swap a claim; 1 more for what has ended.
        """
        if self._runner is not None:
            for event in self._runner.poll(0.0):
                if isinstance(event, Finished):
                    self._hear(event)
            for number in self._runner.retract():
                self._jobs.pop(number, None)
        started = list(self._jobs.values())
        for claim in list(self._open):
            kept = {placed.index for placed in started if placed.claim is claim}
            # What cannot be written any more goes back when its worker is found gone.
            with suppress(StarburstError):
                if claim.found:
                    self._commit(claim)
                self._claims.release(claim, claim.open - kept)

    # --- taking work --------------------------------------------------------------------------------------------------

    def _acquire(self) -> bool:
        """Claim from some candidate; whether there is something to do now."""
        if not self._solitude.enter(self._number):
            return False
        if self._claim_solo() or (not self._solitude.is_wanted(self._number) and self._claim_candidate()):
            return True
        self._solitude.leave(self._number)
        return False

    def _claim_candidate(self) -> bool:
        key = self._take_key()
        while key is not None:
            claim, seen = self._try(key)
            if claim is not None:
                return True
            if seen is None:
                self._races += 1
                self._finder.avoid(key)
                # Spread those who lost the same race over about one request's time, longer if it happens again.
                self._clock.wait(self._draining, self._timings.bell_min_s * self._races * self._clock.random())
            if self._draining.is_set():
                return False
            key = self._take_key()
        self._races = 0
        return False

    def _take_key(self) -> str | None:
        return self._finder.take(worth_sharing=self._least_slice(self._durations.latest))

    def _claim_solo(self) -> bool:
        """A task on its last try, if this worker has nothing else, or has seen it wait for too long."""
        waiting = self._finder.solo()
        if waiting is None:
            self._solitude.give_up(self._number)
            return False
        key, waited_s = waiting
        if not self._solitude.have(self._number, insist=waited_s > self._timings.beat_s):
            return False
        claim, _ = self._try(key, alone=True)
        if claim is None:
            self._solitude.give_up(self._number)
        return claim is not None

    def _try(self, key: str, *, alone: bool = False, ahead: bool = False) -> tuple[Claim | None, Status | None]:
        # Said before the claim is written, or another slot of this worker would race for the same object.
        self._finder.begins(key)
        claim = None
        try:
            claim, seen = self._claims.claim(
                key, size=self._slice_size if alone else self._share_size, alone=alone, ahead=ahead
            )
        except (RecordInvalid, VersionMismatch) as error:
            _log.warning("a status object cannot be read and is left alone: error=%s", error)
            self._finder.ignore(key)
            return None, None
        finally:
            if claim is None:
                self._finder.ends(key)
        if seen is not None:
            self._finder.saw(key, seen)
        self._finder.tried(in_vain=claim is None)
        if claim is not None:
            self._take_in(claim)
        return claim, seen

    def _take_in(self, claim: Claim) -> None:
        self._races = 0
        if not self._open:
            self._committed = self._clock.monotonic()
        self._open.append(claim)
        self._backlog.extend(_Placed(claim, index) for index in sorted(claim.open))

    def _slice_size(self, seen: Status) -> int:
        """About `slice_s` of work, one task while its duration is unknown, not much more than a fair share."""
        estimate_s = self._durations.of_next(seen)
        if estimate_s is None:
            return 1
        wanted = self._timings.slice_s / max(estimate_s, 1e-6)
        shared = max(self._finder.fair_share(), self._least_slice(estimate_s))
        return max(1, min(int(wanted), shared, status.MAX_TASKS))

    def _share_size(self, seen: Status) -> int:
        """As `_slice_size`, but nothing of an object that others work on while there are some where nobody does."""
        is_shared = any(entry.state == State.CLAIMED for entry in seen.entries)
        return 0 if is_shared and self._finder.has_untouched() else self._slice_size(seen)

    def _least_slice(self, estimate_s: float | None) -> int:
        """How many tasks of that duration are not worth sharing; one, if it is unknown."""
        return 1 if estimate_s is None else max(1, int(_LEAST_SLICE * self._timings.slice_s / max(estimate_s, 1e-6)))

    def _claim_ahead(self) -> None:
        """Claim the next slice while this one runs."""
        if len(self._open) != 1 or self._backlog or self._open[0].is_run or not self._wants_after(self._open[0]):
            return
        claim = self._open[0]
        following = None
        if status.has_pending(claim.seen.status):
            following = self._commit(claim, then=self._slice_size(claim.seen.status), ahead=True)
        for _ in range(_TRIES_AHEAD):
            if following is not None or not self._wants_after(claim):
                break
            key = self._take_key()
            if key is None or key == claim.key:
                break
            following, _ = self._try(key, ahead=True)
        self._feed()

    def _may_not_go_on(self) -> bool:
        return self._draining.is_set() or self._solitude.is_reserved

    def _wants_after(self, claim: Claim) -> bool:
        """Whether to claim more beside the slice that runs: tasks are short, there are plenty, and none is alone."""
        if self._may_not_go_on() or self._overrun:
            return False
        if any(each.has_losses for each in self._open):
            return False
        estimate_s = self._estimate_s(claim)
        if estimate_s is None or estimate_s > _AHEAD_SLICES * self._timings.slice_s:
            return False
        if self._has_plenty(claim.seen.status) or self._finder.is_plenty(
            max(estimate_s, 1e-6), surely=estimate_s >= _LEAD_S
        ):
            return True
        ahead_at = self._ahead_at()
        return ahead_at is not None and self._clock.monotonic() >= ahead_at

    @staticmethod
    def _has_plenty(seen: Status) -> bool:
        """Whether an object has so many pending tasks that whoever looks for work finds some there."""
        n_pending = sum(entry.state == State.PENDING for entry in seen.entries)
        claims = {entry.claim for entry in seen.entries if entry.state == State.CLAIMED}
        return n_pending > _LEFT * max(1, len({claim.partition(".")[0] for claim in claims}))

    def _estimate_s(self, claim: Claim) -> float | None:
        entry = next(iter(claim.seen.status.entries[index] for index in claim.open), None)
        return None if entry is None else self._durations.of(claim.seen.status.functions[entry.function])

    def _ahead_at(self) -> float | None:
        """From when on the next task is claimed even if others may want it: the one that runs is about to end."""
        if len(self._open) != 1 or len(self._jobs) != 1 or self._backlog:
            return None
        estimate_s = self._estimate_s(self._open[0])
        if estimate_s is None or not _LEAD_S <= estimate_s <= _AHEAD_SLICES * self._timings.slice_s:
            return None
        return self._started + estimate_s - _LEAD_S

    # --- feeding the runner -------------------------------------------------------------------------------------------

    def _requeue_due(self) -> None:
        now = self._clock.monotonic()
        due = [waiting for waiting in self._waiting if waiting.due <= now]
        if not due:
            return
        self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
        # A failure is stored before the next try begins, which may cost this worker its life: it must count for good.
        for claim in list(self._open):
            if any(waiting.placed.claim is claim for waiting in due) and self._claims.has_unstored_failures(claim):
                self._commit(claim)
        self._backlog.extend(waiting.placed for waiting in due)

    def _feed(self) -> None:
        """Hand the backlog to the runner, as much as it may have."""
        limit = self._session.manifest.max_tasks_per_child
        if limit is not None and self._n_in_runner >= limit and not self._jobs:
            self._retire()
        n_free = len(self._backlog) if limit is None else limit - self._n_in_runner
        jobs: list[Job] = []
        functions: dict[str, bytes] = {}
        calls = self._next_calls(n_free)
        for i, (placed, call) in enumerate(calls):
            digest = self._digest(placed)
            try:
                if not isinstance(call, Arrived):
                    raise call
                function = self._functions.get(digest)
            except (PayloadError, RecordInvalid) as error:
                self._found(placed, Finding(State.FAILED, dump_reason(error)))
                continue
            if function.code != self._code:
                if self._jobs:
                    # It needs another runner: when this one has ended what it has.
                    self._backlog.extendleft(later for later, _ in reversed(calls[i:]))
                    break
                self._retire()
                self._code = function.code
            jobs.append(self._job(placed, digest, call))
            functions[digest] = function.body
            self._jobs[jobs[-1].number] = placed
        if jobs:
            if len(self._jobs) == len(jobs):
                self._started, self._overrun = self._clock.monotonic(), False
            self._n_in_runner += len(jobs)
            self._ready_runner().send(jobs, functions)

    def _next_calls(self, at_most: int) -> list[tuple[_Placed, Arrived | Trouble]]:
        """The next of the backlog with their calls, read together, or with what is wrong with those."""
        some: list[_Placed] = []
        wanted: list[Wanted] = []
        while self._backlog and len(some) < at_most:
            placed = self._backlog.popleft()
            claim = placed.claim
            if placed.index not in claim.open:
                continue
            call, sequence = claim.entry(placed.index).call, claim.ref.first + placed.index
            if call is None:
                error = PayloadError(f"a task without its call: task={task_id(claim.ref.ordinal, sequence)}")
                self._found(placed, Finding(State.FAILED, dump_reason(error)))
                continue
            label = status.call_label(claim.ref.ordinal, sequence, self._digest(placed))
            some.append(placed)
            wanted.append(Wanted(claim.ref, call, label))
        calls = self._arguments.get(wanted, _FEED_BYTES) if wanted else []
        self._backlog.extendleft(reversed(some[len(calls) :]))
        return list(zip(some, calls, strict=False))

    def _job(self, placed: _Placed, digest: str, call: Arrived) -> Job:
        claim, entry = placed.claim, placed.claim.entry(placed.index)
        sequence = claim.ref.first + placed.index
        name = task_id(claim.ref.ordinal, sequence)
        self._next_job += 1
        # A task that is tried again under the same claim is on a further attempt for whoever asks `current_task()`.
        attempt = entry.attempt + claim.tries.get(placed.index, 0)
        return Job(self._next_job, sequence, attempt, name, digest, call.call, call.pieces)

    def _digest(self, placed: _Placed) -> str:
        seen = placed.claim.seen.status
        return seen.functions[seen.entries[placed.index].function]

    def _ready_runner(self) -> Runner:
        if self._runner is None:
            self._runner = self._spawn(self._code)
        return self._runner

    def _retire(self) -> None:
        """Let this runner go: it has had its `max_tasks_per_child`, or has other code than what is next."""
        if self._runner is not None:
            self._runner.stop()
            self._runner.close()
        self._runner, self._n_in_runner = None, 0

    # --- listening ----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._runner is None:
            self._clock.wait(self._draining, self._until_due())
            return
        was_ready = self._runner.is_ready
        if was_ready and (lull_s := self._lull_s()):
            self._clock.wait(self._draining, lull_s)
        events = self._runner.poll(self._until_due())
        if not was_ready:
            # The initializer's time is not the first task's.
            self._started = self._clock.monotonic()
        for event in events:
            # The worker kills its runners when it stops: that is no task's fault.
            if not self._stopped.is_set():
                self._hear(event)

    def _lull_s(self) -> float:
        """How long to let outcomes gather before listening, in seconds."""
        if len(self._jobs) <= _FEW_JOBS:
            return 0.0
        estimate_s = self._durations.of(self._digest(next(iter(self._jobs.values()))))
        if estimate_s is None or estimate_s > _TINY_S:
            return 0.0
        return min(_LULL_S, len(self._jobs) / 2 * estimate_s)

    def _listen_until_dead(self) -> None:
        while self._runner is not None:
            for event in self._runner.poll(self._timings.commit_s):
                if isinstance(event, Died):
                    self._runner = None
                else:
                    self._hear(event)

    def _hear(self, event: Finished | Died | BrokenStart) -> None:
        if isinstance(event, Finished):
            self._n_bad_starts = 0
            placed = self._jobs.pop(event.number, None)
            self._started, self._overrun = self._clock.monotonic(), False
            if placed is not None:
                self._finished(placed, event)
        elif isinstance(event, BrokenStart):
            self._broken(event.outcome)
        else:
            self._died(event)

    def _finished(self, placed: _Placed, event: Finished) -> None:
        output = (event.stdout, event.stderr)
        if event.ok:
            self._durations.add(self._digest(placed), event.seconds)
            outcome = self._checked_size(placed, event.outcome)
            state = State.COMPLETED if outcome is event.outcome else State.FAILED
            self._found(placed, Finding(state, outcome, output, event.seconds, self._n_failures(placed)))
        elif not event.loaded:
            self._refused(placed, event)
        else:
            self._failed(placed, event.outcome, output, event.seconds)

    def _refused(self, placed: _Placed, event: Finished) -> None:
        """The function could not be loaded: another worker may be able to, once; then it fails."""
        if placed.claim.entry(placed.index).refusals:
            self._found(placed, Finding(State.FAILED, event.outcome, (event.stdout, event.stderr)))
        else:
            self._release(placed.claim, [placed.index], refused=True)

    def _failed(
        self, placed: _Placed, outcome: bytes | memoryview, output: tuple[bytes, bytes], seconds: float
    ) -> None:
        """A failed try: the next one after a pause if retries are left, else the task fails."""
        n_failures = self._n_failures(placed) + 1
        placed.claim.failures[placed.index] = n_failures
        placed.claim.tries[placed.index] = placed.claim.tries.get(placed.index, 0) + 1
        if n_failures > self._session.manifest.retries:
            self._found(placed, Finding(State.FAILED, outcome, output, seconds, n_failures))
            return
        pause_s = min(self._timings.retry_first_s * 2 ** (n_failures - 1), self._timings.retry_most_s)
        due = self._clock.monotonic() + pause_s * (0.5 + self._clock.random() / 2)
        self._waiting.append(_Waiting(due, placed))

    def _died(self, event: Died) -> None:
        runner = self._runner
        if runner is None:
            return
        timed_out, self._timed_out = self._timed_out, None
        # A job that ended just before it was killed leaves the one after it to be hit, which is not to blame.
        is_bystander = timed_out is not None and event.culprit != timed_out
        placed = self._jobs.pop(event.culprit, None) if event.culprit is not None and not is_bystander else None
        unstarted = [self._jobs.pop(number) for number in runner.retract() if number in self._jobs]
        # What is neither started nor to be found in the queue was being handed over: it has not started either.
        unstarted += self._jobs.values()
        self._jobs.clear()
        self._backlog.extendleft(reversed(unstarted))
        runner.close()
        self._runner, self._n_in_runner = None, 0
        if placed is not None:
            reason = dump_reason(self._death(placed, event, is_late=timed_out is not None))
            self._failed(placed, reason, (event.stdout, event.stderr), self._ran_s())
        elif not is_bystander:
            self._n_bad_starts += 1
            if self._n_bad_starts >= _STARTS:
                raise LaunchError(f"the processes that should run tasks die at once: {event.reason}")

    def _death(self, placed: _Placed, event: Died, *, is_late: bool) -> StarburstError:
        name = task_id(placed.claim.ref.ordinal, placed.claim.ref.first + placed.index)
        where = f"task={name}, session={self._session.session_id}"
        if is_late:
            limit_s = self._session.manifest.task_timeout
            return TaskTimeout(f"the task ran longer than task_timeout={limit_s:g} s and was stopped: {where}")
        return TaskCrashed(f"the process that ran the task died: {event.reason}: {where}")

    def _checked_size(self, placed: _Placed, outcome: bytes | memoryview) -> bytes | memoryview:
        limit = self._session.manifest.max_result_bytes
        if len(outcome) <= limit:
            return outcome
        name = task_id(placed.claim.ref.ordinal, placed.claim.ref.first + placed.index)
        return dump_reason(
            PayloadError(
                f"the task's result is too large to store: bytes={len(outcome)}, max_result_bytes={limit}, task={name}; "
                "return less, write it to storage of your own, or raise max_result_bytes"
            )
        )

    def _n_failures(self, placed: _Placed) -> int:
        claim = placed.claim
        return claim.failures.get(placed.index, claim.entry(placed.index).failures)

    def _found(self, placed: _Placed, finding: Finding) -> None:
        if placed.index in placed.claim.open:
            placed.claim.found[placed.index] = finding

    # --- deadlines and commits ----------------------------------------------------------------------------------------

    def _until_due(self) -> float:
        """How long the runner may be listened to before something else is due, in seconds."""
        now = self._clock.monotonic()
        dues = [now + self._timings.commit_s, *(waiting.due for waiting in self._waiting)]
        ahead_at = self._ahead_at()
        if ahead_at is not None and ahead_at > now:
            dues.append(ahead_at)
        if any(claim.found for claim in self._open):
            dues.append(self._committed + self._timings.commit_s)
        if any(claim.is_run for claim in self._open):
            return 0.0
        if self._jobs:
            dues += [self._started + limit for limit in (self._session.manifest.task_timeout, self._slack_s()) if limit]
        return max(0.0, min(dues) - now)

    def _ran_s(self) -> float:
        return self._clock.monotonic() - self._started

    def _slack_s(self) -> float | None:
        """After how many seconds the running task counts as an overrun that others should not wait behind."""
        if self._overrun or len(self._jobs) + len(self._backlog) < 2:  # noqa: PLR2004 - one runs, one waits
            return None
        estimate_s = self._durations.of(self._digest(next(iter(self._jobs.values())))) or 0.0
        return max(2 * estimate_s, estimate_s + self._timings.slice_s)

    def _holds_too_much(self) -> bool:
        """Whether tasks turned out so much longer than was thought when they were claimed that others should have some.

        A slice and the one claimed ahead are two slices' worth; a single task is none too much, however long it takes.
        """
        n_waiting = len(self._jobs) + len(self._backlog) - 1
        if n_waiting < 2 or not self._jobs or self._overrun:  # noqa: PLR2004 - one is no more than its share
            return False
        estimate_s = self._durations.of(self._digest(next(iter(self._jobs.values())))) or 0.0
        return n_waiting * estimate_s > _MOST_HELD * self._timings.slice_s

    def _check_deadlines(self) -> None:
        if not self._jobs or self._runner is None:
            return
        limit_s, slack_s = self._session.manifest.task_timeout, self._slack_s()
        now = self._clock.monotonic()
        if limit_s is not None and now >= self._started + limit_s and self._timed_out is None:
            self._timed_out = next(iter(self._jobs))
            self._runner.kill()
        elif (slack_s is not None and now >= self._started + slack_s) or self._holds_too_much():
            self._overrun = True
            self._release_unstarted()

    def _release_unstarted(self) -> None:
        """Let others have what has not started."""
        unstarted = list(self._backlog) + [waiting.placed for waiting in self._waiting if self._draining.is_set()]
        if self._draining.is_set():
            self._waiting.clear()
        self._backlog.clear()
        if self._runner is not None and len(self._jobs) > 1:
            for number in self._runner.retract():
                placed = self._jobs.pop(number, None)
                if placed is not None:
                    unstarted.append(placed)
        for claim in list(self._open):
            mine = [placed.index for placed in unstarted if placed.claim is claim]
            if mine:
                self._release(claim, mine)

    def _release(self, claim: Claim, indices: list[int], *, refused: bool = False) -> None:
        self._claims.release(claim, indices, refused=refused)
        self._share(claim)
        self._drop_if_done(claim)

    def _share(self, claim: Claim) -> None:
        """Another slice of the same object has seen what this one wrote: its next swap need not fail first."""
        for other in self._open:
            if other.key == claim.key:
                other.seen = claim.seen

    def _commit_due(self) -> None:
        is_due = self._clock.monotonic() >= self._committed + self._timings.commit_s
        for claim in list(self._open):
            if claim.is_run:
                self._commit_run(claim)
            elif claim.found and is_due:
                self._commit(claim)

    def _commit_run(self, claim: Claim) -> None:
        """End a slice, and claim the next one in the same swap."""
        others = [other for other in self._open if other is not claim]
        wants_next = not self._may_not_go_on() if not others else len(others) == 1 and self._wants_after(claim)
        self._commit(claim, then=self._slice_size(claim.seen.status) if wants_next else 0, ahead=bool(others))

    def _commit(self, claim: Claim, *, then: int = 0, ahead: bool = False) -> Claim | None:
        following = self._claims.commit(claim, then=then, ahead=ahead)
        self._committed = self._clock.monotonic()
        self._finder.saw(claim.key, claim.seen.status)
        self._share(claim)
        self._drop_if_done(claim)
        if following is not None:
            self._finder.begins(following.key)
            self._take_in(following)
        return following

    def _drop_if_done(self, claim: Claim) -> None:
        if not claim.open and claim in self._open:
            self._open.remove(claim)
            self._finder.ends(claim.key)
