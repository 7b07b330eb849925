"""A claim: a worker's hold on some tasks of one status object, and what has become of them so far."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from starburst_executor.protocol import options
from starburst_executor.protocol.attempts import FailedTry
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.options import TaskOptions
from starburst_executor.protocol.spans.record import Span
from starburst_executor.session.statuses import Versioned
from starburst_executor.worker.runner.jobs import Completed, Finished

__all__ = ["Claim"]


@dataclass(slots=True, eq=False)
class Claim:
    """A claim on some tasks of one status object. Owned by one slot.

    Its tasks have one function and the same options. What else they have in common is taken from their spans as they were claimed, without an
    object for each task.

    Attributes:
        claim_id: `<worker_id>.<number>`.
        key: The key of the status object.
        ref: The parsed key.
        stored: The status object as this worker last read or wrote it.
        digest: The digest of the function.
        spans: The claimed spans as the claim left them, each with the position of its first task.
        open: Positions of the tasks claimed and not yet committed or released.
        ended: Tasks that have ended and wait for their commit, by position, but for those in `returned`.
        returned: Neighbouring tasks that have ended and left nothing but their outcomes, each run with the position of its first task.
        ended_bytes: The bytes of their outcomes and outputs.
        failures: Failed attempts of this run so far, of tasks that failed under this claim and will be tried again.
        tries: How often these tasks failed under this claim.
        errors: The errors of those tries, until they are stored.
        packed_options: The options of its tasks, encoded; empty for the defaults.
        n_parts: Outcome and log objects written so far.
        has_losses: Whether one of its tasks may have killed a worker.
    """

    claim_id: str
    key: str
    ref: StatusRef
    stored: Versioned
    digest: str
    spans: tuple[tuple[int, Span], ...]
    open: set[int]
    ended: dict[int, Finished] = field(default_factory=dict)
    returned: list[tuple[int, Completed]] = field(default_factory=list)
    ended_bytes: int = 0
    failures: dict[int, int] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    errors: list[FailedTry] = field(default_factory=list)
    packed_options: bytes = b""
    n_parts: int = 0
    has_losses: bool = field(init=False)

    def __post_init__(self) -> None:
        self.has_losses = any(span.is_suspect for _, span in self.spans)

    @property
    def options(self) -> TaskOptions:
        """The options of its tasks."""
        return options.decoded(self.packed_options)

    def end(self, position: int, finished: Finished) -> None:
        """Record the end of a task for the next commit."""
        self.ended[position] = finished
        self.ended_bytes += finished.n_bytes

    def end_run(self, first: int, run: Completed) -> None:
        """Record the ends of neighbouring tasks, which have left nothing but their outcomes, as far as it holds them."""
        if self.open.issuperset(range(first, first + run.n)):
            self.returned.append((first, run))
            self.ended_bytes += sum(map(len, run.outcomes))
            return
        for i, end in enumerate(run.each()):
            if first + i in self.open:
                self.end(first + i, end)

    def separate(self) -> None:
        """Have each task that has ended in `ended`, by itself."""
        for first, run in self.returned:
            self.ended.update((first + i, end) for i, end in enumerate(run.each()))
        self.returned.clear()

    def keep(self, positions: Iterable[int]) -> None:
        """Drop all tasks but these: it does not hold the others any more."""
        self.open.intersection_update(positions)
        if not all(self.open.issuperset(range(first, first + run.n)) for first, run in self.returned):
            self.separate()
        for position in self.ended.keys() - self.open:
            self.ended_bytes -= self.ended.pop(position).n_bytes

    def committed(self) -> None:
        """Forget the tasks that had ended: their outcomes are stored."""
        self.errors.clear()
        self.open.difference_update(self.ended, *(range(first, first + run.n) for first, run in self.returned))
        self.ended.clear()
        self.returned.clear()
        self.ended_bytes = 0

    def span(self, position: int) -> Span:
        """Return the span of a task as it was claimed: its run, its attempt, its stored failures and refusals."""
        spans = self.spans
        if len(spans) == 1:
            return spans[0][1]
        return spans[bisect_right(spans, position, key=_start) - 1][1]

    def n_failures(self, position: int) -> int:
        """Return a task's failed attempts of this run so far."""
        return self.failures.get(position, self.span(position).failures)

    def count_failure(self, position: int) -> int:
        """Count one more failed try of a task and return its failed attempts so far."""
        self.failures[position] = n_failures = self.n_failures(position) + 1
        self.tries[position] = self.tries.get(position, 0) + 1
        return n_failures

    @property
    def n_ended(self) -> int:
        """How many of its tasks have ended and wait for their commit."""
        return len(self.ended) + sum([run.n for _, run in self.returned])

    @property
    def all_ended(self) -> bool:
        """Whether all its tasks have ended, so that only a commit remains."""
        return self.n_ended == len(self.open)


def _start(placed: tuple[int, Span]) -> int:
    return placed[0]
