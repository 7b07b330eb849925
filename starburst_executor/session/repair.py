"""Takes back the claims of the lost, and ends what is left of a session that is over.

Used by workers and clients alike. Decisions are `protocol/liveness.py`'s; here they are carried out, each as one swap
on an object that was read after the worker had been judged, and only if the beat that was judged still stands.
"""

from __future__ import annotations

from contextlib import suppress

from starburst_executor.errors import (
    ObjectNotFound,
    PreconditionFailed,
    RecordInvalid,
    SessionExpired,
    VersionMismatch,
    WorkerLost,
)
from starburst_executor.protocol import records, status
from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.liveness import Watch, may_have_started, suspects
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.outcomes import dump_reason
from starburst_executor.protocol.records import ClientBeat, Manifest, SessionState, WorkerBeat, WorkerState
from starburst_executor.protocol.status import Entry, SizeClass, Status
from starburst_executor.session.store import Group, SessionStore

__all__ = ["Watcher", "end_what_is_left", "read_beats"]


def read_beats(session: SessionStore) -> list[tuple[WorkerBeat, str]]:
    """Every worker's newest beat and its ETag, oldest worker first. Store: 1 LIST, 1 GET a worker."""
    found = (read_beat(session, line.key) for line in session.store.list(session.keys.workers))
    return [pair for pair in found if pair is not None]


def read_beat(session: SessionStore, key: str) -> tuple[WorkerBeat, str] | None:
    """One worker's newest beat and its ETag; None if there is none that can be read. Store: 1 GET."""
    try:
        stored = session.store.get(key)
        assert stored is not None  # no ETag was sent  # noqa: S101
        return records.decode_beat(stored.body), stored.etag
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return None


def read_client_beat(session: SessionStore, client_id: str) -> ClientBeat | None:
    """One client's newest beat; None if there is none that can be read. Store: 1 GET."""
    try:
        stored = session.store.get(session.keys.client(client_id))
        assert stored is not None  # no ETag was sent  # noqa: S101
        return records.decode_client_beat(stored.body)
    except (ObjectNotFound, RecordInvalid, VersionMismatch):
        return None


