"""Reports on a session: its status, and its outcomes as records. `looks.py` makes the status."""

from __future__ import annotations

import html
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, field
from typing import Any

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.money import Cost

__all__ = ["SessionStatus", "TaskOutcome", "TaskReport", "WorkerReport", "amount", "duration", "outcome_of"]

# Of what programs get: `to_dict`, and the command's `--json`. It changes when a field is taken away or changes its meaning.
FORMAT = 1


@dataclass(frozen=True, slots=True)
class TaskReport:
    """A task that runs on a worker.

    What it uses and what it has reported come from the worker's last beat, which may be 15 s old; None if that beat does not have it.

    Attributes:
        id: The task's id.
        seconds: Seconds since it began.
        cpu: The processors that it uses; 1.0 is one processor.
        memory_bytes: The memory of its process and of all processes that it started.
        done: The steps that it has done, as it reported by `TaskContext.progress`.
        total: The number of its steps.
        text: What it reported besides; one line.
    """

    id: str
    seconds: float
    cpu: float | None = None
    memory_bytes: int | None = None
    done: float | None = None
    total: float | None = None
    text: str = ""

    @property
    def note(self) -> str:
        """What it has reported, in words: `34% (17 of 50) reading`; empty if it has reported nothing."""
        if self.done is None:
            return ""
        steps = f"{self.done:g}"
        if self.total:
            steps = f"{min(1.0, self.done / self.total):.0%} ({self.done:g} of {self.total:g})"
        return f"{steps} {self.text}".rstrip()

    @property
    def usage(self) -> str:
        """What it uses, in words: `98% CPU, 210 MB`; empty if that is not known."""
        parts = [] if self.cpu is None else [f"{self.cpu:.0%} CPU"]
        parts += [] if self.memory_bytes is None else [f"{self.memory_bytes / 2**20:,.0f} MB"]
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One worker of a session, by its newest beat and the claims that it holds.

    Attributes:
        id: The worker's id.
        state: `working`, `idle`, `leaving`, `left`, or `lost`: its beats have stopped.
        host: The machine that it runs on.
        slots: The number of tasks that it runs at once.
        tasks: The tasks that run.
        n_ended: Tasks that it has ended.
        started_at: When it started, UTC epoch seconds by its own clock.
        beat_at: When it beat last, by the same clock.
        age_s: Seconds since it started.
        words: Why it could not go on, if it could not.
        launcher_id: What its launcher calls it: the ARN of its ECS task or the id of its Batch job; elsewhere its process id.
        trouble: The error for which a request of it to the store has waited for ten seconds or longer; empty if none has.
    """

    id: str
    state: str
    host: str
    slots: int
    tasks: tuple[TaskReport, ...]
    n_ended: int
    started_at: float
    beat_at: float
    age_s: float
    words: str = ""
    launcher_id: str = ""
    trouble: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether it is neither lost nor has left."""
        return self.state not in ("left", "lost")


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """The state of a session at one moment; `str()` gives a summary for people.

    Attributes:
        id: The session's id.
        state: `open`, `terminated`, `expired`, `broken` or `deleted`.
        total: The number of submitted tasks: pending, claimed, completed, failed and cancelled.
        pending: Tasks that wait for a worker.
        claimed: Tasks that a worker holds, running or next to run.
        running: The claimed tasks that run: of each live worker's claims, one for each of its slots.
        completed: Tasks that returned a value.
        failed: Tasks that ended with an exception.
        cancelled: Tasks that were cancelled.
        workers: The number of live workers, as far as their beats show.
        slots: The number of tasks that these workers can run at once.
        per_s: Tasks that ended per second in the last minute, or since the first task began.
        seconds_left: An estimate from `per_s`; None if none are left, or nothing tells.
        cost: The cost so far.
        vcpus: The vCPUs of live workers that a launcher on AWS has started; 0 if their machines are unknown.
        memory_gb: The memory of these workers, in GB.
        gpus: The GPUs of these workers.
        at: When this was read, UTC epoch seconds.
        created_at: When the session was created.
        reason: Why it is over.
        deadline_at: When it expires; None if never.
        is_exact: Whether every count is exact. In a session of several hundred status objects that did not end well, or that change
            while they are read, counts are estimated from those that were read; further calls read more of them.
        per_s_overall: Tasks that ended per second since the first one began.
        seconds_left_least: The time left is longer than this in 95 of 100 cases; None if nothing tells.
        seconds_left_most: The time left is shorter than this in 95 of 100 cases; None if nothing tells.
        median_s: The median duration of a task, of those that were read; None if none has ended.
        p90_s: The duration that 90 of 100 tasks do not exceed.
        longest_running: The id of the task that runs longest, and its seconds; None if none runs.
        idle: Live workers that run nothing.
        lost: Workers whose beats have stopped.
        hosts: The machines of live workers, each with the number of workers on it.
        utilisation: The share of the live workers' slots that run a task; None without workers.
        failures: Failed tasks by the class of their exception; None without the session's key.
        retries: Attempts that failed and were tried again, and explicit retries, in the objects that were read.
        losses: Losses of a worker that count for a task, likewise.
        requests: Store requests by kind, of all workers and of this client.
        read_ms: The mean milliseconds of a read from the store, as its live workers measured it within the last minute; None without workers.
        write_ms: The mean milliseconds of a write, likewise.
        members: One report a worker.
        unsent: The ids of messages that could not be sent yet; they are tried again.
        name: The session's name; empty without one.
    """

    id: str
    state: str
    total: int
    pending: int
    claimed: int
    running: int
    completed: int
    failed: int
    cancelled: int
    workers: int
    slots: int
    per_s: float
    seconds_left: float | None
    cost: Cost
    vcpus: float = 0.0
    memory_gb: float = 0.0
    gpus: int = 0
    at: float = 0.0
    created_at: float = 0.0
    reason: str = ""
    deadline_at: float | None = None
    is_exact: bool = True
    per_s_overall: float = 0.0
    seconds_left_least: float | None = None
    seconds_left_most: float | None = None
    median_s: float | None = None
    p90_s: float | None = None
    longest_running: tuple[str, float] | None = None
    idle: int = 0
    lost: int = 0
    hosts: tuple[tuple[str, int], ...] = ()
    utilisation: float | None = None
    failures: Mapping[str, int] | None = None
    retries: int = 0
    losses: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    read_ms: float | None = None
    write_ms: float | None = None
    members: tuple[WorkerReport, ...] = ()
    name: str = ""
    unsent: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        """The number of completed, failed and cancelled tasks."""
        return self.completed + self.failed + self.cancelled

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: all tasks have ended, or the session has."""
        return self.state not in ("open", "closing") or self.ended == self.total

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON, with the number of this `format`."""
        plain = asdict(self)
        plain["failures"] = None if self.failures is None else dict(self.failures)
        plain["requests"] = dict(self.requests)
        plain["cost"]["total_usd"] = self.cost.total_usd
        return {"format": FORMAT, **plain, "ended": self.ended}

    def rows(self) -> list[tuple[str, str]]:
        """Return the lines that `str()` shows, each with its heading."""
        about = "" if self.is_exact else "about "
        share = f" ({self.ended / self.total:.0%})" if self.total else ""
        rows = [
            ("tasks", f"{about}{self.ended:,} of {self.total:,} ended{share}"),
            ("", f"{self.completed:,} completed, {self.failed:,} failed, {self.cancelled:,} cancelled"),
            ("", f"{self.pending:,} pending, {self.claimed:,} claimed, {self.running:,} running"),
        ]
        if self.failures:
            kinds = sorted(self.failures.items(), key=lambda kind: -kind[1])
            more = f" and {amount(len(kinds) - _KINDS, 'other kind')}" if len(kinds) > _KINDS else ""
            rows.append(("failures", ", ".join(f"{n:,} {kind}" for kind, n in kinds[:_KINDS]) + more))
        if self.retries or self.losses:
            rows.append(("again", f"{amount(self.retries, 'retry')}, {amount(self.losses, 'try')} lost with workers"))
        if self.median_s is not None and self.p90_s is not None:
            longest = self.longest_running
            now = "" if longest is None else f"; {longest[0]} runs for {duration(longest[1])}"
            rows.append(("a task", f"median {duration(self.median_s)}, 90% within {duration(self.p90_s)}{now}"))
        rows += self._notes()
        lost = f", {self.lost:,} lost" if self.lost else ""
        idle = f", {self.idle:,} idle" if self.idle else ""
        busy = f", {self.utilisation:.0%} busy" if self.utilisation is not None else ""
        rows.append(
            (
                "workers",
                f"{self.workers:,} alive with {amount(self.slots, 'slot')}{busy}{idle}{lost}; {self._rate()}{self._left()}",
            )
        )
        if self.hosts:
            more = f" and {amount(len(self.hosts) - _HOSTS, 'other host')}" if len(self.hosts) > _HOSTS else ""
            rows.append(("", "on " + ", ".join(f"{host} ({n:,})" for host, n in self.hosts[:_HOSTS]) + more))
        if self.vcpus:
            rows.append(("", f"{self.vcpus:g} vCPUs, {self.memory_gb:g} GB, {amount(self.gpus, 'GPU')}"))
        if self.read_ms is not None and self.write_ms is not None:
            rows.append(
                (
                    "store",
                    f"a read takes {_ms(self.read_ms)}, a write {_ms(self.write_ms)}, as workers measured it in the last minute",
                )
            )
        if self.cost.total_usd:
            rows.append(("cost", str(self.cost)))
        if self.trouble:
            rows.append(("warning", self.trouble))
        if self.unsent:
            events = ", ".join(message.rpartition("/")[2] for message in self.unsent)
            rows.append(("warning", f"messages that could not be sent, and are tried again: {events}"))
        return rows

    @property
    def trouble(self) -> str:
        """What keeps workers from the store, in words; empty if nothing does."""
        troubled = [worker for worker in self.members if worker.is_alive and worker.trouble]
        if not troubled:
            return ""
        wait, have = ("waits", "it has") if len(troubled) == 1 else ("wait", "they have")
        return f"{amount(len(troubled), 'worker')} {wait} for the store, and what {have} done is not lost: {troubled[-1].trouble}"

    def _notes(self) -> list[tuple[str, str]]:
        """Return what running tasks have reported, those that run longest first."""
        noted = [task for worker in self.members for task in worker.tasks if task.note]
        noted.sort(key=lambda task: -task.seconds)
        rows = [("" if i else "progress", f"{task.id}  {task.note}") for i, task in enumerate(noted[:_NOTES])]
        if len(noted) > _NOTES:
            rows.append(("", f"and {amount(len(noted) - _NOTES, 'other task')}"))
        return rows

    def _rate(self) -> str:
        """Return the rate in the last minute, and that since the first task began where they differ."""
        rate, overall = f"{self.per_s:,.1f} tasks/s", f"{self.per_s_overall:,.1f}"
        return rate if rate.startswith(f"{overall} ") else f"{rate}, {overall} overall"

    def _left(self) -> str:
        if self.seconds_left is None:
            return ""
        bounds = ""
        if self.seconds_left_least is not None:
            least, most = duration(self.seconds_left_least), self.seconds_left_most
            bounds = f" ({least} or more)" if most is None else f" ({least} to {duration(most)})"
        return f", about {duration(self.seconds_left)} left{bounds}"

    @property
    def title(self) -> str:
        """The first line that `str()` shows."""
        return f"session {self.id}{f', {self.name}' if self.name else ''}: {self.state}{f' ({self.reason})' if self.reason else ''}"

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {heading:<8} {words}" for heading, words in self.rows())])

    def _repr_html_(self) -> str:
        """Return the summary as a table, for notebooks."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(heading)}</th>"
            f"<td style='text-align:left'>{html.escape(words)}</td></tr>"
            for heading, words in self.rows()
        )
        return f"<table><caption>{html.escape(self.title)}</caption>{cells}</table>"


# The most that one line names.
_KINDS = 5
_HOSTS = 4
_NOTES = 8


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """The outcome of one task.

    Attributes:
        task_id: Unique in the session.
        index: The task's number among the calls of its client, from 0.
        state: `completed`, `failed` or `cancelled`.
        value: The value that it returned; None unless completed.
        error: The exception that it raised, with the remote traceback as its cause; None if completed.
        label: Its label; empty without one.
    """

    task_id: str
    index: int
    state: str
    value: Any
    error: BaseException | None
    label: str = ""

    @property
    def ok(self) -> bool:
        """Whether the task completed."""
        return self.error is None


def outcome_of(future: StarburstFuture[Any]) -> TaskOutcome:
    """Return the record of a future that is done."""
    if future.cancelled():
        error: BaseException | None = CancelledError(f"the task was cancelled: task={future.task_id}")
        return TaskOutcome(future.task_id, future.index, "cancelled", None, error, future.label)
    error = future.exception()
    if isinstance(error, CancelledError):
        return TaskOutcome(future.task_id, future.index, "cancelled", None, error, future.label)
    if error is not None:
        return TaskOutcome(future.task_id, future.index, "failed", None, error, future.label)
    return TaskOutcome(future.task_id, future.index, "completed", future.result(), None, future.label)


def duration(seconds: float) -> str:
    """Return a duration for people: `0.4 ms`, `21 ms`, `0.25 s`, `12 s`, `3 min`, `1.5 h`."""
    if 0 < seconds < 0.1:  # noqa: PLR2004 - as many digits, and no zeros before them
        return _ms(seconds * 1000)
    if seconds < 10:  # noqa: PLR2004 - two digits tell more
        return f"{seconds:.2g} s"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h" if minutes < 60 * 48 else f"{minutes / 60 / 24:.1f} d"


def amount(n: int, noun: str) -> str:
    """Return a number of things for people: `1 task`, `2,000 tasks`, `3 retries`."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {noun[:-1]}ies" if noun.endswith("y") else f"{n:,} {noun}s"


def _ms(ms: float) -> str:
    """Return milliseconds with two digits at least, and never with an exponent."""
    return f"{ms:,.0f} ms" if ms >= 100 else f"{max(ms, 0.001):.2g} ms"  # noqa: PLR2004 - three digits, which g would round
