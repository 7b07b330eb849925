"""The status object: the stored record of 1..256 tasks, its legal transitions, and the size class in its length.

                create            claim                     commit, same claim only
      (client) ───────► PENDING ─────────► CLAIMED ──────────────────────► COMPLETED | FAILED ──► next run (retry)
                         │ │ ▲                │ │
            cancel       │ │ └────────────────┘ │   release · refuse · take_back
      CANCELLED ◄────────┘ └────────────────────┴─► CANCELLED | FAILED: end_rest; lost too often (take_back)

Every transition is a pure function from one `Status` to the next. The caller writes the result with a swap on the ETag of
the first. A transition leaves entries unchanged that do not belong to it, so a stale caller changes nothing.

Guarantee: within a run an entry that has ended never changes; `attempt` and `run` only grow.

More than 400 lines in one file, because record, format and transitions are read and changed together.
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
# Bytes of an entry without its call and outcome: numbers, claim id, two seals.
_ENTRY_BYTES = 192
_N_FIELDS = 13


class State(enum.IntEnum):
    """The state of a task. The numbers are part of the stored format."""

    PENDING = 0
    CLAIMED = 1
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4


# The states as plain integers: comparing tens of thousands of entries with enum members would dominate the cost.
_PENDING, _CLAIMED, _COMPLETED, _FAILED, _CANCELLED = map(int, State)


class SizeClass(enum.IntEnum):
    """The summary of a status object's states in `size % 8`, which a listing shows without reading the object."""

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
        """Whether all its tasks have ended."""
        return self >= SizeClass.ALL_COMPLETED

    @property
    def all_in(self) -> State | None:
        """The state that all its tasks are in, if the class determines it."""
        return {SizeClass.ALL_PENDING: State.PENDING, SizeClass.ALL_COMPLETED: State.COMPLETED}.get(self)


class Located(NamedTuple):
    """Bytes in another object: its part (claim id and number, empty for calls), the start and the length."""

    part: str
    start: int
    length: int


class Entry(NamedTuple):
    """One task. A tuple, because tens of thousands of them are packed and unpacked.

    Attributes:
        state: A `State`.
        run: 1, plus 1 for each explicit retry.
        attempt: Number of claims so far, over all runs.
        failures: Failed attempts of this run.
        losses: Workers lost in this run while they may have been running this task.
        refusals: Workers that could not load its function in this run.
        claim: Id of the claim that holds it or ended it; empty while pending.
        function: Index into the status object's functions.
        call: The sealed arguments or their location; None once completed.
        outcome: The sealed outcome or its location; None until the task has ended, and if it was cancelled.
        log: The location of its captured output, if it printed any.
        at: When it was claimed or ended, UTC epoch seconds of the process that wrote it.
        seconds: Duration of the last attempt.
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
        """Return a task as the client creates it."""
        return cls(State.PENDING, 1, 0, 0, 0, 0, "", function, call, None, None, 0.0, 0.0)

    @property
    def has_ended(self) -> bool:
        return self.state >= State.COMPLETED


class Ended(NamedTuple):
    """The end of one task of a claim: `State.COMPLETED` or `State.FAILED`, its outcome, output and duration."""

    state: State
    outcome: bytes | Located
    log: Located | None
    seconds: float
    failures: int


@dataclass(frozen=True, slots=True)
class Status:
    """The tasks `first` .. `first + len(entries) - 1` of one submitter.

    Attributes:
        submitted_at: When they were submitted, UTC epoch seconds by the clock of their client; 0 if no time is stored.
    """

    ordinal: int
    first: int
    functions: tuple[str, ...]
    entries: tuple[Entry, ...]
    submitted_at: float = 0.0

    def with_entries(self, changed: Mapping[int, Entry]) -> Status:
        if not changed:
            return self
        return replace(self, entries=tuple(changed.get(i, entry) for i, entry in enumerate(self.entries)))

    def under(self, claim_id: str) -> list[int]:
        """Return the indices of the entries that this claim holds now."""
        return [i for i, e in enumerate(self.entries) if e.state == _CLAIMED and e.claim == claim_id]


def outcome_label(status: Status, index: int, entry: Entry) -> str:
    """Return the label to which an outcome's seal binds it: task, run, attempt and claim."""
    return f"{status.ordinal}-{status.first + index}/{entry.run}/{entry.attempt}/{entry.claim}"


