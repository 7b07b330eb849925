"""The record of a status object: spans of neighbouring tasks, and the blocks that hold their calls and outcomes.

    spans      | 240 ended        | 160 claimed by w.3 | 112 pending                    |   Σ n = number of tasks
    calls      |                  | 256 calls (256 … 511), one seal                     |   blocks, never split
    outcomes   | 128, one seal | 112, one seal |

A span says what neighbours have in common; a block holds up to 256 neighbouring calls or outcomes under one seal. What is
different for each ended task stands in columns of its outcome block: which ones failed, failures, seconds, captured output.

Guarantee: at most one outcome block belongs to a task now: the one of its run, attempt and claim. No two claims of a task
have the same attempt.
"""

from __future__ import annotations

import enum
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

__all__ = [
    "BLOCKED",
    "BLOCK_TASKS",
    "ENDED",
    "MAX_TASKS",
    "CallBlock",
    "Entry",
    "Located",
    "OutcomeBlock",
    "Place",
    "SizeClass",
    "Span",
    "State",
    "Status",
    "ranges_of",
]

MAX_TASKS = 2048
BLOCK_TASKS = 256


class State(enum.IntEnum):
    """The state of a task. The numbers are part of the stored format."""

    PENDING = 0
    CLAIMED = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4


_PENDING, _CLAIMED, _COMPLETED, _FAILED, _CANCELLED = map(int, State)
# The state of a span whose tasks have ended with outcomes: completed, but for those that their outcome block calls failed.
ENDED = _COMPLETED
# The state of a span whose tasks wait for other tasks. No worker claims them; for all other purposes they are pending.
BLOCKED = 5
_STATES = (*State, State.PENDING)


class SizeClass(enum.IntEnum):
    """The summary of a status object's states in `size % 8`, which a listing shows without reading the object."""

    ALL_PENDING = 0
    SOME_PENDING = 1
    SOME_CLAIMED = 2
    ALL_COMPLETED = 3
    ALL_ENDED = 4
    BLOCKED = 5

    @property
    def has_pending(self) -> bool:
        return self <= SizeClass.SOME_PENDING

    @property
    def has_ended(self) -> bool:
        """Whether all its tasks have ended."""
        return self in (SizeClass.ALL_COMPLETED, SizeClass.ALL_ENDED)

    @property
    def all_in(self) -> State | None:
        """The state that all its tasks are in, if the class determines it."""
        return {SizeClass.ALL_PENDING: State.PENDING, SizeClass.ALL_COMPLETED: State.COMPLETED}.get(self)


class Located(NamedTuple):
    """Bytes in another object: its part (claim id and number, empty for calls), the start and the length."""

    part: str
    start: int
    length: int


Place: TypeAlias = bytes | Located


class Span(NamedTuple):
    """Neighbouring tasks that have all of this in common.

    Attributes:
        n: The number of tasks, at least 1.
        state: `PENDING`, `CLAIMED`, `ENDED`, `CANCELLED` or `BLOCKED`.
        run: 1, plus 1 for each explicit retry.
        attempt: Number of claims so far, over all runs.
        failures: Failed attempts of this run; of ended tasks the outcome block says it.
        losses: Workers lost in this run for which one of these tasks may be to blame.
        together: How many tasks were lost with the last lost worker; 0 if none was lost in this run.
        cohort: Id of the claim with which they were lost; empty if none was.
        refusals: Workers that could not load its function in this run.
        claim: Id of the claim that holds them or ended them; empty while pending.
        function: Index into the status object's functions.
        options: Number of its options in the object's table, from 1; 0 for the defaults.
        at: When they were claimed or ended, UTC epoch seconds of the process that wrote it.
    """

    n: int
    state: int = _PENDING
    run: int = 1
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    together: int = 0
    cohort: str = ""
    refusals: int = 0
    claim: str = ""
    function: int = 0
    options: int = 0
    at: float = 0.0

    @property
    def has_ended(self) -> bool:
        return _COMPLETED <= self.state <= _CANCELLED

    @property
    def is_waiting(self) -> bool:
        """Whether no worker has these tasks: they are pending or blocked."""
        return self.state in (_PENDING, BLOCKED)

    @property
    def is_suspect(self) -> bool:
        """Whether one of these tasks may have killed a worker, so that they are claimed without others."""
        return self.together > 0 or self.losses > 0


class CallBlock(NamedTuple):
    """Neighbouring calls under one seal.

    Attributes:
        first: The position of the first.
        n: Their number, 1 to 256.
        function: Index of the function for which they are sealed.
        place: The sealed bytes or where they are: see `blocks.unpacked`.
        more: Columns that later versions write: labels, once-keys. Kept as they are.
    """

    first: int
    n: int
    function: int
    place: Place
    more: Mapping[str, Any] | None = None


