"""Claim, claim ahead, commit, release: a worker's swaps on status objects.

    key ──GET──► status ──claim──► swap ──► Claim ──► (slot runs it) ──► outcomes/ (create, if big)
                   ▲                 │ 412: another object                     │
                   └── 412: again ───┼──────── swap: end these tasks, claim the next slice of the same object
                                     ▼
                                 held: named by every beat, from before the claim is written until it is settled

Guarantee: a task's outcome is committed only while it is under the claim that ran it, so if two workers run the same
run of a task, one outcome counts. A lost answer is resolved by reading the object: it shows whether this claim is on it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from starburst_executor.clock import Clock
from starburst_executor.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.protocol import options
from starburst_executor.protocol.attempts import with_errors
from starburst_executor.protocol.keys import StatusRef, worker_of
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import ENDED, OutcomeBlock, State, Status
from starburst_executor.session.fan_out import fan_out
from starburst_executor.session.statuses import Versioned
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.outcome_writer import OutcomeWriter

__all__ = ["Claim", "Claims"]

_log = logging.getLogger(__name__)

_CLAIMED = int(State.CLAIMED)
# After a lost race about this many of the workers that share an object try again at the same time: with fewer some of the time is lost in
# which a swap could succeed, with more most swaps fail.
_AT_ONCE = 8
_PAUSE_MOST_S = 2.0


class Claims:
    """All claims of one worker. Thread-safe; a single claim is not.

    Attributes:
        n_ended: Number of tasks whose outcome was committed.
        n_failed: Number of those that failed.
        worker_id: The worker's id.
        has_worked: Set after the first such task.
    """

    def __init__(self, session: SessionStore, worker_id: str, clock: Clock) -> None:
        self._session = session
        self._claiming = session.at(Urgency.CLAIM)
        self.worker_id = worker_id
        self._clock = clock
        self._writer = OutcomeWriter(session)
        self._lock = threading.Lock()  # guards: _held, _n_claims, _is_closed, n_ended, n_failed
        self._is_closed = False
        self._held: dict[str, str] = {}
        self._n_claims = 0
        self.n_ended = 0
        self.n_failed = 0
        self.has_worked = threading.Event()
        self._never = threading.Event()

    def held(self) -> dict[str, str]:
        """Return claim id and key of every claim that is held or being written, for the next beat."""
        with self._lock:
            return dict(self._held)

    def close(self) -> None:
        """Make no further claims: `held` only shrinks from now on. Held claims can still be committed and released."""
        with self._lock:
            self._is_closed = True

    def claim(
        self,
        key: str,
        *,
        size: Callable[[Status], int],
        alone: bool = False,
        ahead: bool = False,
        writes: Callable[[Status], None] = lambda _: None,
        beside: Callable[[str], Callable[[], None] | None] = lambda _: None,
    ) -> tuple[Claim | None, Status | None]:
        """Claim pending tasks of one status object.

        Args:
            size: Return the upper bound of the slice, in tasks, for an object; 1 while the function's duration is unknown.
            writes: Called with the object with the claim, before that is written.
            beside: Return what to do while the claim of tasks with a function of this digest is written; None if there is nothing.
            alone: Whether this worker has no other task, so that a task on its last try may be claimed.
            ahead: Whether another slice is running, so that tasks that have lost a worker must not be claimed.

        Returns:
            The claim, or None if the race was lost or no task may be claimed; and the object as last read or written, or
            None if it is gone or another writer won the race.

        Raises:
            ObjectNotFound: there is no such object, or not yet.
            VersionMismatch, RecordInvalid: the object cannot be read, or has options that this version does not know.
            StoreUnavailable: no answer; the claim may stand in the store, but later beats do not name it.

        Store: 1 GET, 1 swap; 1 GET more per lost answer.
        """
        session = self._session
        ref = session.keys.parse_status(key)
        if ref is None:
            raise ObjectNotFound(f"not the key of a status object: {key}")
        stored = self._claiming.statuses.read(key)
        for packed in stored.status.options:
            options.decoded(packed)
        claim_id = self._new_claim(key)
        if not claim_id:
            return None, stored.status
        changed, taken = self._take(stored.status, claim_id, size(stored.status), alone=alone, ahead=ahead)
        if not taken:
            self._forget(claim_id)
            return None, stored.status
        writes(changed)
        try:
            latest = self._swapped(key, changed, stored.etag, beside(_digest(changed, claim_id)))
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
        # Crash here: the tasks are claimed by a worker that is gone; watchers take the tasks back as lost.
        return _claim(claim_id, key, ref, latest, taken), latest.status

    def commit(self, claim: Claim, *, then: int = 0, ahead: bool = False) -> Claim | None:
        """Store a claim's outcomes and its tasks' failed attempts, and claim up to `then` more tasks of the object.

        Both are one swap. Outcomes of tasks that are no longer under this claim are dropped. Harmless if there is nothing to
        store. `ahead` is as in `claim`. Returns the next claim, or None if there is none.

        Store: 1 swap, 1 create for big outcomes, 1 create for captured output; 1 GET if other workers work on the object;
        1 GET and 1 swap more per lost race, and 1 create if the other workers' outcomes have left no room for these.
        """
        session = self._session
        ended = self._writer.write(claim)
        # Crash here: outcome and log objects may exist to which no block refers; the tasks go back as lost and run again.
        next_id = self._new_claim(claim.key) if then else ""
        latest = claim.stored
        is_old = self._is_shared(latest.status)
        while True:
            now = self._clock.now()
            before = with_errors(latest.status, claim.errors) if claim.errors else latest.status
            changed, _ = transitions.commit(before, claim.claim_id, ended, now, failures=claim.failures)
            if (fitted := self._writer.fitted(claim, ended, changed)) is not None:
                ended = fitted
                changed, _ = transitions.commit(before, claim.claim_id, ended, now, failures=claim.failures)
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
                    self._pause(latest.status)
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
        stored = {
            position: span.failures
            for start, span in claim.stored.status.placed()
            if span.state == _CLAIMED and span.claim == claim.claim_id
            for position in range(start, start + span.n)
        }
        return any(stored.get(position, n) != n for position, n in claim.failures.items() if position in claim.open)

    def look(self, claim: Claim) -> None:
        """Read a claim's object, and drop the tasks that are no longer under the claim. Store: 1 GET, a 304 if it has not changed."""
        try:
            fresh = self._session.statuses.read_if_changed(claim.key, claim.stored.etag)
        except (RecordInvalid, VersionMismatch) as error:
            self._give_up(claim, error)
            return
        if fresh is not None:
            claim.stored = fresh
        claim.keep(claim.stored.status.under(claim.claim_id))
        self._close_if_done(claim)

    def release(
        self,
        claim: Claim,
        positions: Collection[int],
        *,
        refused: bool = False,
        not_before: Mapping[int, float] | None = None,
    ) -> None:
        """Make tasks of a claim pending again and ring for them, but for those that wait for their backoff.

        Args:
            not_before: Times before which some of them must not be claimed again.

        Store: 1 swap, 1 ring; 1 GET, 1 swap per lost race.
        """
        session = self._session
        wanted = set(positions) & claim.open
        if not wanted:
            return
        latest = claim.stored
        while True:
            changed = transitions.release(
                with_errors(latest.status, claim.errors) if claim.errors else latest.status,
                *(claim.claim_id, wanted),
                refused=refused,
                failures=claim.failures,
                not_before=not_before,
            )
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
        claim.keep(claim.open - wanted)
        self._close_if_done(claim)
        if n_ready := len(wanted) - len(not_before or ()):
            session.bell.ring([claim.key], n_ready)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _swapped(self, key: str, changed: Status, etag: str, beside: Callable[[], None] | None) -> Versioned:
        """Write a claim, and do something else at the same time."""
        statuses = self._claiming.statuses
        if beside is None:
            return statuses.swap(key, changed, etag)
        results: list[Versioned] = []
        fan_out(
            self._session.store, lambda do: do(), (lambda: results.append(statuses.swap(key, changed, etag)), beside)
        )
        return results[0]

    def _take(
        self, current: Status, claim_id: str, at_most: int, *, alone: bool = False, ahead: bool = False
    ) -> tuple[Status, list[int]]:
        return transitions.claim(
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
        own_prefix = f"{self.worker_id}."
        return any(not claim_id.startswith(own_prefix) for claim_id in current.claims())

    def _pause(self, current: Status) -> None:
        """Wait after a lost race if many workers share the object, so that about `_AT_ONCE` of them try at the same time.

        Each swap makes those of all others fail that began before its end: fifty workers that try again at once make fifty requests for
        one that succeeds, and end hardly sooner.
        """
        n_workers = len(set(map(worker_of, current.claims())))
        if n_workers > _AT_ONCE:
            longest_s = n_workers / _AT_ONCE * self._session.manifest.current.timings.swap_s
            self._clock.wait(self._never, self._clock.random() * min(longest_s, _PAUSE_MOST_S))

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
            self._give_up(claim, error)
            return None

    def _give_up(self, claim: Claim, error: Exception) -> None:
        _log.warning("a claimed status object is corrupt; the claim is given up: error=%s", error)
        claim.keep(())
        self._forget(claim.claim_id)

    def _settle(
        self, claim: Claim, latest: Versioned, ended: Sequence[OutcomeBlock], next_id: str, taken: list[int]
    ) -> Claim | None:
        claim.stored = latest
        claim.committed()
        # Tasks that were taken back from this claim while it ran may belong to another worker now.
        claim.open.intersection_update(latest.status.under(claim.claim_id))
        n_committed, n_failed = _n_committed(latest.status, ended)
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
            claim_id = f"{self.worker_id}.{self._n_claims}"
            # Guarantee: beats name a claim before it is written, because a watcher may see it in the object before this worker
            # has the answer.
            self._held[claim_id] = key
            return claim_id

    def _forget(self, claim_id: str) -> None:
        with self._lock:
            self._held.pop(claim_id, None)


def _digest(current: Status, claim_id: str) -> str:
    """Return the digest of the function of a claim's tasks."""
    return next(current.functions[span.function] for span in current.spans if span.claim == claim_id)


def _claim(claim_id: str, key: str, ref: StatusRef, latest: Versioned, taken: list[int]) -> Claim:
    current = latest.status
    spans = tuple(
        (start, span) for start, span in current.placed() if span.state == _CLAIMED and span.claim == claim_id
    )
    span = spans[0][1]
    digest, packed = current.functions[span.function], current.options_of(span)
    return Claim(claim_id, key, ref, latest, digest, spans, set(taken), packed_options=packed)


def _n_committed(current: Status, ended: Sequence[OutcomeBlock]) -> tuple[int, int]:
    """Return how many of these outcomes count, and how many of those are failures.

    Dropped ones do not count: their tasks are no longer under their claim. The object as it is now decides that, also after a lost
    answer.
    """
    n_committed = n_failed = 0
    if ended:
        last = ended[-1].first + ended[-1].n
        for start, span in current.placed():
            if start >= last:
                break
            if span.state == ENDED and span.claim == ended[0].claim:
                mark = (span.run, span.attempt)
                for block in ended:
                    low, high = max(start, block.first), min(start + span.n, block.first + block.n)
                    if (block.run, block.attempt) == mark and low < high:
                        n_committed += high - low
                        n_failed += sum(low <= block.first + i < high for i in block.failed)
    return n_committed, n_failed
