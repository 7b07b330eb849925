"""Decides what a client does about its session's workers: start the missing ones, go on, wait, or break the session.

    no work, or the session is over ─► Wait         none alive, and a new one would do no work ─► Break
    a launch of this client is open ─► Step         fewer alive than wanted, pause is over     ─► Begin

    after a start: a new worker beat ─► HEARD       none within `launch_s`, and no earlier one is alive ─► SILENT

Decisions only: no I/O, no clock. `starter.py` collects the facts and acts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from starburst_executor.protocol.records import Manifest, SessionState

__all__ = ["Begin", "Break", "Hearing", "Seen", "Step", "Wait", "decide", "judge_silence"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client knows about the workers, besides the manifest.

    Attributes:
        needs_workers: Whether any task is not done.
        is_starting: Whether this client has a launch to finish.
        n_alive: The number of slots that are alive or on their way.
        next_start_at: The end of the pause before the next start, by the clock of `decide`'s `now`.
        hopeless: Why a worker that is started now would do no work, or empty.
    """

    needs_workers: bool
    is_starting: bool
    n_alive: int
    next_start_at: float
    hopeless: str


@dataclass(frozen=True, slots=True)
class Begin:
    """Start the missing workers."""


@dataclass(frozen=True, slots=True)
class Step:
    """Do the next step of the launch that was begun."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Start nothing now."""


@dataclass(frozen=True, slots=True)
class Break:
    """End the session with this reason: no worker is alive, and a new one would do no work."""

    reason: str


def decide(manifest: Manifest, seen: Seen, now: float) -> Begin | Step | Wait | Break:
    """Decide what to do about workers at `now`, a monotonic time."""
    if manifest.state != SessionState.OPEN or not seen.needs_workers:
        return Wait()
    if seen.is_starting:
        return Step()
    if seen.hopeless and not seen.n_alive:
        return Break(seen.hopeless)
    if now >= seen.next_start_at and manifest.slots > seen.n_alive:
        return Begin()
    return Wait()


class Hearing(enum.Enum):
    """What listening for the first beat of started workers has shown."""

    WAITING = "no beat yet"
    HEARD = "a worker beats"
    SILENT = "no worker beat in time"


def judge_silence(*, has_new: bool, has_earlier: bool, is_starting: bool, silent_s: float, launch_s: float) -> Hearing:
    """Judge a look at the beats after workers were started.

    Args:
        has_new: Whether a worker beats that did not beat before the start.
        has_earlier: Whether an earlier worker is alive, which does the work.
        is_starting: Whether the launch still has steps to do: then its workers are not late yet.
        silent_s: The time without a beat since the start.
        launch_s: The time within which a worker must beat.
    """
    if has_new:
        return Hearing.HEARD
    if silent_s <= launch_s or is_starting:
        return Hearing.WAITING
    return Hearing.HEARD if has_earlier else Hearing.SILENT
