"""Decide which workers are lost and which of their claims go back: decisions only, no I/O and no clock.

A worker is lost if its beat has not changed over a number of the watcher's own looks; clocks are never compared. A look is
one listing of `workers/`. The caller decides whether a look counts, and calls `Watch.failed` if it does not.

    looks:      1      2      3      4      5            ETag of one worker's beat, as listed
    etag:       a      b      b      b      b            changed at look 2, then silent
    silent:     0      0      1      2      3 ... lost at `looks_until_lost`

Guarantee: *lost* is a state, not an event: it holds at every look until the worker beats again.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from starburst_executor.protocol.keys import worker_of
from starburst_executor.protocol.records import WorkerBeat, WorkerState
from starburst_executor.protocol.spans.record import Status

__all__ = ["Suspects", "Watch", "claims_of", "hopeless", "may_have_started", "suspects"]

# When this number of workers, on this number of machines, could not end any task, no other worker is expected to.
_FAILED_WORKERS, _FAILED_HOSTS = 3, 2


@dataclass(slots=True)
class _Seen:
    etag: str
    silent: int = 0


@dataclass(slots=True)
class _Unnamed:
    """A claim that its worker's beat did not name; `number` is the first such beat."""

    number: int


@dataclass(slots=True)
class Watch:
    """One watcher's record of its looks. Not thread-safe.

    Attributes:
        looks_until_lost: The number of consecutive silent looks after which a worker is lost.
        dead: Workers whose launcher saw them die: lost at once and for good.
        left: Workers whose beat at the last look says that they left: also lost at once.
    """

    looks_until_lost: int
    dead: set[str] = field(default_factory=set)
    left: frozenset[str] = frozenset()
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _unnamed: dict[str, _Unnamed] = field(default_factory=dict)

    def look(self, etags: Mapping[str, str], left: Collection[str] = ()) -> None:
        """Record one look that counts: the ETag of each worker's beat, and which of the workers have left."""
        self.left = frozenset(left)
        for worker_id, etag in etags.items():
            beat = self._seen.get(worker_id)
            if beat is None or beat.etag != etag:
                self._seen[worker_id] = _Seen(etag)
            else:
                beat.silent += 1
        for worker_id in self._seen.keys() - etags.keys():
            del self._seen[worker_id]
        # A dead worker without a beat is lost without this entry, which would never be removed otherwise.
        self.dead &= self._seen.keys()

    def failed(self) -> None:
        """Record that a look, or the watcher's own beat before it, failed: the watcher itself may be disconnected."""
        for beat in self._seen.values():
            beat.silent = 0

    def is_lost(self, worker_id: str) -> bool:
        """Return whether the worker is lost now. A worker without any beat is gone, and therefore lost."""
        if worker_id in self.dead or worker_id in self.left or worker_id not in self._seen:
            return True
        return self._seen[worker_id].silent >= self.looks_until_lost

    def known(self) -> set[str]:
        """Return the workers that had a beat at the last look."""
        return set(self._seen)

    def lost(self) -> set[str]:
        """Return the known workers that are lost now."""
        return {worker_id for worker_id in self._seen if self.is_lost(worker_id)}

    def living(self) -> set[str]:
        """Return the known workers that are not lost now."""
        return self._seen.keys() - self.lost()

    def judged_etag(self, worker_id: str) -> str | None:
        """Return the ETag of the beat on which the judgement of this worker rests; None if it has no beat."""
        beat = self._seen.get(worker_id)
        return None if beat is None else beat.etag

    def is_forgotten(self, claim_id: str, beat: WorkerBeat) -> bool:
        """Return whether two further beats of its own worker have not named this claim.

        Call it with each beat that is read while the claim stands. The first beat that does not name the claim only starts
        the count: the claim may have been written right after that beat.
        """
        if claim_id in beat.claims and beat.state != WorkerState.LEFT:
            self._unnamed.pop(claim_id, None)
            return False
        first = self._unnamed.setdefault(claim_id, _Unnamed(beat.number))
        return beat.number >= first.number + 2

    def is_unnamed(self, claim_id: str) -> bool:
        """Return whether the last beat that was read for this claim did not name it."""
        return claim_id in self._unnamed

    def settled(self, claim_id: str) -> None:
        """Forget the count of a claim that no longer stands."""
        self._unnamed.pop(claim_id, None)

    def standing(self, claims: Container[str]) -> None:
        """Forget the counts of all claims but these, which one pass over the open objects found standing.

        Guarantee: the counts do not grow with the number of claims that have ended.
        """
        for claim_id in [claim_id for claim_id in self._unnamed if claim_id not in claims]:
            del self._unnamed[claim_id]


@dataclass(frozen=True, slots=True)
class Suspects:
    """Claims in two sets: those whose worker is lost, and the others, whose worker's beat may have to be read."""

    lost: frozenset[str]
    to_check: frozenset[str]


def claims_of(status: Status) -> frozenset[str]:
    """Return the claims that stand in this object."""
    return status.claims()


def suspects(claims: Collection[str], watch: Watch) -> Suspects:
    """Return the claims whose worker is lost, and the other claims, whose worker's beat is worth reading."""
    lost = frozenset(claim for claim in claims if watch.is_lost(worker_of(claim)))
    return Suspects(lost, frozenset(claims) - lost)


def may_have_started(claim_id: str, beat: WorkerBeat) -> bool:
    """Return whether a worker that left may have been running tasks of this claim when it could no longer go on.

    A worker that leaves normally has committed or released its tasks before. If another of its claims
    reaches the store later, no task runs under that claim.
    """
    return bool(beat.words) and claim_id in beat.claims


def hopeless(beats: Collection[WorkerBeat]) -> str:
    """Return why no worker can run this session's tasks, as the last worker reported it; empty if one still may.

    The session is hopeless if every worker that ever joined left because it could not go on, without ending a task, and if
    these workers were on more than one machine, so that no single faulty machine is the cause.
    """
    if not all(beat.has_failed for beat in beats) or len(beats) < _FAILED_WORKERS:
        return ""
    return (
        "" if len({beat.host for beat in beats}) < _FAILED_HOSTS else max(beats, key=lambda beat: beat.worker_id).words
    )
