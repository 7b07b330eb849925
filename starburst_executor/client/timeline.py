"""When each task of a session ran, where, and for how long: a record a task, in submission order and in constant memory.

A worker commits the outcomes of several tasks at once, so the store holds one time for all of them, and the duration of each. A slot
runs the tasks of a claim one after the other. So the last of them ended about when the commit was made, and each one before it ended when
the next one began: `laid_out` computes these times. They are too late by the time that the outcomes waited for the commit, at most
`Timings.commit_most_s`.

Times of tasks are by their workers' clocks, times of submits by the clients'. No decision of the protocol depends on them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from starburst_executor.client.reading import Block, Reading, Task
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.spans.record import State

__all__ = ["TaskRecord", "Timeline", "laid_out", "records_of"]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What is stored about one task, without its arguments and its outcome.

    Attributes:
        task: Its id, such as `0-17`.
        index: Its number among the calls of its client, from 0.
        state: `pending`, `claimed`, `completed`, `failed` or `cancelled`.
        run: 1, plus 1 for each explicit retry.
        attempt: The number of claims so far, over all runs.
        failures: Failed attempts of this run.
        losses: Workers that were lost in this run while they may have been running it.
        worker: The id of the worker that holds it or ended it; empty if there is none.
        submitted_at: When it was submitted, UTC epoch seconds; None if no time is stored.
        started_at: When its last attempt began; None if it has not begun, or was ended without being run.
        ended_at: When it ended; None if it has not.
        seconds: The duration of its last attempt; None as for `started_at`, and while it runs.
        has_log: Whether output of it is stored.
        function: The digest of its function.
        label: Its label; empty without one.
    """

    task: str
    index: int
    state: str
    run: int
    attempt: int
    failures: int
    losses: int
    worker: str
    submitted_at: float | None
    started_at: float | None
    ended_at: float | None
    seconds: float | None
    has_log: bool
    function: str
    label: str


class Timeline:
    """The tasks of one session as records, read anew by each iteration.

    `list(timeline)` has one record for each task of the session, in submission order. Iterating keeps a few status objects in memory
    at a time, whatever the number of tasks. Thread-safe.

    Store, for each iteration: 1 GET, 1 LIST an epoch, 1 GET for each status object (up to 256 tasks).
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __iter__(self) -> Iterator[TaskRecord]:
        for block in self._reading.all():
            yield from records_of(block)

    def __repr__(self) -> str:
        return f"<Timeline of session {self._reading.session.session_id}>"

    def to_pandas(self) -> Any:
        """Return a data frame with a row for each task and the fields of `TaskRecord` as columns; times are UTC timestamps.

        Memory: about 150 bytes a task. Raises: ConfigError if pandas is not installed. Store: as one iteration.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ConfigError("a data frame needs pandas: pip install pandas") from error
        columns: dict[str, list[Any]] = {field.name: [] for field in fields(TaskRecord)}
        for record in self:
            for name, column in columns.items():
                column.append(getattr(record, name))
        frame = pandas.DataFrame(columns)
        for name in ("submitted_at", "started_at", "ended_at"):
            frame[name] = pandas.to_datetime(frame[name].astype("float64"), unit="s", utc=True)
        frame["seconds"] = frame["seconds"].astype("float64")
        for name in ("state", "worker", "function", "label"):
            frame[name] = frame[name].astype("category")
        return frame


def laid_out(tasks: tuple[Task, ...]) -> dict[int, float]:
    """Return the ends of the tasks of one status object that ran, by `Task.sequence`: those of one commit one after the other."""
    ends: dict[int, float] = {}
    begins: dict[tuple[str, float], float] = {}
    for task in reversed(tasks):
        if _has_run(task):
            commit = (task.claim, task.at)
            ends[task.sequence] = end = begins.get(commit, task.at)
            begins[commit] = end - task.seconds
    return ends


def _has_run(task: Task) -> bool:
    """Whether the task has ended, and its last attempt has a duration: those that were cancelled or lost have none."""
    return task.has_ended and task.state != State.CANCELLED and bool(task.claim) and task.seconds > 0


def records_of(block: Block) -> Iterator[TaskRecord]:
    """Yield the records of one status object's tasks, in submission order."""
    ends = laid_out(block.tasks)
    submitted_at = (block.stored.submitted_at if block.stored is not None else 0.0) or None
    last_of = dict[str, float]()
    for task in block.tasks:
        if task.has_ended and task.claim:
            last_of[task.claim] = max(task.at, last_of.get(task.claim, 0.0))
    running: set[str] = set()
    for task in block.tasks:
        started_at = ended_at = seconds = None
        if task.sequence in ends:
            ended_at, seconds = ends[task.sequence], task.seconds
            started_at = ended_at - seconds
        elif task.has_ended:
            ended_at = task.at or None
        elif task.state == State.CLAIMED and task.claim not in running:
            # A slot runs a claim's tasks in order: the first that has not ended is running.
            running.add(task.claim)
            started_at = max(task.at, last_of.get(task.claim, 0.0))
        entry = block.entry(task)
        yield TaskRecord(
            task.id,
            task.sequence,
            task.state.name.lower(),
            task.run,
            task.attempt,
            task.failures,
            task.losses,
            task.worker,
            submitted_at,
            started_at,
            ended_at,
            seconds,
            entry is not None and entry.log is not None,
            block.stored.functions[entry.function] if entry is not None and block.stored is not None else "",
            block.label(task),
        )
