"""Gathers what is stored about a session's tasks into an `Overview`, in bounded memory, for any number of tasks.

    blocks ──add──► tasks that have ended ──► series, durations, lanes: added up once
                └─► objects with others   ──► kept as they are, and counted anew for each overview
    listing ──────► totals; objects that were not read are estimated from those that were, and the overview says so

A report reads every status object (`read_all`). A live page gives `add` what `Looks` reads in any case, and at most reads a few objects
more each time (`read_some`), until all have been read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from starburst_executor.client.reading import Block, Reading, Task
from starburst_executor.client.report import SessionStatus, WorkerReport
from starburst_executor.client.timeline import laid_out
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.report.axis import N_BINS, Axis, Counts, Coverage
from starburst_executor.report.durations import Durations, LabelDurations
from starburst_executor.report.lanes import MOST_BARS, Bar, Lane, Lanes
from starburst_executor.session.statuses import ListedStatus

__all__ = ["Gathering", "Overview"]

# Objects with tasks that have not ended: kept as they were read, about 50 KB each.
_MOST_LIVE = 128
# Functions whose durations are kept singly.
_MOST_FUNCTIONS = 12
_END_STATES = ("completed", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Overview:
    """A session over time. Every list of numbers has one for each bin; bin i begins at `times[i]`.

    Attributes:
        times: UTC epoch seconds: the moments at which the bins begin, and the end of the last.
        n_tasks: The number of tasks of the session.
        n_read: Of these, the number whose records were read.
        submitted: Tasks submitted up to the end of each bin.
        started: Tasks whose last attempt had begun by then.
        completed: Tasks that had completed by then; `failed` and `cancelled` likewise.
        ends: Tasks that ended within each bin.
        running: The mean number of running tasks in each bin.
        slots: The mean number of slots of live workers.
        durations: The durations of the last attempts.
        by_function: The same by the digest of the function; at most 12, the rest under "".
        by_label: The same by label.
        waited: The times from submit to start, of first runs.
        lanes: The workers that ran tasks.
        n_workers: The number of workers that ran tasks or beat.
        busy_s: Seconds in which slots ran a task; for tasks that run, up to now.
        slot_s: Seconds in which slots were there.
        late_slot_s: Of these, seconds after the last bin: workers that waited for further tasks.
        attempts: Claims of all tasks.
        failures: Failed attempts.
        losses: Losses of a worker that counted for a task.
        reruns: Explicit retries.
        began_at: When the first task began; None if none has.
        last_at: When the last change was made.
    """

    times: list[float]
    n_tasks: int
    n_read: int
    submitted: list[float]
    started: list[float]
    completed: list[float]
    failed: list[float]
    cancelled: list[float]
    ends: list[float]
    running: list[float]
    slots: list[float]
    durations: Durations
    by_function: dict[str, Durations]
    by_label: LabelDurations
    waited: Durations
    lanes: list[Lane]
    n_workers: int
    busy_s: float
    slot_s: float
    late_slot_s: float
    attempts: int
    failures: int
    losses: int
    reruns: int
    began_at: float | None
    last_at: float | None

    @property
    def is_sampled(self) -> bool:
        """Whether some records were not read, and their tasks are estimated."""
        return self.n_read < self.n_tasks

    @property
    def waiting(self) -> list[float]:
        """The number of tasks that waited for their start at the end of each bin."""
        return [max(0.0, a - b) for a, b in zip(self.submitted, self.started, strict=True)]

    @property
    def utilisation(self) -> list[float | None]:
        """The share of the slots that ran a task, in each bin; None where there were none."""
        return [min(1.0, a / b) if b > 0 else None for a, b in zip(self.running, self.slots, strict=True)]

    @property
    def idle_s(self) -> float:
        """Seconds in which slots were there and ran nothing."""
        return max(0.0, self.slot_s - self.busy_s)

    @property
    def shown_utilisation(self) -> float | None:
        """The share of the slots' time in which they ran tasks, without the time after the last bin; None without workers."""
        slot_s = self.slot_s - self.late_slot_s
        return min(1.0, self.busy_s / slot_s) if slot_s > 0 else None

    @property
    def sample_note(self) -> str:
        """A sentence that says what was read; empty if everything was."""
        if not self.is_sampled:
            return ""
        return f"Estimated from the records of {self.n_read:,} of {self.n_tasks:,} tasks."


