"""Cuts a client's submits into batches, one for each status object: how many tasks an object has, and which."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.pieces import BigCall
from starburst_executor.client.stored_functions import StoredFunction
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans.blocks import MAX_INLINE

__all__ = ["Acknowledged", "Batch", "Batching", "Queued"]

_MAX_CALLS_BYTES = 64 * 2**20
# The size of a burst's first objects. A worker with an object to itself loses no races and need not read it again before
# each commit, so create many objects early. A long burst does not get too many, since few requests are in flight at once.
_LEAST_STATUS = 5
_MOST_STATUS = 256


@dataclass(slots=True, eq=False)
class Queued:
    """One submit: a pickled call, or the outcome of a call that could not be pickled.

    Attributes:
        n_bytes: The memory that it occupies; a function counts for its first call.
    """

    future: StarburstFuture[Any]
    function: StoredFunction
    call: bytes | BigCall
    failed: bytes | None
    n_bytes: int

    @property
    def index(self) -> int:
        """The index of its task among this submitter's tasks."""
        return self.future.index


@dataclass(slots=True, eq=False)
class Batch:
    """The submits of one status object, with consecutive indices.

    Attributes:
        cancelled: The indices of those that were cancelled while they were queued.
    """

    ordinal: int
    number: int
    queued: list[Queued]
    n_bytes: int
    cancelled: frozenset[int]

    @property
    def first(self) -> int:
        """The index of its first task."""
        return self.queued[0].index

    @property
    def is_written(self) -> bool:
        """Whether it becomes a status object: not if all its tasks are cancelled."""
        return len(self.cancelled) < len(self.queued)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An acknowledged status object, and the futures of its tasks, in order."""

    key: str
    ref: StatusRef
    etag: str
    futures: list[StarburstFuture[Any]] = field(repr=False)


class Batching:
    """Decides how many tasks go into the next status object. Not thread-safe: its submitter's lock guards it.

    Args:
        n_workers: Returns the number of tasks that run at once.

    Attributes:
        n_statuses: The number of status objects so far.
        burst: The number of submits since nothing was queued or in flight.
    """

    def __init__(self, ordinal: int, n_workers: Callable[[], int]) -> None:
        self._ordinal = ordinal
        self._n_workers = n_workers
        self.n_statuses = 0
        self.burst = 0

    def size(self) -> int:
        """Return the number of tasks per object: about two objects per worker for the burst so far."""
        return min(_MOST_STATUS, max(_LEAST_STATUS, self.burst // (2 * max(1, self._n_workers()))))

    def cut(self, queue: deque[Queued], cancelled: set[int]) -> Batch:
        """Take the next batch out of a queue that is not empty, and its indices out of `cancelled`."""
        queued: list[Queued] = []
        n_bytes = n_inline = 0
        limit = self.size()
        while queue and len(queued) < limit:
            failed, size = queue[0].failed, queue[0].n_bytes
            n_inline += (
                0 if failed is None else len(failed)
            )  # the outcomes of calls that could not be pickled are inline
            if queued and (n_inline > MAX_INLINE or n_bytes + size > _MAX_CALLS_BYTES):
                break
            queued.append(queue.popleft())
            n_bytes += size
        of_batch = frozenset(submit.index for submit in queued if submit.index in cancelled)
        cancelled -= of_batch
        batch = Batch(self._ordinal, self.n_statuses, queued, n_bytes, of_batch)
        # A batch whose tasks are all cancelled is never written. It must not leave a gap, or its epoch would never be full.
        self.n_statuses += batch.is_written
        return batch
