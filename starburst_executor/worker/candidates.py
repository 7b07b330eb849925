"""The status objects from which a worker may claim tasks, as far as it knows; shared by its slots.

    a listing, a ring ──► candidates ──take: at random, one of the oldest 2W──► trying ──► a claim, or the object as read
                               ▲       objects without a worker first              │
                               └───────────────────────────────────────────────────┘

This module makes no store requests. Everything in it is a hint: only the swap decides (`worker/claims.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from starburst_executor.clock import Clock
from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import SizeClass, State, Status
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore

__all__ = ["Candidates", "Try"]

# After this many consecutive tries in vain the candidates are out of date. A look takes about as long as three GETs, and
# shows for all objects what a GET shows for one.
_STALE = 2
# About this many of the slots that look for work at the same time try the oldest object.
_FOR_THE_OLDEST = 3


@dataclass(slots=True)
class _Work:
    """The number of this worker's slots that work on an object, and when the latest of them began."""

    n_slots: int
    since: float


@dataclass(slots=True)
class Try:
    """The result of one try to claim: the object as read or written, None if it is gone or a race was lost; and whether there is
    a claim.
    """

    current: Status | None = None
    has_claim: bool = False


class Candidates:
    """The objects that may have pending tasks, and those on which this worker works. Thread-safe.

    Attributes:
        wanted: Set when a slot has found no object to try.
    """

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int) -> None:
        self._session = session
        self._clock = clock
        self._n_slots = n_slots
        self.wanted = threading.Event()
        # guards: _pending, _untouched, _solo, _worked, _ignored, _n_in_vain, _worth_sharing, _dry
        self._lock = threading.Lock()
        # Key to approximate number of pending tasks, oldest object first.
        self._pending: dict[str, int] = {}
        # The objects among them of which no task had been claimed.
        self._untouched: set[str] = set()
        # Objects with a task that waits for a worker to itself, and since when.
        self._solo: dict[str, float] = {}
        # Objects on which slots of this worker work.
        self._worked: dict[str, _Work] = {}
        # Objects that cannot be read.
        self._ignored: set[str] = set()
        self._n_in_vain = 0
        self._worth_sharing = 1
        self._dry = True

    # --- for slots ----------------------------------------------------------------------------------------------------

    def take(self, *, worth_sharing: int = 1) -> str | None:
        """Return a key to try: a random one of the oldest 2W, sometimes the oldest; None (and set `wanted`) if none is known.

        Objects without a worker come first, objects of another slot of this worker last, because slots that share an object
        lose races at every commit. An object of another slot with fewer than `worth_sharing` pending tasks is not offered
        for the duration of a slice. A worker that has all the session's slots has no competitor and takes the oldest object,
        so that results come in order.
        """
        with self._lock:
            self._worth_sharing = worth_sharing
            n_all = self.n_all_slots()
            oldest = list(islice(self._pending, 2 * n_all))
            choices = [key for key in oldest if key not in self._worked] or [*filter(self._is_shared, oldest)]
            if not choices:
                self.wanted.set()
                return None
            if n_all == self._n_slots:
                return choices[0]
            choices = [key for key in choices if key in self._untouched] or choices
            # A few slots take the oldest object, since a client waits for its results first. More slots would collide, which
            # costs all of them more.
            oldest_chance = min(0.5, _FOR_THE_OLDEST / n_all)
            draw = self._clock.random() - oldest_chance
            return choices[0] if draw < 0 else choices[int(draw / (1 - oldest_chance) * len(choices))]

    @contextmanager
    def trying(self, key: str) -> Iterator[Try]:
        """Context of one try by a slot of this worker, which records the result in the `Try`.

        The try is known to the other slots before the claim is written; otherwise they would race for the object. The slot
        counts as working on the object until the end of the try, or with a claim until `ends`. An object that cannot be read
        is no longer a candidate; otherwise every look would lead to it again.
        """
        self.begins(key)
        tried = Try()
        try:
            yield tried
        except (RecordInvalid, VersionMismatch):
            self._ignore(key)
            raise
        finally:
            if not tried.has_claim:
                self.ends(key)
        if tried.current is not None:
            self.saw(key, tried.current)
        self._came_to(in_vain=not tried.has_claim)

    def begins(self, key: str) -> None:
        """Record that a slot of this worker works on this object until `ends`: it has another claim on it."""
        now = self._clock.monotonic()
        with self._lock:
            work = self._worked.get(key)
            self._worked[key] = _Work(1 if work is None else work.n_slots + 1, now)

    def ends(self, key: str) -> None:
        """Record that a slot's claim on this object is settled."""
        with self._lock:
            work = self._worked[key]
            work.n_slots -= 1
            if not work.n_slots:
                del self._worked[key]

    def saw(self, key: str, current: Status) -> None:
        """Record an object that a slot has read or written: how many of its tasks are pending."""
        max_losses = self._session.manifest.current.max_losses
        n_pending = sum(
            span.n
            for span in current.spans
            if span.state == State.PENDING and not transitions.is_on_last_try(span, max_losses)
        )
        with self._lock:
            was_known = key in self._pending or key in self._solo
            self._untouched.discard(key)
            if transitions.awaits_solo(current, max_losses):
                self._solo.setdefault(key, self._clock.monotonic())
            else:
                self._solo.pop(key, None)
            if n_pending:
                if was_known:
                    self._pending[key] = n_pending
            else:
                self._pending.pop(key, None)

    def avoid(self, key: str) -> None:
        """Move an object to the end: a race for it was lost, or it is gone."""
        with self._lock:
            n_tasks = self._pending.pop(key, None)
            if n_tasks is not None and self._pending:
                self._pending[key] = n_tasks
            self._untouched.discard(key)
            # The winner may have left some of its tasks: look again after all other candidates. A single task is taken.
            self._dry = self._dry and not self._pending and (n_tasks or 0) <= 1

    def has_untouched(self) -> bool:
        """Return whether `take` would return an object of which, as far as is known, no task has been claimed."""
        with self._lock:
            n_all = self.n_all_slots()
            if n_all == self._n_slots:
                return False
            oldest = islice(self._pending, 2 * n_all)
            return any(key in self._untouched and key not in self._worked for key in oldest)

    def solo(self) -> tuple[str, float] | None:
        """Return an object with a task that waits for a worker to itself, and for how many seconds it is known to wait."""
        with self._lock:
            for key, since in self._solo.items():
                return key, self._clock.monotonic() - since
        return None

    # --- for the finder -----------------------------------------------------------------------------------------------

    def n_all_slots(self) -> int:
        """Return the number of slots of all workers of the session, as far as is known."""
        return max(1, self._session.manifest.current.slots, self._n_slots)

    def n_pending(self, *, surely: bool = False) -> int:
        """Return about how many tasks are pending as far as this worker knows; with `surely` the least number."""
        with self._lock:
            if surely:
                return sum(n_tasks if key in self._untouched else 1 for key, n_tasks in self._pending.items())
            return sum(self._pending.values())

    def has_any(self) -> bool:
        """Return whether an idle slot should try: there are candidates, or a task waits for a worker to itself."""
        with self._lock:
            return bool(self._solo) or any(map(self._is_shared, self._pending))

    def has_offers(self) -> bool:
        """Return whether there is a candidate on which another slot may work."""
        with self._lock:
            return any(map(self._is_shared, self._pending))

    def has_run_dry(self) -> bool:
        """Return whether all candidates of the last look have been taken, so that another look may find more."""
        with self._lock:
            return not self._dry and not self._pending

    def replace_by(self, listing: list[ListedStatus]) -> bool:
        """Replace the candidates by those of a listing; return whether there are any."""
        with self._lock:
            # An object on the solo list has pending tasks in the listing too. It becomes a candidate only after a ring or
            # another read; otherwise every look would lead to a claim without tasks.
            self._pending = {
                g.key: g.ref.n_tasks if g.size_class == SizeClass.ALL_PENDING else _about(g)
                for g in listing
                if g.size_class.has_pending and g.key not in self._solo and g.key not in self._ignored
            }
            self._solo = {g.key: self._solo[g.key] for g in listing if g.key in self._solo and g.size_class.has_pending}
            self._untouched = {g.key for g in listing if g.size_class == SizeClass.ALL_PENDING}
            self._ignored.intersection_update(g.key for g in listing)
            self._n_in_vain = 0
            self._dry = not self._pending
            return bool(self._pending)

    def rung_for(self, named: Iterable[tuple[StatusRef, str]], n_missed: int) -> None:
        """Add the objects that a ring names.

        `n_missed` other tasks became pending in rings that this worker missed: it or another worker looks for them later.
        """
        with self._lock:
            self._dry = self._dry and self._clock.random() * self.n_all_slots() >= n_missed * self._n_slots
            for ref, key in named:
                if key not in self._ignored:
                    self._pending[key] = ref.n_tasks
                    self._untouched.add(key)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_shared(self, key: str) -> bool:
        """Return whether a second slot may work on an object; always after some time, since the first may run a long task."""
        work = self._worked.get(key)
        if work is None or self._pending[key] >= self._worth_sharing:
            return True
        return self._clock.monotonic() - work.since > self._session.manifest.current.timings.slice_s

    def _ignore(self, key: str) -> None:
        with self._lock:
            self._ignored.add(key)
            self._pending.pop(key, None)
            self._untouched.discard(key)
            self._solo.pop(key, None)

    def _came_to(self, *, in_vain: bool) -> None:
        """Record whether a try was in vain: after `_STALE` consecutive ones, a look is cheaper than another try."""
        with self._lock:
            self._n_in_vain = self._n_in_vain + 1 if in_vain else 0
            # Trying the last few candidates takes less time than a listing.
            if self._n_in_vain >= _STALE and len(self._pending) > _STALE:
                self._pending.clear()
                self._n_in_vain, self._dry = 0, False


def _about(listed: ListedStatus) -> int:
    """Return about how many tasks of an object are pending: a listing shows their number to within a factor of 2."""
    return max(1, min(listed.ref.n_tasks - 1, 2 << 2 * max(0, listed.order - 1)))