def call_label(ordinal: int, sequence: int, digest: str) -> str:
    """Return the label to which a call's seal binds it: task and function."""
    return f"{ordinal}-{sequence}/{digest}"


def inline_bytes(n_tasks: int) -> int:
    """Return the size in bytes up to which an outcome is stored inline in a status object of `n_tasks` tasks."""
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
    """Give up to `at_most` pending tasks, in order, to a claim; return the new status and the claimed indices, maybe none.

    A task that has lost a worker is claimed by itself, so that a task that kills its worker affects no other, and never
    while another slice of the same slot runs (`ahead`). On its last try only a worker without other tasks may claim it
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


# Both functions pass every field instead of using `_replace`, at half the cost: every task goes through both.


def _claimed(entry: Entry, claim_id: str, now: float) -> Entry:
    _, run, attempt, failures, losses, refusals, _, function, call, outcome, log, _, seconds = entry
    return Entry(
        _CLAIMED, run, attempt + 1, failures, losses, refusals, claim_id, function, call, outcome, log, now, seconds
    )


def _committed(entry: Entry, end: Ended, now: float) -> Entry:
    _, run, attempt, _, losses, refusals, claim_id, function, call, _, _, _, _ = entry
    if end.state != _FAILED and not isinstance(call, Located):
        call = None  # a completed task no longer needs its arguments; a failed one may be retried
    return Entry(
        end.state, run, attempt, end.failures, losses, refusals, claim_id, function, call, end.outcome, end.log, now,
        end.seconds,
    )  # fmt: skip


def has_pending(status: Status) -> bool:
    """Return whether any task is pending."""
    return any(entry.state == _PENDING for entry in status.entries)


def is_on_last_try(entry: Entry, max_losses: int) -> bool:
    """Return whether this task has lost workers and its next loss fails it: then it must have its worker to itself.

    A task that has lost no worker is not suspect, even if the first loss fails it (`max_losses` of 1).
    """
    return entry.losses > 0 and entry.losses >= max_losses - 1


def awaits_solo(status: Status, max_losses: int) -> bool:
    """Return whether a pending task waits for a worker without other tasks."""
    return any(e.state == _PENDING and is_on_last_try(e, max_losses) for e in status.entries)


def commit(
    status: Status,
    claim_id: str,
    ended: Mapping[int, Ended],
    now: float,
    *,
    failures: Mapping[int, int] | None = None,
) -> tuple[Status, list[int]]:
    """End tasks of a claim; return the new status and the indices that were still under the claim.

    The caller must drop the outcomes of the other tasks.

    Args:
        failures: Failed attempts so far of tasks that stay under the claim to be tried again. If this worker dies, the
            worker that claims them next continues the count.
    """
    held = status.under(claim_id)
    committed = [i for i in held if i in ended]
    changed = {i: _committed(status.entries[i], ended[i], now) for i in committed}
    for i, n_failures in (failures or {}).items():
        if i in held and i not in ended and status.entries[i].failures != n_failures:
            changed[i] = status.entries[i]._replace(failures=n_failures)
    return status.with_entries(changed), committed


def release(
    status: Status,
    claim_id: str,
    indices: Iterable[int],
    *,
    refused: bool = False,
    failures: Mapping[int, int] | None = None,
) -> Status:
    """Make tasks of a claim pending again, without counting a loss.

    Args:
        refused: Whether to count a refusal for each task.
        failures: Failed attempts so far of tasks that failed under this claim; their next claim continues the count.
    """
    held = set(status.under(claim_id)).intersection(indices)
    failed = failures or {}
    entries = ((i, status.entries[i]) for i in held)
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
    """Take tasks from claims whose worker is lost (counting a loss for each task) or no longer names them (no loss).

    A task that was lost `max_losses` times fails with `outcome`. If `max_losses` is more than 1, the task had its last
    worker to itself.
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
    """Cancel the tasks among `indices` that are pending; return the new status and their indices."""
    pending = [i for i in sorted(set(indices)) if status.entries[i].state == State.PENDING]
    return status.with_entries({i: status.entries[i]._replace(state=State.CANCELLED, at=now) for i in pending}), pending


