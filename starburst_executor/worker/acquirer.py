"""Acquires a slot's claims: chooses a status object and tries to claim tasks of it.

    idle:        own task on its last try, alone ──no──► candidates, until one has pending tasks or none is left
    ahead:       candidates, a few tries, while the running task leaves time

The slot's thread owns it.
"""

from __future__ import annotations

import logging
import threading
from functools import partial

from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import State, Status
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.pace import Pace, is_shared
from starburst_executor.worker.permits import Permit
from starburst_executor.worker.shared import Shared
from starburst_executor.worker.shares import Share

__all__ = ["Acquirer"]

_log = logging.getLogger(__name__)


class Acquirer:
    """Claims tasks for one slot.

    Args:
        number: The slot's number within its worker.
        draining: Set when the worker should stop: no further object is then tried.
        share: The slot's share of the worker's resources.
    """

    def __init__(self, number: int, shared: Shared, pace: Pace, draining: threading.Event, share: Share) -> None:
        self._share = share
        self._number = number
        self._permit = Permit(shared.session, shared.claims.worker_id, number)
        self._shared = shared
        self._pace = pace
        self._draining = draining
        self._n_lost_races = 0  # in a row

    def acquire(self) -> Claim | None:
        """Claim tasks for a slot that has none; return None if there are none for it. Store: as `Claims.claim`, per object."""
        solitude = self._shared.solitude
        if not solitude.enter(self._number):
            return None
        claim = self._claim_solo()
        if claim is None and not solitude.is_wanted(self._number):
            claim = self._claim_candidate()
        if claim is None:
            self.leave()
            solitude.leave(self._number)
        else:
            self._shared.busy.begin(self._number)
        return claim

    def done(self) -> None:
        """Record that the slot has no work left: it no longer counts as busy, nor keeps the worker to itself.

        It keeps its permit, since its next tasks may need it; `acquire` gives it back if there are none.
        """
        self._shared.busy.end(self._number)
        self._shared.solitude.leave(self._number)
        self._shared.solitude.give_up(self._number)

    def leave(self) -> None:
        """Give permit and resources back, if there are any: the slot has no work. Store: as `Permit.give_back`."""
        self._permit.give_back()
        self._share.give_back()

    def next_key(self) -> str | None:
        """Return the next object to try; None if there is none. Store: as `Finder.freshen`."""
        self._shared.finder.freshen()
        return self._shared.candidates.take(worth_sharing=self._pace.least_slice(self._shared.durations.latest))

    def goes_on(self, key: str) -> bool:
        """Return whether the slot may claim the next tasks of its object (`Candidates.goes_on`). Store: as `Finder.freshen`."""
        self._shared.finder.freshen()
        return self._shared.candidates.goes_on(key) and self._permit.still_holds()

    def may_follow(self, key: str) -> bool:
        """Return whether a slice of this object may be claimed ahead: its tasks have limit and resources of those that run."""
        return self._shared.candidates.needs_of(key) == (self._permit.name, self._share.grant.text) and (
            self._permit.still_holds()
        )

    def claim(self, key: str, *, alone: bool = False, ahead: bool = False) -> tuple[Claim | None, Status | None]:
        """Claim a slice of an object; the arguments and results are those of `Claims.claim`."""
        size = self.slice_size if alone else partial(self._share_size, key)
        try:
            with self._shared.candidates.trying(key) as tried:
                claim, current = self._shared.claims.claim(
                    key,
                    size=size,
                    alone=alone,
                    ahead=ahead,
                    writes=partial(self._shared.candidates.takes, key),
                    beside=self._shared.functions.fetching,
                )
                tried.current, tried.has_claim = current, claim is not None
        except ObjectNotFound:
            return None, None
        except (RecordInvalid, VersionMismatch) as error:
            _log.warning("a status object cannot be read and is ignored: error=%s", error)
            return None, None
        if claim is not None:
            self._n_lost_races = 0
        if current is not None and transitions.has_blocked(current):
            self._shared.finder.dependencies.note(key)
            self._shared.candidates.wanted.set()
        return claim, current

    def slice_size(self, current: Status) -> int:
        """Return how many tasks of an object to claim."""
        shared = self._shared
        estimate_s, busy_s = shared.durations.of_next(current), shared.busy.seconds()
        if self._pace.is_single(estimate_s, busy_s):
            return 1
        size = shared.durations.size_of_next(current)
        n_left = sum(span.n for span in current.spans if span.state == State.PENDING)
        fair_share = shared.finder.fair_share(estimate_s)
        # The others look for tasks where there are some.
        n_meet = shared.candidates.n_all_slots() * n_left / max(1, n_left, shared.candidates.n_pending())
        return self._pace.slice_size(estimate_s, fair_share, busy_s, size=size, n_left=n_left, n_meet=n_meet)

    def _share_size(self, key: str, current: Status) -> int:
        """Like `slice_size`, but 0 for an object with other workers while there are objects that no worker has claimed from."""
        return 0 if is_shared(current) and self._shared.candidates.has_untouched(key) else self.slice_size(current)

    def _claim_candidate(self) -> Claim | None:
        self._shared.finder.renew(self._shared.durations.latest)
        key = self.next_key()
        while key is not None:
            if self._permits(key):
                claim, current = self.claim(key)
                if claim is not None:
                    return claim
                if current is None and not self._shared.candidates.is_missing(key):
                    self._pause_after_a_lost_race(key)
            if self._draining.is_set():
                return None
            key = self.next_key()
        self._n_lost_races = 0
        return None

    def _permits(self, key: str) -> bool:
        """Return whether the slot has resources and a permit for the object's tasks, if they need them.

        If no permit is free, other objects with the limit wait too; if resources are not, the object waits for other slots.
        """
        limit, resources = self._shared.candidates.needs_of(key)
        if not self._share.take(resources):
            self._shared.candidates.hold(key)
            return False
        if self._permit.take(limit):
            return True
        self._shared.candidates.block(limit)
        return False

    def _pause_after_a_lost_race(self, key: str) -> None:
        """Spread the slots that lost the same race over about one request's time, longer after repeated losses."""
        self._n_lost_races += 1
        self._shared.candidates.avoid(key)
        clock, request_s = self._shared.clock, self._shared.session.manifest.current.timings.bell_min_s
        clock.wait(self._draining, request_s * self._n_lost_races * clock.random())

    def _claim_solo(self) -> Claim | None:
        """Claim a task on its last try, if this worker has no other task; if it has waited too long, get the worker idle for it."""
        solitude, waiting = self._shared.solitude, self._shared.candidates.solo()
        if waiting is None:
            solitude.give_up(self._number)
            return None
        key, waited_s = waiting
        beat_s = self._shared.session.manifest.current.timings.beat_s
        if not solitude.have(self._number, insist=waited_s > beat_s):
            return None
        if not self._permits(key):
            solitude.give_up(self._number)
            return None
        claim, _ = self.claim(key, alone=True)
        if claim is None:
            solitude.give_up(self._number)
        return claim
