"""The claims that a slot holds: commits the tasks that have ended, releases others, drops claims that are settled.

    acquirer ──Claim──► add ──► backlog … Claim.ended ──► commit ──► next claim on the same object
                                                    └──► release

The slot's thread owns it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from starburst_executor.errors import StarburstError
from starburst_executor.worker.backlog import Backlog
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.feeder import Feeder
from starburst_executor.worker.pace import Pace
from starburst_executor.worker.placed import Placed
from starburst_executor.worker.shared import Shared

__all__ = ["Holdings"]


class Holdings:
    """The open claims of one slot: one, or a second one ahead while the last tasks of the first run.

    Attributes:
        open: The claims, oldest first.
    """

    def __init__(self, shared: Shared, pace: Pace, backlog: Backlog, feeder: Feeder) -> None:
        self._shared = shared
        self._pace = pace
        self._backlog = backlog
        self._feeder = feeder
        self._waiting: dict[str, float] = {}  # by claim, since when its oldest outcome waits for a commit
        self._claimed_at: float | None = None  # when the slot made its first claim; until its first commit
        self._has_committed = False
        self.open: list[Claim] = []

    def add(self, claim: Claim) -> None:
        """Hold a new claim, and put its tasks into the backlog."""
        if not self._has_committed and self._claimed_at is None:
            self._claimed_at = self._shared.clock.monotonic()
        self.open.append(claim)
        self._backlog.add(claim)

    def heard(self) -> None:
        """Note since when outcomes wait; the first ones of a slot, since their claim. Call it after the runner was heard."""
        now = self._shared.clock.monotonic() if self._has_committed or self._claimed_at is None else self._claimed_at
        for claim in self.open:
            if claim.n_ended:
                self._waiting.setdefault(claim.claim_id, now)

    def commit_at(self, claim: Claim) -> float | None:
        """Return the time by which to commit a claim's outcomes; None if it has none.

        A session that expires ends what is not committed, so the last commit comes a little before that.
        """
        since = self._waiting.get(claim.claim_id)
        if since is None or not self._pace.has_room(claim.ended_bytes):
            return since
        shared = self._shared
        is_scarce = shared.candidates.n_pending() <= shared.candidates.n_all_slots()
        manifest, commit_s = shared.session.manifest.current, self._pace.commit_s
        if manifest.deadline_at is not None:
            is_scarce = is_scarce or manifest.deadline_at - shared.clock.now() <= self._pace.commit_most_s + commit_s
        is_last = len(claim.open) - claim.n_ended == 1
        return since + self._pace.commit_within_s(shared.busy.seconds(), is_scarce=is_scarce, is_last=is_last)

    def commit(self, claim: Claim, *, then: int = 0, ahead: bool = False) -> Claim | None:
        """Store the outcomes of a claim's ended tasks; hold and return a claim on up to `then` more tasks of the object.

        Store: as `Claims.commit`.
        """
        following = self._shared.claims.commit(claim, then=then, ahead=ahead)
        self._waiting.pop(claim.claim_id, None)
        self._has_committed = True
        self._shared.candidates.saw(claim.key, claim.stored.status)
        self._shared.finder.dependencies.ended(claim.key)
        if self._shared.finder.dependencies.is_due:
            self._shared.candidates.wanted.set()
        self._settled(claim)
        if following is not None:
            self._shared.candidates.begins(following.key)
            self.add(following)
        return following

    def commit_failures(self, retried: Iterable[Placed]) -> None:
        """Store the failures of tasks that are about to be tried again, so that these count even if this worker dies."""
        claims = {id(placed.claim): placed.claim for placed in retried}
        for claim in claims.values():
            if self._shared.claims.has_unstored_failures(claim):
                self.commit(claim)

    def look_again(self) -> None:
        """Drop tasks that were cancelled, and kill the one that runs. Store: 1 GET for each doubted claim, at times."""
        for claim in list(self.open):
            if self._shared.doubts.is_due(claim.claim_id):
                self._shared.claims.look(claim)
                self._settled(claim)

    def release(self, tasks: Sequence[Placed], *, refused: bool = False) -> None:
        """Make tasks pending again: one swap per claim. Store: as `Claims.release`."""
        for claim in list(self.open):
            positions = [placed.position for placed in tasks if placed.claim is claim]
            if positions:
                self._shared.claims.release(claim, positions, refused=refused)
                self._settled(claim)

    def release_until(self, waits: Sequence[tuple[Placed, float]]) -> None:
        """Make failed tasks pending again, each not to be claimed before a time. Store: 1 swap per claim."""
        for claim in list(self.open):
            not_before = {placed.position: at for placed, at in waits if placed.claim is claim}
            if not_before:
                self._shared.claims.release(claim, not_before, not_before=not_before)
                self._shared.candidates.saw(claim.key, claim.stored.status)
                self._settled(claim)

    def give_back(self, started: Sequence[Placed]) -> None:
        """Commit the tasks that have ended, and release all others except those that may have started.

        Store: 1 swap a claim; 1 more to commit the tasks that have ended.
        """
        for claim in list(self.open):
            kept = {placed.position for placed in started if placed.claim is claim}
            # If the write fails, watchers take the tasks back when they find that this worker is gone.
            with suppress(StarburstError):
                if claim.n_ended:
                    self.commit(claim)
                self._shared.claims.release(claim, claim.open - kept)

    def _settled(self, claim: Claim) -> None:
        """Update after a read or write of a claim's object: share its new state, drop a finished claim and lost tasks."""
        for other in self.open:
            # Give other claims on the object the new ETag, so that their next swap is not refused first.
            if other.key == claim.key:
                other.stored = claim.stored
        if not claim.open and claim in self.open:
            self.open.remove(claim)
            self._waiting.pop(claim.claim_id, None)
            self._shared.candidates.ends(claim.key)
        self._feeder.drop_lost()
