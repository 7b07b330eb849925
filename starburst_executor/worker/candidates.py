"""The status objects that a worker may claim tasks of, as far as it knows; shared by its slots.

    a listing, a ring ──► candidates ──take: at random, one of the oldest 2W──► trying ──► a claim, or what was seen instead
                               ▲       those first that nobody works on            │
                               └───────────────────────────────────────────────────┘

Nothing here asks the store. Everything here is a hint: what decides is the swap (`worker/claims.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from starburst_executor.clock import Clock
from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import GroupRef
from starburst_executor.protocol.status import SizeClass, State, Status
from starburst_executor.session.store import Group, SessionStore

__all__ = ["Candidates", "Try"]

# After so many tries in vain, one after the other, what is known is out of date. A look takes about as long as three
# GETs, and tells of all objects what a GET tells of one.
_STALE = 2
# So many of all that look for work at the same time try the oldest object.
_FOR_THE_OLDEST = 3


@dataclass(slots=True)
class _Work:
    """How many slots of this worker work on an object, and since when the newest of them does."""

    n_slots: int
    since: float


@dataclass(slots=True)
class Try:
    """What came of one try to claim: what was seen of the object, if it was there and no race was lost, and whether a claim."""

    seen: Status | None = None
    has_claim: bool = False


class Candidates:
    """What may be claimed, and what this worker works on. Thread-safe.

    Attributes:
        wanted: Set when a slot has found nothing to try.
    """

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int) -> None:
        self._session = session
        self._clock = clock
        self._n_slots = n_slots
        self.wanted = threading.Event()
        self._lock = threading.Lock()  # guards all that follows
        # Key to about how many tasks are pending there; oldest first.
        self._pending: dict[str, int] = {}
        # Those of them where nobody had claimed anything yet.
        self._untouched: set[str] = set()
        # Those with a task that waits for a worker of its own, and since when.
        self._solo: dict[str, float] = {}
        # Those on which slots of this worker work.
        self._worked: dict[str, _Work] = {}
        # Those that cannot be read.
        self._ignored: set[str] = set()
        self._n_in_vain = 0
        self._worth_sharing = 1
        self._dry = True

    # --- for slots ----------------------------------------------------------------------------------------------------

    def take(self, *, worth_sharing: int = 1) -> str | None:
        """A key to try, one of the oldest 2W at random, now and then the very oldest; None if none is known (`wanted` is set then).

        Objects that nobody works on come first, those that another slot of this worker works on last: who shares an
        object loses races at every commit. With fewer than `worth_sharing` tasks pending these do not come at all for a
        slice's time. A worker that has all the session's slots competes with nobody else and takes the oldest, so that
        results come in order.
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
            # A few go for the oldest, for whose results somebody waits. If many did they would collide, which costs all more.
            oldest_chance = min(0.5, _FOR_THE_OLDEST / n_all)
            lot = self._clock.random() - oldest_chance
            return choices[0] if lot < 0 else choices[int(lot / (1 - oldest_chance) * len(choices))]

    @contextmanager
    def trying(self, key: str) -> Iterator[Try]:
        """A slot of this worker tries this object, and says in the `Try` what came of that.

        The other slots of this worker know of it from before the claim is written, or they would race for the object. It
        counts as worked on to the end of the try; with a claim until `ends`. One that cannot be read is a candidate no
        more, or every look would lead to it again.
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
        if tried.seen is not None:
            self.saw(key, tried.seen)
        self._came_to(in_vain=not tried.has_claim)

    def begins(self, key: str) -> None:
        """A slot of this worker works on this object until `ends`: it has another claim there."""
        now = self._clock.monotonic()
        with self._lock:
            work = self._worked.get(key)
            self._worked[key] = _Work(1 if work is None else work.n_slots + 1, now)

    def ends(self, key: str) -> None:
        """A slot's claim there is settled."""
        with self._lock:
            work = self._worked[key]
            work.n_slots -= 1
            if not work.n_slots:
                del self._worked[key]

    def saw(self, key: str, seen: Status) -> None:
        """A slot has read or written this object: what is pending there now."""
        max_losses = self._session.manifest.max_losses
        n_pending = sum(e.state == State.PENDING and not status.is_on_last_try(e, max_losses) for e in seen.entries)
        with self._lock:
            was_known = key in self._pending or key in self._solo
            self._untouched.discard(key)
            if status.awaits_solo(seen, max_losses):
                self._solo.setdefault(key, self._clock.monotonic())
            else:
                self._solo.pop(key, None)
            if n_pending:
                if was_known:
                    self._pending[key] = n_pending
            else:
                self._pending.pop(key, None)

    def avoid(self, key: str) -> None:
        """A race for this object was lost, or it is gone: try others first."""
        with self._lock:
            n_tasks = self._pending.pop(key, None)
            if n_tasks is not None and self._pending:
                self._pending[key] = n_tasks
            self._untouched.discard(key)
            # Whoever won may have left some of it: look again once all else has been tried. A lone task is gone.
            self._dry = self._dry and not self._pending and (n_tasks or 0) <= 1

    def has_untouched(self) -> bool:
        """Whether `take` would give another object, one that nobody has claimed anything of as far as is known."""
        with self._lock:
            n_all = self.n_all_slots()
            if n_all == self._n_slots:
                return False
            oldest = islice(self._pending, 2 * n_all)
            return any(key in self._untouched and key not in self._worked for key in oldest)

    def solo(self) -> tuple[str, float] | None:
        """An object with a task that waits for a worker of its own, and for how many seconds it has been seen waiting."""
        with self._lock:
            for key, since in self._solo.items():
                return key, self._clock.monotonic() - since
        return None

    # --- for the finder -----------------------------------------------------------------------------------------------

    def n_all_slots(self) -> int:
        """Slots of all workers of the session, as far as is known."""
        return max(1, self._session.manifest.workers, self._n_slots)

    def n_pending(self, *, surely: bool = False) -> int:
        """About how many tasks are pending, or at least how many, as far as this worker knows."""
        with self._lock:
            if surely:
                return sum(n_tasks if key in self._untouched else 1 for key, n_tasks in self._pending.items())
            return sum(self._pending.values())

    def has_any(self) -> bool:
        """Whether an idle slot should try: something is pending, or a task waits for a worker of its own."""
        with self._lock:
            return bool(self._solo) or any(map(self._is_shared, self._pending))

    def has_offers(self) -> bool:
        """Whether there is something pending that another slot may work on."""
        with self._lock:
            return any(map(self._is_shared, self._pending))

    def has_run_dry(self) -> bool:
        """Whether everything that the last look found has been taken, so that another may find more."""
        with self._lock:
            return not self._dry and not self._pending

    def listed(self, groups: list[Group]) -> bool:
        """Know what a listing says, and nothing else; whether anything is pending."""
        with self._lock:
            # An object on the solo list is listed with pending tasks too. It is no candidate until it is rung for or
            # read again, or every look would lead to a claim of nothing.
            self._pending = {
                g.key: g.ref.n_tasks if g.size_class == SizeClass.ALL_PENDING else max(1, g.ref.n_tasks // 2)
                for g in groups
                if g.size_class.has_pending and g.key not in self._solo and g.key not in self._ignored
            }
            self._solo = {g.key: self._solo[g.key] for g in groups if g.key in self._solo and g.size_class.has_pending}
            self._untouched = {g.key for g in groups if g.size_class == SizeClass.ALL_PENDING}
            self._ignored.intersection_update(g.key for g in groups)
            self._n_in_vain = 0
            self._dry = not self._pending
            return bool(self._pending)

    def rung_for(self, named: Iterable[tuple[GroupRef, str]], n_missed: int) -> None:
        """Know what a ring names. So many other tasks became pending without a ring that was heard: look for them later,
        this worker or another.
        """
        with self._lock:
            self._dry = self._dry and self._clock.random() * self.n_all_slots() >= n_missed * self._n_slots
            for ref, key in named:
                if key not in self._ignored:
                    self._pending[key] = ref.n_tasks
                    self._untouched.add(key)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _is_shared(self, key: str) -> bool:
        """Whether a second slot may work on an object. After a while always: the first may have met a long task."""
        work = self._worked.get(key)
        if work is None or self._pending[key] >= self._worth_sharing:
            return True
        return self._clock.monotonic() - work.since > self._session.manifest.timings.slice_s

    def _ignore(self, key: str) -> None:
        with self._lock:
            self._ignored.add(key)
            self._pending.pop(key, None)
            self._untouched.discard(key)
            self._solo.pop(key, None)

    def _came_to(self, *, in_vain: bool) -> None:
        """After some tries in vain in a row another look is cheaper than going on."""
        with self._lock:
            self._n_in_vain = self._n_in_vain + 1 if in_vain else 0
            # Few that are left are tried sooner than listed.
            if self._n_in_vain >= _STALE and len(self._pending) > _STALE:
                self._pending.clear()
                self._n_in_vain, self._dry = 0, False