class Watcher:
    """One watching worker or client: looks at the beats and repairs. Not thread-safe.

    Attributes:
        words: What is known of a dead worker's end, by worker, for the errors of the tasks that it took along.
        listed: The workers that had a beat at the last look.
    """

    def __init__(self, session: SessionStore, looks_until_lost: int) -> None:
        self._session = session
        self.watch = Watch(looks_until_lost)
        self.words: dict[str, str] = {}
        self.listed: frozenset[str] = frozenset()

    def look(self) -> None:
        """One look at all beats. Call it after the own beat was acknowledged, else `watch.failed()`. Store: 1 LIST."""
        session = self._session
        lines = session.store.list(session.keys.workers)
        etags = {line.key[len(session.keys.workers) :]: line.etag for line in lines}
        self.listed = frozenset(etags)
        self.watch.look(etags)

    def repair(self) -> int:
        """Take back the claims of workers that are lost and claims that their worker forgot; how many tasks.

        Store: 1 LIST an open epoch, 1 GET for each object with claims, 1 GET a worker that holds one; 1 GET, 1 GET and
        1 swap for each object repaired, 1 ring.
        """
        session = self._session
        n_tasks, keys = 0, []
        beats: dict[str, tuple[WorkerBeat, str] | None] = {}
        standing: set[str] = set()
        for group in session.groups(session.refresh().open_epochs()):
            if group.size_class in (SizeClass.SOME_PENDING, SizeClass.SOME_CLAIMED):
                n = self._repair_group(group, beats, standing)
                n_tasks += n
                keys += [group.key] * bool(n)
        self.watch.standing(standing)
        if n_tasks:
            session.ring(keys, n_tasks)
        return n_tasks

    def _repair_group(self, group: Group, beats: dict[str, tuple[WorkerBeat, str] | None], standing: set[str]) -> int:
        """Take back what goes back of one object; how many tasks. Claims of the living are added to those that stand."""
        session = self._session
        try:
            found = session.read(group.key)
        except (ObjectNotFound, RecordInvalid, VersionMismatch):
            return 0
        assert found is not None  # no ETag was sent  # noqa: S101
        suspected = suspects(found.status, self.watch)
        standing |= suspected.to_check
        forgotten = set()
        for claim_id in sorted(suspected.to_check):
            worker_id = worker_of(claim_id)
            if worker_id not in beats:
                beats[worker_id] = read_beat(session, session.keys.worker(worker_id))
            beat = beats[worker_id]
            if beat is None:
                continue
            if beat[0].state == WorkerState.LEFT:
                self.watch.dead.add(worker_id)
                forgotten.add(claim_id)
            elif self.watch.is_forgotten(claim_id, beat[0]):
                forgotten.add(claim_id)
        n_tasks = 0
        for claims, lost in ((suspected.lost, True), (frozenset(forgotten), False)):
            for claim_id in sorted(claims):
                n_tasks += self._take_back(group.key, claim_id, lost=lost)
        return n_tasks

    def _take_back(self, key: str, claim_id: str, *, lost: bool) -> int:
        """One claim of one object, judged anew: GET the object, then the worker's beat, then swap."""
        session = self._session
        worker_id = worker_of(claim_id)
        try:
            found = session.read(key)
        except (ObjectNotFound, RecordInvalid, VersionMismatch):
            return 0
        assert found is not None  # no ETag was sent  # noqa: S101
        n_tasks = len(found.status.under(claim_id))
        beat = read_beat(session, session.keys.worker(worker_id))
        if not n_tasks or not self._still_stands(worker_id, claim_id, beat, lost=lost):
            return 0
        if beat is not None and beat[0].state == WorkerState.LEFT:
            # It ended in good order, whatever claim of its landed late: no task has cost it its life. Or it could not go on,
            # and any task that it ran then may be why.
            lost = may_have_started(claim_id, beat[0])
            self.words.setdefault(worker_id, beat[0].words)
        manifest = session.manifest
        changed = status.take_back(
            found.status,
            {claim_id},
            lost=lost,
            max_losses=manifest.max_losses,
            now=session.clock.now(),
            outcome=lambda s, i, e: _sealed_reason(session, s, i, e, _lost(s, i, e, self.words.get(worker_id, ""))),
        )
        try:
            session.swap(key, changed, found.etag)
        except PreconditionFailed:
            # Somebody wrote: the worker after all, or another watcher. The next look judges again.
            return 0
        except ObjectNotFound:
            return 0
        self.watch.settled(claim_id)
        return n_tasks

    def _still_stands(self, worker_id: str, claim_id: str, beat: tuple[WorkerBeat, str] | None, *, lost: bool) -> bool:
        """Whether the verdict rests on the newest beat still."""
        if beat is None:
            return lost
        if not lost:
            return beat[0].state == WorkerState.LEFT or self.watch.is_forgotten(claim_id, beat[0])
        return worker_id in self.watch.dead or beat[1] == self.watch.judged_etag(worker_id)


def end_what_is_left(session: SessionStore, manifest: Manifest) -> int:
    """Swap to its end whatever has not ended in a session that is over; how many objects were changed.

    Terminated: cancelled. Expired or broken: failed with the reason. Anyone may do it, several at once.

    Store: 1 LIST an open epoch, 1 GET and 1 swap for each object that is not all ended.
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
            return status.end_rest(current, session.clock.now(), None)
        reason = error
        return status.end_rest(current, session.clock.now(), lambda s, i, e: _sealed_reason(session, s, i, e, reason))

    n_changed = 0
    for group in session.groups(manifest.open_epochs()):
        if not group.size_class.has_ended:
            # One that cannot be read must not keep the others from their end; its clients fail its futures.
            with suppress(RecordInvalid, VersionMismatch):
                n_changed += session.update(group.key, step) is not None
    return n_changed


def _sealed_reason(session: SessionStore, status_: Status, index: int, entry: Entry, error: Exception) -> bytes:
    return session.sealer.sealed("outcome", status.outcome_label(status_, index, entry), dump_reason(error))


def _lost(status_: Status, index: int, entry: Entry, words: str) -> WorkerLost:
    return WorkerLost(
        f"the task's worker was lost {entry.losses + 1} times, the last time with nothing else on it; most likely the task "
        f"kills it (memory?): task={status_.ordinal}-{status_.first + index}, worker={worker_of(entry.claim)}, "
        f"attempt={entry.attempt}{f'; its end: {words}' if words else ''}"
    )