@dataclass
class _Sums:
    """Everything that is added up."""

    axis: Axis
    submitted: Counts
    started: Counts
    ends: dict[str, Counts]
    running: Coverage
    lanes: Lanes
    durations: Durations = field(default_factory=Durations)
    by_function: dict[str, Durations] = field(default_factory=dict)
    by_label: LabelDurations = field(default_factory=LabelDurations)
    waited: Durations = field(default_factory=Durations)
    n_read: int = 0
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    reruns: int = 0
    busy_s: float = 0.0  # of tasks that have ended
    running_s: float = 0.0
    began_at: float | None = None
    last_at: float | None = None

    @classmethod
    def from_moment(cls, t0: float) -> _Sums:
        axis = Axis(t0)
        ends = {state: Counts(axis) for state in _END_STATES}
        return cls(axis, Counts(axis), Counts(axis), ends, Coverage(axis), Lanes(axis))

    def add(self, block: Block, now: float) -> None:
        """Add a status object's tasks."""
        tasks, stored = block.tasks, block.stored
        self.n_read += len(tasks)
        if self.n_read > MOST_BARS:
            self.lanes.without_bars()
        submitted_at = (stored.submitted_at if stored is not None else 0.0) or self.axis.t0
        self.submitted.count(submitted_at, len(tasks))
        ends = laid_out(tasks)
        commits: dict[tuple[str, float], list[Task]] = {}
        seconds_of: dict[int, list[float]] = {}
        waits = []
        running: set[str] = set()
        for task in tasks:
            self.attempts += task.attempt
            if task.failures or task.losses or task.run > 1:
                self.failures += task.failures
                self.losses += task.losses
                self.reruns += task.run - 1
            if task.sequence in ends:
                commits.setdefault((task.claim, task.at), []).append(task)
                entry = block.entry(task)
                seconds_of.setdefault(0 if entry is None else entry.function, []).append(task.seconds)
                if task.run == 1:
                    waits.append(max(1e-6, ends[task.sequence] - task.seconds - submitted_at))
            elif task.has_ended:
                # It was ended without a run, or its worker was lost.
                at = task.at or submitted_at
                self.started.count(at)
                self.ends[task.state.name.lower()].count(at)
                self.saw(at)
            elif task.state == State.CLAIMED and task.claim not in running:
                # A slot runs a claim's tasks in order: the first that has not ended is running, the others wait.
                running.add(task.claim)
                self._runs(task, max([at for claim, at in commits if claim == task.claim], default=task.at), now)
        for (_, at), committed in commits.items():
            self._commit(at, committed, ends)
        for number, seconds in seconds_of.items():
            own = Durations()
            own.add(seconds)
            self.durations.add_all(own)
            self._function("" if stored is None else stored.functions[number]).add_all(own)
            if not block.has_labels:
                self.by_label.of("").add_all(own)
        if block.has_labels:
            self._add_labelled(block, ends)
        self.waited.add(waits)

    def _add_labelled(self, block: Block, ends: dict[int, float]) -> None:
        by_label: dict[str, list[float]] = {}
        for task in block.tasks:
            if task.sequence in ends:
                by_label.setdefault(block.label(task), []).append(task.seconds)
        for label, seconds in by_label.items():
            self.by_label.of(label).add(seconds)

    def _function(self, digest: str) -> Durations:
        if digest not in self.by_function and len(self.by_function) >= _MOST_FUNCTIONS:
            digest = ""
        return self.by_function.setdefault(digest, Durations())

    def _commit(self, at: float, tasks: Sequence[Task], ends: dict[int, float]) -> None:
        """Add tasks that one commit ended: they ran one after the other."""
        worker = tasks[0].worker
        total_s = sum(task.seconds for task in tasks)
        begin = at - total_s
        self.busy_s += total_s
        self.running.cover(begin, at)
        counts = Counter(task.state.name.lower() for task in tasks)
        self.lanes.ran(worker, begin, at, counts)
        if total_s < self.axis.width_s:
            self.started.count(begin, len(tasks))
            for state, n in counts.items():
                self.ends[state].count(at, n)
        else:
            for task in tasks:
                end = ends[task.sequence]
                self.started.count(end - task.seconds)
                self.ends[task.state.name.lower()].count(end)
        if self.lanes.has_bars:
            bars = [(task, ends[task.sequence]) for task in tasks]
            self.lanes.bars(
                worker, [Bar(task.id, end - task.seconds, end, task.state.name.lower()) for task, end in bars]
            )
        self.saw(begin)
        self.saw(at)

    def _runs(self, task: Task, since: float, now: float) -> None:
        """Add a task that is running."""
        self.started.count(since)
        if now > since:
            self.running_s += now - since
            self.running.cover(since, now)
            self.lanes.ran(task.worker, since, now, Counter())
            self.lanes.bars(task.worker, [Bar(task.id, since, now, "running")])
        self.saw(since)

    def saw(self, at: float) -> None:
        self.began_at = at if self.began_at is None else min(self.began_at, at)
        self.last_at = at if self.last_at is None else max(self.last_at, at)


