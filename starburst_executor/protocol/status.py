"""The status object: the stored record of 1..256 tasks, its legal transitions, and what its size tells.

                create            claim                     commit, same claim only
      (client) ───────► PENDING ─────────► CLAIMED ──────────────────────► COMPLETED | FAILED ──► next run (retry)
                         │ │ ▲                │ │
            cancel       │ │ └────────────────┘ │   release · refuse · take_back
      CANCELLED ◄────────┘ └────────────────────┴─► CANCELLED | FAILED: end_rest; lost too often (take_back)

Every transition is a pure function from one `Status` to the next; whoever calls it swaps the result in on the ETag of
the first. A transition never touches an entry that is not its own, so a stale caller changes nothing.

Guarantee: within a run an entry that has ended never changes; `attempt` and `run` only grow.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgpack

from starburst_executor.errors import RecordInvalid, VersionMismatch

__all__ = [
    "FORMAT",
    "MAX_BYTES",
    "MAX_TASKS",
    "Ended",
    "Entry",
    "Located",
    "SizeClass",
    "State",
    "Status",
    "awaits_solo",
    "call_label",
    "cancel",
    "claim",
    "commit",
    "decode",
    "encode",
    "end_rest",
    "has_pending",
    "inline_bytes",
    "is_on_last_try",
    "outcome_label",
    "release",
    "retry",
    "size_class",
    "take_back",
]

FORMAT = 2
MAX_TASKS = 256
MAX_BYTES = 128 * 1024
# What an entry costs besides its call and outcome: numbers, claim id, two seals.
_ENTRY_BYTES = 192
_N_FIELDS = 13


class State(enum.IntEnum):
    """Where a task stands. The numbers are stored."""

    PENDING = 0
    CLAIMED = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4


# The same as plain numbers: comparing ten thousands of entries with an enum's members costs more than all the rest.
_PENDING, _CLAIMED, _COMPLETED, _FAILED, _CANCELLED = map(int, State)


class SizeClass(enum.IntEnum):
    """What `size % 8` of a status object tells whoever lists it."""

    ALL_PENDING = 0
    SOME_PENDING = 1
    SOME_CLAIMED = 2
    ALL_COMPLETED = 3
    ALL_ENDED = 4

    @property
    def has_pending(self) -> bool:
        return self <= SizeClass.SOME_PENDING

    @property
    def has_ended(self) -> bool:
        """All its tasks have ended."""
        return self >= SizeClass.ALL_COMPLETED

    @property
    def all_in(self) -> State | None:
        """The state that all its tasks are in, where the class tells."""
        return {SizeClass.ALL_PENDING: State.PENDING, SizeClass.ALL_COMPLETED: State.COMPLETED}.get(self)


class Located(NamedTuple):
    """Bytes in an object of their own: the part (claim id and number, empty for calls), from where, how many."""

    part: str
    start: int
    length: int


class Entry(NamedTuple):
    """One task. A tuple, since ten thousands of them are packed and unpacked.

    Attributes:
        state: A `State`.
        run: 1, and one more for each explicit retry.
        attempt: Claims so far, over all runs.
        failures: Failed attempts of this run.
        losses: Workers lost under this task in this run, while it may have been running.
        refusals: Workers that could not load its function in this run.
        claim: Id of the claim that holds it or ended it; empty while pending.
        function: Index into the status object's functions.
        call: Sealed arguments, or where they are; None once completed.
        outcome: Sealed outcome, or where it is; None until ended, and if cancelled.
        log: Where its captured output is, if it printed.
        at: When it was claimed or ended, UTC epoch seconds of whoever wrote it.
        seconds: How long the last attempt ran.
    """

    state: int
    run: int
    attempt: int
    failures: int
    losses: int
    refusals: int
    claim: str
    function: int
    call: bytes | Located | None
    outcome: bytes | Located | None
    log: Located | None
    at: float
    seconds: float

    @classmethod
    def pending(cls, function: int, call: bytes | Located) -> Entry:
        """A task as the client creates it."""
        return cls(State.PENDING, 1, 0, 0, 0, 0, "", function, call, None, None, 0.0, 0.0)

    @property
    def has_ended(self) -> bool:
        return self.state >= State.COMPLETED


class Ended(NamedTuple):
    """How one task of a claim ended: `State.COMPLETED` or `State.FAILED`, its outcome, output and duration."""

    state: State
    outcome: bytes | Located
    log: Located | None
    seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class Status:
    """The tasks `first` .. `first + len(entries) - 1` of one submitter."""

    ordinal: int
    first: int
    functions: tuple[str, ...]
    entries: tuple[Entry, ...]

    def with_entries(self, changed: Mapping[int, Entry]) -> Status:
        if not changed:
            return self
        return replace(self, entries=tuple(changed.get(i, entry) for i, entry in enumerate(self.entries)))

    def under(self, claim_id: str) -> list[int]:
        """Which entries that claim holds now."""
        return [i for i, e in enumerate(self.entries) if e.state == _CLAIMED and e.claim == claim_id]


def outcome_label(status: Status, index: int, entry: Entry) -> str:
    """What an outcome's seal binds it to: task, run, attempt and claim."""
    return f"{status.ordinal}-{status.first + index}/{entry.run}/{entry.attempt}/{entry.claim}"


