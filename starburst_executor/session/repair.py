"""Takes back the claims of lost workers, and ends the remaining tasks of a session that is over.

Workers and clients both use it. `protocol/liveness.py` decides; this module carries the decisions out.

Guarantee: a claim is taken back by one swap on an object that was read after its worker was judged, and only if the worker
has not beaten since the judgement.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias, TypeVar

from starburst_executor.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    SessionExpired,
    VersionMismatch,
    WorkerLost,
)
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.liveness import Watch, claims_of, may_have_started, suspects
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.protocol.records import Manifest, SessionState, WorkerBeat, WorkerState
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import SizeClass, Span, Status
from starburst_executor.session.beats import list_workers, read_beat
from starburst_executor.session.epochs import GoneClients, close_epochs
from starburst_executor.session.fan_out import AT_ONCE, fan_out
from starburst_executor.session.statuses import ListedStatus, Versioned
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency

__all__ = ["Watcher", "end_what_is_left", "sealed_reason"]

_T = TypeVar("_T")
_Read: TypeAlias = "tuple[WorkerBeat, str] | None"

# Without suspicion, a repair reads only the objects that have not changed since the last one; every fourth repair reads all. The first
# ones do not: claims that are younger than the watcher are not forgotten, and those of lost workers are suspected.
_READS_ALL_EACH = 4
# A listing costs as much as twelve reads: this many objects are ended before the next one, unless another process is met.
_ENDED_AT_A_LOOK = 32


class Watcher:
    """One watching worker or client: looks at the beats and repairs. One thread calls it; `repair` starts more for requests.

    Attributes:
        words: Messages about dead workers' ends, by worker id, for the errors of the tasks that were lost with them.
        listed: The workers that had a beat at the last look.
        n_failed: The number of tasks that it has failed, because their workers were lost.
    """

    def __init__(self, session: SessionStore, looks_until_lost: int) -> None:
        # Repair does not wait while the store is busy: the tasks of a lost worker would wait for it.
        self._session = session.at(Urgency.VITAL)
        self.watch = Watch(looks_until_lost)
        self.words: dict[str, str] = {}
        self.listed: frozenset[str] = frozenset()
        self._gone = GoneClients(session)
        # One thread uses a watcher. The lock is for `watch` and `words` while a repair's requests run at the same time.
        self._lock = threading.Lock()
        self._n_repairs = 0
        self.n_failed = 0
        # By object, its ETag when it was read and the claims in it: an unchanged object is not read again.
        self._claims: dict[str, tuple[str, frozenset[str]]] = {}
        self._etags: dict[str, str] = {}  # of the objects with claims, as the last repair listed them
        self._settled: frozenset[str] = frozenset()  # lost workers without a claim when all objects were last read
        self._n_stood: dict[str, int] = {}  # by claim, how many repairs found it standing

    def look(self) -> None:
        """Look at all beats once. Call it only after the own beat was acknowledged; otherwise call `watch.failed()`.

        Store: 1 LIST per 1,000 workers.
        """
        signs = list_workers(self._session)
        etags = {sign.owner: sign.etag for sign in signs}
        self.listed = frozenset(etags)
        self.watch.look(etags, [sign.owner for sign in signs if sign.has_left])

    def repair(self, meanwhile: Callable[[], object] = lambda: None) -> int:
        """Take back the claims of lost workers and the claims that their worker forgot, and close finished epochs. Return how
        many tasks were taken back.

        Args:
            meanwhile: Called between batches of requests, for a thread that has other duties.

        An object that changed since the last repair has a worker that works on it. So it is read only on suspicion, which is a
        lost worker that may hold claims, and at each fourth repair, for a claim that a living worker forgot in it.

        Store: 1 LIST an open epoch. 1 GET for each object with claims that has not changed since the last repair, once; on
        suspicion, for each that has changed. 1 GET for each living worker with a claim that has stood for 2, 4, 8, … repairs.
        1 GET, 1 GET and 1 swap for each claim taken back, 1 ring. Up to 16 at once. For epochs, see `epochs.py`.
        """
        session = self._session
        epochs = session.manifest.refresh().open_epochs()
        listing = session.statuses.of_epochs(epochs)
        claimed = [g for g in listing if g.size_class in (SizeClass.SOME_PENDING, SizeClass.SOME_CLAIMED)]
        lost = frozenset(self.watch.lost() | self.watch.dead)
        self._settled &= lost  # a worker that was only stopped for a while may have claimed since, and be lost again
        self._n_repairs += 1
        reads_all = bool(lost - self._settled) or self._n_repairs % _READS_ALL_EACH == 0
        current = self._read_claims(claimed, meanwhile, reads_all=reads_all)
        standing = frozenset(claim for key in current for claim in self._claims[key][1])
        # A claim in an object that changed and was not read may still stand.
        self.watch.standing(standing.union(*(claims for _, claims in self._claims.values())))
        if reads_all:
            self._settled = lost - {worker_of(claim_id) for claim_id in standing}
        suspected = suspects(standing, self.watch)
        to_check = self._worth_checking(suspected.to_check)
        beats = self._read_beats({worker_of(claim_id) for claim_id in to_check}, meanwhile)
        forgotten = {claim for claim in sorted(to_check) if self._is_forgotten(claim, beats[worker_of(claim)])}
        due = [
            (key, [(claim_id, claim_id in suspected.lost) for claim_id in sorted(claims)])
            for key in current
            if (claims := self._claims[key][1] & (suspected.lost | forgotten))
        ]
        # The claims of one object are taken back one after the other; concurrently they would lose races to each other.
        n_tasks = 0
        for batch in _in_parts(due):
            taken = fan_out(session.store, lambda due: sum(self._take_back(due[0], *claim) for claim in due[1]), batch)
            if any(taken):
                n_tasks += sum(taken)
                session.bell.ring([key for (key, _), n in zip(batch, taken, strict=True) if n], sum(taken))
            meanwhile()
        self._free_permits()
        self._gone.look(listing)
        close_epochs(session, listing, epochs)
        return n_tasks

    def _free_permits(self) -> None:
        """Remove the permits of lost workers, once their claims have been taken back.

        Store: nothing in a session without limits; otherwise 1 LIST, 1 GET for each limit; 1 GET for each lost holder, and as
        `SessionLimits.give_back`.
        """
        session = self._session
        if not session.manifest.current.has_limits:
            return
        for name, record in session.limits.held().items():
            lost = [permit for permit in record.holders if self._has_lost(worker_of(permit))]
            if lost and session.limits.give_back(name, *lost):
                session.bell.ring([], len(lost))

    def _has_lost(self, worker_id: str) -> bool:
        if not self.watch.is_lost(worker_id):
            return False
        beat = read_beat(self._session, self._session.keys.worker(worker_id))
        is_left = beat is not None and beat[0].state == WorkerState.LEFT
        return is_left or self._still_stands(worker_id, "", beat, lost=True)

    def _read_claims(
        self, claimed: Sequence[ListedStatus], meanwhile: Callable[[], object], *, reads_all: bool
    ) -> list[str]:
        """Learn which claims stand in these objects; return the keys of those whose claims are known as listed or newer.

        Forgets the claims of all other objects.
        """
        before, self._etags = self._etags, {listed.key: listed.etag for listed in claimed}
        self._claims = {key: known for key, known in self._claims.items() if key in self._etags}
        current = [key for key, (etag, _) in self._claims.items() if etag == self._etags[key]]
        known = frozenset(current)
        unread = [key for key in self._etags if key not in known]
        for batch in _in_parts([key for key in unread if reads_all or before.get(key) == self._etags[key]]):
            for key, stored in zip(batch, fan_out(self._session.store, self._read, batch), strict=True):
                if stored is not None:
                    self._claims[key] = (stored.etag, claims_of(stored.status))
                    current.append(key)
            meanwhile()
        return current

    def _worth_checking(self, claims: frozenset[str]) -> set[str]:
        """Return the claims of living workers that may be forgotten: their worker's beat is read to see whether it names them.

        A claim that stands for one repair alone is usually a short task. A claim that its worker named is checked again after
        twice the time; one that it did not name, at the next repair.
        """
        self._n_stood = {claim_id: self._n_stood.get(claim_id, 0) + 1 for claim_id in claims}
        return {
            claim_id
            for claim_id, n_stood in self._n_stood.items()
            if self.watch.is_unnamed(claim_id) or (n_stood > 1 and n_stood & (n_stood - 1) == 0)
        }

    def _read(self, key: str) -> Versioned | None:
        try:
            return self._session.statuses.read(key)
        except (ObjectNotFound, RecordInvalid, VersionMismatch):
            return None

    def _read_beats(self, worker_ids: Collection[str], meanwhile: Callable[[], object]) -> dict[str, _Read]:
        session = self._session
        beats: dict[str, _Read] = {}
        for batch in _in_parts(sorted(worker_ids)):
            read = fan_out(session.store, lambda worker_id: read_beat(session, session.keys.worker(worker_id)), batch)
            beats.update(zip(batch, read, strict=True))
            meanwhile()
        return beats

    def _is_forgotten(self, claim_id: str, beat: _Read) -> bool:
        if beat is None:
            return False
        # The worker may have left since the look.
        return beat[0].state == WorkerState.LEFT or self.watch.is_forgotten(claim_id, beat[0])

    def _take_back(self, key: str, claim_id: str, lost: bool) -> int:
        """Judge one claim of one object again and take it back: GET the object, then the beat, then swap. Called concurrently."""
        session = self._session
        worker_id = worker_of(claim_id)
        stored = self._read(key)
        n_tasks = 0 if stored is None else len(stored.status.under(claim_id))
        if stored is None or not n_tasks:
            return 0
        # Assumes: the beat is read after the object: a worker that beats between the two reads refutes its loss.
        beat = read_beat(session, session.keys.worker(worker_id))
        with self._lock:
            if not self._still_stands(worker_id, claim_id, beat, lost=lost):
                return 0
            if beat is not None and beat[0].state == WorkerState.LEFT:
                # It ended normally, even if a claim landed later: then no task killed it. Or it could not go on, and a task
                # that it was running may be the cause.
                lost = may_have_started(claim_id, beat[0])
                self.words.setdefault(worker_id, beat[0].words)
            words = self.words.get(worker_id, "")
        manifest = session.manifest.current
        changed = transitions.take_back(
            stored.status,
            {claim_id},
            lost=lost,
            max_losses=manifest.max_losses,
            now=session.clock.now(),
            outcome=lambda s, i, n, span: sealed_reason(session, s, i, n, span, _lost(s, i, span, words)),
        )
        try:
            session.statuses.swap(key, changed, stored.etag)
        except (PreconditionFailed, ObjectNotFound):
            # The worker or another watcher wrote the object, or it is gone. The next look judges again.
            return 0
        # Crash here: the tasks are pending without a ring; idle workers find them at their next look.
        n_failed = len(changed.failed()) - len(stored.status.failed())
        with self._lock:
            self.watch.settled(claim_id)
            self.n_failed += n_failed
        return n_tasks

    def _still_stands(self, worker_id: str, claim_id: str, beat: _Read, *, lost: bool) -> bool:
        """Return whether the judgement still rests on the newest beat."""
        if beat is None:
            return lost
        if not lost:
            return beat[0].state == WorkerState.LEFT or self.watch.is_forgotten(claim_id, beat[0])
        return worker_id in self.watch.dead or beat[1] == self.watch.judged_etag(worker_id)


def end_what_is_left(session: SessionStore, manifest: Manifest) -> int:
    """End the remaining tasks of a session that is over; return the number of changed objects.

    Terminated: cancelled. Expired or broken: failed with the reason. Any process may do it, and several at once: each takes the
    objects in random order, and lists again as soon as it meets one that another process has ended.

    Store: 1 LIST an open epoch; 1 GET and 1 swap for each object that is not all ended, regardless of the number of processes;
    about 1 GET, 1 swap and 1 LIST more where two processes meet.
    """
    if not manifest.state.is_over:
        return 0
    error: Exception | None = None
    if manifest.state == SessionState.EXPIRED:
        error = SessionExpired(f"the session's absolute_timeout passed first: session={manifest.session_id}")
    else:
        error = ended_by(manifest)

    def step(current: Status) -> Status:
        if error is None:
            return transitions.end_rest(current, session.clock.now(), None)
        reason = error
        return transitions.end_rest(
            current, session.clock.now(), lambda s, i, n, span: sealed_reason(session, s, i, n, span, reason)
        )

    n_changed = 0
    done: set[str] = set()  # regardless of their size class
    while True:
        listing = session.statuses.of_epochs(manifest.open_epochs())
        remaining = [listed.key for listed in listing if not listed.size_class.has_ended and listed.key not in done]
        if not remaining:
            return n_changed
        shuffled = sorted(remaining, key=lambda _: session.clock.random())
        n_ended, has_met = _end_some(session, shuffled[:_ENDED_AT_A_LOOK], step, done)
        n_changed += n_ended
        if not has_met and len(shuffled) <= _ENDED_AT_A_LOOK:
            return n_changed


def _end_some(
    session: SessionStore, keys: Sequence[str], step: Callable[[Status], Status], done: set[str]
) -> tuple[int, bool]:
    """End these objects until one turns out to be ended by another process. Return how many, and whether that happened."""
    n_ended = 0
    for key in keys:
        try:
            stored = session.statuses.read(key)
            changed = step(stored.status)
            if changed is stored.status:
                done.add(key)
                return n_ended, True
            session.statuses.swap(key, changed, stored.etag)
            n_ended += 1
        except PreconditionFailed:
            # Another process ended it, or a worker committed: the next listing shows which.
            return n_ended, True
        except ObjectNotFound:
            continue
        except (RecordInvalid, VersionMismatch):
            # An unreadable object must not prevent the end of the others; clients fail its futures.
            done.add(key)
    return n_ended, False


def _in_parts(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Split the items into batches of concurrent requests."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def sealed_reason(session: SessionStore, status: Status, first: int, n: int, span: Span, error: Exception) -> bytes:
    """Return the sealed outcome of tasks of a span, from position `first` on, that fail with the same error."""
    mark = (span.run, span.attempt, span.claim)
    sequence = status.first + first
    parts = blocks.sealed_outcomes(session.sealer, status.ordinal, sequence, mark, [dump_reason(error)], same_for=n)
    return b"".join(parts)


def _lost(status: Status, position: int, span: Span, words: str) -> WorkerLost:
    return WorkerLost(
        f"the task's worker was lost {span.losses + 1} times, the last time without other tasks; the task probably "
        f"kills its worker (memory?): task={status.ordinal}-{status.first + position}, worker={worker_of(span.claim)}, "
        f"attempt={span.attempt}{f'; its end: {words}' if words else ''}"
    )
