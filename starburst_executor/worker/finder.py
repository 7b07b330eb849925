"""Finds status objects that a worker may try: by the bell and by listings, at random times, to spread the workers.

idle:  bell? ──304──► pause, growing ──► bell? …             periodically, without a ring: LIST
         │ rung       for many tasks: LIST; for some: by chance; for one object: by rank, if no other has answered
         ▼
       candidates ──take──► claim ──nothing pending──► forget it     (`worker/candidates.py`)
         ▲                                 │ none left, or in vain
         └────── LIST open epochs ◄────────┘ twice in a row
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from starburst_executor.clock import Backoff, Clock
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import Bell
from starburst_executor.session.dependencies import Dependencies
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import READ, Urgency
from starburst_executor.worker.candidates import Candidates
from starburst_executor.worker.stock import Stock

__all__ = ["Finder"]

# A ring that names this many keys may have omitted some: list instead.
_MANY_KEYS = 32
# An idle worker's pauses grow to about a fifth of the time that it has been idle, so that work that follows soon is found soon.
# It takes twelve polls to get from 50 ms to a second.
_GROWTH = 1.2
# The oldest workers, with this many slots, begin with the shortest pause after work, the others with a multiple of it: on S3 0.2 s.
# The first objects of a burst are theirs; by the time that the others hear of it, the client has sent more.
_QUICK_SLOTS = 8
_SLOW_POLLS = 3.0
# In a session with priorities a worker claims by a listing that is at most this many slices old: 2 s on S3, where a busy worker
# then makes up to 1,800 LISTs an hour, $0.009.
_FRESH_SLICES = 2.0
# A worker waits for its turn at a lone ring for this many of the shortest polls at each doubling of its rank: on S3 60 ms, a
# request. So the first has claimed the task, and said so, before most others would read the object.
_TURN_POLLS = 2.0
# About this many slots look for the task of a lone ring that another lone ring follows before it was their turn.
_LOOK_AFTER = 2
# With fewer pending tasks than this for each slot, a run is near its end.
_NEAR_END = 2
# A worker that has answered a lone ring answers those of this time without waiting: it polls often, and has the function.
_FAVOURED_S = 5.0


@dataclass(slots=True)
class _Ring:
    """A ring that this worker has not answered yet.

    Attributes:
        chance: The probability of answering it at the next poll.
        n_missed: Tasks that became pending since the last known ring and that this ring does not name.
        due_at: When it is this worker's turn to answer a lone ring; None if chance decides.
    """

    bell: Bell
    chance: float
    n_missed: int
    due_at: float | None = None


class _Frontier:
    """By submitter, the sequence number up to which status objects are known. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _known
        self._known: dict[int, int] = {}

    def know(self, refs: Iterable[StatusRef]) -> int:
        """Record that these objects exist; return how many tasks in earlier objects of their submitters were not known."""
        n_missed = 0
        with self._lock:
            for ref in refs:
                known = self._known.get(ref.ordinal, 0)
                n_missed += max(0, ref.first - known)
                self._known[ref.ordinal] = max(known, ref.first + ref.n_tasks)
        return n_missed