class OutcomeBlock(NamedTuple):
    """Outcomes of neighbouring tasks of one run, attempt and claim under one seal, with what differs between the tasks.

    Attributes:
        first: The position of the first.
        n: Their number, 1 to 256.
        place: The sealed bytes or where they are: see `blocks.unpacked`.
        failed: Which ones failed, counted from the first, ascending.
        failures: Failed attempts of those that had any, as pairs.
        seconds: Durations of their last attempts, as 4-byte floats; empty if all are 0.
        logs: Where the captured output of those is that printed any: number, part of the claim, start and length.
        more: Columns that later versions write: errors of earlier attempts, progress. Kept as they are.
    """

    first: int
    n: int
    run: int
    attempt: int
    claim: str
    place: Place
    failed: tuple[int, ...] = ()
    failures: tuple[tuple[int, int], ...] = ()
    seconds: bytes = b""
    logs: tuple[tuple[int, int, int, int], ...] = ()
    more: Mapping[str, Any] | None = None

    def duration(self, position: int) -> float:
        """Return the duration of the last attempt of one of its tasks, in seconds."""
        return self.durations()[position - self.first] if self.seconds else 0.0

    def durations(self) -> array[float]:
        """Return the durations of the last attempts of its tasks, in order; empty if all are 0."""
        return array("f", self.seconds)

    def failures_of(self, position: int) -> int:
        """Return the failed attempts of one of its tasks."""
        offset = position - self.first
        return next((n for at, n in self.failures if at == offset), 0)

    def log(self, position: int) -> Located | None:
        """Return where the captured output of one of its tasks is; None if it printed nothing."""
        offset = position - self.first
        for at, part, start, length in self.logs:
            if at == offset:
                return Located(f"{self.claim}-{part}", start, length)
        return None


class Entry(NamedTuple):
    """One task, as its span and its blocks describe it. For readers; nothing stores it.

    Attributes:
        state: A `State`.
        call: The block that holds its call; None if it is not stored any more.
        outcome: The block that holds its outcome; None until it has ended, and if it was cancelled.
        log: The location of its captured output, if it printed any.
        seconds: Duration of the last attempt.
    """

    state: State
    run: int
    attempt: int
    failures: int
    losses: int
    together: int
    cohort: str
    refusals: int
    claim: str
    function: int
    options: int
    at: float
    call: CallBlock | None
    outcome: OutcomeBlock | None
    log: Located | None
    seconds: float

    @property
    def has_ended(self) -> bool:
        return self.state >= _COMPLETED

    @property
    def is_suspect(self) -> bool:
        """Whether it may have killed a worker."""
        return self.together > 0 or self.losses > 0


