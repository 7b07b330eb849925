"""Tasks that wait for other tasks: finds those that have what they need, and makes them pending; fails those that will never have it.

    listing ──► objects with blocked tasks ──read once──► what they wait for
                                                             │ listed as all completed: no read; changed: 1 GET
                                                             ▼
                     all completed ──swap: pending──► ring        one has failed, or is cancelled ──swap: failed

That a task may run is derived from the objects of the tasks for which it waits, by any worker and at any time; no process has to remember
it. So a worker that dies between the commit of a result and the release of what waits for it leaves nothing to repair: the next look of any worker
finds the same.

Guarantee: a task is made pending only after each task for which it waits was read, or listed, as completed. A completed task never changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from starburst_executor.errors import DependencyFailed, ObjectNotFound, PayloadError, RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import StatusRef, task_id
from starburst_executor.protocol.outcomes import describe_outcome, dump_reason
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.after import Upstream, upstream_of
from starburst_executor.protocol.spans.record import BLOCKED, SizeClass, Span, State, Status
from starburst_executor.session.statuses import ListedStatus, Versioned
from starburst_executor.session.store import SessionStore

__all__ = ["Dependencies", "Released", "ready"]

# Objects with blocked tasks, and objects for which they wait, that are read at one look.
_FEW = 16
# A cause up to this size is part of the outcome of each task that fails for it; of a bigger one, the text.
_CAUSE_BYTES = 2 * 1024
_TEXT_CHARACTERS = 500
# What is remembered of objects for which tasks wait; it is forgotten when more are known.
_MOST_KNOWN = 10_000

Ends = Callable[[Upstream], "State | None"]


class Released(NamedTuple):
    """Tasks of one object that were made pending."""

    key: str
    ref: StatusRef
    n_tasks: int


class _Blocked(NamedTuple):
    """An object with blocked tasks, as it was read: its ETag, and for what they wait."""

    etag: str
    waits: Mapping[int, tuple[Upstream, ...]]


def ready(waits: Mapping[int, Sequence[Upstream]], ends: Ends) -> tuple[list[int], dict[int, Upstream]]:
    """Return the positions of the tasks that have all that they wait for, and, by position, the first that a task will never have.

    Args:
        ends: Returns the state of a task that has ended; None if it has not, or is not known to have.
    """
    may_run, failed = [], {}
    for position, upstream in sorted(waits.items()):
        states = [ends(task) for task in upstream]
        if all(state == State.COMPLETED for state in states):
            may_run.append(position)
        for task, state in zip(upstream, states, strict=True):
            if state in (State.FAILED, State.CANCELLED):
                failed[position] = task
                break
    return may_run, failed


class Dependencies:
    """The blocked tasks of one session, as far as one worker knows. One thread calls `turn`; any thread may call `note` and `ended`.

    Attributes:
        n_failed: The number of tasks that it has failed because others had failed.
    """

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._lock = threading.Lock()  # guards: _noted, _upstream, _is_due
        self._noted: set[str] = set()  # objects that were seen to have blocked tasks, and are not read yet
        self._upstream: frozenset[str] = frozenset()  # the places of the objects for which known tasks wait
        self._is_due = False
        self.n_failed = 0
        self._blocked: dict[str, _Blocked] = {}
        self._ends: dict[str, tuple[str, dict[int, State]]] = {}  # by place: the ETag, and the tasks that have ended

    @property
    def has_any(self) -> bool:
        """Whether it knows tasks that wait for others."""
        return bool(self._noted or self._upstream)  # unlocked: two references

    @property
    def is_due(self) -> bool:
        """Whether there is news, so that a look may find tasks to release."""
        return self._is_due  # unlocked: one reference

    def note(self, key: str) -> None:
        """Note an object that a slot has seen to have blocked tasks."""
        with self._lock:
            if key not in self._blocked:
                self._noted.add(key)
                self._is_due = True

    def ended(self, key: str) -> None:
        """Note that tasks of this object have ended: others may wait for them."""
        upstream = self._upstream  # unlocked: one reference
        if upstream and key.removeprefix(self._session.keys.statuses) in upstream:
            with self._lock:
                self._is_due = True

    def turn(self, listing: Sequence[ListedStatus]) -> list[Released]:
        """Release the blocked tasks that have what they wait for, fail those that never will; return what was released, after a ring.

        Args:
            listing: The open epochs, just listed.

        Store: nothing without blocked tasks. 1 GET for each object with blocked tasks that has changed, 1 GET for each for which they wait
        and that has changed and is partly ended, up to 16 each; 1 GET and 1 swap for each with tasks to release or to fail, 1 GET for each cause.
        """
        with self._lock:
            noted, self._noted, self._is_due = self._noted, set(), False
        listed = {line.key: line for line in listing}
        self._read_blocked(listed, noted)
        released = self._settle_all(listed) if self._blocked else []
        with self._lock:
            places = {
                task.place for known in self._blocked.values() for tasks in known.waits.values() for task in tasks
            }
            self._upstream = frozenset(places - {""})
        if len(self._ends) > _MOST_KNOWN:
            self._ends.clear()
        for done in released:
            self._session.bell.ring([done.key], done.n_tasks)
        return released

    # --- objects with blocked tasks -----------------------------------------------------------------------------------

    def _read_blocked(self, listed: Mapping[str, ListedStatus], noted: set[str]) -> None:
        """Read the objects with blocked tasks that are new or have changed."""
        wanted = [key for key, line in listed.items() if line.has_blocked or key in self._blocked or key in noted]
        self._blocked = {key: known for key, known in self._blocked.items() if key in listed}
        n_read = 0
        for key in wanted:
            known = self._blocked.get(key)
            if known is not None and known.etag == listed[key].etag:
                continue
            if n_read == _FEW:
                with self._lock:
                    self._noted.add(key)
                    self._is_due = True
                continue
            n_read += 1
            self._know(key, self._read(key))

    def _know(self, key: str, stored: Versioned | None) -> None:
        waits = {} if stored is None else _waiting(stored.status)
        if stored is None or not waits:
            self._blocked.pop(key, None)
        else:
            self._blocked[key] = _Blocked(stored.etag, waits)

    def _read(self, key: str) -> Versioned | None:
        try:
            return self._session.statuses.read(key)
        except (ObjectNotFound, RecordInvalid, VersionMismatch):
            return None

    def _settle_all(self, listed: Mapping[str, ListedStatus]) -> list[Released]:
        look = _Look(self._session, listed, self._ends)
        released = []
        for key, known in list(self._blocked.items()):
            may_run, failed = ready(known.waits, look.ends)
            if may_run or failed:
                released += self._settle(key, may_run, failed)
        return released

    def _settle(self, key: str, may_run: Iterable[int], failed: Mapping[int, Upstream]) -> list[Released]:
        session = self._session
        n_pending = n_failed = 0

        def step(current: Status) -> Status:
            nonlocal n_pending, n_failed
            # Read anew at each try: the task may have been retried since, and then nothing is to fail.
            causes = {task: self._reason(task) for task in sorted(set(failed.values()))}
            reasons = {position: reason for position, task in failed.items() if (reason := causes[task])}
            changed = transitions.unblock(current, may_run)
            n_pending = _n_blocked(current) - _n_blocked(changed)
            n_left = _n_blocked(changed)
            changed = transitions.fail_blocked(
                changed, reasons, session.clock.now(), partial(_sealed, session, reasons)
            )
            n_failed = n_left - _n_blocked(changed)
            return changed

        try:
            updated = session.statuses.update(key, step)
        except (RecordInvalid, VersionMismatch):
            updated = None
        if updated is not None:
            self.n_failed += n_failed
        # Crash here: the tasks are pending without a ring; idle workers find them at their next look.
        self._know(key, updated)
        ref = session.keys.parse_status(key)
        return [Released(key, ref, n_pending)] if updated is not None and ref is not None and n_pending else []

    def _reason(self, task: Upstream) -> bytes:
        """Return the outcome of a task that fails because another one has failed or was cancelled; empty if it has not. Store: 1 GET, or 2."""
        session = self._session
        ref = session.keys.parse_status(session.keys.statuses + task.place)
        if ref is None:
            return dump_reason(
                DependencyFailed("a task whose result this task needs was cancelled before it was stored")
            )
        name = task_id(ref.ordinal, ref.first + task.position)
        words = f"a task whose result this task needs has failed: task={name}"
        stored = self._read(session.keys.statuses + task.place)
        if stored is None:
            return dump_reason(DependencyFailed(f"{words}; its status object cannot be read"))
        entry = stored.status.entry(task.position)
        if entry.state not in (State.FAILED, State.CANCELLED):
            return b""
        if entry.outcome is None:
            return dump_reason(DependencyFailed(f"a task whose result this task needs was cancelled: task={name}"))
        try:
            outcomes = session.payloads.outcomes(ref.status_id, stored.status, entry.outcome)
            body = bytes(outcomes[task.position - entry.outcome.first])
        except (PayloadError, RecordInvalid) as error:
            return dump_reason(DependencyFailed(f"{words}: {error}"))
        failure = describe_outcome(body)
        text = "" if failure is None else f": {failure.type_name}: {failure.message[:_TEXT_CHARACTERS]}"
        return dump_reason(DependencyFailed(words + text), body if len(body) <= _CAUSE_BYTES else b"")


class _Look:
    """One look at the tasks for which others wait: what the listing shows, and a few reads.

    Args:
        known: What earlier looks have read; it is added to.
    """

    def __init__(
        self, session: SessionStore, listed: Mapping[str, ListedStatus], known: dict[str, tuple[str, dict[int, State]]]
    ) -> None:
        self._session = session
        self._listed = listed
        self._known = known
        self._n_left = _FEW
        self._unknown: set[str] = set()  # that this look does not read (again)

    def ends(self, task: Upstream) -> State | None:
        """Return the state of a task that has ended; None if it has not, or is not known to have."""
        if not task.place:
            return State.CANCELLED
        line = self._listed.get(self._session.keys.statuses + task.place)
        if line is not None and line.size_class == SizeClass.ALL_COMPLETED:
            return State.COMPLETED
        if line is not None and line.size_class == SizeClass.ALL_PENDING:
            return None
        known = self._known.get(task.place)
        if known is not None and known[1].get(task.position) == State.COMPLETED:
            return State.COMPLETED
        if known is None or line is None or known[0] != line.etag:
            known = self._read(task.place) or known
        return None if known is None else known[1].get(task.position)

    def _read(self, place: str) -> tuple[str, dict[int, State]] | None:
        if place in self._unknown:
            return self._known.get(place)
        self._unknown.add(place)
        if not self._n_left:
            return None
        self._n_left -= 1
        try:
            stored = self._session.statuses.read(self._session.keys.statuses + place)
        except (ObjectNotFound, VersionMismatch):
            return None
        except RecordInvalid:
            ref = self._session.keys.parse_status(self._session.keys.statuses + place)
            n_tasks = 0 if ref is None else ref.n_tasks
            read = ("", dict.fromkeys(range(n_tasks), State.FAILED))  # as their futures do
        else:
            entries = enumerate(stored.status.entries)
            read = (stored.etag, {i: entry.state for i, entry in entries if entry.has_ended})
        self._known[place] = read
        return read


def _waiting(status: Status) -> dict[int, tuple[Upstream, ...]]:
    """Return for what the blocked tasks of an object wait, by position."""
    try:
        waits = upstream_of(status)
    except RecordInvalid:
        waits = {}
    return {
        position: waits.get(position, (Upstream("", 0),))
        for start, span in status.placed()
        if span.state == BLOCKED
        for position in range(start, start + span.n)
    }


def _n_blocked(status: Status) -> int:
    return sum(span.n for span in status.spans if span.state == BLOCKED)


def _sealed(
    session: SessionStore, reasons: Mapping[int, bytes], status: Status, first: int, n: int, span: Span
) -> bytes:
    mark, sequence = (span.run, span.attempt, span.claim), status.first + first
    parts = blocks.sealed_outcomes(session.sealer, status.ordinal, sequence, mark, [reasons[first]], same_for=n)
    return b"".join(parts)