class Finder:
    """Finds candidates for claims. One thread calls `step`; any thread may call the other methods.

    Attributes:
        candidates: The objects that it has found.
        dependencies: The tasks that wait for others, as far as it has seen them.
    """

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int, stock: Stock | None = None) -> None:
        self._session = session.at(Urgency.CLAIM)
        self._clock = clock
        timings = session.manifest.current.timings
        self._timings = timings
        self._n_slots = n_slots
        self.candidates = Candidates(session, clock, n_slots, stock)
        self.dependencies = Dependencies(self._session)
        self._frontier = _Frontier()
        self._bell_etag: str | None = None
        self._ring: _Ring | None = None
        self._claimed: tuple[str, str] | None = None  # a lone ring that it answers: object, ETag
        self._favoured_until = float("-inf")
        self._pause_s = 0.0  # the last pause, without regard to the store's load
        self._offered_at = clock.monotonic()  # when this worker last had work, or candidates
        self._backoff = Backoff(clock, timings.bell_min_s, timings.bell_max_s, growth=_GROWTH)
        self._next_look = self._looked_at = self._answered_at = float("-inf")
        self._knows_priorities = False  # it has looked since it learned that there are any

    # --- for slots ----------------------------------------------------------------------------------------------------

    def fair_share(self, task_s: float | None = None) -> int:
        """Return the most tasks for a slice, so that other slots get their share.

        A busy worker does not poll, so its count of pending tasks is of its last look. While its own count and what the others
        should have left at their rate differ by a factor of two, it looks again; so it makes a LIST for each time by which
        the tasks halve.

        Args:
            task_s: The expected duration of a task in seconds; None if unknown.

        Store: usually nothing; 1 LIST an open epoch when the count is out of date.
        """
        return max(1, math.ceil(self._n_pending(task_s) / self.candidates.n_all_slots()))

    def is_near_end(self, task_s: float) -> bool:
        """Return whether so few tasks are pending that those of a slot's own object would have started sooner on idle workers.

        Args:
            task_s: The expected duration of a task in seconds.

        Store: as `fair_share`.
        """
        return self._n_pending(task_s) <= _NEAR_END * self.candidates.n_all_slots()

    def is_plenty(self, task_s: float, *, surely: bool = False) -> bool:
        """Return whether there are more pending tasks than slots, so that claiming one ahead leaves no slot idle.

        A busy worker does not poll, while each slot of the other workers takes a task every `task_s`. So its counts are used
        until at that rate the tasks may be exhausted, or turn out to be; then it looks.

        Args:
            surely: Count one task for an object that other workers work on; otherwise half of its tasks. If tasks are long,
                a task that is claimed ahead wrongly would have started sooner on an idle worker.

        Store: usually nothing; 1 LIST an open epoch when the known tasks may be exhausted.
        """
        candidates = self.candidates
        n_all, n_known = candidates.n_all_slots(), candidates.n_pending(surely=surely)
        is_old = n_known > n_all >= n_known - self._n_gone(task_s)
        if is_old or candidates.has_run_dry():
            self.look(among_open=True)
        return candidates.n_pending(surely=surely) > n_all

    def renew(self, task_s: float | None) -> None:
        """Look before a try at an object of which the other slots should have taken the tasks since the last look.

        A try at such an object is a GET in vain, and after two of them the worker looks anyway. One whose turn it is for this worker is
        as good as its own.

        Args:
            task_s: The expected duration of a task in seconds; None if unknown.

        Store: usually nothing; 1 LIST an open epoch.
        """
        is_of_a_look = self._looked_at >= self._answered_at
        if is_of_a_look and self._may_be_half(task_s) and not self.candidates.has_own_turn():
            self.look(among_open=True)

    def freshen(self) -> None:
        """Look before a claim if tasks of a higher priority may have come since the last look.

        Store: nothing in a session without priorities; otherwise 1 LIST an open epoch at most every two slices of work.
        """
        has_any = self._session.manifest.current.has_priorities or self.candidates.has_priorities()
        if not (has_any or self._knows_priorities):
            return
        age_s = self._clock.monotonic() - self._looked_at
        if not self._knows_priorities or age_s > _FRESH_SLICES * self._timings.slice_s:
            self._knows_priorities = True
            self.look()

    # --- for the agent ------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Poll the bell and look if it is time, for a worker with an idle slot; return the seconds to pause afterwards.

        Store: 1 GET, usually a 304; sometimes 1 LIST an open epoch. Nothing while candidates are known: the slots try them
        first, and set `wanted` afterwards.
        """
        candidates = self.candidates
        candidates.wanted.clear()
        recall_s = candidates.recall()
        if self.dependencies.is_due:
            self.look()
        if candidates.has_offers():
            return self._timings.commit_s
        now = self._clock.monotonic()
        has_looked = self._next_look > float("-inf")
        # While work may be near, a busy store must not hold up the search for it as it holds up the polls of the idle.
        is_near = self._pause_s < self._timings.bell_max_s / 2
        rung = self._session.bell.read(self._bell_etag, Urgency.CLAIM if is_near else Urgency.POLL)
        if rung is not None:
            bell, self._bell_etag = rung
            # A new worker finds only the last ring before its start: an empty ring leads to a look at all objects.
            self._hear(bell if has_looked else Bell())
        ring = self._ring
        if ring is not None and (now >= ring.due_at if ring.due_at is not None else self._clock.random() < ring.chance):
            self._ring = None
            self._answer(ring)
        else:
            if ring is not None:
                ring.chance *= 2
            # A busy worker hears of a ring when it has run dry, perhaps long after it: a look shows that one's tasks as well as others.
            if ring is None and now >= self._next_look:
                self.look()
            elif candidates.has_run_dry():
                self.look(among_open=True)
        if candidates.has_offers():
            self._backoff.reset(1.0 if candidates.rank.is_of_first(_QUICK_SLOTS) else _SLOW_POLLS)
            self._offered_at = self._clock.monotonic()
        self._pause_s = max(self._backoff.next_s(), self._polite_s())
        if self._ring is not None:
            # A ring for others resets no worker's pauses; one that this worker may have to answer is not forgotten meanwhile.
            due_at = self._ring.due_at
            pause_s = self._timings.bell_min_s if due_at is None else due_at - self._clock.monotonic()
            return max(0.0, min(self._pause_s, pause_s))
        pause_s = min(max(self._pause_s, min(self._wait_s(), self._timings.beat_s)), candidates.until_later_s())
        return pause_s if recall_s is None else min(pause_s, recall_s)

    def answered(self) -> None:
        """Answer a lone ring if this worker has claimed all tasks of its object. Store: usually nothing; 1 swap."""
        if self._claimed is None or (has_taken := self.candidates.has_taken(self._claimed[0])) is None:
            return
        claimed, self._claimed = self._claimed, None
        if has_taken:
            self._favoured_until = self._clock.monotonic() + _FAVOURED_S
            self._session.bell.answer(*claimed)

    def step_busy(self) -> float:
        """Look for tasks that have what they wait for, on behalf of a worker without an idle slot; return the seconds to pause afterwards.

        Store: nothing unless this worker knows tasks that wait; otherwise as `look`, now and then.
        """
        self._offered_at = self._clock.monotonic()
        if self.dependencies.is_due or (self.dependencies.has_any and self._clock.monotonic() >= self._next_look):
            self.look()
        return self._timings.commit_s

    def look(self, *, among_open: bool = False) -> bool:
        """List all open epochs for pending tasks; return whether there are any.

        Args:
            among_open: Whether the epochs that are known to be open are enough. Tasks in new ones come with a ring; but another ring may
                have replaced that, so the next look at all epochs is not put off.

        Store: 1 LIST an open epoch; 1 GET if nothing is found, and the LISTs again if epochs were opened meanwhile.
        """
        session = self._session
        epochs = session.manifest.current.open_epochs()
        listing = session.statuses.of_epochs(epochs)
        has_pending = self._take_in(listing)
        if not has_pending and not among_open and (opened := session.manifest.refresh().open_epochs()) != epochs:
            epochs = opened
            listing = session.statuses.of_epochs(opened)
            has_pending = self._take_in(listing)
        self._looked_at = self._clock.monotonic()
        released = self.dependencies.turn(listing)
        if released:
            self.candidates.rung_for([(done.ref, done.key) for done in released], 0)
            has_pending = True
        due_at = self._looked_at + self._rest_s()
        self._next_look = min(self._next_look, due_at) if among_open else due_at
        close_epochs(session, listing, epochs)
        return has_pending

    def _n_pending(self, task_s: float | None) -> int:
        """Return about how many tasks are pending, after a look if the count is out of date."""
        candidates = self.candidates
        n_known = candidates.n_pending()
        if n_known > candidates.n_all_slots() and self._may_be_half(task_s):
            self.look(among_open=True)
            n_known = candidates.n_pending()
        return n_known

    def _may_be_half(self, task_s: float | None) -> bool:
        """Return whether the other slots may have taken half of the tasks that are known to be pending."""
        n_gone = self._n_gone(task_s) if task_s else 0.0
        return n_gone > 0.0 and 2 * n_gone > self.candidates.n_pending() > 0

    def _n_gone(self, task_s: float) -> float:
        """Return how many tasks the other slots may have taken since the last look; 0 if that was just now.

        While requests wait because the store is busy, the others take tasks as much more slowly.
        """
        age_s = self._clock.monotonic() - self._looked_at
        if age_s < self._timings.slice_s:
            return 0.0
        return (self.candidates.n_all_slots() - self._n_slots) * age_s / max(task_s + self._wait_s(), 1e-6)

    def _take_in(self, listing: list[ListedStatus]) -> bool:
        self._frontier.know(listed.ref for listed in listing)
        return self.candidates.replace_by(listing)

    def _polite_s(self) -> float:
        """Return the least pause between polls while the store refuses reads: about as long as this worker has been idle, up to a beat's.

        The reads of many idle workers would otherwise hold up those of a client that waits for results.
        """
        limiter = self._session.store.limiter
        if limiter is None or limiter.lanes[READ].is_open:
            return 0.0
        idle_s = self._clock.monotonic() - self._offered_at
        return min(idle_s * (0.5 + self._clock.random()), self._timings.beat_s)

    def _wait_s(self) -> float:
        limiter = self._session.store.limiter
        return 0.0 if limiter is None else limiter.wait_s

    def _answer(self, ring: _Ring) -> None:
        bell = ring.bell
        # Rings may come faster than polls: a missed task is as likely to be still pending as a task that this ring names.
        uses_keys = self._clock.random() * (bell.n_tasks + ring.n_missed) >= ring.n_missed
        # In a burst more objects have come meanwhile, and only a listing shows whose turn each of them is.
        is_burst = self.candidates.n_all_slots() > self._n_slots and bell.n_tasks >= self.candidates.n_all_slots()
        if not bell.keys or len(bell.keys) >= _MANY_KEYS or not uses_keys or is_burst:
            self.look()
            return
        if ring.due_at is not None and self._bell_etag is not None and self.candidates.rank.has_others:
            self.candidates.await_try(bell.keys[0])
            self._claimed = (bell.keys[0], self._bell_etag)
        self.candidates.rung_for(self._refs(bell), ring.n_missed)
        self._answered_at = self._clock.monotonic()
        # The bell is a hint, and a second ring may have replaced this one: look soon, but not for every single task.
        self._next_look = min(self._next_look, self._clock.monotonic() + self._timings.bell_max_s)

    def _refs(self, bell: Bell) -> list[tuple[StatusRef, str]]:
        """Return the status objects that a ring names, oldest first."""
        parsed = [(self._session.keys.parse_status(key), key) for key in bell.keys]
        return sorted((ref, key) for ref, key in parsed if ref is not None)

    def _hear(self, bell: Bell) -> None:
        """Take in a ring, merged with the previous one if that has not been answered: its tasks may still be pending."""
        before, n_all = self._ring, self.candidates.n_all_slots()
        n_missed = self._frontier.know(ref for ref, _ in self._refs(bell))
        if bell.keys and not bell.n_tasks and not n_missed:
            if before is not None and before.bell.keys == bell.keys:
                self._ring = None
            return
        # On average as many workers answer as the tasks need.
        n_tasks = max(1, bell.n_tasks + n_missed)
        chance = 1.0 if not bell.keys else min(1.0, self._n_slots * n_tasks / n_all)
        due_at = None
        is_lone = len(bell.keys) == 1 and not n_missed and 2 * n_tasks <= n_all
        if before is not None and before.due_at is not None and is_lone:
            # The workers whose turn is earlier have it. A few look all the same, in case that none of them is idle.
            if self._clock.random() * n_all < _LOOK_AFTER * self._n_slots:
                self._next_look = min(self._next_look, before.due_at)
            before = None
        if before is not None:
            keys = tuple(dict.fromkeys(before.bell.keys + bell.keys)) if before.bell.keys and bell.keys else ()
            bell = Bell(keys, before.bell.n_tasks + bell.n_tasks)
            chance, n_missed = max(before.chance, chance), before.n_missed + n_missed
        elif is_lone:
            due_at = self._turn_at(bell.keys[0], math.ceil(n_tasks / self._n_slots))
        self._ring = _Ring(bell, chance, n_missed, due_at)

    def _turn_at(self, key: str, n_wanted: int) -> float | None:
        """Return when it is this worker's turn at an object that wants this many workers; None if its rank is unknown."""
        before, now = self.candidates.rank.before(key), self._clock.monotonic()
        if before is None:
            return None
        if now < self._favoured_until:
            return now
        doublings = math.ceil(math.log2((before + 1) / n_wanted)) if before >= n_wanted else 0
        return now + doublings * _TURN_POLLS * self._timings.bell_min_s

    def _rest_s(self) -> float:
        """Return the pause until a look without a ring; all idle workers together look about once per beat interval.

        While tasks wait for others, about once per longest poll.
        """
        n_workers = max(1, round(self.candidates.n_all_slots() / self._n_slots))
        each_s = self._timings.bell_max_s if self.dependencies.has_any else self._timings.beat_s
        return each_s * n_workers * (0.5 + self._clock.random())