@dataclass(frozen=True, slots=True)
class Status:
    """The tasks `first` .. `first + n_tasks - 1` of one submitter.

    Attributes:
        spans: All tasks, in order.
        calls: Call blocks. For a position, the last one that covers it and has the span's function counts.
        outcomes: Outcome blocks. For a position, the one with the span's run, attempt and claim counts.
        submitted_at: When they were submitted, UTC epoch seconds by the clock of their client; 0 if no time is stored.
        options: The sets of options that tasks have, as `protocol/options.py` encodes them; the spans' numbers count from 1.
        more: Other fields, such as `after`, the tasks for which blocked ones wait (`after.py`). Unknown ones are kept as they are.
    """

    ordinal: int
    first: int
    functions: tuple[str, ...]
    spans: tuple[Span, ...]
    calls: tuple[CallBlock, ...] = ()
    outcomes: tuple[OutcomeBlock, ...] = ()
    submitted_at: float = 0.0
    options: tuple[bytes, ...] = ()
    more: Mapping[str, Any] | None = None

    @property
    def n_tasks(self) -> int:
        return sum(span.n for span in self.spans)

    def placed(self) -> Iterator[tuple[int, Span]]:
        """Yield each span with the position of its first task."""
        start = 0
        for span in self.spans:
            yield start, span
            start += span.n

    def span(self, position: int) -> Span:
        """Return the span of a task. Raises: IndexError."""
        for start, span in self.placed():
            if start <= position < start + span.n:
                return span
        raise IndexError(position)

    def options_of(self, span: Span) -> bytes:
        """Return the encoded options of a span; empty for the defaults."""
        return self.options[span.options - 1] if span.options else b""

    def under(self, claim_id: str) -> list[int]:
        """Return the positions of the tasks that this claim holds now."""
        held: list[int] = []
        for start, span in self.placed():
            if span.state == _CLAIMED and span.claim == claim_id:
                held += range(start, start + span.n)
        return held

    def claims(self) -> frozenset[str]:
        """Return the claims that hold tasks now."""
        return frozenset(span.claim for span in self.spans if span.state == _CLAIMED)

    def call_block(self, position: int, function: int) -> CallBlock | None:
        """Return the block with a task's call for this function; None if it is not stored any more."""
        run = self.call_run(position, function)
        return None if run is None else run[0]

    def call_run(self, position: int, function: int) -> tuple[CallBlock, int] | None:
        """Return the block with a task's call for this function, and the position up to which it has the calls of the tasks that follow.

        A later block has some of them if they were retried with other calls. None if the call is not stored any more.
        """
        end = MAX_TASKS
        for block in reversed(self.calls):
            if block.function == function:
                if block.first > position:
                    end = min(end, block.first)
                elif position < block.first + block.n:
                    return block, min(end, block.first + block.n)
        return None

    def outcome_blocks(self, start: int, span: Span) -> list[OutcomeBlock]:
        """Return the blocks that hold outcomes of a span, which starts at this position. They may hold others as well."""
        if span.state != ENDED:
            return []
        _, _, run, attempt, _, _, _, _, _, claim, _, _, _ = span
        end = start + span.n
        return [
            block
            for block in self.outcomes
            if block.attempt == attempt
            and block.claim == claim
            and block.run == run
            and block.first < end
            and start < block.first + block.n
        ]

    def failed(self) -> list[int]:
        """Return the positions of the tasks that have failed, in order."""
        failed = []
        for start, span in self.placed():
            for block in self.outcome_blocks(start, span):
                failed += [at for i in block.failed if start <= (at := block.first + i) < start + span.n]
        return sorted(failed)

    def counts(self) -> Counter[State]:
        """Return the number of tasks in each state."""
        counts: Counter[State] = Counter()
        for span in self.spans:
            counts[_STATES[span.state]] += span.n
        n_failed = len(self.failed())
        if n_failed:
            counts[State.COMPLETED] -= n_failed
            counts[State.FAILED] += n_failed
        return +counts

    @property
    def n_inline(self) -> int:
        """The bytes of calls and outcomes in the object itself."""
        return sum(len(block.place) for block in self.calls if type(block.place) is bytes) + sum(
            len(block.place) for block in self.outcomes if type(block.place) is bytes
        )

    def entry(self, position: int) -> Entry:
        """Return one task. Raises: IndexError."""
        for start, span in self.placed():
            if start <= position < start + span.n:
                return self._entry(position, span, self.outcome_blocks(start, span))
        raise IndexError(position)

    def columns(self, start: int, span: Span) -> tuple[list[State], list[int], list[float]]:
        """Return state, failed attempts and duration of each task of a span, which starts at this position."""
        n = span.n
        states, failures, seconds = [_STATES[span.state]] * n, [span.failures] * n, [0.0] * n
        for block in self.outcome_blocks(start, span):
            offset = block.first - start
            first, end = max(0, offset), min(n, offset + block.n)
            failures[first:end] = [0] * (end - first)
            if block.seconds:
                seconds[first:end] = block.durations()[first - offset : end - offset]
            for i in block.failed:
                if 0 <= offset + i < n:
                    states[offset + i] = State.FAILED
            for i, n_failures in block.failures:
                if 0 <= offset + i < n:
                    failures[offset + i] = n_failures
        return states, failures, seconds

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All tasks, in order."""
        entries: list[Entry] = []
        for start, span in self.placed():
            n, _, run, attempt, _, losses, together, cohort, refusals, claim, function, options, at = span
            states, failures, seconds = self.columns(start, span)
            calls: list[CallBlock | None] = [None] * n
            for call in self.calls:
                first, end = max(0, call.first - start), min(n, call.first + call.n - start)
                if call.function == function and first < end:
                    calls[first:end] = [call] * (end - first)
            outcomes: list[OutcomeBlock | None] = [None] * n
            logs: list[Located | None] = [None] * n
            for block in self.outcome_blocks(start, span):
                first, end = max(0, block.first - start), min(n, block.first + block.n - start)
                outcomes[first:end] = [block] * (end - first)
                for i, *_ in block.logs:
                    if first <= (position := block.first + i - start) < end:
                        logs[position] = block.log(block.first + i)
            common = map(repeat, (losses, together, cohort, refusals, claim, function, options, at))
            columns = zip(states, repeat(run), repeat(attempt), failures, *common, calls, outcomes, logs, seconds)
            entries += map(Entry._make, columns)
        return tuple(entries)

    def _entry(self, position: int, span: Span, blocks: list[OutcomeBlock]) -> Entry:
        _, state, run, attempt, failures, losses, together, cohort, refusals, claim, function, options, at = span
        outcome, log, seconds = None, None, 0.0
        for block in blocks:
            if block.first <= position < block.first + block.n:
                outcome, log, seconds = block, block.log(position), block.duration(position)
                failures = block.failures_of(position)
                if position - block.first in block.failed:
                    state = _FAILED
        return Entry(
            _STATES[state], run, attempt, failures, losses, together, cohort, refusals, claim, function, options, at,
            self.call_block(position, function), outcome, log, seconds,
        )  # fmt: skip


def ranges_of(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Return the ranges, each from its start up to but not including its end, that ascending positions form."""
    ranges: list[tuple[int, int]] = []
    start = end = -1
    for position in positions:
        if position != end:
            if start >= 0:
                ranges.append((start, end))
            start = position
        end = position + 1
    if start >= 0:
        ranges.append((start, end))
    return ranges
