"""The status objects from which a worker may claim tasks, as far as it knows; shared by its slots.

    a listing, a ring ──► candidates ──take: by rank, then at random──► trying ──► a claim, or the object as read
                               ▲   one of the oldest 2W, without a worker  │
                               └───────────────────────────────────────────┘

Tasks of a higher priority come first: `priorities.py`.

This module makes no store requests. Everything in it is a hint: only the swap decides (`worker/claims.py`).
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import SizeClass, State, Status
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore
from starburst_executor.worker.listings import n_pending_of, places_of
from starburst_executor.worker.priorities import Priorities
from starburst_executor.worker.rank import Rank
from starburst_executor.worker.stock import Stock

__all__ = ["Candidates", "Try"]

# After this many consecutive tries in vain the candidates are out of date. A look takes about as long as three GETs, and
# shows for all objects what a GET shows for one.
_STALE = 2
# About this many of the slots that look for work at the same time try the oldest object.
_FOR_THE_OLDEST = 3
# An object that a ring has named is asked for again that often, after this many of the shortest polls and then twice as many
# each time: on S3 after 60, 120 and 240 ms.
_ASKS_AGAIN = 3
_ASKS_AFTER = 1.2
# An object whose tasks wait for their backoff is tried again after this time, even without a ring: other tasks of it may have become pending.
_LATER_S = 30.0


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
        rank: This worker's place among the others.
        wanted: Set when a slot has found no object to try.
    """

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int, stock: Stock | None = None) -> None:
        self._stock = stock or Stock()
        self._session = session
        self._clock = clock
        self._n_slots = n_slots
        self.rank = Rank(n_slots)
        self.wanted = threading.Event()
        # guards: _pending, _places, _n_placed, _known_since, _untouched, _priorities, _on_hold, _limits, _solo, _later, _worked, _ignored, _n_in_vain,
        # _worth_sharing, _dry, _awaited, _taking, _missing
        self._lock = threading.Lock()
        # Key to approximate number of pending tasks, oldest object first; higher priorities before lower ones.
        self._pending: dict[str, int] = {}
        # The numbers of objects that have not ended, in submission order, as all workers see them; those of an object that is only known
        # from a ring follow the last listing.
        self._places: dict[str, int] = {}
        self._n_placed = 0
        # Since when each of them has been a candidate.
        self._known_since: dict[str, float] = {}
        # The objects among them of which no task had been claimed.
        self._untouched: set[str] = set()
        self._priorities = Priorities(clock)
        # Objects that wait for resources of this worker.
        self._on_hold: dict[str, int] = {}
        # The limits of the candidates that have one.
        self._limits: dict[str, str] = {}
        # Objects with a task that waits for a worker to itself, and since when.
        self._solo: dict[str, float] = {}
        # Objects whose pending tasks all wait for their backoff, and when to try them again.
        self._later: dict[str, float] = {}
        # Objects on which slots of this worker work.
        self._worked: dict[str, _Work] = {}
        # Objects that cannot be read.
        self._ignored: set[str] = set()
        self._n_in_vain = 0
        self._worth_sharing = 1
        self._dry = True
        self._awaited: str | None = None
        self._taking: str | None = None
        # Objects that a ring has named and that were not there yet: how often they were asked for, how many tasks they have, and
        # when to ask again.
        self._missing: dict[str, tuple[int, int, float]] = {}

    # --- for slots ----------------------------------------------------------------------------------------------------

    def take(self, *, worth_sharing: int = 1) -> str | None:
        """Return a key to try: of the oldest 2W; None (and set `wanted`) if none is known.

        Objects without a worker come first, objects of another slot of this worker last, because slots that share an object
        lose races at every commit. Of those without a worker, this worker first takes the ones whose turn it is by its rank.
        Otherwise it takes one at random, sometimes the oldest. An object of another slot, or whose turn it is for another worker, with fewer
        than `worth_sharing` pending tasks is not offered for the duration of a slice. A worker that has all the session's slots has no competitor and takes the oldest object,
        so that results come in order. With priorities all this holds among the objects of the highest.
        """
        with self._lock:
            self._worth_sharing = worth_sharing
            self._add_due()
            n_all = self.n_all_slots()
            if (longest := self._priorities.longest_waiting(self._may_take)) is not None:
                return longest
            oldest = list(islice(self._pending, 2 * n_all))
            offered = [*filter(self._is_offered, oldest)]
            choices = [key for key in offered if key not in self._worked] or offered
            if not choices:
                self.wanted.set()
                return None
            if self._priorities:
                highest = self._priorities.level(choices[0])
                choices = [key for key in choices if self._priorities.level(key) == highest]
            if n_all == self._n_slots:
                return choices[0]
            if untouched := [key for key in choices if key in self._untouched]:
                if own := next(filter(self._is_own, untouched), None):
                    return own
                choices = untouched
            # A few slots take the oldest object, since a client waits for its results first. More slots would collide, which
            # costs all of them more.
            oldest_chance = min(0.5, _FOR_THE_OLDEST / n_all)
            draw = self._clock.random() - oldest_chance
            return choices[0] if draw < 0 else self._drawn(choices, draw / (1 - oldest_chance))

    def goes_on(self, key: str) -> bool:
        """Return whether a slot may claim the next tasks of its object: no object of a higher priority is known, and it is not the turn of
        the one that waits for longest. True without priorities.
        """
        with self._lock:
            return self._priorities.goes_on(key, next(iter(self._pending), key))

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
        except ObjectNotFound:
            self._misses(key)
            raise
        except (RecordInvalid, VersionMismatch):
            self._ignore(key)
            raise
        finally:
            if not tried.has_claim:
                self.ends(key)
        if tried.current is not None:
            self.saw(key, tried.current)
        self._came_to(in_vain=not tried.has_claim)
        self._tried(key)

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
        max_losses, now = self._session.manifest.current.max_losses, self._clock.now()
        n_pending, waits = 0, []
        for span in current.spans:
            if span.state == State.PENDING and not transitions.is_on_last_try(span, max_losses):
                until = transitions.waits_until(current, span, now) if span.at else None
                if until is None:
                    n_pending += span.n
                else:
                    waits.append(until - now)
        with self._lock:
            self._later.pop(key, None)
            if waits and not n_pending:
                self._later[key] = self._clock.monotonic() + min(*waits, _LATER_S)
            was_known = key in self._pending or key in self._solo
            self._missing.pop(key, None)
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
                if all(span.has_ended for span in current.spans):
                    self._places.pop(key, None)

    def avoid(self, key: str) -> None:
        """Move an object to the end: a race for it was lost, or it is gone."""
        with self._lock:
            n_tasks = self._pending.pop(key, None)
            if n_tasks is not None and self._pending:
                self._pending[key] = n_tasks
                self._sort()
            self._untouched.discard(key)
            # The winner may have left some of its tasks: look again after all other candidates. A single task is taken.
            self._dry = self._dry and not self._pending and (n_tasks or 0) <= 1

    def is_missing(self, key: str) -> bool:
        """Return whether an object that a ring has named was not there yet, and will be asked for again."""
        with self._lock:
            return key in self._missing

    def needs_of(self, key: str) -> tuple[str, str]:
        """Return the limit and the resources of an object's tasks; empty if they have none."""
        ref = self._session.keys.parse_status(key)
        return ("", "") if ref is None else (ref.limit, ref.resources)

    def hold(self, key: str) -> None:
        """Drop an object whose resources are not free on this worker, until a slot gives some back (`unblock`) or the next look."""
        with self._lock:
            if (n_tasks := self._pending.pop(key, None)) is not None:
                self._on_hold[key] = n_tasks
            self._dry = self._dry or not self._pending

    def unblock(self) -> None:
        """Offer again what waits for resources of this worker."""
        with self._lock:
            for key, n_tasks in self._on_hold.items():
                self._pending.setdefault(key, n_tasks)
            self._on_hold.clear()
            self._sort()

    def block(self, limit: str) -> None:
        """Drop the candidates with this limit, of which no permit is free; a ring or the next look brings them back."""
        with self._lock:
            for key in [key for key in self._pending if self._limits.get(key) == limit]:
                del self._pending[key]
                self._untouched.discard(key)
            # What is left of the last look may all wait for permits: then another look finds nothing else.
            self._dry = self._dry or not self._pending

    def has_own_turn(self) -> bool:
        """Return whether there is an object whose turn it is for this worker, and of which no task has been claimed as far as is known."""
        with self._lock:
            return any(map(self._is_own, self._free()))

    def has_untouched(self, like: str = "") -> bool:
        """Return whether `take` would return an object of which, as far as is known, no task has been claimed.

        Args:
            like: With priorities, only an object of this one's priority counts.
        """
        with self._lock:
            if self.n_all_slots() == self._n_slots:
                return False
            level = self._priorities.level
            return any(not self._priorities or level(key) == level(like) for key in self._free())

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
            self._add_due()
            return bool(self._solo) or any(map(self._is_offered, self._pending))

    def has_offers(self) -> bool:
        """Return whether there is a candidate on which another slot may work."""
        with self._lock:
            self._add_due()
            return any(map(self._is_offered, self._pending))

    def until_later_s(self) -> float:
        """Return the seconds until the next object with tasks that wait for their backoff is a candidate; infinite without one."""
        with self._lock:
            return max(0.0, min(self._later.values(), default=math.inf) - self._clock.monotonic())

    def has_run_dry(self) -> bool:
        """Return whether all candidates of the last look have been taken, so that another look may find more."""
        with self._lock:
            return not self._dry and not any(map(self._is_offered, self._pending))

    def await_try(self, key: str) -> None:
        """Have `wanted` set when the next try at this object ends."""
        with self._lock:
            self._awaited, self._taking = key, None

    def takes(self, key: str, changed: Status) -> None:
        """Record an object with this worker's claim, before it is written: its try has ended if that leaves nothing pending."""
        with self._lock:
            if key == self._awaited and not transitions.has_pending(changed, self._clock.now()):
                self._awaited, self._taking = None, key
                self.wanted.set()

    def has_taken(self, key: str) -> bool | None:
        """Return whether this worker claims the last pending tasks of an object; None if it has not tried yet."""
        with self._lock:
            is_worked, is_pending = key in self._worked, key in self._pending
            return None if self._awaited == key else self._taking == key or (is_worked and not is_pending)

    def recall(self) -> float | None:
        """Offer objects that were missing again if it is time; return in how many seconds to call again, None for never."""
        now, due = self._clock.monotonic(), []
        with self._lock:
            for key, (_, n_tasks, due_at) in self._missing.items():
                if key in self._pending:
                    continue
                if due_at <= now:
                    self._pending[key] = n_tasks
                    self._untouched.add(key)
                    self._sort()
                else:
                    due.append(due_at - now)
        return min(due, default=None)

    def replace_by(self, listing: list[ListedStatus]) -> bool:
        """Replace the candidates by those of a listing; return whether there are any."""
        with self._lock:
            # An object on the solo list has pending tasks in the listing too. It becomes a candidate only after a ring or
            # another read; otherwise every look would lead to a claim without tasks.
            self._later = {
                g.key: self._later[g.key] for g in listing if g.key in self._later and g.size_class.has_pending
            }
            self._pending = {
                g.key: g.ref.n_tasks if g.size_class == SizeClass.ALL_PENDING else n_pending_of(g)
                for g in listing
                if g.size_class.has_pending
                and g.key not in self._solo
                and g.key not in self._later
                and g.key not in self._ignored
                and self._stock.can_ever(g.ref.resources)
            }
            self._on_hold = {
                g.key: self._pending.pop(g.key)
                for g in listing
                if g.key in self._pending and not self._stock.fits(g.ref.resources)
            }
            known = self._pending.keys() | self._on_hold.keys()
            self._limits = {g.key: g.ref.limit for g in listing if g.ref.limit and g.key in known}
            self._priorities.replace_by(listing, known)
            self._sort()
            self._solo = {g.key: self._solo[g.key] for g in listing if g.key in self._solo and g.size_class.has_pending}
            self._untouched = {g.key for g in listing if g.size_class == SizeClass.ALL_PENDING}
            self._ignored.intersection_update(g.key for g in listing)
            self._missing.clear()
            places = places_of(listing)
            self._n_placed = 1 + max(places.values(), default=-1)
            # An epoch stays open, and is listed, long after most of its objects have ended.
            self._places = {g.key: places[g.key] for g in listing if not g.size_class.has_ended}
            self._n_in_vain = 0
            now, before = self._clock.monotonic(), self._known_since
            self._known_since = {key: before.get(key, now) for key in (*self._pending, *self._on_hold)}
            self._dry = not any(map(self._is_offered, self._pending))
            return bool(self._pending)

    def rung_for(self, named: Iterable[tuple[StatusRef, str]], n_missed: int) -> None:
        """Add the objects that a ring names.

        `n_missed` other tasks became pending in rings that this worker missed: it or another worker looks for them later.
        """
        with self._lock:
            self._dry = self._dry and self._clock.random() * self.n_all_slots() >= n_missed * self._n_slots
            for ref, key in named:
                if key not in self._ignored and self._stock.can_ever(ref.resources):
                    self._add(key, ref.n_tasks)
                    self._untouched.add(key)
                    self._missing.pop(key, None)
            self._sort()

    def has_priorities(self) -> bool:
        """Return whether a candidate has a priority, as far as is known."""
        with self._lock:
            return bool(self._priorities)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _drawn(self, choices: list[str], draw: float) -> str:
        """Return one of these objects by a number from 0 to 1: each is as likely as it has pending tasks, or as another one if no task of
        them was claimed: small ones are then the oldest.
        """
        if choices[0] in self._untouched:
            return choices[int(draw * len(choices))]
        ends = [*accumulate(self._pending[key] for key in choices)]
        return choices[min(bisect_right(ends, draw * ends[-1]), len(choices) - 1)]

    def _free(self) -> Iterator[str]:
        """Yield those of the oldest objects of which, as far as is known, no task has been claimed. Called with the lock held."""
        oldest = islice(self._pending, 2 * self.n_all_slots())
        return (key for key in oldest if key in self._untouched and key not in self._worked and self._is_offered(key))

    def _is_own(self, key: str) -> bool:
        """Return whether it is this worker's turn at an object."""
        return self.rank.has(self._places.get(key, -1), self.n_all_slots())

    def _add(self, key: str, n_tasks: int) -> None:
        if key not in self._places:
            self._places[key], self._n_placed = self._n_placed, self._n_placed + 1
        self._pending[key] = n_tasks
        self._known_since.setdefault(key, self._clock.monotonic())
        ref = self._session.keys.parse_status(key)
        if ref is not None and ref.priority:
            self._priorities.add(key, ref.priority)
        if ref is not None and ref.limit:
            self._limits[key] = ref.limit

    def _add_due(self) -> None:
        """Make those objects candidates whose tasks have waited for their backoff. Called with the lock held."""
        if self._later:
            now = self._clock.monotonic()
            due = [key for key, at in self._later.items() if at <= now]
            for key in due:
                del self._later[key]
                self._add(key, 1)
            if due:
                self._sort()

    def _is_offered(self, key: str) -> bool:
        """Return whether a slot may try an object of another slot, or one whose turn it is for another worker: always after some time,
        since that one may run a long task.
        """
        work = self._worked.get(key)
        if self._pending[key] >= self._worth_sharing or (work is None and not self._is_of_another(key)):
            return True
        since = self._known_since.get(key, float("-inf")) if work is None else work.since
        return self._clock.monotonic() - since > self._session.manifest.current.timings.slice_s

    def _is_of_another(self, key: str) -> bool:
        """Return whether another worker has tasks of an object, or its turn at it."""
        n_all = self.n_all_slots()
        if n_all == self._n_slots or not self.rank.is_whole(n_all):
            return False
        return key not in self._untouched or not self._is_own(key)

    def _misses(self, key: str) -> None:
        """Record that an object is not there: a client rings for a few tasks while it writes them. So ask again, three times."""
        timings = self._session.manifest.current.timings
        with self._lock:
            n_asked, n_tasks, _ = self._missing.pop(key, (0, self._pending.get(key, 1), 0.0))
            self._pending.pop(key, None)
            self._untouched.discard(key)
            if n_asked < _ASKS_AGAIN:
                due_at = self._clock.monotonic() + _ASKS_AFTER * timings.bell_min_s * 2**n_asked
                self._missing[key] = (n_asked + 1, n_tasks, due_at)
        self.wanted.set()

    def _sort(self) -> None:
        """Put objects of higher priorities first, and leave the order of others as it is."""
        self._pending = self._priorities.in_order(self._pending)

    def _may_take(self, key: str) -> bool:
        """Return whether an object is a candidate for a further slot."""
        return key in self._pending and (key not in self._worked or self._is_offered(key))

    def _ignore(self, key: str) -> None:
        with self._lock:
            self._ignored.add(key)
            self._pending.pop(key, None)
            self._untouched.discard(key)
            self._solo.pop(key, None)
            self._later.pop(key, None)

    def _tried(self, key: str) -> None:
        with self._lock:
            if key == self._awaited and key not in self._missing:
                self._awaited = None
                self.wanted.set()

    def _came_to(self, *, in_vain: bool) -> None:
        """Record whether a try was in vain: after `_STALE` consecutive ones, a look is cheaper than another try."""
        with self._lock:
            self._n_in_vain = self._n_in_vain + 1 if in_vain else 0
            # Trying the last few candidates takes less time than a listing.
            if self._n_in_vain >= _STALE and len(self._pending) > _STALE:
                self._pending.clear()
                self._priorities.clear()
                self._n_in_vain, self._dry = 0, False
