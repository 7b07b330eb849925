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
from starburst_executor.protocol.spans.record import MAX_TASKS

__all__ = ["Acknowledged", "Batch", "Batching", "Queued"]

_MAX_CALLS_BYTES = 64 * 2**20
# The size of a burst's first objects. A worker with an object to itself loses no races and need not read it again before
# each commit, so create many objects early. A long burst does not get too many, since few requests are in flight at once.
_LEAST_STATUS = 5
# The size of an object while the duration of its tasks is unknown. It doubles, up to `MAX_TASKS`, while that many tasks are
# less than one slice of work: fewer objects cost all sides fewer requests, and no task waits behind a long one.
_MOST_UNKNOWN = 256
# A claim takes tasks of one function: an object of many functions in turn is claimed in small pieces, and each transition visits
# every span.
_MOST_SPANS = 128


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
        n_short: Returns the number of tasks that are about one slice of work; None while their duration is unknown.

    Attributes:
        n_statuses: The number of status objects so far.
        burst: The number of submits since nothing was queued or in flight.
    """

    def __init__(self, ordinal: int, n_workers: Callable[[], int], n_short: Callable[[], int | None]) -> None:
        self._ordinal = ordinal
        self._n_workers = n_workers
        self._n_short = n_short
        self._most = _MOST_UNKNOWN
        self.n_statuses = 0
        self.burst = 0

    def size(self) -> int:
        """Return the number of tasks per object: about two objects per worker for the burst so far."""
        return min(self._most, max(_LEAST_STATUS, self.burst // (2 * max(1, self._n_workers()))))

    def cut(self, queue: deque[Queued], cancelled: set[int]) -> Batch:
        """Take the next batch out of a queue that is not empty, and its indices out of `cancelled`."""
        if (n_short := self._n_short()) is not None:
            self._most = max(_MOST_UNKNOWN, min(n_short, 2 * self._most, MAX_TASKS))
        queued: list[Queued] = []
        n_bytes = n_inline = n_spans = 0
        kind: tuple[StoredFunction, bool] | None = None
        limit = self.size()
        while queue and len(queued) < limit:
            submit = queue[0]
            is_failed = submit.failed is not None
            # The outcomes of calls that could not be pickled are inline.
            n_inline += len(submit.failed) if submit.failed is not None else 0
            if kind is None or submit.function is not kind[0] or is_failed != kind[1]:
                n_spans, kind = n_spans + 1, (submit.function, is_failed)
            is_full = n_inline > MAX_INLINE or n_bytes + submit.n_bytes > _MAX_CALLS_BYTES or n_spans > _MOST_SPANS
            if queued and is_full:
                break
            queued.append(queue.popleft())
            n_bytes += submit.n_bytes
        of_batch = frozenset(submit.index for submit in queued if submit.index in cancelled)
        cancelled -= of_batch
        batch = Batch(self._ordinal, self.n_statuses, queued, n_bytes, of_batch)
        # A batch whose tasks are all cancelled is never written. It must not leave a gap, or its epoch would never be full.
        self.n_statuses += batch.is_written
        return batch
