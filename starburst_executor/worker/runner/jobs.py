"""The input and output of a runner: jobs and events, plain values."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from starburst_executor.protocol import keys

__all__ = ["BrokenStart", "Died", "Event", "Finished", "Job", "Started"]


class Job(NamedTuple):
    """One task to run.

    Attributes:
        number: At least 1, ascending for one runner.
        ordinal: Of the task's submitter.
        index: The task's index.
        digest: The digest of the function.
        pieces: Names and bytes of the big pieces that `call` refers to.
    """

    number: int
    ordinal: int
    index: int  # type: ignore[assignment]  # in place of a tuple's method, which nothing calls
    attempt: int
    digest: str
    call: bytes
    pieces: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def task_id(self) -> str:
        """The task's id."""
        return keys.task_id(self.ordinal, self.index)


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


class Died(NamedTuple):
    """The runner has ended, for any reason: always its last event.

    Attributes:
        reason: The cause as text for the user, such as `killed by SIGKILL, possibly out of memory`.
        culprit: The job that was running, or None if there was none.
        stdout: The output since the last outcome.
        timed_out: The job whose time limit led to the kill; not always the culprit.
    """

    reason: str
    culprit: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: int | None = None
    records: bytes = b""


class BrokenStart(NamedTuple):
    """The initializer raised; no job was started and `Died` follows. `outcome` holds the exception."""

    outcome: bytes


Event: TypeAlias = Finished | Died | BrokenStart
