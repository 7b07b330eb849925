"""The running task's view of itself: `current_task()`.

Owned by the runner, which enters a task before it calls the user's function and leaves it afterwards. One process runs
one task at a time, so this is plain process-wide state; threads that user code starts see it too.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TaskContext", "current_task", "enter", "leave"]


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The task that runs in this process now.

    Attributes:
        session_id: The session it belongs to.
        task_id: Its id, unique in the session: submitter's ordinal and sequence, as in `"0-17"`.
        index: Its place among the calls of the client that submitted it, from 0.
        attempt: The number of this try, from 1; retries and tries whose worker was lost are counted.
    """

    session_id: str
    task_id: str
    index: int
    attempt: int


_current: TaskContext | None = None


def current_task() -> TaskContext | None:
    """The task that this process runs, or None outside of one. No store requests; safe to call anywhere.

    >>> from starburst_executor import current_task
    >>> current_task() is None  # not inside a task
    True
    """
    return _current


def enter(*, session_id: str, task_id: str, index: int, attempt: int) -> None:
    """Called by the runner before a task."""
    global _current  # noqa: PLW0603 - one task per process at a time
    _current = TaskContext(session_id, task_id, index, attempt)


def leave() -> None:
    """Called by the runner after a task."""
    global _current  # noqa: PLW0603 - one task per process at a time
    _current = None
