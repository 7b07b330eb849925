"""Reads what a session has stored about its tasks, in constant memory. Starts nothing and changes nothing.

    manifest ──► epochs ──LIST──► listed objects ──GET──► blocks of tasks ──► outcomes, failures, calls

The only module of the reports that knows how status objects are laid out: `looks.py`, `results.py`, `mistakes.py` and the command
use its blocks. Everything but outcomes, failures and calls can be read without the session's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from itertools import islice, repeat
from typing import Any, NamedTuple, TypeVar

from starburst_executor import tracing
from starburst_executor.client.task_facts import known_facts
from starburst_executor.errors import (
    ConfigError,
    KeyNotFound,
    ObjectNotFound,
    PayloadError,
    RecordInvalid,
    VersionMismatch,
)
from starburst_executor.protocol import calls, outcomes, pieces
from starburst_executor.protocol.attempts import Attempt, attempts_of
from starburst_executor.protocol.keys import task_id, worker_of
from starburst_executor.protocol.labels import LABELS
from starburst_executor.protocol.outcomes import Failure
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.records import Manifest
from starburst_executor.protocol.seal import SEAL_BYTES
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import CallBlock, Entry, Located, OutcomeBlock, State, Status
from starburst_executor.session.fan_out import at_once, fan_out
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["Block", "Reading", "Task", "no_such_task", "parse_task", "stored_bytes"]

# Entries of one object that are looked up one by one; then all are made at once.
_FEW_ENTRIES = 8
_SHOWN_RANGES = 5
_A = TypeVar("_A")
_B = TypeVar("_B")


class Task(NamedTuple):
    """The stored facts of one task, without its call and its outcome.

    Attributes:
        ordinal: Its submitter's.
        sequence: Its position among the calls of its submitter.
        run: 1, plus 1 for each explicit retry.
        attempt: The number of claims so far.
        failures: Failed attempts of this run.
        losses: Workers lost in this run while they may have been running it.
        refusals: Workers that could not load its function in this run.
        claim: The claim that holds it or ended it; empty while it is pending.
        at: When it was claimed or ended, UTC epoch seconds by the clock of the worker; 0 if neither.
        seconds: The duration of its last attempt.
    """

    ordinal: int
    sequence: int
    state: State
    run: int
    attempt: int
    failures: int
    losses: int
    refusals: int
    claim: str
    at: float
    seconds: float

    @property
    def id(self) -> str:
        return task_id(self.ordinal, self.sequence)

    @property
    def worker(self) -> str:
        """The id of the worker that holds it or ended it; empty while it is pending."""
        return worker_of(self.claim)

    @property
    def has_ended(self) -> bool:
        return self.state >= State.COMPLETED


@dataclass(slots=True)
class Block:
    """The tasks of one stored object.

    Attributes:
        stored: What they were decoded from; None if the object cannot be read.
        tasks: They, in submission order.
        problem: Why it cannot be read; its tasks then count as failed.
    """

    listed: ListedStatus
    stored: Status | None
    tasks: tuple[Task, ...]
    problem: str = ""
    _entries: tuple[Entry, ...] = field(default=(), repr=False)
    _n_asked: int = field(default=0, repr=False)
    _labels: tuple[str, ...] | None = field(default=None, repr=False)
    _attempts: dict[int, list[Attempt]] | None = field(default=None, repr=False)

    @property
    def has_labels(self) -> bool:
        """Whether one of these tasks has a label."""
        return self.stored is not None and LABELS in (self.stored.more or {})

    def label(self, task: Task) -> str:
        """Return the label of one of these tasks; empty without one, or if it cannot be read."""
        if self.stored is None or not self.stored.more:
            return ""
        if self._labels is None:
            self._labels, _ = known_facts(self.stored)
        return self._labels[task.sequence - self.stored.first] if self._labels else ""

    def attempts(self, task: Task) -> Sequence[Attempt]:
        """Return the attempts of one of these tasks that failed and were, or will be, followed by another one, in order."""
        if self.stored is None or not self.stored.more:
            return ()
        if self._attempts is None:
            self._attempts = attempts_of(self.stored)
        return self._attempts.get(task.sequence - self.stored.first, ())

    def attempt(self, task: Task) -> int:
        """Return the number of a task's newest attempt, as `current_task().attempt` in it: a claim may have several."""
        earlier = self.attempts(task)
        return max(task.attempt, earlier[-1].attempt + 1) if earlier else task.attempt

    def entry(self, task: Task) -> Entry | None:
        """Return what is stored of one of these tasks."""
        if self.stored is None:
            return None
        position = task.sequence - self.stored.first
        # Of most objects only the failed tasks are needed, and each is a search through its blocks.
        self._n_asked += 1
        if not self._entries and self._n_asked > _FEW_ENTRIES:
            self._entries = self.stored.entries
        return self._entries[position] if self._entries else self.stored.entry(position)


