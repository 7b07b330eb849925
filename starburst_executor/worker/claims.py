"""Claim, claim ahead, commit, release: a worker's swaps on status objects.

    key ──GET──► status ──claim──► swap ──► Claim ──► (slot runs it) ──► outcomes/ (create, if big)
                   ▲                 │ 412: another object                     │
                   └── 412: again ───┼──────── swap: end these tasks, claim the next slice of the same object
                                     ▼
                                 held: named by every beat, from before the claim is written until it is settled

Guarantee: a task's outcome is committed only while its entry is under the claim that ran it, so if two workers run the same
run of a task, one outcome counts. A lost answer is resolved by reading the object: it shows whether this claim is on it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import msgpack

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.seal import SEAL_BYTES
from starburst_executor.protocol.status import Ended, Entry, Located, State, Status
from starburst_executor.session.statuses import Versioned
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency
from starburst_executor.worker.runner.jobs import Finished

__all__ = ["Claim", "Claims"]

_log = logging.getLogger(__name__)

# Outcomes that are too big to inline share objects of up to this many bytes; a bigger outcome has its own object.
_PART_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class Claim:
    """A claim on some tasks of one status object. Owned by one slot.

    Attributes:
        claim_id: `<worker_id>.<number>`.
        key: The key of the status object.
        ref: The parsed key.
        stored: The status object as this worker last read or wrote it.
        open: Positions of the tasks claimed and not yet committed or released.
        ended: Tasks that have ended and wait for their commit, by position.
        ended_bytes: The bytes of their outcomes and outputs.
        failures: Failed attempts of this run so far, of tasks that failed under this claim and will be tried again.
        tries: How often these tasks failed under this claim.
        n_parts: Outcome and log objects written so far.
        has_losses: Whether it holds a task that has lost a worker.
    """

    claim_id: str
    key: str
    ref: StatusRef
    stored: Versioned
    open: set[int]
    ended: dict[int, Finished] = field(default_factory=dict)
    ended_bytes: int = 0
    failures: dict[int, int] = field(default_factory=dict)
    tries: dict[int, int] = field(default_factory=dict)
    n_parts: int = 0
    has_losses: bool = False

    def end(self, position: int, finished: Finished) -> None:
        """Record the end of a task for the next commit."""
        self.ended[position] = finished
        self.ended_bytes += finished.n_bytes

    def entry(self, position: int) -> Entry:
        """Return the entry as this worker last read or wrote it: its attempt, its call, its stored failures."""
        return self.stored.status.entries[position]

    def n_failures(self, position: int) -> int:
        """Return a task's failed attempts of this run so far."""
        return self.failures.get(position, self.entry(position).failures)

    def count_failure(self, position: int) -> int:
        """Count one more failed try of a task and return its failed attempts so far."""
        self.failures[position] = n_failures = self.n_failures(position) + 1
        self.tries[position] = self.tries.get(position, 0) + 1
        return n_failures

    @property
    def all_ended(self) -> bool:
        """Whether all its tasks have ended, so that only a commit remains."""
        return len(self.ended) == len(self.open)


