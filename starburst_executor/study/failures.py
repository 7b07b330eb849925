"""Failures of trials by kind, and which errors are no failure of a trial at all, but the end of its session."""

from __future__ import annotations

import errno
import signal
from concurrent.futures import CancelledError

from starburst_executor.errors import (
    BudgetExceeded,
    ExecutorBroken,
    PayloadError,
    RemoteTraceback,
    SessionExpired,
    SessionNotFound,
    StarburstError,
    TaskCrashed,
    TaskFailed,
    TaskTimeout,
    WorkerLost,
)

__all__ = [
    "CRASHED",
    "DISK_FULL",
    "KINDS",
    "LOST",
    "MEMORY",
    "PAYLOAD",
    "RAISED",
    "TIMED_OUT",
    "TrialFailed",
    "is_of_session",
    "kind_of",
    "kind_of_signal",
    "line_of",
]

RAISED, CRASHED, TIMED_OUT, MEMORY = "raised", "crashed", "timed out", "memory"
DISK_FULL, LOST, PAYLOAD = "disk full", "lost", "payload"
KINDS = (RAISED, CRASHED, TIMED_OUT, MEMORY, DISK_FULL, LOST, PAYLOAD)
_SESSION_ERRORS = (SessionExpired, SessionNotFound, BudgetExceeded, ExecutorBroken)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_LINE = 300


class TrialFailed(StarburstError):
    """A trial's command failed. Fix the command or its parameters.

    Attributes:
        kind: One of `KINDS`.
    """

    def __init__(self, message: str, kind: str = RAISED) -> None:
        super().__init__(message, kind)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[0])


def is_of_session(error: BaseException) -> bool:
    """Return whether this error ended a session, and so says nothing of the trial whose future has it."""
    # What a trial itself raised has the traceback of its process as its cause.
    return isinstance(error, _SESSION_ERRORS) and not isinstance(error.__cause__, RemoteTraceback)


def kind_of(error: BaseException) -> str:
    """Return the kind of a trial's failure."""
    if isinstance(error, TrialFailed):
        return error.kind
    if isinstance(error, CancelledError):
        return "cancelled"
    if isinstance(error, TaskTimeout):
        return TIMED_OUT
    if isinstance(error, TaskCrashed):
        return _kind_of_crash(str(error))
    if isinstance(error, WorkerLost):
        return LOST
    if isinstance(error, PayloadError):
        return PAYLOAD
    if isinstance(error, TaskFailed):
        return MEMORY if error.type_name.endswith("MemoryError") else RAISED
    return _kind_of_exception(error)


def _kind_of_crash(text: str) -> str:
    # The words are those of `worker/runner/exits.py`.
    if signal.SIGALRM.name in text:
        return TIMED_OUT
    return MEMORY if signal.SIGKILL.name in text else CRASHED


def _kind_of_exception(error: BaseException) -> str:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, MemoryError):
            return MEMORY
        if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
            return DISK_FULL
        cause = cause.__cause__ or cause.__context__
    return RAISED


def kind_of_signal(number: int) -> str:
    """Return the kind of a command that this signal ended."""
    return {int(signal.SIGKILL): MEMORY, int(signal.SIGALRM): TIMED_OUT}.get(number, CRASHED)


def line_of(error: BaseException) -> str:
    """Return an error as one line for a table: its class and its first line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:_LINE]