def end_rest(
    status: Status, now: float, outcome: Callable[[Status, int, Entry], bytes] | None, *, pending_only: bool = False
) -> Status:
    """End the remaining tasks of a session that is over: cancelled, or failed with `outcome`."""
    changed = {}
    for i, entry in enumerate(status.entries):
        if entry.has_ended or (pending_only and entry.state != State.PENDING):
            continue
        if outcome is None:
            changed[i] = entry._replace(state=State.CANCELLED, at=now)
        else:
            changed[i] = entry._replace(state=State.FAILED, outcome=outcome(status, i, entry), at=now)
    return status.with_entries(changed)


def retry(
    status: Status, runs: Mapping[int, int], function: str | None = None, calls: Mapping[int, bytes] | None = None
) -> Status:
    """Start the next run of failed tasks; `runs` maps an index to the run that failed, so that a repeated call is harmless.

    Args:
        function: The digest of the function that they call from now on; None for the one that failed.
        calls: With a function: by index, the calls, sealed for it.
    """
    functions = status.functions
    if function is not None and function not in functions:
        functions = (*functions, function)
    changed = {}
    for i, run in runs.items():
        entry = status.entries[i]
        if entry.state == State.FAILED and entry.run == run and entry.call is not None:
            kind, call = entry.function, entry.call
            if function is not None and calls is not None:
                kind, call = functions.index(function), calls[i]
            changed[i] = Entry.pending(kind, call)._replace(run=run + 1, attempt=entry.attempt)
    return replace(status.with_entries(changed), functions=functions) if changed else status


# --- bytes ------------------------------------------------------------------------------------------------------------


def size_class(entries: Iterable[Entry]) -> SizeClass:
    """Return the size class of an object with these entries."""
    states = {entry.state for entry in entries}
    if State.PENDING in states:
        return SizeClass.ALL_PENDING if len(states) == 1 else SizeClass.SOME_PENDING
    if State.CLAIMED in states:
        return SizeClass.SOME_CLAIMED
    return SizeClass.ALL_COMPLETED if states == {State.COMPLETED} else SizeClass.ALL_ENDED


def encode(status: Status, nonce: str) -> bytes:
    """Return the bytes to store, padded so that `len % 8` is the size class. `nonce` must be fresh for every write."""
    record = {
        "format": FORMAT,
        "nonce": nonce,
        "ordinal": status.ordinal,
        "first": status.first,
        "functions": status.functions,
        "entries": status.entries,
        "submitted_at": status.submitted_at,
        "pad": b"",
    }
    packed: bytes = msgpack.packb(record)
    n_pad = (size_class(status.entries) - len(packed)) % 8
    # The pad is the last field, and an empty pad ends with its length byte, so that it can be extended in place.
    return packed[:-1] + bytes([n_pad]) + b"\0" * n_pad


def decode(body: bytes) -> Status:
    """Decode a status object. Raises: RecordInvalid, VersionMismatch."""
    try:
        record = msgpack.unpackb(body, use_list=False)
        if record["format"] != FORMAT:
            raise VersionMismatch(
                f"a status object of a format that this version does not support: format={record['format']!r}, known={FORMAT}"
            )
        status = Status(
            _checked(record["ordinal"], int),
            _checked(record["first"], int),
            tuple(_checked(digest, str) for digest in record["functions"]),
            tuple(map(_entry, record["entries"])),
            _checked(record.get("submitted_at", 0.0), float),
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"not a status object: {type(error).__name__}, bytes={len(body)}") from error
    n_functions = len(status.functions)
    if not 1 <= len(status.entries) <= MAX_TASKS or any(e.function >= n_functions for e in status.entries):
        raise RecordInvalid(f"an inconsistent status object: tasks={len(status.entries)}")
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
