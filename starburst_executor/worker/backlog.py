"""The tasks of a slot that wait: for its runner, or after a failure for their next try.

    add(claim) ──► queue ──next_calls──► feeder ──► runner
                    ▲ ▲                    │
                    │ └──── put_back ◄─────┤   jobs that had not started
                    └─ requeue_due ◄─ retry_later

The slot's thread owns it. It reads calls from the store, and makes no other store requests.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from starburst_executor.errors import PayloadError
from starburst_executor.protocol.options import Backoff
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.worker.call_reader import Arrived, Trouble, Wanted
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.placed import Placed, Stretch
from starburst_executor.worker.runner.jobs import Finished
from starburst_executor.worker.shared import Shared

__all__ = ["HELD_S", "Backlog", "Found"]

# A task keeps its claim while its pause is this short: a swap to release it and another to claim it again take about as long on S3.
HELD_S = 5.0

# Small calls of neighbours, the call of one task, or why there is none.
Found: TypeAlias = list[bytes] | Arrived | Trouble


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A failed task that keeps its claim until its next try."""

    due: float
    placed: Placed


class Backlog:
    """The waiting tasks of one slot, in the order in which they run.

    Attributes:
        long_waits: Failed tasks whose pause is too long to keep their claim, with the end of it in UTC epoch seconds; the slot releases
            them.
    """

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._queue: deque[Stretch] = deque()
        self._n_queued = 0  # tasks
        self._waiting: list[_Waiting] = []
        self.long_waits: list[tuple[Placed, float]] = []

    def __len__(self) -> int:
        """Return the number of tasks that wait for the runner, without those that wait for their next try."""
        return self._n_queued

    def add(self, claim: Claim) -> None:
        """Add the tasks of a new claim."""
        for start, span in claim.spans:
            self._append(Stretch(claim, start, span.n).held())

    def put_back(self, tasks: Iterable[Stretch]) -> None:
        """Put tasks that have not started back to the front, in their order."""
        for stretch in reversed(list(tasks)):
            self._queue.appendleft(stretch)
            self._n_queued += stretch.n

    def take_all(self, *, and_waiting: bool) -> list[Placed]:
        """Take out and return all tasks; those that wait for their next try only with `and_waiting`.

        Those that wait for their backoff are put into `long_waits`.
        """
        tasks = [placed for stretch in self._queue for placed in stretch.each()]
        self._queue.clear()
        self._n_queued = 0
        if and_waiting:
            for waiting in self._waiting:
                if waiting.placed.claim.options.backoff is None:
                    tasks.append(waiting.placed)
                else:
                    self._wait_long(waiting)
            self._waiting.clear()
        return tasks

    def next_calls(self, at_most: int, n_bytes: int) -> list[tuple[Stretch, Found]]:
        """Take out the next tasks; return them with their calls, or one task with its call or the error of its call.

        At least one task, then as many as have `n_bytes` of calls. A task that its claim has lost is dropped. Calls that are not small
        are read together.

        Store: the requests of `CallReader.get`.
        """
        batch: list[tuple[Stretch, list[bytes] | None]] = []
        wanted: list[Wanted] = []
        n_tasks = 0
        while self._queue and n_tasks < at_most:
            stretch, want = self._next(at_most - n_tasks)
            if want is None:
                continue
            small = self._shared.call_reader.get_small(want)
            if small is None:
                wanted.append(want)
            batch.append((stretch, small))
            n_tasks += stretch.n
        others = iter(self._shared.call_reader.get(wanted, n_bytes) if wanted else ())
        calls: list[tuple[Stretch, Found]] = []
        for i, (stretch, small) in enumerate(batch):
            if small is not None:
                calls.append((stretch, small))
                continue
            arrived = list(islice(others, stretch.n))
            calls += ((stretch.part(k, k + 1), call) for k, call in enumerate(arrived))
            if len(arrived) < stretch.n:
                self.put_back([stretch.part(len(arrived), stretch.n), *(later for later, _ in batch[i + 1 :])])
                break
        return calls

    def _next(self, at_most: int) -> tuple[Stretch, Wanted | None]:
        """Take out tasks whose calls are in one block; without the block if the claim holds none of them, or they have none."""
        stretch = self._queue.popleft()
        self._n_queued -= stretch.n
        claim, first, n = stretch
        status = claim.stored.status
        run = status.call_run(first, claim.span(first).function)
        n_next = min(n, at_most, 1 if run is None else run[1] - first)
        # Only these are looked at, not all that follow, so that a long stretch is not looked at again for each block.
        held = stretch.part(0, n_next).held()
        self.put_back([*held[1:], *([stretch.part(n_next, n)] if n_next < n else [])])
        if not held:
            return stretch, None
        if run is None:
            for placed in held[0].each():
                error = PayloadError(f"a task without its call: task={placed.task_id}")
                placed.end(Finished.failed(dump_reason(error)))
            return stretch, None
        return held[0], Wanted(claim.ref, status, run[0], held[0].positions)

    def _append(self, tasks: Iterable[Stretch]) -> None:
        for stretch in tasks:
            self._queue.append(stretch)
            self._n_queued += stretch.n

    # --- retries ------------------------------------------------------------------------------------------------------

    def retry_later(self, placed: Placed, n_failures: int) -> None:
        """Have a task wait for its next try: for its `backoff`; without one, for a pause that doubles with each of its failures."""
        timings, clock = self._shared.session.manifest.current.timings, self._shared.clock
        if (backoff := placed.claim.options.backoff) is not None:
            pause_s = backoff.pause_s(n_failures)
        else:
            usual = Backoff(timings.retry_first_s, most=timings.retry_most_s)
            pause_s = usual.pause_s(n_failures) * (0.5 + clock.random() / 2)
        waiting = _Waiting(clock.monotonic() + pause_s, placed)
        if pause_s > HELD_S:
            self._wait_long(waiting)
        else:
            self._waiting.append(waiting)

    def _wait_long(self, waiting: _Waiting) -> None:
        # In whole seconds, rounded up, so that neighbours share a span.
        clock = self._shared.clock
        self.long_waits.append((waiting.placed, float(math.ceil(clock.now() + waiting.due - clock.monotonic()))))

    def next_try_at(self) -> float | None:
        """Return the time at which the next failed task is due; None if there is none."""
        return min((waiting.due for waiting in self._waiting), default=None)

    def requeue_due(self) -> list[Placed]:
        """Queue failed tasks whose pause is over, and return them."""
        now = self._shared.clock.monotonic()
        due = [waiting.placed for waiting in self._waiting if waiting.due <= now]
        if due:
            self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
            self._append(Stretch(*placed) for placed in due)
        return due
