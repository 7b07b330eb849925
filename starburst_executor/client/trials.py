"""What the ends of workers say of starting more: when the next may be started, and when no more will do any work.

    how one ended                                             the next start          no hope, if no other is there
    worked: has committed an outcome                          at once                 all before is forgotten
    worn: the same, and says that it cannot go on             0.5 s, 1 s, … 60 s      the same, but for the pause
    failed: says that it cannot go on, or exits by itself     0.5 s, 1 s, … 60 s      3 in a row
    killed: by a signal, or while a task ran                  at once, 0.1 s, … 60 s  10 in a row, for `launch_s` at least
    taken: its engine took its machine, or had none           5 s, … 60 s             never: silence for `launch_s` is
    left: in good order, with nothing done                    at once                 never

Each start may cost money, so none follows a useless one without an end. But a death by a signal does not prove that
workers cannot start: whoever kills one may kill the next.

Decisions only: no I/O, and the time is the caller's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from starburst_executor.clock import Backoff, Clock
from starburst_executor.launch.base import Death
from starburst_executor.protocol.records import SessionState, WorkerBeat, WorkerState

__all__ = ["Begin", "Break", "End", "Seen", "Step", "Trials", "Wait", "decide", "end_of"]

_FAILED_MOST = 3
_KILLED_MOST = 10
_FAILED_FIRST_S, _KILLED_FIRST_S, _TAKEN_FIRST_S = 0.5, 0.1, 5.0
_MOST_S = 60.0


class End(enum.Enum):
    """How a worker ended, as far as the next one is concerned."""

    WORKED = "it has worked"
    WORN = "it has worked and could not go on"
    LEFT = "it left in good order"
    TAKEN = "its machine was taken"
    KILLED = "it was killed"
    FAILED = "it could not go on"


def end_of(death: Death, beat: WorkerBeat | None) -> End:
    """How a worker ended by what its launcher saw and by its last beat, if it ever beat."""
    if beat is not None and beat.n_ended:
        return End.WORN if beat.words else End.WORKED
    if death.was_taken:
        return End.TAKEN
    if beat is not None and beat.state == WorkerState.LEFT:
        if not beat.words:
            return End.LEFT
        # What ran may be why, as with one that was killed.
        return End.KILLED if beat.running else End.FAILED
    return End.KILLED if death.was_killed else End.FAILED


@dataclass(slots=True)
class Trials:
    """The workers of one session that ended since the last one that had worked. Not thread-safe.

    Args:
        launch_s: How long a worker may take to be heard of.

    Attributes:
        words: What the last useless one said.
        next_start_at: When more may be started, by `clock.monotonic`.
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
        """One more has ended, which had beaten or not."""
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
        """A worker is there: the engine has room."""
        self._taking.reset()

    def lacked_room(self) -> None:
        """The engine had room for fewer than were asked for."""
        self._pause(self._taking)

    def hopeless(self) -> str:
        """Why none that is started now will do any work; empty while it may."""
        killed_for_s = self.clock.monotonic() - self._killed_since
        if self._n_failed < _FAILED_MOST and (self._n_killed < _KILLED_MOST or killed_for_s < self.launch_s):
            return ""
        what = "no worker could do any work" if self._was_heard else "no worker could be started"
        n_useless = self._n_failed + self._n_killed
        return f"{what}: {self.words or 'no last words'} ({n_useless} in a row have ended without an outcome)"

    def _pause(self, backoff: Backoff) -> None:
        self.next_start_at = max(self.next_start_at, self.clock.monotonic() + backoff.next_s())


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client knows when it decides about workers.

    Attributes:
        state: The session's.
        needs_workers: There is work that is not done.
        is_at_it: This client is starting some, step by step.
        n_wanted: Slots asked for.
        n_alive: Slots that are there, or on their way.
        may_start: No pause stands against it.
        hopeless: Why none that is started will do any work, or empty.
    """

    state: SessionState
    needs_workers: bool
    is_at_it: bool
    n_wanted: int
    n_alive: int
    may_start: bool
    hopeless: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Start those that are missing."""


@dataclass(frozen=True, slots=True)
class Step:
    """Go on with what has been begun."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be started now."""


@dataclass(frozen=True, slots=True)
class Break:
    """End the session with this reason: no worker is there, and no other would be of use."""

    reason: str


def decide(seen: Seen) -> Begin | Step | Wait | Break:
    """What to do about workers now."""
    if seen.state != SessionState.OPEN or not seen.needs_workers:
        return Wait()
    if seen.is_at_it:
        return Step()
    if seen.hopeless and not seen.n_alive:
        return Break(seen.hopeless)
    if seen.may_start and seen.n_wanted > seen.n_alive:
        return Begin()
    return Wait()
