"""Which status objects a worker should try next: the bell, the listing, and the lots that keep workers apart.

    idle:  bell? ──304──► pause, doubling ──► bell? …             now and then, unasked: LIST
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
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from starburst_executor.clock import Backoff, Clock
from starburst_executor.protocol import status
from starburst_executor.protocol.keys import GroupRef
from starburst_executor.protocol.records import Bell
from starburst_executor.protocol.status import SizeClass, State, Status
from starburst_executor.store.session import Group, SessionStore

__all__ = ["Finder"]

# A ring that names more keys than this has left some out: list instead.
_MANY_KEYS = 32
# After so many tries in vain, one after the other, what is known is out of date. A look takes about as long as three
# GETs, and tells of all objects what a GET tells of one.
_STALE = 2


@dataclass(slots=True)
class _Ring:
    """A ring that this worker has not looked after yet, and its chance to do so at the next poll."""

    bell: Bell
    chance: float


class Finder:
    """Candidates for claims, shared by the slots of one worker. Thread-safe but for `step`, which one thread calls."""

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int) -> None:
        self._session = session
        self._clock = clock
        timings = session.manifest.timings
        self._timings = timings
        self._n_slots = n_slots
        self._lock = threading.Lock()  # guards: _candidates, _untouched, _solo, _worked, _ignored, _dry,
        # _n_in_vain, _known
        # Key to about how many tasks are pending there; oldest first.
        self._candidates: dict[str, int] = {}
        # Those of them where nobody had claimed anything yet.
        self._untouched: set[str] = set()
        self._n_in_vain = 0
        # Up to which task objects are known to exist, by submitter.
        self._known: dict[int, int] = {}
        self._solo: dict[str, float] = {}
        self._worked: Counter[str] = Counter()
        self._ignored: set[str] = set()
        self._dry = True
        self.wanted = threading.Event()
        self._bell_etag: str | None = None
        self._ring: _Ring | None = None
        self._backoff = Backoff(clock, timings.bell_min_s, timings.bell_max_s)
        self._next_look = self._looked_at = float("-inf")

    # --- for slots ----------------------------------------------------------------------------------------------------

    def take(self) -> str | None:
        """A key to try, one of the oldest 2W at random, rather an old one; None if none is known (`wanted` is set then).

        Objects that nobody works on come first, those that another slot of this worker works on last: who shares an
        object loses races at every commit. A worker that has all the session's slots competes with nobody else and takes
        the oldest, so that results come in order.
        """
        with self._lock:
            if not self._candidates:
                self.wanted.set()
                return None
            n_all = self._n_all_slots()
            oldest = list(islice(self._candidates, 2 * n_all))
            choices = [key for key in oldest if key not in self._worked] or oldest
            if n_all == self._n_slots:
                return choices[0]
            choices = [key for key in choices if key in self._untouched] or choices
            # The square prefers the oldest, for whose results somebody waits, and still keeps workers apart: of W that
            # choose at once among 2W, about as many collide as if they chose evenly among 1.2 W.
            return choices[int(self._clock.random() ** 2 * len(choices))]

    def begins(self, key: str) -> None:
        """A slot of this worker has a claim on this object."""
        with self._lock:
            self._worked[key] += 1
            self._n_in_vain = 0

    def ends(self, key: str) -> None:
        """That claim is settled."""
        with self._lock:
            self._worked[key] -= 1
            if not self._worked[key]:
                del self._worked[key]

    def saw(self, key: str, seen: Status) -> None:
        """A slot has read or written this object: what is pending there now."""
        max_losses = self._session.manifest.max_losses
        n_pending = sum(e.state == State.PENDING and e.losses < max_losses - 1 for e in seen.entries)
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

    def in_vain(self) -> None:
        """A try has led to no claim, whyever: after some of these in a row another look is cheaper than going on."""
        with self._lock:
            self._n_in_vain += 1
            if self._n_in_vain >= _STALE and self._candidates:
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
            return bool(self._candidates) or bool(self._solo)

    def fair_share(self) -> int:
        """At most so many tasks a slice, so that the others get theirs."""
        return max(1, math.ceil(self._n_pending() / self._n_all_slots()))

    def is_plenty(self, task_s: float) -> bool:
        """Whether there are more pending tasks than slots, so that one claimed ahead is not missed elsewhere.

        A worker that is busy hears nothing, while all slots together take one task each `task_s`. So what it knows is
        believed until by that pace it may be used up; then it looks.

        Store: nothing, mostly; 1 LIST an open epoch when what is known may be used up.
        """
        n_all = self._n_all_slots()
        n_known, age_s = self._n_pending(), self._clock.monotonic() - self._looked_at
        if n_known <= n_all or age_s < self._timings.slice_s or n_known - n_all * age_s / task_s > n_all:
            return n_known > n_all
        self.look()
        return self._n_pending() > n_all

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
        if self._candidates:
            return self._timings.commit_s
        now = self._clock.monotonic()
        has_looked = self._next_look > float("-inf")
        rung = self._session.read_bell(self._bell_etag)
        if rung is not None:
            bell, self._bell_etag = rung
            self._backoff.reset()
            # What a new worker hears is only the last ring before it came: look for the others too.
            self._ring = self._heard(bell if has_looked else Bell())
        if self._has_run_dry():
            self._ring = None  # the bell was read before, so a look sees what was rung for
            self.look()
        elif self._ring is not None:
            if self._clock.random() < self._ring.chance:
                bell, self._ring = self._ring.bell, None
                self._answer(bell)
            else:
                self._ring.chance *= 2
        elif now >= self._next_look:
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
            groups = session.groups(opened)
            found = self._take_in(groups)
        self._looked_at = self._clock.monotonic()
        self._next_look = self._looked_at + self._rest_s()
        session.close_epochs(groups)
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
            for group in groups:
                self._know(group.ref)
            self._n_in_vain = 0
            found = bool(self._candidates)
            self._dry = not found
        return found

    def _answer(self, bell: Bell) -> None:
        if not bell.keys or len(bell.keys) >= _MANY_KEYS:
            self.look()
            return
        parsed = [(key, self._session.keys.parse_group(key)) for key in bell.keys]
        refs = sorted(((ref, key) for key, ref in parsed if ref is not None))
        with self._lock:
            for ref, key in refs:
                # Rings come faster than a worker asks: between what it knows and what this one names may be more.
                self._dry = self._dry and ref.first <= self._known.get(ref.ordinal, 0)
                self._know(ref)
                if key not in self._ignored:
                    self._candidates[key] = ref.n_tasks
                    self._untouched.add(key)
        # The bell is a hint and may have been rung twice: look for oneself soon, but not for each lone task.
        self._next_look = min(self._next_look, self._clock.monotonic() + self._timings.bell_max_s)

    def _know(self, ref: GroupRef) -> None:
        self._known[ref.ordinal] = max(self._known.get(ref.ordinal, 0), ref.first + ref.n_tasks)

    def _has_run_dry(self) -> bool:
        """Whether everything that the last look found has been taken, so that another may find more."""
        with self._lock:
            return not self._dry and not self._candidates

    def _heard(self, bell: Bell) -> _Ring:
        """A ring, with the one before if that was not looked after yet: its tasks may still wait."""
        chance = self._first_chance(bell)
        before = self._ring
        if before is None:
            return _Ring(bell, chance)
        keys = tuple(dict.fromkeys(before.bell.keys + bell.keys)) if before.bell.keys and bell.keys else ()
        return _Ring(Bell(keys, before.bell.n_tasks + bell.n_tasks), max(before.chance, chance))

    def _first_chance(self, bell: Bell) -> float:
        """About as many workers react as are needed."""
        return 1.0 if not bell.keys else min(1.0, self._n_slots * max(1, bell.n_tasks) / self._n_all_slots())

    def _n_pending(self) -> int:
        """About how many tasks are pending, as far as this worker knows."""
        with self._lock:
            return sum(self._candidates.values())

    def _rest_s(self) -> float:
        """Idle workers look unasked, together about once per beat interval."""
        n_workers = max(1, round(self._n_all_slots() / self._n_slots))
        return self._timings.beat_s * n_workers * (0.5 + self._clock.random())

    def _n_all_slots(self) -> int:
        return max(1, self._session.manifest.workers, self._n_slots)
