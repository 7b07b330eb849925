"""Which status objects a worker should try next: the bell, the listing, and the lots that keep workers apart.

    idle:  bell? ──304──► pause, growing ──► bell? …             now and then, unasked: LIST
             │ rung
             ▼
           candidates ──take: at random, one of the oldest 2W──► claim ──nothing pending──► forget it
             ▲          those first that nobody works on                       │ none left, or in vain
             └──────────────────────── LIST open epochs ◄──────────────────────┘ three times in a row

Everything here is a hint. What decides is the swap (`worker/claims.py`).
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from itertools import islice

from starburst_executor.clock import Backoff, Clock
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import GroupRef
from starburst_executor.protocol.records import Bell
from starburst_executor.protocol.status import SizeClass, State, Status
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.store import Group, SessionStore

__all__ = ["Finder"]

# A ring that names more keys than this has left some out: list instead.
_MANY_KEYS = 32
# After so many tries in vain, one after the other, what is known is out of date. A look takes about as long as three
# GETs, and tells of all objects what a GET tells of one.
_STALE = 2
# So many of all that look for work at the same time try the oldest object.
_FOR_THE_OLDEST = 3
# An idle worker's pauses grow to about half the time that it has been idle: work that comes soon after work is found soon,
# and to get from 50 ms to a second takes seven questions.
_GROWTH = 1.75


@dataclass(slots=True)
class _Ring:
    """A ring that this worker has not looked after yet, its chance to do so at the next poll, and how many more tasks than
    are told of have become pending since this worker last heard of any.
    """

    bell: Bell
    chance: float
    n_missed: int


@dataclass(slots=True)
class _Work:
    """How many slots of this worker work on an object, and since when the newest of them does."""

    n_slots: int
    since: float


class Finder:
    """Candidates for claims, shared by the slots of one worker. Thread-safe but for `step`, which one thread calls."""

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int) -> None:
        self._session = session
        self._clock = clock
        timings = session.manifest.timings
        self._timings = timings
        self._n_slots = n_slots
        self._lock = threading.Lock()  # guards all from here to _dry
        # Key to about how many tasks are pending there; oldest first.
        self._candidates: dict[str, int] = {}
        # Those of them where nobody had claimed anything yet.
        self._untouched: set[str] = set()
        self._n_in_vain = 0
        self._worth_sharing = 1
        # Up to which task objects are known to exist, by submitter.
        self._known: dict[int, int] = {}
        self._solo: dict[str, float] = {}
        self._worked: dict[str, _Work] = {}
        self._ignored: set[str] = set()
        self._dry = True
        self.wanted = threading.Event()
        self._bell_etag: str | None = None
        self._ring: _Ring | None = None
        self._backoff = Backoff(clock, timings.bell_min_s, timings.bell_max_s, growth=_GROWTH)
        self._next_look = self._looked_at = float("-inf")

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
            n_all = self._n_all_slots()
            oldest = list(islice(self._candidates, 2 * n_all))
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

    def _is_shared(self, key: str) -> bool:
        """Whether a second slot may work on an object. After a while always: the first may have met a long task."""
        work = self._worked.get(key)
        if work is None or self._candidates[key] >= self._worth_sharing:
            return True
        return self._clock.monotonic() - work.since > self._timings.slice_s

    def begins(self, key: str) -> None:
        """A slot of this worker tries this object; if it gets a claim there, until that is settled."""
        now = self._clock.monotonic()
        with self._lock:
            work = self._worked.get(key)
            self._worked[key] = _Work(1 if work is None else work.n_slots + 1, now)

    def ends(self, key: str) -> None:
        """That try was in vain, or that claim is settled."""
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
            was_known = key in self._candidates or key in self._solo
            self._untouched.discard(key)
            if status.awaits_solo(seen, max_losses):
                self._solo.setdefault(key, self._clock.monotonic())
            else:
                self._solo.pop(key, None)
            if n_pending:
                if was_known:
                    self._candidates[key] = n_pending
            else:
                self._candidates.pop(key, None)

    def avoid(self, key: str) -> None:
        """A race for this object was lost, or it is gone: try others first."""
        with self._lock:
            n_tasks = self._candidates.pop(key, None)
            if n_tasks is not None and self._candidates:
                self._candidates[key] = n_tasks
            self._untouched.discard(key)
            # Whoever won may have left some of it: look again once all else has been tried. A lone task is gone.
            self._dry = self._dry and not self._candidates and (n_tasks or 0) <= 1

    def tried(self, *, in_vain: bool) -> None:
        """A try has led to a claim or not: after some in vain in a row another look is cheaper than going on."""
        with self._lock:
            self._n_in_vain = self._n_in_vain + 1 if in_vain else 0
            # Few that are left are tried sooner than listed.
            if self._n_in_vain >= _STALE and len(self._candidates) > _STALE:
                self._candidates.clear()
                self._n_in_vain, self._dry = 0, False

    def ignore(self, key: str) -> None:
        """This object cannot be read: no candidate any more, or every look would lead to it again."""
        with self._lock:
            self._ignored.add(key)
            self._candidates.pop(key, None)
            self._untouched.discard(key)
            self._solo.pop(key, None)

    def has_candidates(self) -> bool:
        """Whether an idle slot should try: something is pending, or a task waits for a worker of its own."""
        with self._lock:
            return bool(self._solo) or self._has_offers()

    def has_untouched(self) -> bool:
        """Whether `take` would give another object, one that nobody has claimed anything of as far as is known."""
        with self._lock:
            n_all = self._n_all_slots()
            if n_all == self._n_slots:
                return False
            oldest = islice(self._candidates, 2 * n_all)
            return any(key in self._untouched and key not in self._worked for key in oldest)

    def fair_share(self) -> int:
        """At most so many tasks a slice, so that the others get theirs."""
        return max(1, math.ceil(self._n_pending() / self._n_all_slots()))

    def is_plenty(self, task_s: float, *, surely: bool = False) -> bool:
        """Whether there are more pending tasks than slots, so that one claimed ahead is not missed elsewhere.

        A worker that is busy hears nothing, while each slot of the others takes a task every `task_s`. So what it knows is
        believed until by that pace it may be used up, or has turned out to be; then it looks.

        Args:
            surely: Count one task for an object that others work on; otherwise half of its tasks. Of tasks that take long
                one too many claimed ahead is one that an idle worker would have begun sooner.

        Store: nothing, mostly; 1 LIST an open epoch when what is known may be used up.
        """
        n_all = self._n_all_slots()
        n_known, age_s = self._n_pending(surely), self._clock.monotonic() - self._looked_at
        n_gone = (n_all - self._n_slots) * age_s / task_s
        is_old = age_s >= self._timings.slice_s and n_known > n_all >= n_known - n_gone
        if is_old or self._has_run_dry():
            self.look()
        return self._n_pending(surely) > n_all

    def solo(self) -> tuple[str, float] | None:
        """An object with a task that waits for a worker of its own, and for how many seconds it has been seen waiting."""
        with self._lock:
            for key, since in self._solo.items():
                return key, self._clock.monotonic() - since
        return None

    # --- for the agent ------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """One turn of a worker with an idle slot: poll the bell, look if it is time; how long to pause then, in seconds.

        Store: 1 GET, mostly a 304; sometimes 1 LIST an open epoch. Nothing while candidates are known: the slots try them,
        and want more once they have.
        """
        self.wanted.clear()
        with self._lock:
            if self._has_offers():
                return self._timings.commit_s
        now = self._clock.monotonic()
        has_looked = self._next_look > float("-inf")
        rung = self._session.read_bell(self._bell_etag)
        if rung is not None:
            bell, self._bell_etag = rung
            self._backoff.reset()
            # What a new worker hears is only the last ring before it came: look for the others too.
            self._ring = self._heard(bell if has_looked else Bell())
        if self._ring is not None:
            if self._clock.random() < self._ring.chance:
                ring, self._ring = self._ring, None
                self._answer(ring)
            else:
                self._ring.chance *= 2
        elif now >= self._next_look or self._has_run_dry():
            self.look()
        if self._candidates:
            self._backoff.reset()
        return self._backoff.next_s()

    def look(self) -> bool:
        """List all open epochs for pending tasks; whether there are any.

        Store: 1 LIST an open epoch; 1 GET if nothing is found, and the LISTs again if epochs were opened meanwhile.
        """
        session = self._session
        listed = session.manifest.open_epochs()
        groups = session.groups(listed)
        found = self._take_in(groups)
        if not found and (opened := session.refresh().open_epochs()) != listed:
            listed = opened
            groups = session.groups(opened)
            found = self._take_in(groups)
        self._looked_at = self._clock.monotonic()
        self._next_look = self._looked_at + self._rest_s()
        close_epochs(session, groups, listed)
        return found

    def _take_in(self, groups: list[Group]) -> bool:
        """Know what a listing says; whether anything is pending."""
        with self._lock:
            # An object on the solo list is listed with pending tasks too. It is no candidate until it is rung for or
            # read again, or every look would lead to a claim of nothing.
            self._candidates = {
                g.key: g.ref.n_tasks if g.size_class == SizeClass.ALL_PENDING else max(1, g.ref.n_tasks // 2)
                for g in groups
                if g.size_class.has_pending and g.key not in self._solo and g.key not in self._ignored
            }
            self._solo = {g.key: self._solo[g.key] for g in groups if g.key in self._solo and g.size_class.has_pending}
            self._untouched = {g.key for g in groups if g.size_class == SizeClass.ALL_PENDING}
            self._ignored.intersection_update(g.key for g in groups)
            for group in groups:
                self._know(group.ref)
            self._n_in_vain = 0
            found = bool(self._candidates)
            self._dry = not found
        return found

    def _answer(self, ring: _Ring) -> None:
        bell, n_all = ring.bell, self._n_all_slots()
        # Rings come faster than a worker asks: what it missed is as likely to be still there as what it is told of.
        is_told = self._clock.random() * (bell.n_tasks + ring.n_missed) >= ring.n_missed
        if not bell.keys or len(bell.keys) >= _MANY_KEYS or not is_told:
            self.look()
            return
        with self._lock:
            self._dry = self._dry and self._clock.random() * n_all >= ring.n_missed * self._n_slots
            for ref, key in self._refs(bell):
                if key not in self._ignored:
                    self._candidates[key] = ref.n_tasks
                    self._untouched.add(key)
        # The bell is a hint and may have been rung twice: look for oneself soon, but not for each lone task.
        self._next_look = min(self._next_look, self._clock.monotonic() + self._timings.bell_max_s)

    def _refs(self, bell: Bell) -> list[tuple[GroupRef, str]]:
        """What a ring names, oldest first."""
        parsed = [(self._session.keys.parse_group(key), key) for key in bell.keys]
        return sorted((ref, key) for ref, key in parsed if ref is not None)

    def _has_offers(self) -> bool:
        return any(map(self._is_shared, self._candidates))

    def _know(self, ref: GroupRef) -> None:
        self._known[ref.ordinal] = max(self._known.get(ref.ordinal, 0), ref.first + ref.n_tasks)

    def _has_run_dry(self) -> bool:
        """Whether everything that the last look found has been taken, so that another may find more."""
        with self._lock:
            return not self._dry and not self._candidates

    def _heard(self, bell: Bell) -> _Ring:
        """A ring, with the one before if that was not looked after yet: its tasks may still wait."""
        n_missed = 0
        with self._lock:
            for ref, _ in self._refs(bell):
                n_missed += max(0, ref.first - self._known.get(ref.ordinal, 0))
                self._know(ref)
        # About as many workers react as are needed.
        n_tasks = max(1, bell.n_tasks + n_missed)
        chance = 1.0 if not bell.keys else min(1.0, self._n_slots * n_tasks / self._n_all_slots())
        before = self._ring
        if before is None:
            return _Ring(bell, chance, n_missed)
        keys = tuple(dict.fromkeys(before.bell.keys + bell.keys)) if before.bell.keys and bell.keys else ()
        both = Bell(keys, before.bell.n_tasks + bell.n_tasks)
        return _Ring(both, max(before.chance, chance), before.n_missed + n_missed)

    def _n_pending(self, surely: bool = False) -> int:
        """About how many tasks are pending, or at least how many, as far as this worker knows."""
        with self._lock:
            if surely:
                return sum(n_tasks if key in self._untouched else 1 for key, n_tasks in self._candidates.items())
            return sum(self._candidates.values())

    def _rest_s(self) -> float:
        """Idle workers look unasked, together about once per beat interval."""
        n_workers = max(1, round(self._n_all_slots() / self._n_slots))
        return self._timings.beat_s * n_workers * (0.5 + self._clock.random())

    def _n_all_slots(self) -> int:
        return max(1, self._session.manifest.workers, self._n_slots)