class Claims:
    """All claims of one worker. Thread-safe; a single claim is not.

    Attributes:
        n_ended: Number of tasks whose outcome was committed.
        n_failed: Number of those that failed.
        has_worked: Set after the first such task.
    """

    def __init__(self, session: SessionStore, worker_id: str, clock: Clock) -> None:
        self._session = session
        self._claiming = session.at(Urgency.CLAIM)
        self._worker_id = worker_id
        self._clock = clock
        self._lock = threading.Lock()  # guards: _held, _n_claims, _is_closed, n_ended, n_failed
        self._is_closed = False
        self._held: dict[str, str] = {}
        self._n_claims = 0
        self.n_ended = 0
        self.n_failed = 0
        self.has_worked = threading.Event()

    def held(self) -> dict[str, str]:
        """Return claim id and key of every claim that is held or being written, for the next beat."""
        with self._lock:
            return dict(self._held)

    def close(self) -> None:
        """Make no further claims: `held` only shrinks from now on. Held claims can still be committed and released."""
        with self._lock:
            self._is_closed = True

    def claim(
        self, key: str, *, size: Callable[[Status], int], alone: bool = False, ahead: bool = False
    ) -> tuple[Claim | None, Status | None]:
        """Claim pending tasks of one status object.

        Args:
            size: Return the upper bound of the slice, in tasks, for an object; 1 while the function's duration is unknown.
            alone: Whether this worker has no other task, so that a task on its last try may be claimed.
            ahead: Whether another slice is running, so that a task that has lost a worker must not be claimed.

        Returns:
            The claim, or None if the race was lost or no task may be claimed; and the object as last read or written, or
            None if it is gone or another writer won the race.

        Raises:
            StoreUnavailable: no answer; the claim may stand in the store, but later beats do not name it.

        Store: 1 GET, 1 swap; 1 GET more per lost answer.
        """
        session = self._session
        ref = session.keys.parse_status(key)
        try:
            stored = self._claiming.statuses.read(key) if ref is not None else None
        except ObjectNotFound:
            stored = None
        if stored is None or ref is None:
            return None, None
        claim_id = self._new_claim(key)
        if not claim_id:
            return None, stored.status
        changed, taken = self._take(stored.status, claim_id, size(stored.status), alone=alone, ahead=ahead)
        if not taken:
            self._forget(claim_id)
            return None, stored.status
        try:
            latest = self._claiming.statuses.swap(key, changed, stored.etag)
        except (PreconditionFailed, ObjectNotFound) as error:
            # After a lost answer the refused retry may have met this worker's own write: the object decides.
            landed = self._landed(key, claim_id) if getattr(error, "unclear", False) else None
            if landed is None:
                self._forget(claim_id)
                return None, None
            latest, taken = landed, landed.status.under(claim_id)
        except StoreUnavailable:
            # The claim may have been written. Beats that do not name it let watchers take its tasks back as forgotten.
            self._forget(claim_id)
            raise
        # Crash here: the entries are claimed by a worker that is gone; watchers take the tasks back as lost.
        return _claim(claim_id, key, ref, latest, taken), latest.status

    def commit(self, claim: Claim, *, then: int = 0, ahead: bool = False) -> Claim | None:
        """Store a claim's outcomes and its tasks' failed attempts, and claim up to `then` more tasks of the object.

        Both are one swap. Outcomes whose entries are no longer under this claim are dropped. Harmless if there is nothing to
        store. `ahead` is as in `claim`. Returns the next claim, or None if there is none.

        Store: 1 swap, 1 create for big outcomes, 1 create for captured output; 1 GET if other workers work on the object;
        1 GET and 1 swap more per lost race.
        """
        session = self._session
        ended = self._store_parts(claim)
        # Crash here: outcome and log objects may exist to which no entry refers; the tasks go back as lost and run again.
        next_id = self._new_claim(claim.key) if then else ""
        latest = claim.stored
        is_old = self._is_shared(latest.status)
        while True:
            changed, _ = status.commit(latest.status, claim.claim_id, ended, self._clock.now(), failures=claim.failures)
            taken = latest.status.under(next_id) if next_id else []
            if next_id and not taken:
                changed, taken = self._take(changed, next_id, then, ahead=ahead)
            if changed is latest.status:
                break
            if not is_old:
                try:
                    latest = session.statuses.swap(claim.key, changed, latest.etag)
                    break
                except PreconditionFailed:
                    # Another writer won, or the swap landed and its answer was lost: the object as it is now decides both.
                    pass
            is_old = False
            fresh = self._read_again(claim)
            if fresh is None:
                self._forget(next_id)
                return None
            latest = fresh
        # Crash here: the outcomes are committed; the next slice is claimed by a worker that is gone, and goes back as lost.
        return self._settle(claim, latest, ended, next_id, taken)

    def has_unstored_failures(self, claim: Claim) -> bool:
        """Return whether tasks have failures that the object does not have: they would not count if this worker died."""
        return any(
            claim.entry(position).failures != n for position, n in claim.failures.items() if position in claim.open
        )

    def release(self, claim: Claim, positions: Collection[int], *, refused: bool = False) -> None:
        """Make tasks of a claim pending again and ring for them. Store: 1 swap, 1 ring; 1 GET, 1 swap per lost race."""
        session = self._session
        wanted = set(positions) & claim.open
        if not wanted:
            return
        latest = claim.stored
        while True:
            changed = status.release(latest.status, claim.claim_id, wanted, refused=refused, failures=claim.failures)
            if changed is latest.status:
                break
            try:
                latest = session.statuses.swap(claim.key, changed, latest.etag)
                break
            except PreconditionFailed:
                fresh = self._read_again(claim)
                if fresh is None:
                    return
                latest = fresh
        claim.stored = latest
        claim.open -= wanted
        for position in wanted:
            claim.ended.pop(position, None)
        self._close_if_done(claim)
        session.bell.ring([claim.key], len(wanted))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _take(
        self, current: Status, claim_id: str, at_most: int, *, alone: bool = False, ahead: bool = False
    ) -> tuple[Status, list[int]]:
        return status.claim(
            current,
            claim_id,
            at_most=at_most,
            now=self._clock.now(),
            max_losses=self._session.manifest.current.max_losses,
            alone=alone,
            ahead=ahead,
        )

    def _is_shared(self, current: Status) -> bool:
        """Return whether another worker held tasks of an object when it was last read or written.

        That worker has written it since, or soon will. Most swaps on the old ETag would be refused, and a refused swap costs
        as much as twelve GETs and takes as long as two.
        """
        own_prefix = f"{self._worker_id}."
        return any(entry.state == State.CLAIMED and not entry.claim.startswith(own_prefix) for entry in current.entries)

    def _landed(self, key: str, claim_id: str) -> Versioned | None:
        """Return the object if it has a claim whose answer was lost; otherwise None."""
        try:
            stored = self._session.statuses.read(key)
        except ObjectNotFound:
            return None
        return stored if stored.status.under(claim_id) else None

    def _read_again(self, claim: Claim) -> Versioned | None:
        """Read the object again after a lost race; None if it is no longer a status object, which gives up the claim."""
        try:
            return self._session.statuses.read(claim.key)
        except (RecordInvalid, VersionMismatch) as error:
            _log.warning("a claimed status object is corrupt; the claim is given up: error=%s", error)
            claim.open.clear()
            claim.ended.clear()
            claim.ended_bytes = 0
            self._forget(claim.claim_id)
            return None

    def _settle(
        self, claim: Claim, latest: Versioned, ended: dict[int, Ended], next_id: str, taken: list[int]
    ) -> Claim | None:
        claim.stored = latest
        claim.open -= ended.keys()
        claim.ended.clear()
        claim.ended_bytes = 0
        # Tasks that were taken back from this claim while it ran may belong to another worker now.
        claim.open &= set(latest.status.under(claim.claim_id))
        # A dropped outcome does not count: its entry is no longer under this claim.
        entries = [latest.status.entries[position] for position in ended]
        own = [entry for entry in entries if entry.has_ended and entry.claim == claim.claim_id]
        n_committed, n_failed = len(own), sum(entry.state == State.FAILED for entry in own)
        with self._lock:
            self.n_ended += n_committed
            self.n_failed += n_failed
        if n_committed:
            self.has_worked.set()
        self._close_if_done(claim)
        if not taken:
            self._forget(next_id)
            return None
        return _claim(next_id, claim.key, claim.ref, latest, taken)

    def _close_if_done(self, claim: Claim) -> None:
        if not claim.open:
            self._forget(claim.claim_id)

    def _new_claim(self, key: str) -> str:
        """Return the id of a new claim; empty after `close`."""
        with self._lock:
            if self._is_closed:
                return ""
            self._n_claims += 1
            claim_id = f"{self._worker_id}.{self._n_claims}"
            # Guarantee: beats name a claim before it is written, because a watcher may see it in the object before this worker
            # has the answer.
            self._held[claim_id] = key
            return claim_id

    def _forget(self, claim_id: str) -> None:
        with self._lock:
            self._held.pop(claim_id, None)

    def _store_parts(self, claim: Claim) -> dict[int, Ended]:
        """Write captured output and outcomes that are too big to inline; return the ends of all tasks for the status object."""
        limit = status.inline_bytes(claim.ref.n_tasks)
        keys, parts = self._session.keys, _Parts(claim)
        ended = {}
        for position, finished in sorted(claim.ended.items()):
            label = status.outcome_label(claim.stored.status, position, claim.entry(position))
            seal = self._session.sealer.seal("outcome", label, finished.outcome)
            outcome: bytes | Located
            if len(finished.outcome) + SEAL_BYTES <= limit:
                outcome = seal + finished.outcome
            else:
                outcome = parts.outcomes.add([seal, finished.outcome])
            output = (finished.stdout, finished.stderr)
            log = parts.logs.add([_packed(output)]) if any(output) else None
            state = State.COMPLETED if finished.ok else State.FAILED
            ended[position] = Ended(state, outcome, log, finished.seconds, claim.n_failures(position))
        for part, body in parts.outcomes.bodies():
            self._create(keys.outcomes(claim.ref.status_id, part), body)
        for part, body in parts.logs.bodies():
            self._create(keys.logs(claim.ref.status_id, part), body)
        return ended

    def _create(self, key: str, body: bytes | memoryview) -> None:
        try:
            self._session.store.create(key, body)
        except PreconditionFailed:
            # Only this claim writes the key, and always the same bytes: an earlier try has landed.
            return


