"""The running task's view of itself: `current_task()`.

Owned by the runner, which enters a task before it calls the user's function and leaves it afterwards. One process runs
one task at a time, so this is plain process-wide state; threads that user code starts see it too.
"""

from __future__ import annotations

import importlib
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "Access",
    "TaskContext",
    "TaskExecutor",
    "at_end",
    "current_task",
    "enter",
    "has_refused",
    "leave",
    "loading",
    "notes_go_to",
    "refuse_while_loading",
    "session_is",
]

# Tasks that submit tasks need a client in their process. It is found by name, since `client` and `worker` do not import each other,
# and only tasks that ask for it pay for its import.
_CLIENT = "starburst_executor.client.nested"


class Access(NamedTuple):
    """What a runner gives to tasks that submit tasks.

    Attributes:
        url: The session's URL.
        key: The session's key.
        lend: Lends the running task's place to another task; returns False if too many are lent. For the main thread.
        resume: Takes the place back.
        code: Returns the name of the code that the running task's function needs.
    """

    url: str
    key: bytes
    lend: Callable[[], bool]
    resume: Callable[[], None]
    code: Callable[[], str]


class TaskExecutor(Executor, ABC):
    """The executor of a running task over the task's own session, from `current_task().executor()`. Thread-safe.

    Leaving its `with` block, or `shutdown()`, waits for the tasks that were submitted by it, as in the standard library, and takes the place back. A
    task that returns futures does neither: its place is taken back when it ends, and the tasks go on.
    """

    @abstractmethod
    def options(self, **given: Any) -> TaskExecutor:
        """Return a view whose tasks have these options, those of `executor.options(...)` without `cache`. Raises: ConfigError. Store: nothing."""

    @abstractmethod
    def put(self, value: object) -> Any:
        """Store a value once for the tasks of the session and return its ref, as `executor.put`."""


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

    def rng(self) -> Generator:
        """Return this task's random stream, a NumPy `Generator`: the same on whatever worker, in whatever order and at each attempt.

        It is `numpy.random.default_rng(SeedSequence(seed, spawn_key=(index,)))`, of the seed that was given by
        `executor.options(seed=...)`. The streams of different tasks are independent. For a task of a session's second or later client the
        key is `(ordinal, index)`. Within an attempt each call returns the same object, which goes on where it was.

        Raises: RuntimeError: the task has no seed, or is not the one that runs; ImportError: NumPy is missing where the task runs.
        """
        global _generator  # noqa: PLW0603 - one task per process at a time
        if _current is None or current_task() != self:
            raise RuntimeError(f"only a running task has a random stream: task={self.task_id}")
        _, ordinal, index, _, seed = _current
        if seed is None:
            raise RuntimeError(f"this task has no seed: submit it by executor.options(seed=...): task={self.task_id}")
        if _generator is None:
            try:
                from numpy.random import SeedSequence, default_rng
            except ImportError as error:
                raise ImportError(
                    "rng() needs NumPy where the task runs: install numpy for the workers, or seed `random.Random` with the task's index"
                ) from error
            _generator = default_rng(SeedSequence(seed, spawn_key=_spawn_key(ordinal, index)))
        return cast("Generator", _generator)

    def executor(self) -> TaskExecutor:
        """Return an executor over the task's own session: `submit`, `map`, `options` and `put`, from within this task.

        From here until the executor is shut down, by `with` or `shutdown()`, or the task ends, the task's place on its worker is
        free for another task, such as one that it submits; so waiting for their results is no deadlock. The task keeps its resources and
        its limit.

        Each task that is submitted is acknowledged by the store when `submit` or `map` returns, and is an ordinary task of the session. The
        executor remembers calls: if this task runs again, after a crash or a retry, a call that it has submitted before is not submitted
        again, and its future is that of the earlier task. See docs/howto/nested-tasks.md.

        Raises: RuntimeError: the task does not run, this is not the thread that runs it, or too many tasks of its worker wait in
            this manner.
        Store: 1 GET, and what `map_once` needs for each `map` and each `submit`.
        """
        if current_task() != self or threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                f"only a running task has an executor, in the thread that runs it; other threads may use it: task={self.task_id}"
            )
        if _access is None:
            raise RuntimeError(f"a task that runs in its client's process cannot submit tasks: task={self.task_id}")
        return cast("TaskExecutor", importlib.import_module(_CLIENT).executor_of(self, _access))


def _spawn_key(ordinal: int, index: int) -> tuple[int, ...]:
    """Return what tells the streams of one seed from each other: of a session's first client the index alone."""
    return (ordinal, index) if ordinal else (index,)


# Session, ordinal, index, attempt and seed; a `TaskContext` is only made for a task that asks: each task pays for this.
_current: tuple[str, int, int, int, int | None] | None = None
_generator: Any = None  # of the running task, if it has asked for it
_write_note: Callable[[float, float | None, str], None] | None = None
_access: Access | None = None
_at_end: list[Callable[[], None]] = []  # called when the running task has ended


def current_task() -> TaskContext | None:
    """The task that this process runs, or None outside of one. No store requests; safe to call anywhere.

    >>> from starburst_executor import current_task
    >>> current_task() is None  # not inside a task
    True
    """
    if _current is None:
        return None
    session_id, ordinal, index, attempt, _ = _current
    return TaskContext(session_id, f"{ordinal}-{index}", index, attempt)


def notes_go_to(write: Callable[[float, float | None, str], None]) -> None:
    """Called by the runner once, with what writes a note of its running task."""
    global _write_note  # noqa: PLW0603 - one runner per process
    _write_note = write


def session_is(access: Access) -> None:
    """Called by the runner once, with what tasks need that submit tasks."""
    global _access  # noqa: PLW0603 - one runner per process
    _access = access


def at_end(call: Callable[[], None]) -> None:
    """Have this called when the running task has ended."""
    _at_end.append(call)


def enter(session_id: str, ordinal: int, index: int, attempt: int, seed: int | None = None) -> None:
    """Called by the runner before a task."""
    global _current, _generator  # noqa: PLW0603 - one task per process at a time
    _current = (session_id, ordinal, index, attempt, seed)
    _generator = None


def leave() -> None:
    """Called by the runner after a task."""
    global _current  # noqa: PLW0603 - one task per process at a time
    _current = None
    while _at_end:
        _at_end.pop()()


class _Loading:
    """Whether this process rebuilds a function or a call, in which thread, and whether that made an executor."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.has_refused = False


_loading = _Loading()


@contextmanager
def loading() -> Iterator[None]:
    """Around the rebuilding of a function, a call or a value in it in a runner, which may import modules."""
    outer = _loading.thread
    _loading.thread, _loading.has_refused = threading.get_ident(), outer is not None and _loading.has_refused
    try:
        yield
    finally:
        _loading.thread = outer


_IN_A_MODULE = (
    "an executor is made while a worker imports the module of a task's function: the module would start workers "
    "each time it is imported; make the executor in a function, or beneath `if __name__ == '__main__':`"
)


def refuse_while_loading(words: str = _IN_A_MODULE) -> None:
    """Refuse an executor in a runner that imports the module of a task's function, or rebuilds a call.

    That import would start workers, which import the module to find the function that it submits, and so on.

    Args:
        words: The message.

    Raises: RuntimeError.
    """
    if _loading.thread == threading.get_ident():
        _loading.has_refused = True
        raise RuntimeError(words)


def has_refused() -> bool:
    """Whether the last rebuilding has made an executor: then it does so on any other worker, too."""
    return _loading.has_refused
