"""The facts of a session's tasks in columns: what filters, orders and totals of a million tasks are answered from.

    listing ──► which rows are out of date ──read──► blocks ──► columns, one row for each status object
                                                                   └──► kinds of failures, ends over time

A row is 17 bytes a task: state, worker, time, duration, attempt; labels stay deflated, as they are stored. Objects whose size class determines the states of their tasks need no
row for a filter by state. Bounds: `MOST_TASKS` tasks, `MOST_OBJECTS` rows, `_MESSAGE_BYTES` of messages of failures.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby

from starburst_executor.client.failing import FailureKind, place_of
from starburst_executor.client.reading import Block, Reading, Task
from starburst_executor.dashboard.strips import Strip, Timeline
from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.keys import task_id, worker_of
from starburst_executor.protocol.labels import LABELS, unpacked_labels
from starburst_executor.protocol.outcomes import Failure
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.fan_out import AT_ONCE, fan_out
from starburst_executor.session.statuses import ListedStatus

__all__ = ["MOST_OBJECTS", "MOST_TASKS", "Columns", "TaskIndex", "unread_columns"]

MOST_TASKS = 2_500_000
MOST_OBJECTS = 50_000
_MESSAGE_BYTES = 16 * 2**20
_MESSAGE_CHARACTERS = 300
_MOST_KINDS = 1000
_EXAMPLES = 3
_BATCH = 64
_MOST_ATTEMPTS = 65_535
# Stands for failures whose outcome is not inline, until it is fetched.
_NOT_READ = Failure("not read yet", "the error is stored beside its status object", "")
_COMPLETED = int(State.COMPLETED)
_NAMES = {int(State.COMPLETED): "completed", int(State.FAILED): "failed", int(State.CANCELLED): "cancelled"}


@dataclass(slots=True)
class Columns:
    """The tasks of one status object, in submission order.

    Attributes:
        etag: The version that was read; empty for one that was not read.
        look: The number of the listing after which it was read.
        workers: Numbers in `TaskIndex.worker_ids`; 0 for none.
        kinds: Numbers of kinds of failures, from 1; 0 for tasks that did not fail; None if none did.
        messages: Of failed tasks, by position.
        packed_labels: The column of labels, as it is stored; empty if no task has one, or it cannot be read.
    """

    etag: str
    look: int
    states: bytes
    workers: array[int]
    at: array[float]
    seconds: array[float]
    attempts: array[int]
    kinds: array[int] | None = None
    messages: dict[int, str] = field(default_factory=dict)
    packed_labels: bytes = b""
    orders: dict[str, array[int]] = field(default_factory=dict)

    def labels(self) -> tuple[str, ...]:
        """Return the labels of the tasks; empty if none has one."""
        return unpacked_labels(self.packed_labels, len(self.states)) if self.packed_labels else ()

    def order(self, column: str) -> array[int]:
        """Return the positions, ascending by one of the columns `at` and `seconds`."""
        if column not in self.orders:
            values = self.at if column == "at" else self.seconds
            self.orders[column] = array("H", sorted(range(len(values)), key=values.__getitem__))
        return self.orders[column]


@lru_cache(maxsize=4096)
def unread_columns(n_tasks: int, state: State) -> Columns:
    """Return what is known of an object whose size class tells that all its tasks are in this state."""
    zeros = [0] * n_tasks
    return Columns(
        "", 0, bytes([state]) * n_tasks, array("I", zeros), array("d", zeros), array("f", zeros), array("H", zeros)
    )


class TaskIndex:
    """The columns of one session. Thread-safe; reads the store in `fill` alone.

    Args:
        began_at: When the session was created.
    """

    def __init__(self, reading: Reading, began_at: float) -> None:
        self._reading = reading
        self._lock = (
            threading.Lock()
        )  # guards: _rows, _unfetched, _worker_numbers, _kind_numbers, _firsts, _strip, _n_message_bytes
        self._rows: dict[str, Columns] = {}
        self._unfetched: dict[
            str, list[int]
        ] = {}  # by key of a status object: failed tasks whose outcome is not inline
        self._worker_numbers: dict[str, int] = {"": 0}
        self.worker_ids: list[str] = [""]
        self._kind_numbers: dict[tuple[str, str], int] = {}
        self.kinds: list[FailureKind] = []
        self._firsts: list[list[tuple[float, int, int]]] = []  # of each kind: end, ordinal and sequence of its examples
        self._strip = Strip(began_at)
        self._n_message_bytes = 0
        self._texts: dict[str, str] = {}
        self.n_unkept_messages = 0
        self.listing: Sequence[ListedStatus] = ()
        self._n_listings = 0
        self.n_tasks = 0
        self.has_labels = False  # whether a task that was read has one

    @property
    def is_too_big(self) -> bool:
        """Whether the session has more tasks or objects than an index keeps."""
        return self.n_tasks > MOST_TASKS or len(self.listing) > MOST_OBJECTS

    def set_listing(self, listing: Sequence[ListedStatus]) -> None:
        """Take over the listing of a look, after the look has given its blocks to `absorb_ahead`."""
        self.listing = listing
        self.n_tasks = sum(listed.ref.n_tasks for listed in listing)
        self._n_listings += 1

    def known(self, listed: ListedStatus) -> Columns | None:
        """Return the columns of an object if they are not out of date."""
        row = self._rows.get(listed.key)  # unlocked: one look-up of a row that is replaced as a whole
        return row if row is not None and (row.etag == listed.etag or row.look >= self._n_listings) else None

    def state_of(self, ordinal: int, sequence: int) -> str:
        """Return the state of a task as far as it is known, in lower case; else an empty text."""
        place = bisect_right(self.listing, (ordinal, sequence), key=lambda listed: listed.ref[:2]) - 1
        listed = self.listing[place] if place >= 0 else None
        if listed is None or listed.ref.ordinal != ordinal or sequence >= listed.ref.first + listed.ref.n_tasks:
            return ""
        row = self.known(listed)
        return "" if row is None else State(row.states[sequence - listed.ref.first]).name.lower()

    def number_of(self, worker: str) -> int | None:
        """Return the number of a worker; None if no task that was read names it."""
        return self._worker_numbers.get(worker)  # unlocked: one look-up; numbers never change

    # --- reading ------------------------------------------------------------------------------------------------------

    def fill(self, wanted: Iterable[ListedStatus], go_on: Callable[[], bool]) -> int:
        """Read these objects while `go_on()`; return how many were read. Store: 1 GET each."""
        missing = [listed for listed in wanted if self.known(listed) is None]
        n_read, look = 0, self._n_listings
        while n_read < len(missing) and go_on() and not self.is_too_big:
            batch = missing[n_read : n_read + _BATCH]
            for block in self._reading.blocks(batch):
                self._absorb(block, look)
            n_read += len(batch)
        return n_read

    def fetch(self, go_on: Callable[[], bool], at_once: int = AT_ONCE) -> None:
        """Read the failures that are not inline while `go_on()`. Store: 1 GET for each, and for each object that has some."""
        for listed in list(self.listing):
            wanted = self._unfetched.get(listed.key)  # unlocked: one look-up of a list that is replaced as a whole
            if not wanted or self.known(listed) is None:
                continue
            if not go_on():
                return
            block = self._reading.block(listed)
            if block is not None:
                self._fetch_of(block, wanted, go_on, at_once)

    def _fetch_of(self, block: Block, wanted: list[int], go_on: Callable[[], bool], at_once: int) -> None:
        key, n_read = block.listed.key, 0
        while n_read < len(wanted) and go_on():
            positions = wanted[n_read : n_read + at_once]
            n_read += len(positions)
            failures = fan_out(
                self._reading.session.store, lambda i: self._reading.failure(block, block.tasks[i]), positions
            )
            with self._lock:
                row = self._rows.get(key)
                if row is None or row.etag != block.listed.etag or row.kinds is None:
                    return  # it has changed meanwhile, and is read again as a whole
                for position, failure in zip(positions, failures, strict=True):
                    number = self._kind_of(block.tasks[position], failure)
                    self.kinds[row.kinds[position] - 1].n_tasks -= 1
                    self.kinds[number - 1].n_tasks += 1
                    self._note(row, position, number, failure)
                self._unfetched[key] = wanted[n_read:]

    @property
    def n_unfetched(self) -> int:
        """The number of failures whose kind is not known yet."""
        with self._lock:
            return sum(map(len, self._unfetched.values()))

    def absorb_ahead(self, block: Block) -> None:
        """Take over a block that a look has read, before its listing is set."""
        if not self.is_too_big:
            self._absorb(block, self._n_listings + 1)

    def _absorb(self, block: Block, look: int) -> None:
        failures = {}
        if self._reading.has_key or block.problem:
            failures = {
                position: self._reading.failure(block, task, may_fetch=False)
                for position, task in enumerate(block.tasks)
                if task.state is State.FAILED
            }
        with self._lock:
            old = self._rows.get(block.listed.key)
            if old is not None and (old.etag == block.listed.etag or old.look > look):
                old.look = max(old.look, look)
                return
            row = self._columns(block, look)
            self._unfetched.pop(block.listed.key, None)
            if failures:
                row.kinds = array("H", [0] * len(block.tasks))
                for position, failure in failures.items():
                    self._note(row, position, self._kind_of(block.tasks[position], failure), failure)
                unfetched = [position for position, failure in failures.items() if failure is None]
                if unfetched:
                    self._unfetched[block.listed.key] = unfetched
            if old is not None:
                self._count(old, -1)
            self._count(row, 1)
            self._rows[block.listed.key] = row

    def _columns(self, block: Block, look: int) -> Columns:
        # By columns: a million tasks are read into the index.
        _, _, states, _, attempts, failures, _, _, claims, times, seconds = zip(*block.tasks, strict=True)
        if any(failures):
            attempts = tuple(block.attempt(task) for task in block.tasks)
        numbers, workers = self._worker_numbers, array("I")
        for claim, tasks in groupby(claims):
            worker = worker_of(claim)
            if worker not in numbers:
                numbers[worker] = len(self.worker_ids)
                self.worker_ids.append(worker)
            workers.extend([numbers[worker]] * len(list(tasks)))
        return Columns(
            block.listed.etag,
            look,
            bytes(states),
            workers,
            array("d", times),
            array("f", seconds),
            array("H", attempts if max(attempts) <= _MOST_ATTEMPTS else [min(n, _MOST_ATTEMPTS) for n in attempts]),
            packed_labels=self._packed_labels(block),
        )

    def _packed_labels(self, block: Block) -> bytes:
        packed = (block.stored.more or {}).get(LABELS) if block.stored is not None else None
        if type(packed) is not bytes:
            return b""
        try:
            unpacked_labels(packed, len(block.tasks))
        except RecordInvalid:
            return b""
        self.has_labels = True
        return packed

    def _kind_of(self, task: Task, failure: Failure | None) -> int:
        """Return the number of the kind of a failure, which gets this task as an example."""
        found = failure or _NOT_READ
        label = (found.type_name, place_of(found.traceback))
        if label not in self._kind_numbers and len(self.kinds) >= _MOST_KINDS:
            label = ("other exceptions", "")
        if label not in self._kind_numbers:
            self.kinds.append(FailureKind(*label))
            self._firsts.append([])
            self._kind_numbers[label] = len(self.kinds)
        number = self._kind_numbers[label]
        kind, firsts = self.kinds[number - 1], self._firsts[number - 1]
        kind.last_at = max(kind.last_at, task.at)
        # Objects are read in no order: the first ones are those that ended first, not those that were read first.
        place = (task.at, task.ordinal, task.sequence)
        if place not in firsts and (len(firsts) < _EXAMPLES or place < firsts[-1]):
            insort(firsts, place)
            del firsts[_EXAMPLES:]
            if firsts[0] == place:
                kind.first_at, kind.message, kind.traceback = task.at, found.message, found.traceback
            kind.tasks = [task_id(ordinal, sequence) for _, ordinal, sequence in firsts]
        return number

    def _note(self, row: Columns, position: int, number: int, failure: Failure | None) -> None:
        if row.kinds is not None:
            row.kinds[position] = number
        message = None if failure is None else self._kept(failure.message[:_MESSAGE_CHARACTERS])
        if message is not None:
            row.messages[position] = message

    def _kept(self, message: str) -> str | None:
        if message in self._texts:
            return self._texts[message]
        if self._n_message_bytes > _MESSAGE_BYTES:
            self.n_unkept_messages += 1
            return None
        self._n_message_bytes += 150 + len(message)
        return self._texts.setdefault(message, message)

    def _count(self, row: Columns, sign: int) -> None:
        """Add the tasks of a row to what is counted of all, or take them out."""
        # Tasks that were committed together have one time: they ran one after the other, the last one up to that time.
        ends: dict[tuple[int, float], float] = {}
        stop = len(row.states)
        commits = [(key, len(list(same))) for key, same in groupby(zip(row.workers, row.at, strict=True))]
        for commit, n in reversed(commits):
            start = stop - n
            names = [_NAMES[state] for state in row.states[start:stop] if state >= _COMPLETED]
            if names and commit[1]:
                # What the same worker claimed at that moment has no duration.
                seconds = [row.seconds[i] for i in range(start, stop) if row.states[i] >= _COMPLETED]
                end = ends.get(commit, commit[1])
                ends[commit] = end - sum(seconds)
                self._strip.add(names, end, seconds, sign)
            stop = start
        for number in row.kinds or ():
            if number:
                self.kinds[number - 1].n_tasks += sign

    # --- answers ------------------------------------------------------------------------------------------------------

    def unread(self, *, failed_first: bool = False) -> list[ListedStatus]:
        """Return the ended objects that were not read; those that may have failed tasks first."""
        found = [listed for listed in self.listing if listed.size_class.has_ended and self.known(listed) is None]
        if failed_first:
            found.sort(key=lambda listed: listed.size_class == SizeClass.ALL_COMPLETED)
        return found

    def failures(self) -> list[FailureKind]:
        """Return the kinds of the failures that were read, the most frequent first; last, those whose outcome is not fetched yet.

        Their `inputs` are empty.
        """
        with self._lock:
            found = [replace(kind, tasks=list(kind.tasks)) for kind in self.kinds if kind.n_tasks > 0]
        return sorted(found, key=lambda kind: (kind.type_name == _NOT_READ.type_name, -kind.n_tasks))

    def timeline(self, now: float, running: Sequence[float]) -> Timeline:
        """Return ends and busy slots over time."""
        unread = [(listed.modified_at, listed.ref.n_tasks) for listed in self.unread()]
        with self._lock:
            return self._strip.at(now, unread, running)

    def counts(self) -> Mapping[str, int]:
        """Return how much the index holds, for the page's own figures."""
        return {"objects": len(self.listing), "rows": len(self._rows)}  # unlocked: one length
