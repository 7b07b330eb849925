"""What goes into a runner and what comes out: jobs and events, plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = ["BrokenStart", "Died", "Event", "Finished", "Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """One task to run.

    Attributes:
        number: At least 1, ascending for one runner.
        digest: Names the function.
        pieces: Names and bytes of the big pieces that `call` refers to.
    """

    number: int
    index: int
    attempt: int
    task_id: str
    digest: str
    call: bytes
    pieces: tuple[tuple[bytes, bytes], ...] = ()


class Finished(NamedTuple):
    """A job has ended.

    Attributes:
        ok: False if `outcome` holds an exception.
        loaded: False if the function or the call could not be rebuilt here, so that user code did not start.
        outcome: As `outcomes.load_outcome` reads it; a memoryview if it is big.
        seconds: From loading the call to having pickled the value.
        stdout: What was printed meanwhile; the middle is left out if it was more than `capture_bytes`.
    """

    number: int
    ok: bool
    loaded: bool
    outcome: bytes | memoryview
    seconds: float
    stdout: bytes
    stderr: bytes

    @classmethod
    def failed(cls, reason: bytes, stdout: bytes = b"", stderr: bytes = b"", seconds: float = 0.0) -> Finished:
        """An end that the runner did not tell: the job could not be given to it, or it died. `reason` is an outcome."""
        return cls(0, False, True, reason, seconds, stdout, stderr)


class Died(NamedTuple):
    """The runner has ended, whyever: always its last event.

    Attributes:
        reason: Words for the user, such as `killed by SIGKILL, possibly out of memory`.
        culprit: The job that was running, or None if there was none.
        stdout: What had been printed since the last outcome.
        timed_out: The job that it was killed for, because it ran for too long; not always the culprit.
    """

    reason: str
    culprit: int | None
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: int | None = None


class BrokenStart(NamedTuple):
    """The initializer raised; no job was started and `Died` follows. `outcome` holds the exception."""

    outcome: bytes


Event: TypeAlias = Finished | Died | BrokenStart
