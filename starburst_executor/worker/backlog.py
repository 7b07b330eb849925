"""The tasks of a slot that wait: for its runner, or after a failure for their next try.

    add(claim) ──► queue ──next_calls──► feeder ──► runner
                    ▲ ▲                    │
                    │ └──── put_back ◄─────┤   jobs that had not started
                    └─ requeue_due ◄─ retry_later

The slot's thread owns it. It reads calls from the store, and makes no other store requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from starburst_executor.errors import PayloadError
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.protocol.spans.record import CallBlock, Status
from starburst_executor.worker.call_reader import Arrived, Trouble, Wanted
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.placed import Placed
from starburst_executor.worker.runner.jobs import Finished
from starburst_executor.worker.shared import Shared

__all__ = ["Backlog"]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A failed task that keeps its claim until its next try."""

    due: float
    placed: Placed


class Backlog:
    """The waiting tasks of one slot, in the order in which they run."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._queue: deque[Placed] = deque()
        self._waiting: list[_Waiting] = []

    def __len__(self) -> int:
        """Return the number of tasks that wait for the runner, without those that wait for their next try."""
        return len(self._queue)

    def add(self, claim: Claim) -> None:
        """Add the tasks of a new claim."""
        self._queue.extend(Placed(claim, position) for position in sorted(claim.open))

    def put_back(self, tasks: Iterable[Placed]) -> None:
        """Put tasks that have not started back to the front, in their order."""
        self._queue.extendleft(reversed(list(tasks)))

    def take_all(self, *, and_waiting: bool) -> list[Placed]:
        """Take out and return all tasks; those that wait for their next try only with `and_waiting`."""
        tasks = list(self._queue)
        self._queue.clear()
        if and_waiting:
            tasks += [waiting.placed for waiting in self._waiting]
            self._waiting.clear()
        return tasks

    def next_calls(self, at_most: int, n_bytes: int) -> list[tuple[Placed, Arrived | Trouble]]:
        """Take out the next tasks; return each with its call or the error of its call. The calls are read together.

        At least one task, then as many as have `n_bytes` of calls. A task that its claim has lost is dropped.

        Store: the requests of `CallReader.get`.
        """
        batch: list[Placed] = []
        wanted: list[Wanted] = []
        claim: Claim | None = None
        positions: list[int] = []  # the last ones wanted: those of a block that ends at `end`
        end = -1
        while self._queue and len(batch) < at_most:
            placed = self._queue.popleft()
            if not placed.is_held:
                continue
            position = placed.position
            if placed.claim is not claim or not positions or not positions[-1] < position < end:
                claim, status = placed.claim, placed.claim.stored.status
                block = status.call_block(position, claim.span(position).function)
                if block is None:
                    claim = None
                    error = PayloadError(f"a task without its call: task={placed.task_id}")
                    placed.end(Finished.failed(dump_reason(error)))
                    continue
                positions, end = [], _end_of(status, block, position)
                wanted.append(Wanted(claim.ref, status, block, positions))
            batch.append(placed)
            positions.append(position)
        calls = self._shared.call_reader.get(wanted, n_bytes) if wanted else []
        self.put_back(batch[len(calls) :])
        return list(zip(batch, calls, strict=False))

    # --- retries ------------------------------------------------------------------------------------------------------

    def retry_later(self, placed: Placed, n_failures: int) -> None:
        """Have a task wait for its next try; the pause doubles with each of its failures."""
        timings, clock = self._shared.session.manifest.current.timings, self._shared.clock
        pause_s = min(timings.retry_first_s * 2 ** (n_failures - 1), timings.retry_most_s)
        self._waiting.append(_Waiting(clock.monotonic() + pause_s * (0.5 + clock.random() / 2), placed))

    def next_try_at(self) -> float | None:
        """Return the time at which the next failed task is due; None if there is none."""
        return min((waiting.due for waiting in self._waiting), default=None)

    def requeue_due(self) -> list[Placed]:
        """Queue failed tasks whose pause is over, and return them."""
        now = self._shared.clock.monotonic()
        due = [waiting.placed for waiting in self._waiting if waiting.due <= now]
        if due:
            self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
            self._queue.extend(due)
        return due


def _end_of(status: Status, block: CallBlock, position: int) -> int:
    """Return the position up to which a block holds the calls from `position` on: a retry may have written some anew."""
    firsts = [other.first for other in status.calls if other.function == block.function and other.first > position]
    return min([block.first + block.n, *firsts])