class Reading:
    """Reads one session. Thread-safe."""

    def __init__(self, session: SessionStore) -> None:
        self.session = session
        # The last opened blocks: neighbouring tasks are mostly asked for one after the other. Each is replaced as a whole.
        self._last_outcomes: tuple[OutcomeBlock, list[bytes | memoryview]] | None = None
        self._last_calls: tuple[CallBlock, bytes, list[bytes | memoryview]] | None = None

    @property
    def has_key(self) -> bool:
        return self.session.sealer.has_key

    # --- tasks --------------------------------------------------------------------------------------------------------

    def epochs(self, manifest: Manifest | None = None) -> list[tuple[int, int]]:
        """Return every epoch, in submission order. Store: 1 GET without a manifest."""
        manifest = manifest or self.session.manifest.refresh()
        return [
            (ordinal, number)
            for ordinal, submitter in enumerate(manifest.submitters)
            for number in range(submitter.epochs)
        ]

    def listing(self, epoch: tuple[int, int]) -> list[ListedStatus]:
        """Return the status objects of one epoch, in submission order. Store: 1 LIST."""
        return self.session.statuses.of_epochs([epoch])

    def block(self, listed: ListedStatus) -> Block | None:
        """Read one status object; None if it is gone. Store: 1 GET."""
        try:
            stored = self.session.statuses.read(listed.key)
        except ObjectNotFound:
            return None
        except (RecordInvalid, VersionMismatch) as error:
            return Block(listed, None, _spoilt(listed), str(error))
        assert stored is not None  # no ETag was sent  # noqa: S101
        return self.block_of(listed._replace(etag=stored.etag), stored.status)

    @staticmethod
    def block_of(listed: ListedStatus, stored: Status) -> Block:
        """Return the tasks of a status object that was read."""
        return Block(listed, stored, tuple(_tasks(stored)))

    def blocks(self, listing: Iterable[ListedStatus]) -> Iterator[Block]:
        """Read these status objects, in order and several at a time. Store: 1 GET each."""
        for block in self._ahead(self.block, listing):
            if block is not None:
                yield block

    def all(self, wanted: Callable[[ListedStatus], bool] = lambda _: True) -> Iterator[Block]:
        """Read the whole session, in submission order. Store: 1 GET, 1 LIST an epoch, 1 GET for each wanted status object."""
        for epoch in self.epochs():
            yield from self.blocks(listed for listed in self.listing(epoch) if wanted(listed))

    def find(self, name: str) -> tuple[Block, Task]:
        """Read one task by its id, such as `0-17`.

        Raises: ConfigError if there is no such task. Store: 1 GET, 1 LIST an epoch up to the task's, 1 GET.
        """
        ordinal, index = parse_task(name)
        known: list[ListedStatus] = []
        for epoch in self.epochs():
            listing = self.listing(epoch)
            known += listing
            for listed in listing if epoch[0] == ordinal else ():
                if listed.ref.first <= index < listed.ref.first + listed.ref.n_tasks:
                    block = self.block(listed)
                    if block is not None:
                        return block, block.tasks[index - listed.ref.first]
        raise no_such_task(name, known)

    def _ahead(self, function: Callable[[_A], _B], items: Iterable[_A]) -> Iterator[_B]:
        """Yield `function` of each item, in order; a few calls at a time if the store is far away."""
        left, n = iter(items), at_once(self.session.store)
        while batch := list(islice(left, n)):
            # One by one out of the list: a decoded object of 2,048 tasks is half a megabyte.
            results = fan_out(self.session.store, function, batch)[::-1]
            while results:
                yield results.pop()

    # --- payloads -----------------------------------------------------------------------------------------------------

    def outcome(self, block: Block, task: Task) -> bytes | memoryview | None:
        """Return the verified outcome of a task that has ended, for `outcomes.load_outcome`; None for one that was cancelled.

        Raises: RecordInvalid, PayloadError, KeyNotFound. Store: 1 GET if it is too big to be inline, for neighbours once.
        """
        self.check_key()
        entry = block.entry(task)
        if block.stored is None or entry is None:
            raise RecordInvalid(block.problem)
        if entry.outcome is None:
            return None
        return self._opened(block, entry.outcome)[task.sequence - block.stored.first - entry.outcome.first]

    def _opened(self, block: Block, found: OutcomeBlock) -> list[bytes | memoryview]:
        last = self._last_outcomes
        if last is not None and last[0] is found:
            return last[1]
        assert block.stored is not None  # it has an outcome  # noqa: S101
        payloads = self.session.payloads.outcomes(block.listed.ref.status_id, block.stored, found)
        self._last_outcomes = (found, payloads)
        return payloads

    def failure(self, block: Block, task: Task, *, may_fetch: bool = True) -> Failure | None:
        """Describe why a task failed, without unpickling anything; None if that is not known.

        Args:
            may_fetch: Whether an outcome that is too big to be inline may be fetched: 1 GET.
        """
        if block.problem:
            return Failure("starburst_executor.errors.RecordInvalid", block.problem, "")
        entry = block.entry(task)
        if entry is None or entry.outcome is None or (isinstance(entry.outcome.place, Located) and not may_fetch):
            return None
        try:
            body = self.outcome(block, task)
            return None if body is None else outcomes.describe_outcome(body)
        except (RecordInvalid, PayloadError) as error:
            return Failure(f"starburst_executor.errors.{type(error).__name__}", str(error), "")

    def call(
        self, block: Block, task: Task, bodies: dict[bytes, bytes] | None = None, most_bytes: int | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a task that has not completed.

        Args:
            bodies: The big pieces of calls that were read before, by name; those of this one are added.
            most_bytes: How many bytes `bodies` may hold.

        Raises: PayloadError: they are not stored any more, or too big; RecordInvalid, KeyNotFound; any exception of unpickling.
        Store: 1 GET for each part that is not inline, nor in `bodies`.
        """
        record, _ = self.call_record(block, task)
        bodies = {} if bodies is None else bodies
        parts = pieces.decode(record)
        new = {part for part in parts or () if isinstance(part, Piece) and part.name not in bodies}
        n_bytes = sum(part.length for part in new) + sum(map(len, bodies.values()))
        if most_bytes is not None and n_bytes > most_bytes:
            raise PayloadError(f"the arguments of this task are too big to be read here: task={task.id}")
        bodies.update({ref.name: self._piece(ref) for ref in new})
        args, kwargs = calls.load_call(record, bodies)
        kwargs.pop(tracing.CARRIER, None)
        return args, kwargs

    def call_record(self, block: Block, task: Task) -> tuple[bytes, str]:
        """Return a task's verified call record, for `calls.load_call`, and the digest of its function.

        Raises: PayloadError, RecordInvalid, KeyNotFound. Store: 1 GET if it is not inline.
        """
        record, digest, _ = self.call_at(block, task)
        return record, digest

    def call_at(self, block: Block, task: Task) -> tuple[bytes, str, int | None]:
        """Return what `call_record` returns, and where the record begins in the object of big calls; None if it is inline."""
        self.check_key()
        entry = block.entry(task)
        if block.stored is None or entry is None or entry.call is None:
            raise PayloadError(f"the arguments of this task are not stored: task={task.id}")
        found, i = entry.call, task.sequence - block.stored.first - entry.call.first
        last = self._last_calls
        if last is None or last[0] is not found:
            place = found.place
            body = (
                self.session.payloads.calls(block.listed.ref.status_id, place.start, place.length)
                if isinstance(place, Located)
                else place
            )
            last = (found, body, blocks.open_calls(self.session.sealer, block.stored, found, body))
            self._last_calls = last
        _, body, payloads = last
        start = found.place.start if isinstance(found.place, Located) else None
        if start is not None:
            start += blocks.offset_of(memoryview(body)[SEAL_BYTES:], found.n, i)
        return bytes(payloads[i]), block.stored.functions[entry.function], start

    def _piece(self, ref: Piece) -> bytes:
        body = self.session.payloads.calls(ref.status_id, ref.start, ref.length)
        if not compare_digest(pieces.name_of(self.session.sealer, body), ref.name):
            raise RecordInvalid(f"a piece of a call does not match its name and was not unpickled: {ref.status_id}")
        return body

    def check_key(self) -> None:
        """Raise KeyNotFound if this process opened the session without its key."""
        if not self.has_key:
            raise KeyNotFound(f"values and errors need the session's key: session={self.session.session_id}")


def stored_bytes(block: Block, task: Task) -> int:
    """Return the size of the stored block with a task's outcome; 0 if it has none."""
    entry = block.entry(task)
    if entry is None or entry.outcome is None:
        return 0
    place = entry.outcome.place
    return place.length if isinstance(place, Located) else len(place)


def no_such_task(name: str, listing: Iterable[ListedStatus]) -> ConfigError:
    """Return the error for a task that the session, with these status objects, does not have: it tells which there are."""
    ends: dict[int, int] = {}
    for ref in (listed.ref for listed in listing):
        ends[ref.ordinal] = max(ends.get(ref.ordinal, 0), ref.first + ref.n_tasks)
    ranges = [
        task_id(ordinal, 0) + (f" to {task_id(ordinal, end - 1)}" if end > 1 else "")
        for ordinal, end in sorted(ends.items())
    ]
    more = f" and those of {len(ranges) - _SHOWN_RANGES} more clients" if len(ranges) > _SHOWN_RANGES else ""
    return ConfigError(
        f"the session has no such task: task={name}; its tasks are {', '.join(ranges[:_SHOWN_RANGES]) or 'none yet'}{more}"
    )


def parse_task(name: str) -> tuple[int, int]:
    """Return ordinal and index of a task's id. Raises: ConfigError."""
    ordinal, _, index = name.partition("-")
    if not (ordinal.isdecimal() and index.isdecimal()):
        raise ConfigError(f"not a task's id: {name!r}; it is ordinal and index, such as 0-17")
    return int(ordinal), int(index)


def _tasks(stored: Status) -> list[Task]:
    """Return the tasks of a status object, column by column: a million of them are read for one report."""
    tasks: list[Task] = []
    for start, span in stored.placed():
        n, _, run, attempt, _, losses, _, _, refusals, claim, _, _, at = span
        states, failures, seconds = stored.columns(start, span)
        same = map(repeat, (run, attempt, losses, refusals, claim, at))
        runs, attempts, all_losses, all_refusals, claims, times = same
        numbers = range(stored.first + start, stored.first + start + n)
        columns = zip(
            repeat(stored.ordinal),
            numbers,
            states,
            runs,
            attempts,
            failures,
            all_losses,
            all_refusals,
            claims,
            times,
            seconds,
        )
        tasks += map(Task._make, columns)
    return tasks


def _spoilt(listed: ListedStatus) -> tuple[Task, ...]:
    ref = listed.ref
    return tuple(
        Task(ref.ordinal, ref.first + i, State.FAILED, 1, 0, 0, 0, 0, "", listed.modified_at, 0.0)
        for i in range(ref.n_tasks)
    )