class Gathering:
    """Gathers the tasks of one session. Not thread-safe.

    Args:
        t0: The first moment of the axis, UTC epoch seconds: when the session was created.
    """

    def __init__(self, reading: Reading, t0: float) -> None:
        self._reading = reading
        self._t0 = t0
        self._sums = _Sums.from_moment(t0)
        self._added: dict[str, str] = {}  # objects that have ended and are added up, with their ETags
        self._live: dict[str, Block] = {}

    def add(self, block: Block) -> None:
        """Take in a status object that was read, in its newest version. Harmless for one that is known."""
        key, etag = block.listed.key, block.listed.etag
        if key in self._added:
            if self._added[key] == etag:
                return
            self._start_anew()
        self._live.pop(key, None)
        if all(task.has_ended for task in block.tasks):
            self._sums.add(block, 0.0)
            self._added[key] = etag
        else:
            self._live[key] = block
            if len(self._live) > _MOST_LIVE:
                del self._live[next(iter(self._live))]

    def _start_anew(self) -> None:
        """A retry has reopened an object that was added up, and sums cannot be taken back."""
        self._sums = _Sums.from_moment(self._t0)
        self._added.clear()

    def _forget_changed(self, listing: Iterable[ListedStatus]) -> None:
        for listed in listing:
            block = self._live.get(listed.key)
            if block is not None and block.listed.etag != listed.etag and listed.size_class.has_ended:
                del self._live[listed.key]
            if self._added.get(listed.key, listed.etag) != listed.etag:
                self._start_anew()

    def read_all(self, listing: Sequence[ListedStatus]) -> None:
        """Read every status object of a listing that was not read yet. Store: 1 GET each."""
        for block in self._reading.blocks(listed for listed in listing if not self._is_known(listed)):
            self.add(block)

    def _is_known(self, listed: ListedStatus) -> bool:
        block = self._live.get(listed.key)
        etag = self._added.get(listed.key, "") if block is None else block.listed.etag
        return etag == listed.etag

    def read_some(self, listing: Sequence[ListedStatus], most: int) -> int:
        """Read up to `most` status objects that have ended and were not read, evenly over the session. Store: 1 GET each.

        Returns:
            The number of objects that are left to read.
        """
        unread = [
            listed for listed in listing if listed.size_class.has_ended and self._added.get(listed.key) != listed.etag
        ]
        n = min(most, len(unread))
        chosen = [unread[i * len(unread) // n] for i in range(n)]
        for block in self._reading.blocks(chosen):
            self.add(block)
        return len(unread) - len(chosen)

    def overview(self, listing: Sequence[ListedStatus], status: SessionStatus) -> Overview:
        """Return everything that is known. Store: nothing.

        Args:
            listing: Every status object of the session.
            status: What a look at the session found: its workers, and the time.
        """
        until = status.at
        self._forget_changed(listing)
        sums = deepcopy(self._sums)
        for block in self._live.values():
            sums.add(block, until)
        scale = self._estimate(sums, listing)
        shown_until = max(until if not status.is_over else 0.0, sums.last_at or until)
        slots = Coverage(sums.axis)
        slot_s = late_slot_s = 0.0
        for worker in status.members:
            start, end = _life(worker, until)
            slot_s += (end - start) * worker.slots
            late_slot_s += max(0.0, end - max(start, shown_until)) * worker.slots
            if start < shown_until:  # what came later would make the bins wider for nothing
                slots.cover(start, min(end, shown_until), worker.slots)
        n_bins = _n_bins(sums.axis, shown_until)
        cumulative = {state: counts.cumulative()[:n_bins] for state, counts in sums.ends.items()}
        lanes = sums.lanes.all()
        n_tasks = sum(listed.ref.n_tasks for listed in listing)
        ran = {lane.worker for lane in lanes}
        return Overview(
            times=sums.axis.times()[: n_bins + 1],
            n_tasks=n_tasks,
            n_read=min(n_tasks, self._n_read()),
            submitted=sums.submitted.cumulative()[:n_bins],
            started=sums.started.cumulative()[:n_bins],
            completed=cumulative["completed"],
            failed=cumulative["failed"],
            cancelled=cumulative["cancelled"],
            ends=[sum(values) for values in zip(*(c.values[:n_bins] for c in sums.ends.values()), strict=True)],
            running=[value * scale for value in sums.running.values()[:n_bins]],
            slots=slots.values()[:n_bins],
            durations=sums.durations,
            by_function=sums.by_function,
            by_label=sums.by_label,
            waited=sums.waited,
            lanes=[lane._replace(busy=lane.busy[:n_bins]) for lane in lanes],
            n_workers=len(ran | {worker.id for worker in status.members}),
            busy_s=sums.busy_s * scale + sums.running_s,
            slot_s=slot_s,
            late_slot_s=late_slot_s,
            attempts=round(sums.attempts * scale),
            failures=round(sums.failures * scale),
            losses=round(sums.losses * scale),
            reruns=round(sums.reruns * scale),
            began_at=sums.began_at,
            last_at=sums.last_at,
        )

    def _n_read(self) -> int:
        return self._sums.n_read + sum(len(block.tasks) for block in self._live.values())

    def _estimate(self, sums: _Sums, listing: Iterable[ListedStatus]) -> float:
        """Count what was not read by the listing alone; return by how much sums of what was read are to be multiplied."""
        n_ended = sum(sum(counts.values) for counts in sums.ends.values())
        n_unread = 0
        submitted_at = self._t0
        for listed in listing:
            block = self._live.get(listed.key)
            if block is not None and block.stored is not None:
                submitted_at = block.stored.submitted_at or submitted_at
                continue
            if listed.key in self._added:
                continue
            n = listed.ref.n_tasks
            if listed.size_class == SizeClass.ALL_PENDING:
                submitted_at = listed.modified_at  # it has not been changed since
                sums.submitted.count(submitted_at, n)
                continue
            sums.submitted.count(min(submitted_at, listed.modified_at), n)
            if listed.size_class.has_ended:
                n_unread += n
                sums.saw(listed.modified_at)
                sums.started.count(listed.modified_at, n)
                sums.ends["completed" if listed.size_class == SizeClass.ALL_COMPLETED else "failed"].count(
                    listed.modified_at, n
                )
        return (n_ended + n_unread) / n_ended if n_ended else 1.0


def _life(worker: WorkerReport, now: float) -> tuple[float, float]:
    """Return when a worker started and when it ended, or now."""
    end = now if worker.is_alive else worker.beat_at
    return worker.started_at, max(worker.started_at, end)


def _n_bins(axis: Axis, until: float) -> int:
    """Return the number of bins up to this moment, at least one."""
    number, _ = axis.place(until)
    return min(N_BINS, number + 1)
