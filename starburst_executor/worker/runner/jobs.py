"""The input and output of a runner: jobs and events, plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias, TypeGuard, cast

from starburst_executor.protocol import keys

__all__ = [
    "BrokenStart",
    "Completed",
    "Died",
    "Event",
    "Finished",
    "Job",
    "Jobs",
    "Started",
    "each_event",
    "each_job",
    "gathered",
]


class Job(NamedTuple):
    """One task to run.

    Attributes:
        number: At least 1, ascending for one runner.
        ordinal: Of the task's submitter.
        index: The task's index.
        digest: The digest of the function.
        pieces: Names and bytes of the big pieces that `call` refers to.
        shared: Names, paths and lengths of the shared values that call and function refer to; the files exist until the job has ended.
        options: The task's options, encoded; empty for the defaults.
    """

    number: int
    ordinal: int
    index: int  # type: ignore[assignment]  # in place of a tuple's method, which nothing calls
    attempt: int
    digest: str
    call: bytes
    pieces: tuple[tuple[bytes, bytes], ...] = ()
    shared: tuple[tuple[str, str, int], ...] = ()
    options: bytes = b""

    @property
    def numbers(self) -> range:
        """Its number, as those of `Jobs`."""
        return range(self.number, self.number + 1)

    @property
    def task_id(self) -> str:
        """The task's id."""
        return keys.task_id(self.ordinal, self.index)


class Jobs(NamedTuple):
    """Neighbouring tasks whose calls are small: a job for each, with consecutive numbers and indexes.

    Attributes:
        number: Of the first job.
        index: Of the first task.
        calls: Their calls, without pieces, shared values and results.
        options: The options of all of them.
    """

    number: int
    ordinal: int
    index: int  # type: ignore[assignment]  # in place of a tuple's method, which nothing calls
    attempt: int
    digest: str
    calls: list[bytes]
    options: bytes = b""

    @property
    def numbers(self) -> range:
        """The numbers of the jobs."""
        return range(self.number, self.number + len(self.calls))


def each_job(jobs: Iterable[Job | Jobs]) -> Iterator[Job]:
    """Yield each job by itself, as simulated runners take them."""
    for job in jobs:
        if isinstance(job, Job):
            yield job
        else:
            number, ordinal, index, attempt, digest, calls, options = job
            for i, call in enumerate(calls):
                yield Job(number + i, ordinal, index + i, attempt, digest, call, options=options)


class Started(NamedTuple):
    """The job that runs.

    Attributes:
        at: When it was started, by the clock's `monotonic`.
    """

    number: int
    at: float


class Finished(NamedTuple):
    """A job has ended.

    Attributes:
        ok: False if `outcome` holds an exception.
        loaded: False if the runner could not load the function or the call, so that the task did not start.
        outcome: The outcome's bytes, for `outcomes.load_outcome`; a memoryview if it is big.
        seconds: The duration from before the call is loaded until the value is pickled.
        stdout: The output of the job; without its middle if it was more than `capture_bytes`.
        records: What it logged, if `task_logs` was set (`protocol/logged.py`).
    """

    number: int
    ok: bool
    loaded: bool
    outcome: bytes | memoryview
    seconds: float
    stdout: bytes
    stderr: bytes
    records: bytes = b""

    @property
    def n_bytes(self) -> int:
        """The memory that it takes until it is stored."""
        return len(self.outcome) + len(self.stdout) + len(self.stderr) + len(self.records)

    @classmethod
    def failed(
        cls, reason: bytes, stdout: bytes = b"", stderr: bytes = b"", seconds: float = 0.0, records: bytes = b""
    ) -> Finished:
        """Return an end that no runner reported: the job could not be sent, or the runner died. `reason` is an outcome."""
        return cls(0, False, True, reason, seconds, stdout, stderr, records)


class Completed(NamedTuple):
    """Jobs with consecutive numbers have returned, without output and records. Columns, because an object for each costs as much as the rest.

    Attributes:
        number: Of the first job.
        outcomes: The outcome of each.
        seconds: The duration of each.
    """

    number: int
    outcomes: list[bytes]
    seconds: list[float]

    @property
    def n(self) -> int:
        """How many jobs."""
        return len(self.outcomes)

    def each(self) -> Iterator[Finished]:
        """Yield the end of each job by itself."""
        for i, (outcome, seconds) in enumerate(zip(self.outcomes, self.seconds, strict=True)):
            yield Finished(self.number + i, True, True, outcome, seconds, b"", b"")

    def part(self, start: int, end: int) -> Completed:
        """Return the jobs from the `start`-th up to the one before the `end`-th."""
        if start == 0 and end == self.n:
            return self
        return Completed(self.number + start, self.outcomes[start:end], self.seconds[start:end])


class Died(NamedTuple):
    """The runner has ended, for any reason: always its last event.

    Attributes:
        reason: The cause as text for the user, such as `killed by SIGKILL, possibly out of memory`.
        culprit: The job that was running, or None if there was none.
        stdout: The output since the last outcome.
        timed_out: The job whose time limit led to the kill; not always the culprit.
        over: The job that used more memory than it asked for, and led to the kill; not always the culprit.
        peak_bytes: The most memory that the culprit was seen to use, if that was measured.
    """

    reason: str
    culprit: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: int | None = None
    records: bytes = b""
    over: int | None = None
    peak_bytes: int = 0

    @property
    def may_lack_memory(self) -> bool:
        """Whether the system may have killed it because memory ran out."""
        return "out of memory" in self.reason


class BrokenStart(NamedTuple):
    """The initializer raised; no job was started and `Died` follows. `outcome` holds the exception."""

    outcome: bytes


Event: TypeAlias = Finished | Completed | Died | BrokenStart


def each_event(events: Iterable[Event]) -> Iterator[Finished | Died | BrokenStart]:
    """Yield the events with the end of each job by itself."""
    for event in events:
        if isinstance(event, Completed):
            yield from event.each()
        else:
            yield event


def gathered(events: Iterable[Event]) -> Iterator[Event]:
    """Yield events as a runner reports them: together the jobs that returned and left nothing else. For simulated runners."""
    run = Completed(0, [], [])
    for event in events:
        if _is_plain(event) and event.number == run.number + run.n:
            run.outcomes.append(cast("bytes", event.outcome))
            run.seconds.append(event.seconds)
            continue
        if run.n:
            yield run
        run = Completed(0, [], [])
        if _is_plain(event):
            run = Completed(event.number, [cast("bytes", event.outcome)], [event.seconds])
        else:
            yield event
    if run.n:
        yield run


def _is_plain(event: Event) -> TypeGuard[Finished]:
    return isinstance(event, Finished) and event.ok and not (event.stdout or event.stderr or event.records)
