"""Cuts a client's submits into batches, one for each status object: how many tasks an object has, and which."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.pieces import BigCall
from starburst_executor.client.rows import MOST_IN_ROW, Row, RowPart
from starburst_executor.client.stored_functions import StoredFunction
from starburst_executor.client.task_options import CallOptions
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.options import Limit
from starburst_executor.protocol.spans.blocks import MAX_INLINE
from starburst_executor.protocol.spans.record import MAX_TASKS

__all__ = ["Acknowledged", "Batch", "Batching", "Neighbours", "Sent"]

_MAX_CALLS_BYTES = 64 * 2**20
# The size of a burst's first objects. A worker with an object to itself loses no races and need not read it again before
# each commit, so create many objects early. A long burst does not get too many, since few requests are in flight at once.
_LEAST_STATUS = 5
# The size of an object while the duration of its tasks is unknown. It doubles, up to `MAX_TASKS`, while that many tasks are
# less than one slice of work: fewer objects cost all sides fewer requests, and no task waits behind a long one.
_MOST_UNKNOWN = 256
# The objects of a later round have at least the average size of those before, divided by this: a few tasks are not worth an object for each slot.
_SMALLER = 4
# A claim takes tasks of one function and one set of options: an object of many in turn is claimed in small pieces, and each transition
# visits every span.
_MOST_SPANS = 128
# Of tasks that wait for others: if those fail, the object holds an outcome for each, with its cause.
_MOST_AFTER = 256
# The places of tasks in this number of status objects are remembered, in 4 MB of memory; a task that waits for an older one costs LISTs.
_REMEMBERED = 4096


@dataclass(slots=True, eq=False)
class Neighbours:
    """Submits with consecutive indices that have everything but arguments in common; one that could not be pickled is alone.

    Attributes:
        row, start: Where their futures are.
        given: Their options; `priority`, `limit` and `resources` are in the key of their status object, and a label belongs to one task.
        calls: The pickled calls.
        n_bytes: The memory that they occupy.
        function_bytes: The memory that their function occupies, if these are its first calls.
        failed: The outcome of a call that could not be pickled; it has no call.
        after: The futures of the tasks whose results it needs, if this is one task.
        source: What takes the results of a `map`; None for single submits.
    """

    row: Row
    start: int
    function: StoredFunction
    given: CallOptions
    calls: list[bytes | BigCall]
    n_bytes: int
    function_bytes: int = 0
    failed: bytes | None = None
    after: tuple[StarburstFuture[Any], ...] = ()
    source: object = None

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def first(self) -> int:
        """The index of the first task among this submitter's tasks."""
        return self.row.first + self.start

    @property
    def end(self) -> int:
        """The index after that of the last task."""
        return self.row.first + self.start + len(self.calls)

    @property
    def in_key(self) -> tuple[int, Limit | None, str]:
        """What the key of a status object says of its tasks, which is the same for all."""
        return self.given.options.priority or 0, self.given.options.limit, self.given.resources

    def takes(self, given: CallOptions, source: object = None) -> bool:
        """Return whether more with these options, of the same function and source, may be added to these."""
        return (
            self.given is given
            and self.source is source
            and not given.label
            and self.failed is None
            and not self.after
            and len(self.calls) < MOST_IN_ROW
        )

    def fitting(self, most: int, most_bytes: int) -> int:
        """Return how many of these, from the first, are at most this number and have at most this number of bytes together."""
        if self.n_bytes + self.function_bytes <= most_bytes:
            return min(most, len(self.calls))
        n, n_bytes = 0, self.function_bytes
        for call in self.calls[:most]:
            n_bytes += len(call)
            if n_bytes > most_bytes:
                break
            n += 1
        return n

    def cut(self, n: int) -> Neighbours:
        """Take the first `n` of more than that out of these, and return them."""
        calls, function_bytes = self.calls[:n], self.function_bytes
        taken = Neighbours(self.row, self.start, self.function, self.given, calls, sum(map(len, calls)), function_bytes)
        del self.calls[:n]
        self.start += n
        self.n_bytes -= taken.n_bytes
        self.function_bytes = 0
        return taken


