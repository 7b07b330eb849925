"""Completes what waits for tasks that have ended: reads their outcome blocks, checks the seals, unpickles, and passes the outcomes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from starburst_executor import tracing
from starburst_executor.client.bodies import Bodies, Mapper
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.rows import Outcome, RowPart
from starburst_executor.client.task_facts import known_facts
from starburst_executor.client.watched import EndedSpan, Waiting, parts_within
from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.outcomes import load_outcome
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import OutcomeBlock, State, Status
from starburst_executor.session.store import SessionStore

__all__ = ["Completing", "FoundBlock"]

_log = logging.getLogger(__name__)

# The weight of each task in the moving average of their duration.
_WEIGHT = 0.05


class FoundBlock(NamedTuple):
    """A block of outcomes, and what waits for them.

    Attributes:
        waiting: Futures that came later.
        start: The position of the first task that rows may wait for.
        left: For each from there on 1 if its row waits for it, otherwise 0.
    """

    block: OutcomeBlock
    waiting: list[Waiting]
    start: int
    left: bytes

    def positions(self) -> list[int]:
        """Return the positions of the tasks for whose outcomes something waits."""
        of_rows = [position for position, is_left in enumerate(self.left, self.start) if is_left]
        return sorted({*of_rows, *(position for position, _ in self.waiting)})


class Completing:
    """Completes futures and rows of one client. Thread-safe.

    Args:
        parallel: Makes several requests at once.
        warn_bytes: A larger outcome is logged as a warning.
    Attributes:
        ended: Each is called before futures are completed, with the blocks that hold their outcomes.
        keep: Called with each completed future and the size of its outcome in bytes; None for nothing.
        mean_task_s: Moving average of the duration of the last tasks in seconds; None while unknown.
    """

    def __init__(self, session: SessionStore, parallel: Mapper, warn_bytes: int) -> None:
        self.ended: list[Callable[[StatusRef, Sequence[FoundBlock]], None]] = []
        self.keep: Callable[[StarburstFuture[Any], int], None] | None = None
        self.mean_task_s: float | None = None
        self._session = session
        self._parallel = parallel
        self._warn_bytes = warn_bytes

    def complete(self, ref: StatusRef, seen: Status, ended: Sequence[EndedSpan], parts: Sequence[RowPart]) -> None:
        """Complete what waits for tasks that have ended.

        Args:
            parts: The tasks of the object for which rows wait.

        Store: 1 GET for each object of big outcomes.
        """
        if seen.more:
            _tell_facts(seen, ended, parts)
        found: list[FoundBlock] = []
        for span in ended:
            if span.span.state == State.CANCELLED:
                self._cancel(span, parts)
            else:
                found += self._found_in(seen, span, parts)
        for hear in self.ended:
            hear(ref, found)
        bodies = Bodies(self._session, ref, self._parallel, [of_block.block for of_block in found])
        for of_block in found:
            self._measure(of_block.block)
            tracing.collects(self._session.clock.now)
            try:
                payloads = blocks.open_outcomes(self._session.sealer, seen, of_block.block, bodies.get(of_block.block))
            except (PayloadError, RecordInvalid) as error:
                self._fail(of_block, parts, error)
            else:
                self._complete_block(seen, of_block, parts, payloads)

    def _cancel(self, ended: EndedSpan, parts: Sequence[RowPart]) -> None:
        for _, futures in ended.waiting:
            for future in futures:
                future.mark_cancelled()
                self._keep(future, 0)
        for part in parts_within(parts, ended.start, ended.start + len(ended.left)):
            for position in range(part.position, part.position + part.n):
                if ended.left[position - ended.start]:
                    part.row.cancel(part.start + position - part.position)
                    self._keep(part.known(position), 0)

    def _found_in(self, seen: Status, ended: EndedSpan, parts: Sequence[RowPart]) -> list[FoundBlock]:
        """Return the blocks with outcomes of a span for which something waits; fail what waits for outcomes that are missing."""
        start, end = ended.start, ended.start + ended.span.n
        waiting, left = dict(ended.waiting), bytearray(ended.left)
        found: list[FoundBlock] = []
        for block in seen.outcome_blocks(start, ended.span):
            positions = range(block.first, block.first + block.n)
            of_block = (
                [(position, waiting.pop(position)) for position in positions if position in waiting] if waiting else []
            )
            first, last = max(block.first, start), min(block.first + block.n, end)
            of_rows = bytes(left[first - start : last - start])
            left[first - start : last - start] = bytes(len(of_rows))
            if of_block or 1 in of_rows:
                found.append(FoundBlock(block, of_block, first, of_rows))
        missing = dict(waiting)
        for position, is_left in enumerate(left, start):
            if is_left:
                missing.setdefault(position, [])
        for position, futures in missing.items():
            task = f"{seen.ordinal}-{seen.first + position}"
            error = PayloadError(f"a task that has ended is stored without its outcome: task={task}")
            self._finish(futures, (None, error), 0)
            if left and left[position - start]:
                self._complete_rows(parts, position, [(None, error)], [0])
        return found

    def _complete_block(
        self, seen: Status, of_block: FoundBlock, parts: Sequence[RowPart], payloads: Sequence[bytes | memoryview]
    ) -> None:
        first = of_block.block.first
        for i, body in enumerate(payloads):
            if len(body) > self._warn_bytes:
                task = f"{seen.ordinal}-{seen.first + first + i}"
                _log.warning("a large result: bytes=%d, task=%s; is all of it needed here?", len(body), task)
        for position, futures in of_block.waiting:
            body = payloads[position - first]
            self._finish(futures, _loaded(body), len(body), body)
        left = of_block.left
        if 1 in left:
            bodies = payloads[of_block.start - first : of_block.start - first + len(left)]
            outcomes = [_loaded(body) if is_left else None for body, is_left in zip(bodies, left, strict=True)]
            self._complete_rows(parts, of_block.start, outcomes, list(map(len, bodies)))

    def _fail(self, of_block: FoundBlock, parts: Sequence[RowPart], error: Exception) -> None:
        for _, futures in of_block.waiting:
            self._finish(futures, (None, error), 0)
        outcomes: list[Outcome | None] = [(None, error) if is_left else None for is_left in of_block.left]
        self._complete_rows(parts, of_block.start, outcomes, [0] * len(outcomes))

    def _complete_rows(
        self, parts: Sequence[RowPart], start: int, outcomes: Sequence[Outcome | None], sizes: Sequence[int]
    ) -> None:
        """Pass on outcomes of neighbouring tasks, from this position on; None for those that nothing waits for."""
        for part in parts_within(parts, start, start + len(outcomes)):
            offset = part.position - start
            part.row.complete(part.start, outcomes[offset : offset + part.n])
            if self.keep is not None:
                for position in range(part.position, part.position + part.n):
                    if outcomes[position - start] is not None:
                        self._keep(part.known(position), sizes[position - start])

    def _finish(
        self,
        futures: Iterable[StarburstFuture[Any]],
        outcome: Outcome,
        n_bytes: int,
        body: bytes | memoryview | None = None,
    ) -> None:
        for future in futures:
            future.complete(*outcome, body)
            self._keep(future, n_bytes)

    def _keep(self, future: StarburstFuture[Any] | None, n_bytes: int) -> None:
        if self.keep is not None and future is not None:
            self.keep(future, n_bytes)

    def _measure(self, block: OutcomeBlock) -> None:
        """Add the durations of the tasks of a block that have completed to their moving average."""
        failed = frozenset(block.failed)
        seconds = [s for i, s in enumerate(block.durations()) if i not in failed] if failed else block.durations()
        if seconds:
            mean_s, before_s = sum(seconds) / len(seconds), self.mean_task_s
            weight = 1 - (1 - _WEIGHT) ** len(seconds)
            self.mean_task_s = mean_s if before_s is None else before_s + weight * (mean_s - before_s)


def _loaded(body: bytes | memoryview) -> Outcome:
    try:
        return load_outcome(body)
    except (PayloadError, RecordInvalid) as error:
        return None, error


def _tell_facts(seen: Status, ended: Sequence[EndedSpan], parts: Sequence[RowPart]) -> None:
    """Give the futures of tasks that have ended their labels and the errors of earlier tries, before they are completed."""
    labels, attempts = known_facts(seen)
    for span in ended:
        futures_by_position = list(span.waiting)
        for part in parts_within(parts, span.start, span.start + len(span.left)):
            futures_by_position += (
                (position, [future])
                for position in range(part.position, part.position + part.n)
                if span.left[position - span.start] and (future := part.known(position)) is not None
            )
        for position, futures in futures_by_position:
            for future in futures:
                future.know(labels[position] if labels else None, attempts.get(position, ()))
