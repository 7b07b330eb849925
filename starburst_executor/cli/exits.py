"""The exit statuses of the command, and which error has which: the only place that maps exceptions to them."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError

from starburst_executor.errors import (
    BudgetExceeded,
    ConfigError,
    ExecutorBroken,
    KeyNotFound,
    LaunchError,
    PayloadError,
    QuotaExceeded,
    SessionExpired,
    SessionNotFound,
    StarburstError,
    StudyChanged,
    StudyNotFound,
    TaskFailed,
    TooManyFailures,
)

__all__ = [
    "DONE",
    "FAULT",
    "INTERRUPTED",
    "LIMIT",
    "NO",
    "NO_SESSION",
    "NO_WORKERS",
    "READER_GONE",
    "STORE",
    "TIMED_OUT",
    "USAGE",
    "code_of",
]

DONE = 0
NO = 1
USAGE = 2
NO_SESSION = 3
STORE = 4
TIMED_OUT = 5
NO_WORKERS = 6
LIMIT = 7
FAULT = 70  # as EX_SOFTWARE of sysexits.h
INTERRUPTED = 130
READER_GONE = 141  # as shells show a program that SIGPIPE ended

# The first class that an error is of decides.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (SessionNotFound, NO_SESSION),
    (StudyNotFound, NO_SESSION),
    (StudyChanged, USAGE),
    (KeyNotFound, STORE),
    (BudgetExceeded, LIMIT),
    (TooManyFailures, LIMIT),
    (SessionExpired, LIMIT),
    (QuotaExceeded, LIMIT),
    (ConfigError, USAGE),
    (PayloadError, USAGE),
    (LaunchError, NO_WORKERS),
    (ExecutorBroken, NO_WORKERS),
    (FutureTimeoutError, TIMED_OUT),
    (TimeoutError, TIMED_OUT),
    (TaskFailed, NO),
    # The store, its records, the versions that wrote them.
    (StarburstError, STORE),
)


def code_of(error: BaseException, *, in_account: bool = False) -> int:
    """Return the exit status of an error.

    Args:
        in_account: Whether the command manages an AWS account: what could not be done there is not a worker that did not start.
    """
    if in_account and isinstance(error, LaunchError) and not isinstance(error, QuotaExceeded):
        return STORE
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAULT)