@dataclass(slots=True, eq=False)
class Batch:
    """The submits of one status object, with consecutive indices.

    Attributes:
        cancelled: The indices of those that were cancelled while they were queued.
        burst: The number of submits of the burst when it was cut.
    """

    ordinal: int
    number: int
    queued: list[Neighbours]
    n_bytes: int
    cancelled: frozenset[int]
    burst: int = 0

    sent: Sent = field(init=False)

    def __post_init__(self) -> None:
        priority, limit, resources = self.queued[0].in_key
        ref = StatusRef(
            *(self.ordinal, self.first, self.n_tasks, self.number // STATUSES_PER_EPOCH),
            priority=priority,
            limit="" if limit is None else limit.name,
            resources=resources,
        )
        self.sent = Sent(ref)

    @property
    def first(self) -> int:
        """The index of its first task."""
        return self.queued[0].first

    @property
    def n_tasks(self) -> int:
        return sum(map(len, self.queued))

    @property
    def indices(self) -> range:
        """The indices of its tasks."""
        return range(self.first, self.first + self.n_tasks)

    @property
    def is_written(self) -> bool:
        """Whether it becomes a status object: not if all its tasks are cancelled."""
        return len(self.cancelled) < self.n_tasks

    def parts(self) -> list[RowPart]:
        """Return its tasks as parts of rows."""
        return [RowPart(of.first - self.first, of.row, of.start, len(of)) for of in self.queued]

    def futures(self) -> list[StarburstFuture[Any]]:
        """Return the futures of its tasks, in order."""
        return [future for part in self.parts() for future in part.futures()]


class Sent:
    """The status object of a batch that was cut: where its tasks are, and whether it is stored."""

    __slots__ = ("is_stored", "ref")

    def __init__(self, ref: StatusRef) -> None:
        self.ref = ref
        self.is_stored = threading.Event()


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An acknowledged status object, and its tasks as parts of rows, in order."""

    key: str
    ref: StatusRef
    etag: str
    parts: list[RowPart] = field(repr=False)


class Batching:
    """Decides how many tasks go into the next status object. Not thread-safe: its submitter's lock guards it.

    Args:
        n_workers: Returns the number of tasks that run at once.
        n_short: Returns the number of tasks that are about one slice of work; None while their duration is unknown.
        each: The number of objects for each of them.

    Attributes:
        n_statuses: The number of status objects so far.
        burst: The number of submits since one came while nothing was queued or in flight, and few tasks were ahead.
        n_of_burst: The number of objects that it has become.
        n_rounds: The number of rounds that it was cut into: as many objects as there are slots, of the same size.
        n_of_round: The number of objects of the present round that are to come.
        growth: By how much it has grown in the time of a request: as much is expected to follow.
    """

    def __init__(
        self, ordinal: int, n_workers: Callable[[], int], n_short: Callable[[], int | None], *, each: int = 2
    ) -> None:
        self._ordinal = ordinal
        self._each = each
        self._n_workers = n_workers
        self._n_short = n_short
        self._most = _MOST_UNKNOWN
        self.n_statuses = 0
        self.burst = self.n_of_burst = self.growth = self.n_rounds = self.n_of_round = self._round_size = 0
        self._sent: deque[Sent] = deque()  # the last ones, and all that are not stored yet
        self._n_forgotten = 0  # the tasks with a lower index are in objects before those, or in none

    def sent(self, index: int) -> Sent | None:
        """Return the status object that has this task; None if it was not cut yet, or has become no object since all were cancelled."""
        i = bisect_right(self._sent, index, key=lambda sent: sent.ref.first) - 1
        found = self._sent[i] if i >= 0 else None
        return found if found is not None and index < found.ref.first + found.ref.n_tasks else None

    def has_forgotten(self, index: int) -> bool:
        """Return whether this task was cut so long ago that `sent` no longer knows its object, which is stored if there is one."""
        return index < self._n_forgotten

    def size(self) -> int:
        """Return the number of tasks per object: about one or two objects per worker for the burst so far."""
        n_tasks = self._round_size if self.n_of_round else (self.burst + self.growth) // (self._each * self.n_slots)
        return min(self._most, max(_LEAST_STATUS, n_tasks))

    def begin_round(self, n_queued: int) -> None:
        """Cut what is queued into as many objects as there are slots, if they are not far smaller than those before."""
        n_slots = self.n_slots
        self._round_size = max(-(-n_queued // n_slots), self.burst // (_SMALLER * n_slots))
        self.n_rounds, self.n_of_round = self.n_rounds + 1, n_slots

    @property
    def n_slots(self) -> int:
        return max(1, self._n_workers())

    def begin(self) -> None:
        """Note that a burst begins: nothing was queued or in flight, and few tasks were ahead."""
        self.burst = self.n_of_burst = self.growth = self.n_rounds = self.n_of_round = 0

    def cut(self, queue: deque[Neighbours], cancelled: set[int]) -> Batch:
        """Take the next batch out of a queue that is not empty, and its indices out of `cancelled`."""
        if (n_short := self._n_short()) is not None:
            self._most = max(_MOST_UNKNOWN, min(n_short, 2 * self._most, MAX_TASKS))
        taken: list[Neighbours] = []
        n_tasks = n_bytes = n_inline = n_spans = n_after = 0
        kind: tuple[StoredFunction, bytes, bool] | None = None
        limit = self.size()
        while queue and n_tasks < limit:
            head = queue[0]
            is_failed = head.failed is not None
            # The outcomes of calls that could not be pickled are inline.
            n_inline += len(head.failed) if head.failed is not None else 0
            if kind is None or head.function is not kind[0] or (head.given.packed, is_failed) != kind[1:]:
                n_spans, kind = n_spans + 1, (head.function, head.given.packed, is_failed)
            n_after += bool(head.after)
            is_full = n_inline > MAX_INLINE or n_spans > _MOST_SPANS
            is_other = taken and head.in_key != taken[0].in_key
            if taken and (is_full or is_other or n_after > _MOST_AFTER):
                break
            # The first is taken even if it is too big.
            n = head.fitting(limit - n_tasks, _MAX_CALLS_BYTES - n_bytes) or int(not taken)
            if not n:
                break
            of_batch = queue.popleft() if n == len(head) else head.cut(n)
            taken.append(of_batch)
            n_tasks += n
            n_bytes += of_batch.n_bytes + of_batch.function_bytes
        indices = range(taken[0].first, taken[0].first + n_tasks)
        out = frozenset(cancelled.intersection(indices)) if cancelled else frozenset[int]()
        cancelled -= out
        batch = Batch(self._ordinal, self.n_statuses, taken, n_bytes, out, self.burst)
        self.n_of_burst += 1
        self.n_of_round = max(0, self.n_of_round - 1)
        # A batch whose tasks are all cancelled is never written. It must not leave a gap, or its epoch would never be full.
        self.n_statuses += batch.is_written
        if batch.is_written:
            self._sent.append(batch.sent)
            while len(self._sent) > _REMEMBERED and self._sent[0].is_stored.is_set():
                ref = self._sent.popleft().ref
                self._n_forgotten = ref.first + ref.n_tasks
        return batch
