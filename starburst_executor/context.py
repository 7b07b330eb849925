"""The running task's view of itself: `current_task()`.

Owned by the runner, which enters a task before it calls the user's function and leaves it afterwards. One process runs
one task at a time, so this is plain process-wide state; threads that user code starts see it too.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = [
    "TaskContext",
    "current_task",
    "enter",
    "has_refused",
    "leave",
    "loading",
    "notes_go_to",
    "refuse_while_loading",
]


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The task that runs in this process now.

    Attributes:
        session_id: The session it belongs to.
        task_id: Its id, unique in the session: submitter's ordinal and sequence, as in `"0-17"`.
        index: Its number among the calls of the client that submitted it, from 0.
        attempt: The number of this try, from 1; retries and tries whose worker was lost are counted.
    """

    session_id: str
    task_id: str
    index: int
    attempt: int

    def progress(self, done: float, total: float | None = None, text: str = "") -> None:
        """Report how far this task is: `starburst top`, `starburst status --watch` and `status()` show it.

        The worker writes the newest report with its next beat, so it is seen within about 15 s. A report is a copy of some
        bytes in memory, about three microseconds: a task may report in its innermost loop. What an attempt has reported disappears with it.

        Args:
            done: The steps that are done, at least 0.
            total: The number of steps; None if it is not known.
            text: What the task does now: one line, 200 characters at the most; what does not fit is cut.

        Raises: ValueError: a number is negative, infinite or not a number. After the task's end it does nothing.
        Store: nothing.
        """
        amounts = [float(done)] if total is None else [float(done), float(total)]
        if not all(0 <= amount < math.inf for amount in amounts):
            raise ValueError(f"progress must be numbers, at least 0: done={done!r}, total={total!r}")
        if _write_note is not None and current_task() == self:
            _write_note(amounts[0], None if total is None else amounts[1], str(text))


# Session, ordinal, index and attempt; a `TaskContext` is only made for a task that asks: each task pays for this.
_current: tuple[str, int, int, int] | None = None
_write_note: Callable[[float, float | None, str], None] | None = None


def current_task() -> TaskContext | None:
    """The task that this process runs, or None outside of one. No store requests; safe to call anywhere.

    >>> from starburst_executor import current_task
    >>> current_task() is None  # not inside a task
    True
    """
    if _current is None:
        return None
    session_id, ordinal, index, attempt = _current
    return TaskContext(session_id, f"{ordinal}-{index}", index, attempt)


def notes_go_to(write: Callable[[float, float | None, str], None]) -> None:
    """Called by the runner once, with what writes a note of its running task."""
    global _write_note  # noqa: PLW0603 - one runner per process
    _write_note = write


def enter(session_id: str, ordinal: int, index: int, attempt: int) -> None:
    """Called by the runner before a task."""
    global _current  # noqa: PLW0603 - one task per process at a time
    _current = (session_id, ordinal, index, attempt)


def leave() -> None:
    """Called by the runner after a task."""
    global _current  # noqa: PLW0603 - one task per process at a time
    _current = None


class _Loading:
    """Whether this process rebuilds a function or a call, in which thread, and whether that made an executor."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.has_refused = False


_loading = _Loading()


@contextmanager
def loading() -> Iterator[None]:
    """Around the rebuilding of a function or a call in a runner, which may import modules."""
    _loading.thread, _loading.has_refused = threading.get_ident(), False
    try:
        yield
    finally:
        _loading.thread = None


def refuse_while_loading() -> None:
    """Refuse an executor in a runner that imports the module of a task's function.

    That import would start workers, which import the module to find the function that it submits, and so on.

    Raises: RuntimeError.
    """
    if _loading.thread == threading.get_ident():
        _loading.has_refused = True
        raise RuntimeError(
            "an executor is made while a worker imports the module of a task's function: the module would start workers "
            "each time it is imported; make the executor in a function, or beneath `if __name__ == '__main__':`"
        )


def has_refused() -> bool:
    """Whether the last rebuilding has made an executor: then it does so on any other worker, too."""
    return _loading.has_refused
