"""Finds status objects that a worker may try: by the bell and by listings, at random times, to spread the workers.

idle:  bell? ──304──► pause, growing ──► bell? …             periodically, without a ring: LIST
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
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import Bell
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.statuses import ListedStatus
from starburst_executor.session.store import SessionStore
from starburst_executor.store.limiter import Urgency
from starburst_executor.worker.candidates import Candidates

__all__ = ["Finder"]

# A ring that names this many keys may have omitted some: list instead.
_MANY_KEYS = 32
# An idle worker's pauses grow to about half the time that it has been idle, so that work that follows soon is found soon. It
# takes seven polls to get from 50 ms to a second.
_GROWTH = 1.75


@dataclass(slots=True)
class _Ring:
    """A ring that this worker has not answered yet.

    Attributes:
        chance: The probability of answering it at the next poll.
        n_missed: Tasks that became pending since the last known ring and that this ring does not name.
    """

    bell: Bell
    chance: float
    n_missed: int


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
    """

    def __init__(self, session: SessionStore, clock: Clock, n_slots: int) -> None:
        self._session = session.at(Urgency.CLAIM)
        self._clock = clock
        timings = session.manifest.current.timings
        self._timings = timings
        self._n_slots = n_slots
        self.candidates = Candidates(session, clock, n_slots)
        self._frontier = _Frontier()
        self._bell_etag: str | None = None
        self._ring: _Ring | None = None
        self._pause_s = 0.0  # the last pause, without regard to the store's load
        self._backoff = Backoff(clock, timings.bell_min_s, timings.bell_max_s, growth=_GROWTH)
        self._next_look = self._looked_at = float("-inf")

    # --- for slots ----------------------------------------------------------------------------------------------------

    def fair_share(self) -> int:
        """Return the most tasks for a slice, so that other slots get their share."""
        return max(1, math.ceil(self.candidates.n_pending() / self.candidates.n_all_slots()))

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
        n_all = candidates.n_all_slots()
        n_known, age_s = candidates.n_pending(surely=surely), self._clock.monotonic() - self._looked_at
        n_gone = (n_all - self._n_slots) * age_s / task_s
        is_old = age_s >= self._timings.slice_s and n_known > n_all >= n_known - n_gone
        if is_old or candidates.has_run_dry():
            self.look()
        return candidates.n_pending(surely=surely) > n_all

    # --- for the agent ------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Poll the bell and look if it is time, for a worker with an idle slot; return the seconds to pause afterwards.

        Store: 1 GET, usually a 304; sometimes 1 LIST an open epoch. Nothing while candidates are known: the slots try them
        first, and set `wanted` afterwards.
        """
        candidates = self.candidates
        candidates.wanted.clear()
        if candidates.has_offers():
            return self._timings.commit_s
        now = self._clock.monotonic()
        has_looked = self._next_look > float("-inf")
        # While work may be near, a busy store must not hold up the search for it as it holds up the polls of the idle.
        is_near = self._pause_s < self._timings.bell_max_s / 2
        rung = self._session.bell.read(self._bell_etag, Urgency.CLAIM if is_near else Urgency.POLL)
        if rung is not None:
            bell, self._bell_etag = rung
            self._backoff.reset()
            # A new worker finds only the last ring before its start: an empty ring leads to a look at all objects.
            self._ring = self._heard(bell if has_looked else Bell())
        if self._ring is not None:
            if self._clock.random() < self._ring.chance:
                ring, self._ring = self._ring, None
                self._answer(ring)
            else:
                self._ring.chance *= 2
        elif now >= self._next_look or candidates.has_run_dry():
            self.look()
        if candidates.has_offers():
            self._backoff.reset()
        self._pause_s = self._backoff.next_s()
        return max(self._pause_s, min(self._wait_s(), self._timings.beat_s))

    def look(self) -> bool:
        """List all open epochs for pending tasks; return whether there are any.

        Store: 1 LIST an open epoch; 1 GET if nothing is found, and the LISTs again if epochs were opened meanwhile.
        """
        session = self._session
        epochs = session.manifest.current.open_epochs()
        listing = session.statuses.of_epochs(epochs)
        has_pending = self._take_in(listing)
        if not has_pending and (opened := session.manifest.refresh().open_epochs()) != epochs:
            epochs = opened
            listing = session.statuses.of_epochs(opened)
            has_pending = self._take_in(listing)
        self._looked_at = self._clock.monotonic()
        self._next_look = self._looked_at + self._rest_s()
        close_epochs(session, listing, epochs)
        return has_pending

    def _take_in(self, listing: list[ListedStatus]) -> bool:
        self._frontier.know(listed.ref for listed in listing)
        return self.candidates.replace_by(listing)

    def _wait_s(self) -> float:
        limiter = self._session.store.limiter
        return 0.0 if limiter is None else limiter.wait_s

    def _answer(self, ring: _Ring) -> None:
        bell = ring.bell
        # Rings may come faster than polls: a missed task is as likely to be still pending as a task that this ring names.
        uses_keys = self._clock.random() * (bell.n_tasks + ring.n_missed) >= ring.n_missed
        if not bell.keys or len(bell.keys) >= _MANY_KEYS or not uses_keys:
            self.look()
            return
        self.candidates.rung_for(self._refs(bell), ring.n_missed)
        # The bell is a hint, and a second ring may have replaced this one: look soon, but not for every single task.
        self._next_look = min(self._next_look, self._clock.monotonic() + self._timings.bell_max_s)

    def _refs(self, bell: Bell) -> list[tuple[StatusRef, str]]:
        """Return the status objects that a ring names, oldest first."""
        parsed = [(self._session.keys.parse_status(key), key) for key in bell.keys]
        return sorted((ref, key) for ref, key in parsed if ref is not None)

    def _heard(self, bell: Bell) -> _Ring:
        """Return a ring, merged with the previous one if that has not been answered: its tasks may still be pending."""
        n_missed = self._frontier.know(ref for ref, _ in self._refs(bell))
        # On average as many workers answer as the tasks need.
        n_tasks = max(1, bell.n_tasks + n_missed)
        chance = 1.0 if not bell.keys else min(1.0, self._n_slots * n_tasks / self.candidates.n_all_slots())
        before = self._ring
        if before is None:
            return _Ring(bell, chance, n_missed)
        keys = tuple(dict.fromkeys(before.bell.keys + bell.keys)) if before.bell.keys and bell.keys else ()
        both = Bell(keys, before.bell.n_tasks + bell.n_tasks)
        return _Ring(both, max(before.chance, chance), before.n_missed + n_missed)

    def _rest_s(self) -> float:
        """Return the pause until a look without a ring; all idle workers together look about once per beat interval."""
        n_workers = max(1, round(self.candidates.n_all_slots() / self._n_slots))
        return self._timings.beat_s * n_workers * (0.5 + self._clock.random())
