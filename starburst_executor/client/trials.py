"""Decides from the ends of workers when to start the next one, and when to give up because none will do any work.

    how a worker ended                                        the next start          give up, if no other worker is alive
    worked: it committed an outcome                           at once                 never; earlier ends are forgotten
    worn: the same, then it reported that it cannot continue  0.5 s, 1 s, … 60 s      never; earlier ends are forgotten
    failed: it reported that, or exited on its own            0.5 s, 1 s, … 60 s      after 3 in a row
    killed: by a signal, or while a task ran                  at once, 0.1 s, … 60 s  after 10 in a row, and `launch_s`
    taken: the platform took its machine, or had none         5 s, … 60 s             never; `first_beats.py` bounds this
    left: in good order, without an outcome                   at once                 never

Each start may cost money, so repeated starts without any outcome must end. But a death by a signal does not prove that
workers cannot start: the cause may kill the next worker as well, or may be gone by then.

Decisions only: no I/O, and the caller's clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from starburst_executor.clock import Backoff, Clock
from starburst_executor.launch.base import Death
from starburst_executor.protocol.records import WorkerBeat, WorkerState

__all__ = ["End", "Trials", "end_of"]

_FAILED_MOST = 3
_KILLED_MOST = 10
_FAILED_FIRST_S, _KILLED_FIRST_S, _TAKEN_FIRST_S = 0.5, 0.1, 5.0
_MOST_S = 60.0


class End(enum.Enum):
    """How a worker ended, as it matters for the next start."""

    WORKED = "it has worked"
    WORN = "it has worked and could not go on"
    LEFT = "it left in good order"
    TAKEN = "its machine was taken"
    KILLED = "it was killed"
    FAILED = "it could not go on"


def end_of(death: Death, beat: WorkerBeat | None) -> End:
    """Classify a worker's end from the death that its launcher saw and its last beat; None if it never beat."""
    if beat is not None and beat.n_ended:
        return End.WORN if beat.words else End.WORKED
    if death.was_taken:
        return End.TAKEN
    if beat is not None and beat.state == WorkerState.LEFT:
        if not beat.words:
            return End.LEFT
        # A running task may have caused it, as with a worker that was killed.
        return End.KILLED if beat.running else End.FAILED
    return End.KILLED if death.was_killed else End.FAILED


@dataclass(slots=True)
class Trials:
    """Counts the workers of a session that have ended since the last one that worked. Not thread-safe.

    Args:
        launch_s: The time within which a worker must beat for the first time.

    Attributes:
        words: The last output of the last worker without an outcome.
        next_start_at: The earliest time of the next start, by `clock.monotonic`.
    """

    clock: Clock
    launch_s: float
    words: str = ""
    next_start_at: float = float("-inf")
    _was_heard: bool = False
    _n_failed: int = 0
    _n_killed: int = 0
    _killed_since: float = 0.0
    _failing: Backoff = field(init=False)
    _killing: Backoff = field(init=False)
    _taking: Backoff = field(init=False)

    def __post_init__(self) -> None:
        self._failing = Backoff(self.clock, _FAILED_FIRST_S, _MOST_S)
        self._killing = Backoff(self.clock, _KILLED_FIRST_S, _MOST_S)
        self._taking = Backoff(self.clock, _TAKEN_FIRST_S, _MOST_S)

    def ended(self, end: End, words: str, *, was_heard: bool) -> None:
        """Record the end of a worker; `was_heard` says whether it ever beat."""
        now = self.clock.monotonic()
        if end in (End.WORKED, End.WORN):
            self._n_failed = self._n_killed = 0
            for backoff in (self._killing, self._taking):
                backoff.reset()
            if end is End.WORN:
                self._pause(self._failing)
            else:
                self._failing.reset()
        elif end is End.TAKEN:
            self.lacked_room()
        elif end is End.FAILED:
            self._n_failed += 1
            self._pause(self._failing)
        elif end is End.KILLED:
            if self._n_killed:
                self._pause(self._killing)
            else:
                self._killed_since = now
            self._n_killed += 1
        if end is not End.LEFT:
            self.words, self._was_heard = words, was_heard

    def heard(self) -> None:
        """Record a first beat: the platform has capacity."""
        self._taking.reset()

    def lacked_room(self) -> None:
        """Record that the platform had capacity for fewer workers than requested."""
        self._pause(self._taking)

    def hopeless(self) -> str:
        """Return why a worker that is started now would do no work; empty if it might."""
        killed_for_s = self.clock.monotonic() - self._killed_since
        if self._n_failed < _FAILED_MOST and (self._n_killed < _KILLED_MOST or killed_for_s < self.launch_s):
            return ""
        what = "no worker could do any work" if self._was_heard else "no worker could be started"
        n_useless = self._n_failed + self._n_killed
        return f"{what}: {self.words or 'no last words'} ({n_useless} in a row have ended without an outcome)"

    def _pause(self, backoff: Backoff) -> None:
        self.next_start_at = max(self.next_start_at, self.clock.monotonic() + backoff.next_s())
