"""Streams the outcomes of a session's tasks, in submission order and in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from starburst_executor.client.reading import Block, Reading, Task, stored_bytes
from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.attempts import Attempt
from starburst_executor.protocol.outcomes import Failure
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.fan_out import AT_ONCE, fan_out
from starburst_executor.session.statuses import ListedStatus

__all__ = ["Outcome", "Selection", "stream"]

# Outcomes that are fetched together are in memory together.
_MOST_BYTES = 32 * 2**20
_INLINE_BYTES = 128 * 1024


class Selection(NamedTuple):
    """Which tasks are asked for.

    Attributes:
        states: In one of these states.
        ranges: With an index in one of these, each from its start up to but not including its end; None for all.
        tasks: With one of these ids, as ordinal and index; None for all.
    """

    states: frozenset[State] = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
    ranges: tuple[tuple[int, float], ...] | None = None
    tasks: frozenset[tuple[int, int]] | None = None

    def has(self, task: Task) -> bool:
        """Whether this task is asked for."""
        return task.state in self.states and self._has_place(task.ordinal, task.sequence, task.sequence + 1)

    def may_be_in(self, listed: ListedStatus) -> bool:
        """Whether a status object may hold such a task, by its listing."""
        known = listed.size_class.all_in
        if known is not None and known not in self.states:
            return False
        if listed.size_class == SizeClass.ALL_ENDED and self.states <= {State.PENDING, State.CLAIMED}:
            return False
        ref = listed.ref
        return self._has_place(ref.ordinal, ref.first, ref.first + ref.n_tasks)

    def _has_place(self, ordinal: int, first: int, end: int) -> bool:
        if self.tasks is not None and not any(one == ordinal and first <= index < end for one, index in self.tasks):
            return False
        return self.ranges is None or any(first < stop and start < end for start, stop in self.ranges)


class Outcome(NamedTuple):
    """The outcome of one task, not unpickled yet.

    Attributes:
        body: Its verified bytes; None if it was cancelled, or if they cannot be read.
        problem: Why they cannot be read.
        label: The task's label; empty without one.
        attempts: Its attempts that failed before the last one.
    """

    task: Task
    body: bytes | memoryview | None
    problem: Exception | None = None
    label: str = ""
    attempts: Sequence[Attempt] = ()

    def value(self) -> Any:
        """Return the value of a completed task. Raises: PayloadError, RecordInvalid."""
        value, error = self._loaded()
        if error is not None:
            raise error
        return value

    def loaded(self) -> tuple[Any, BaseException | None]:
        """Return the value and None, or None and the exception, with the remote traceback as its cause."""
        try:
            return self._loaded()
        except (PayloadError, RecordInvalid) as error:
            return None, error

    def failure(self) -> Failure | None:
        """Describe why it did not complete, without unpickling; None for a value."""
        if self.problem is not None:
            return Failure(f"starburst_executor.errors.{type(self.problem).__name__}", str(self.problem), "")
        if self.body is None:
            return Failure("concurrent.futures.CancelledError", "the task was cancelled", "")
        return outcomes.describe_outcome(self.body)

    def _loaded(self) -> tuple[Any, BaseException | None]:
        if self.problem is not None:
            return None, self.problem
        if self.body is None:
            return None, CancelledError(f"the task was cancelled: task={self.task.id}")
        return outcomes.load_outcome(self.body)


def stream(reading: Reading, selection: Selection) -> Iterator[Outcome]:
    """Yield the outcomes of these tasks as far as they have ended, in submission order.

    Raises: KeyNotFound. Store: 1 GET, 1 LIST an epoch, 1 GET for each status object that may hold one, 1 GET for each outcome that is
    too big to be inline; a few at a time.
    """
    reading.check_key()
    for block in reading.all(selection.may_be_in):
        tasks = [task for task in block.tasks if task.has_ended and selection.has(task)]
        for batch in _batches(block, _by_outcome(block, tasks)):
            yield from _fetched(reading, block, batch)


def _fetched(reading: Reading, block: Block, batch: Sequence[Sequence[Task]]) -> Iterator[Outcome]:
    def fetch(mates: Sequence[Task]) -> list[Outcome]:
        # A reading of its own for each: it remembers the block that it has opened last.
        own = Reading(reading.session)
        return [_outcome(own, block, task) for task in mates]

    is_inline = sum(stored_bytes(block, mates[0]) for mates in batch) <= _INLINE_BYTES
    fetched = map(fetch, batch) if is_inline else fan_out(reading.session.store, fetch, batch)
    for some in fetched:
        yield from some


def _outcome(reading: Reading, block: Block, task: Task) -> Outcome:
    label, attempts = block.label(task), block.attempts(task)
    try:
        return Outcome(task, reading.outcome(block, task), None, label, attempts)
    except (RecordInvalid, PayloadError) as error:
        return Outcome(task, None, error, label, attempts)


def _by_outcome(block: Block, tasks: Sequence[Task]) -> list[list[Task]]:
    """Put neighbours together whose outcomes are stored together."""
    sets: list[list[Task]] = []
    last: object = None
    for task in tasks:
        entry = block.entry(task)
        found = None if entry is None else entry.outcome
        if found is not None and found is last:
            sets[-1].append(task)
        else:
            sets.append([task])
        last = found
    return sets


def _batches(block: Block, sets: Sequence[list[Task]]) -> Iterator[list[list[Task]]]:
    batch: list[list[Task]] = []
    n_bytes = 0
    for mates in sets:
        size = stored_bytes(block, mates[0])
        if batch and (len(batch) >= AT_ONCE or n_bytes + size > _MOST_BYTES):
            yield batch
            batch, n_bytes = [], 0
        batch.append(mates)
        n_bytes += size
    if batch:
        yield batch
