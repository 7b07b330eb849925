"""Who is lost and what of theirs goes back: decisions only, no I/O and no clock.

A worker is judged by "its beat has not changed over so many of my own looks", never by comparing clocks. A look is one
listing of `workers/`; whether a look counts is the caller's to say (`Watch.failed` where it does not).

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
from starburst_executor.protocol.status import State, Status

__all__ = ["Suspects", "Verdict", "Watch", "hopeless", "may_have_started", "suspects"]

# So many workers that could not do anything, on so many machines, say that no other will.
_FAILED_WORKERS, _FAILED_HOSTS = 3, 2


@dataclass(slots=True)
class _Seen:
    etag: str
    silent: int = 0


@dataclass(slots=True)
class _Unnamed:
    """A claim that its worker's beat did not name: since which beat."""

    number: int


class Verdict:
    """Why claims go back."""

    LOST = "lost"
    FORGOTTEN = "forgotten"


@dataclass(slots=True)
class Watch:
    """What one watcher remembers of its looks. Not thread-safe.

    Attributes:
        looks_until_lost: So many silent looks in a row make a worker lost.
        dead: Workers whose death their launcher saw, or that said they left: lost at once and for good.
    """

    looks_until_lost: int
    dead: set[str] = field(default_factory=set)
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _unnamed: dict[str, _Unnamed] = field(default_factory=dict)

    def look(self, etags: Mapping[str, str]) -> None:
        """Take in one counted look: the ETag of each worker's beat."""
        for worker_id, etag in etags.items():
            seen = self._seen.get(worker_id)
            if seen is None or seen.etag != etag:
                self._seen[worker_id] = _Seen(etag)
            else:
                seen.silent += 1
        for worker_id in self._seen.keys() - etags.keys():
            del self._seen[worker_id]
        # Whoever is dead and has no beat is lost anyway.
        self.dead &= self._seen.keys()

    def failed(self) -> None:
        """A look or the watcher's own beat before it failed: it may be the watcher who is cut off."""
        for seen in self._seen.values():
            seen.silent = 0

    def is_lost(self, worker_id: str) -> bool:
        """Whether the worker is lost now. One that has no beat at all is gone, and lost."""
        if worker_id in self.dead or worker_id not in self._seen:
            return True
        return self._seen[worker_id].silent >= self.looks_until_lost

    def known(self) -> set[str]:
        """The workers that had a beat at the last look."""
        return set(self._seen)

    def lost(self) -> set[str]:
        """The workers seen that are lost now."""
        return {worker_id for worker_id in self._seen if self.is_lost(worker_id)}

    def living(self) -> set[str]:
        """The workers seen that are not lost now."""
        return self._seen.keys() - self.lost()

    def judged_etag(self, worker_id: str) -> str | None:
        """The beat that a verdict on this worker rests on; None if it has none."""
        seen = self._seen.get(worker_id)
        return None if seen is None else seen.etag

    def is_forgotten(self, claim_id: str, beat: WorkerBeat) -> bool:
        """Whether two later beats of its own worker no longer name this claim.

        Call it with each beat read while the claim stands. The first unnamed one only starts the count: the claim may
        have been written right after it.
        """
        if claim_id in beat.claims and beat.state != WorkerState.LEFT:
            self._unnamed.pop(claim_id, None)
            return False
        first = self._unnamed.setdefault(claim_id, _Unnamed(beat.number))
        return beat.number >= first.number + 2

    def settled(self, claim_id: str) -> None:
        """The claim no longer stands: forget what was counted of it."""
        self._unnamed.pop(claim_id, None)

    def standing(self, claims: Container[str]) -> None:
        """All claims that stand, as of one pass over the open objects: forget what was counted of any other.

        # Guarantee: what is remembered of claims does not grow with those that have ended.
        """
        for claim_id in [claim_id for claim_id in self._unnamed if claim_id not in claims]:
            del self._unnamed[claim_id]


@dataclass(frozen=True, slots=True)
class Suspects:
    """Claims of one status object by what is suspected of them."""

    lost: frozenset[str]
    to_check: frozenset[str]


def suspects(status: Status, watch: Watch) -> Suspects:
    """Which claims of this object go back because their worker is lost, and whose beats are worth reading."""
    claims = {e.claim for e in status.entries if e.state == State.CLAIMED}
    lost = frozenset(claim for claim in claims if watch.is_lost(worker_of(claim)))
    return Suspects(lost, frozenset(claims) - lost)


def may_have_started(claim_id: str, beat: WorkerBeat) -> bool:
    """Whether tasks of a worker that left were running under this claim when it could no longer go on.

    One that leaves in good order has ended or released what ran; whatever claim of its lands later runs nowhere.
    """
    return bool(beat.words) and claim_id in beat.claims


def hopeless(beats: Collection[WorkerBeat]) -> str:
    """Why no worker can do any work of this session, in the words of the last; empty while there is hope.

    Each that ever took part has left because it could not go on, without a single outcome, and not on one sick machine alone.
    """
    if not all(beat.has_failed for beat in beats) or len(beats) < _FAILED_WORKERS:
        return ""
    return (
        "" if len({beat.host for beat in beats}) < _FAILED_HOSTS else max(beats, key=lambda beat: beat.worker_id).words
    )
