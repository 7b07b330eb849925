"""Claims of this worker of which tasks may have been cancelled: their slots read the objects again, and drop what they lost.

    wants_news ──► GET manifest, usually a 304
    manifest.stops ──heard──► doubts ──is_due──► slot: reads the claim's object, kills a task that is no longer its own

A worker whose tasks are short meets a cancellation at its next commit, which is refused. For a task that runs for long it looks at the manifest a few
times in each beat interval.

A claim is doubted until it is settled, since its client names it before it cancels the task, and may be slow. The pauses between
two readings grow up to that between two looks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from starburst_executor.clock import Clock
from starburst_executor.session.stops import ALL
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.runner.usage import RunningNow

__all__ = ["Doubts"]

_GROWTH = 2.0
# Looks at the manifest in each beat interval while a task runs for long: with S3 and 15 s a GET every 3 s, a third of what the beats cost.
_LOOKS = 5
# If the worker's last tasks ended within this share of a beat interval, one that runs is expected to end as soon by itself: it is not looked for
# before it has run for a whole interval.
_SOON_SHARE = 0.75


class Doubts:
    """The doubted claims of one worker. Thread-safe.

    Args:
        first_s: The pause after the first reading of a claim's object.
        beat_s: The interval of the worker's beats.
    """

    def __init__(self, claims: Claims, clock: Clock, first_s: float, beat_s: float) -> None:
        self._claims = claims
        self._clock = clock
        self._first_s = first_s
        self._most_s = max(first_s, beat_s / _LOOKS)
        self._beat_s = max(first_s, beat_s)
        self._looked_at = clock.monotonic()  # unlocked: only the finder's thread uses it
        self._lock = threading.Lock()  # guards: _due, _known
        self._due: dict[
            str, tuple[float, float]
        ] = {}  # by claim, when its object is read next, and the pause after that
        self._known: frozenset[str] = frozenset()

    def wants_news(self, running: Iterable[RunningNow], expected_s: float | None = None) -> bool:
        """Return whether to read the manifest now: a task runs for long, and a pause has passed. For the finder's thread.

        Args:
            expected_s: How long the worker's last tasks took; None while unknown.
        """
        now = self._clock.monotonic()
        pause_s = now - self._looked_at
        ends_soon = expected_s is not None and expected_s < _SOON_SHARE * self._beat_s
        long_s = self._beat_s if ends_soon else self._most_s
        if pause_s < self._most_s or not any(task.seconds >= long_s for task in running):
            return False
        self._looked_at = now
        return True

    def heard(self, stops: Sequence[str], *, again: bool = False) -> bool:
        """Doubt the claims that the manifest names; return whether there is an object to read now.

        Args:
            again: Whether a client has sent word, so that also claims that were doubted before are read at once.
        """
        if not stops:
            return False
        held = self._claims.held()
        now = self._clock.monotonic()
        with self._lock:
            are_all = any(mark.startswith(ALL) and mark not in self._known for mark in stops)
            self._known = frozenset(stops)
            named = [claim for claim in held if are_all or claim in self._known]
            fresh = [claim for claim in named if again or claim not in self._due]
            self._due = {claim: due for claim, due in self._due.items() if claim in held}
            self._due.update(dict.fromkeys(fresh, (now, self._first_s)))
            return bool(fresh)

    def is_due(self, claim_id: str) -> bool:
        """Return whether a claim's object must be read now; the next time is after a pause, which grows."""
        if not self._due:  # unlocked: one look, and a change is seen at the next step
            return False
        now = self._clock.monotonic()
        with self._lock:
            at, pause_s = self._due.get(claim_id, (float("inf"), 0.0))
            if now < at:
                return False
            self._due[claim_id] = (now + pause_s, min(self._most_s, _GROWTH * pause_s))
            return True
