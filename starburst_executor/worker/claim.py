"""A claim: a worker's hold on some tasks of one status object, and what has become of them so far."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans.record import Span
from starburst_executor.session.statuses import Versioned
from starburst_executor.worker.runner.jobs import Finished

__all__ = ["Claim"]


@dataclass(slots=True, eq=False)
class Claim:
    """A claim on some tasks of one status object. Owned by one slot.

    Its tasks have one function. What else they have in common is taken from their spans as they were claimed, without an
    object for each task.

    Attributes:
        claim_id: `<worker_id>.<number>`.
        key: The key of the status object.
        ref: The parsed key.
        stored: The status object as this worker last read or wrote it.
        digest: The digest of the function.
        spans: The claimed spans as the claim left them, each with the position of its first task.
        open: Positions of the tasks claimed and not yet committed or released.
        ended: Tasks that have ended and wait for their commit, by position.
        ended_bytes: The bytes of their outcomes and outputs.
        failures: Failed attempts of this run so far, of tasks that failed under this claim and will be tried again.
        tries: How often these tasks failed under this claim.
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
    ended_bytes: int = 0
    failures: dict[int, int] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    n_parts: int = 0
    has_losses: bool = field(init=False)

    def __post_init__(self) -> None:
        self.has_losses = any(span.is_suspect for _, span in self.spans)

    def end(self, position: int, finished: Finished) -> None:
        """Record the end of a task for the next commit."""
        self.ended[position] = finished
        self.ended_bytes += finished.n_bytes

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
    def all_ended(self) -> bool:
        """Whether all its tasks have ended, so that only a commit remains."""
        return len(self.ended) == len(self.open)


def _start(placed: tuple[int, Span]) -> int:
    return placed[0]