def _claim(claim_id: str, key: str, ref: StatusRef, latest: Versioned, taken: list[int]) -> Claim:
    has_losses = any(latest.status.entries[position].losses for position in taken)
    return Claim(claim_id, key, ref, latest, set(taken), has_losses=has_losses)


class _Parts:
    """The outcome and log objects of one commit."""

    def __init__(self, claim: Claim) -> None:
        self.outcomes = _Part(claim)
        self.logs = _Part(claim)


class _Part:
    """Collects byte strings into objects and returns the location of each."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._objects: list[tuple[str, list[bytes | memoryview]]] = []
        self._n_bytes = _PART_BYTES

    def add(self, pieces: list[bytes | memoryview]) -> Located:
        length = sum(map(len, pieces))
        if self._n_bytes + length > _PART_BYTES:
            self._claim.n_parts += 1
            self._objects.append((f"{self._claim.claim_id}-{self._claim.n_parts}", []))
            self._n_bytes = 0
        part, gathered = self._objects[-1]
        gathered.extend(pieces)
        self._n_bytes += length
        return Located(part, self._n_bytes - length, length)

    def bodies(self) -> list[tuple[str, bytes | memoryview]]:
        return [(part, b"".join(pieces)) for part, pieces in self._objects]


def _packed(output: tuple[bytes, bytes]) -> bytes:
    packed: bytes = msgpack.packb(output)
    return packed
