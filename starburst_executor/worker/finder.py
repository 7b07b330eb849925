"""Finds status objects that a worker may try: by the bell, by a listing, and by lots that keep workers apart.

idle:  bell? ──304──► pause, growing ──► bell? …             now and then, unasked: LIST
         │ rung
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
from starburst_executor.protocol.keys import GroupRef
from starburst_executor.protocol.records import Bell
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.store import Group, SessionStore
from starburst_executor.worker.candidates import Candidates

__all__ = ["Finder"]

# A ring that names more keys than this has left some out: list instead.
_MANY_KEYS = 32
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


class _Frontier:
    """Up to which task objects are known to exist, by submitter. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards: _known
        self._known: dict[int, int] = {}

    def know(self, refs: Iterable[GroupRef]) -> int:
        """These objects exist; how many tasks of the same submitters, in objects before them, were not known of."""
        n_missed = 0
        with self._lock:
            for ref in refs:
                known = self._known.get(ref.ordinal, 0)
                n_missed += max(0, ref.first - known)
                self._known[ref.ordinal] = max(known, ref.first + ref.n_tasks)
        return n_missed


class Finder:
    """Finds candidates for claims. One thread calls `step`, any the rest.

    Attributes:
        candidates: What it has found.
    """

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int) -> None:
        self._session = session
        self._clock = clock
        timings = session.manifest.timings
        self._timings = timings
        self._n_slots = n_slots
        self.candidates = Candidates(session, clock, n_slots)
        self._frontier = _Frontier()
        self._bell_etag: str | None = None
        self._ring: _Ring | None = None
        self._backoff = Backoff(clock, timings.bell_min_s, timings.bell_max_s, growth=_GROWTH)
        self._next_look = self._looked_at = float("-inf")

    # --- for slots ----------------------------------------------------------------------------------------------------

    def fair_share(self) -> int:
        """At most so many tasks a slice, so that the others get theirs."""
        return max(1, math.ceil(self.candidates.n_pending() / self.candidates.n_all_slots()))

    def is_plenty(self, task_s: float, *, surely: bool = False) -> bool:
        """Whether there are more pending tasks than slots, so that one claimed ahead is not missed elsewhere.

        A worker that is busy hears nothing, while each slot of the others takes a task every `task_s`. So what it knows is
        believed until by that pace it may be used up, or has turned out to be; then it looks.

        Args:
            surely: Count one task for an object that others work on; otherwise half of its tasks. Of tasks that take long
                one too many claimed ahead is one that an idle worker would have begun sooner.

        Store: nothing, mostly; 1 LIST an open epoch when what is known may be used up.
        """
        candidates = self.candidates
        n_all = candidates.n_all_slots()
        n_known, age_s = candidates.n_pending(surely=surely), self._clock.monotonic() - self._looked_at
        n_gone = (n_all - self._n_slots) * age_s / task_s
        is_old = age_s >= self._timings.slice_s and n_known > n_all >= n_known - n_gone
        if is_old or candidates.has_run_dry():
            self.look()
        return candidates.n_pending(surely=surely) > n_all

    # --- for the agent ------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """One turn of a worker with an idle slot: poll the bell, look if it is time; how long to pause then, in seconds.

        Store: 1 GET, mostly a 304; sometimes 1 LIST an open epoch. Nothing while candidates are known: the slots try them,
        and want more once they have.
        """
        candidates = self.candidates
        candidates.wanted.clear()
        if candidates.has_offers():
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
        elif now >= self._next_look or candidates.has_run_dry():
            self.look()
        if candidates.n_pending():
            self._backoff.reset()
        return self._backoff.next_s()

    def look(self) -> bool:
        """List all open epochs for pending tasks; whether there are any.

        Store: 1 LIST an open epoch; 1 GET if nothing is found, and the LISTs again if epochs were opened meanwhile.
        """
        session = self._session
        listed = session.manifest.open_epochs()
        groups = session.groups(listed)
        found = self._listed(groups)
        if not found and (opened := session.refresh().open_epochs()) != listed:
            listed = opened
            groups = session.groups(opened)
            found = self._listed(groups)
        self._looked_at = self._clock.monotonic()
        self._next_look = self._looked_at + self._rest_s()
        close_epochs(session, groups, listed)
        return found

    def _listed(self, groups: list[Group]) -> bool:
        self._frontier.know(group.ref for group in groups)
        return self.candidates.listed(groups)

    def _answer(self, ring: _Ring) -> None:
        bell = ring.bell
        # Rings come faster than a worker asks: what it missed is as likely to be still there as what it is told of.
        is_told = self._clock.random() * (bell.n_tasks + ring.n_missed) >= ring.n_missed
        if not bell.keys or len(bell.keys) >= _MANY_KEYS or not is_told:
            self.look()
            return
        self.candidates.rung_for(self._refs(bell), ring.n_missed)
        # The bell is a hint and may have been rung twice: look for oneself soon, but not for each lone task.
        self._next_look = min(self._next_look, self._clock.monotonic() + self._timings.bell_max_s)

    def _refs(self, bell: Bell) -> list[tuple[GroupRef, str]]:
        """What a ring names, oldest first."""
        parsed = [(self._session.keys.parse_group(key), key) for key in bell.keys]
        return sorted((ref, key) for ref, key in parsed if ref is not None)

    def _heard(self, bell: Bell) -> _Ring:
        """A ring, with the one before if that was not looked after yet: its tasks may still wait."""
        n_missed = self._frontier.know(ref for ref, _ in self._refs(bell))
        # About as many workers react as are needed.
        n_tasks = max(1, bell.n_tasks + n_missed)
        chance = 1.0 if not bell.keys else min(1.0, self._n_slots * n_tasks / self.candidates.n_all_slots())
        before = self._ring
        if before is None:
            return _Ring(bell, chance, n_missed)
        keys = tuple(dict.fromkeys(before.bell.keys + bell.keys)) if before.bell.keys and bell.keys else ()
        both = Bell(keys, before.bell.n_tasks + bell.n_tasks)
        return _Ring(both, max(before.chance, chance), before.n_missed + n_missed)

    def _rest_s(self) -> float:
        """Idle workers look unasked, together about once per beat interval."""
        n_workers = max(1, round(self.candidates.n_all_slots() / self._n_slots))
        return self._timings.beat_s * n_workers * (0.5 + self._clock.random())
