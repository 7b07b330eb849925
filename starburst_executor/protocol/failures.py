"""How many tasks of a session may fail before it ends: a number, or a share of its tasks such as `10%`."""

from __future__ import annotations

import math

from starburst_executor.errors import TooManyFailures

__all__ = ["TOO_MANY_FAILURES", "are_too_many", "failures_reason", "most_failures"]

# The value of `Manifest.error` if failures broke the session.
TOO_MANY_FAILURES = TooManyFailures.__name__
# A share is not judged before this number of tasks have ended: one failure of the first two says little.
_LEAST_ENDED = 10


def most_failures(limit: str, n_tasks: int) -> int:
    """Return the number of tasks that may fail without ending the session.

    Args:
        limit: A number of tasks, or a share as `10%`, as `config` has checked it.
        n_tasks: The number of tasks of the session.
    """
    if limit.endswith("%"):
        return math.floor(n_tasks * float(limit[:-1]) / 100)
    return int(limit)


def are_too_many(limit: str, n_failed: int, n_tasks: int, n_ended: int) -> bool:
    """Whether more tasks have failed than the session allows; false without a limit."""
    if not limit or (limit.endswith("%") and n_ended < _LEAST_ENDED):
        return False
    return n_failed > most_failures(limit, n_tasks)


def failures_reason(limit: str, n_failed: int, n_tasks: int) -> str:
    """Return the reason with which a session is broken when too many of its tasks have failed."""
    return (
        f"{n_failed:,} of {n_tasks:,} tasks failed, and max_failures={limit} allows {most_failures(limit, n_tasks):,}"
    )