def call_label(ordinal: int, sequence: int, digest: str) -> str:
    """What a call's seal binds it to: task and function."""
    return f"{ordinal}-{sequence}/{digest}"


def inline_bytes(n_tasks: int) -> int:
    """Up to how many bytes an outcome is stored in a status object of so many tasks."""
    return max(0, MAX_BYTES // n_tasks - _ENTRY_BYTES)


# --- transitions ------------------------------------------------------------------------------------------------------


def claim(
    status: Status,
    claim_id: str,
    *,
    at_most: int,
    now: float,
    max_losses: int,
    alone: bool = False,
    ahead: bool = False,
) -> tuple[Status, list[int]]:
    """Give up to `at_most` pending tasks, in order, to a claim; the indices taken, possibly none.

    A task that has lost a worker is claimed by itself, so that a poisonous one takes nobody along, and never while
    another slice of the same slot runs (`ahead`). On its last try it is claimed only by a worker that has nothing else
    (`alone`).
    """
    taken: list[int] = []
    for index, entry in enumerate(status.entries if at_most else ()):
        if entry.state != _PENDING or (entry.losses and ahead):
            continue
        if is_on_last_try(entry, max_losses) and not alone:
            continue
        if entry.losses and taken:
            break
        taken.append(index)
        if entry.losses or len(taken) >= at_most:
            break
    return status.with_entries({i: _claimed(status.entries[i], claim_id, now) for i in taken}), taken


# Both name every field instead of the changed ones (`_replace`): each task goes through both, at half the cost.


def _claimed(entry: Entry, claim_id: str, now: float) -> Entry:
    _, run, attempt, failures, losses, refusals, _, function, call, outcome, log, _, seconds = entry
    return Entry(
        _CLAIMED, run, attempt + 1, failures, losses, refusals, claim_id, function, call, outcome, log, now, seconds
    )


def _committed(entry: Entry, end: Ended, now: float) -> Entry:
    _, run, attempt, _, losses, refusals, claim_id, function, call, _, _, _, _ = entry
    if end.state != _FAILED and not isinstance(call, Located):
        call = None  # the arguments of a completed task are needed no more; a failed one may be retried
    return Entry(
        end.state, run, attempt, end.failures, losses, refusals, claim_id, function, call, end.outcome, end.log, now,
        end.seconds,
    )  # fmt: skip


def has_pending(status: Status) -> bool:
    """Whether any task is pending."""
    return any(entry.state == _PENDING for entry in status.entries)


def is_on_last_try(entry: Entry, max_losses: int) -> bool:
    """Whether the next loss fails this task, which has lost workers before: it is to have its worker to itself.

    A task that has lost none is no suspect, also where the first loss is the last (`max_losses` of 1).
    """
    return entry.losses > 0 and entry.losses >= max_losses - 1


def awaits_solo(status: Status, max_losses: int) -> bool:
    """Whether a pending task waits for a worker that has nothing else."""
    return any(e.state == _PENDING and is_on_last_try(e, max_losses) for e in status.entries)


def commit(
    status: Status,
    claim_id: str,
    ended: Mapping[int, Ended],
    now: float,
    *,
    failures: Mapping[int, int] | None = None,
) -> tuple[Status, list[int]]:
    """End tasks of a claim; the indices that were still under it. The others' outcomes are to be dropped.

    Args:
        failures: Failed attempts so far, of tasks that stay under the claim to be tried again: whoever claims them after
            this worker's death counts on.
    """
    held = status.under(claim_id)
    mine = [i for i in held if i in ended]
    changed = {i: _committed(status.entries[i], ended[i], now) for i in mine}
    for i, n_failures in (failures or {}).items():
        if i in held and i not in ended and status.entries[i].failures != n_failures:
            changed[i] = status.entries[i]._replace(failures=n_failures)
    return status.with_entries(changed), mine


def release(
    status: Status,
    claim_id: str,
    indices: Iterable[int],
    *,
    refused: bool = False,
    failures: Mapping[int, int] | None = None,
) -> Status:
    """Make tasks of a claim pending again, no loss counted.

    Args:
        refused: Count one refusal each.
        failures: Failed attempts so far, of tasks that failed under this claim: whoever claims them counts on.
    """
    mine = set(status.under(claim_id)).intersection(indices)
    failed = failures or {}
    entries = ((i, status.entries[i]) for i in mine)
    return status.with_entries(
        {
            i: e._replace(
                state=State.PENDING, claim="", refusals=e.refusals + refused, failures=failed.get(i, e.failures)
            )
            for i, e in entries
        }
    )


def take_back(
    status: Status,
    claim_ids: Collection[str],
    *,
    lost: bool,
    max_losses: int,
    now: float,
    outcome: Callable[[Status, int, Entry], bytes],
) -> Status:
    """Take tasks from claims whose worker is lost (a loss each) or has forgotten them (no loss).

    A task that was lost `max_losses` times fails with `outcome`. If it may be lost more than once, it has had a worker to
    itself the last time.
    """
    changed = {}
    for i, entry in enumerate(status.entries):
        if entry.state != State.CLAIMED or entry.claim not in claim_ids:
            continue
        losses = entry.losses + lost
        if losses >= max_losses:
            changed[i] = entry._replace(
                state=State.FAILED, losses=losses, outcome=outcome(status, i, entry), at=now, seconds=0.0
            )
        else:
            changed[i] = entry._replace(state=State.PENDING, losses=losses, claim="")
    return status.with_entries(changed)


def cancel(status: Status, indices: Iterable[int], now: float) -> tuple[Status, list[int]]:
    """Cancel those of these tasks that are pending; their indices."""
    mine = [i for i in sorted(set(indices)) if status.entries[i].state == State.PENDING]
    return status.with_entries({i: status.entries[i]._replace(state=State.CANCELLED, at=now) for i in mine}), mine


def end_rest(
    status: Status, now: float, outcome: Callable[[Status, int, Entry], bytes] | None, *, pending_only: bool = False
) -> Status:
    """End what has not ended, since its session has: cancelled, or failed with `outcome`."""
    changed = {}
    for i, entry in enumerate(status.entries):
        if entry.has_ended or (pending_only and entry.state != State.PENDING):
            continue
        if outcome is None:
            changed[i] = entry._replace(state=State.CANCELLED, at=now)
        else:
            changed[i] = entry._replace(state=State.FAILED, outcome=outcome(status, i, entry), at=now)
    return status.with_entries(changed)


def retry(status: Status, runs: Mapping[int, int]) -> Status:
    """Open the next run of failed tasks: `runs` maps an index to the run that failed, so that twice is once."""
    changed = {}
    for i, run in runs.items():
        entry = status.entries[i]
        if entry.state == State.FAILED and entry.run == run and entry.call is not None:
            changed[i] = Entry.pending(entry.function, entry.call)._replace(run=run + 1, attempt=entry.attempt)
    return status.with_entries(changed)


# --- bytes ------------------------------------------------------------------------------------------------------------


def size_class(entries: Iterable[Entry]) -> SizeClass:
    """The class of an object with these entries."""
    states = {entry.state for entry in entries}
    if State.PENDING in states:
        return SizeClass.ALL_PENDING if len(states) == 1 else SizeClass.SOME_PENDING
    if State.CLAIMED in states:
        return SizeClass.SOME_CLAIMED
    return SizeClass.ALL_COMPLETED if states == {State.COMPLETED} else SizeClass.ALL_ENDED


def encode(status: Status, nonce: str) -> bytes:
    """The bytes to store, padded so that `len % 8` is the size class. `nonce` is fresh for every write."""
    record = {
        "format": FORMAT,
        "nonce": nonce,
        "ordinal": status.ordinal,
        "first": status.first,
        "functions": status.functions,
        "entries": status.entries,
        "pad": b"",
    }
    packed: bytes = msgpack.packb(record)
    n_pad = (size_class(status.entries) - len(packed)) % 8
    # The pad is the last field and an empty one ends in its length byte, so it can be lengthened in place.
    return packed[:-1] + bytes([n_pad]) + b"\0" * n_pad


def decode(body: bytes) -> Status:
    """The status object in these bytes. Raises: RecordInvalid, VersionMismatch."""
    try:
        record = msgpack.unpackb(body, use_list=False)
        if record["format"] != FORMAT:
            raise VersionMismatch(f"a status object of another format: format={record['format']!r}, known={FORMAT}")
        status = Status(
            _checked(record["ordinal"], int),
            _checked(record["first"], int),
            tuple(_checked(digest, str) for digest in record["functions"]),
            tuple(map(_entry, record["entries"])),
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"not a status object: {type(error).__name__}, bytes={len(body)}") from error
    n_functions = len(status.functions)
    if not 1 <= len(status.entries) <= MAX_TASKS or any(e.function >= n_functions for e in status.entries):
        raise RecordInvalid(f"a status object that contradicts itself: tasks={len(status.entries)}")
    return status


def _entry(raw: tuple[Any, ...]) -> Entry:
    if len(raw) != _N_FIELDS:
        raise ValueError(raw)
    state, run, attempt, failures, losses, refusals, claim_id, function, call, outcome, log, at, seconds = raw
    for count in (state, run, attempt, failures, losses, refusals, function):
        if type(count) is not int or count < 0:
            raise ValueError(count)
    if state > State.CANCELLED or type(claim_id) is not str or type(at) is not float or type(seconds) is not float:
        raise ValueError(raw)
    return Entry(
        state, run, attempt, failures, losses, refusals, claim_id, function,
        _payload(call), _payload(outcome), None if log is None else _located(log), at, seconds,
    )  # fmt: skip


def _payload(raw: object) -> bytes | Located | None:
    return raw if raw is None or type(raw) is bytes else _located(raw)


def _located(raw: object) -> Located:
    part, start, length = _checked(raw, tuple)
    if type(part) is not str or type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise ValueError(raw)
    if "/" in part:
        raise ValueError(part)
    return Located(part, start, length)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind or (type(value) is int and value < 0):
        raise ValueError(value)
    return value
