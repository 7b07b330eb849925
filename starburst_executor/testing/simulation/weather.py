"""Kinds and rates of faults, per request and per second, drawn for each seed."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import Enum

from starburst_executor.testing.simulation.lots import Lots

__all__ = ["CALM", "Trouble", "Weather", "draw_weather"]


class Trouble(str, Enum):
    """One kind of fault."""

    CRASH_BEFORE = "crash before the effect"
    CRASH_AFTER = "crash after the effect"
    LOST = "answer lost"
    REFUSED = "409, 500 or 503 without effect"
    ERROR_AFTER = "500 after the effect"
    LATE = "timed out, lands later"
    SLOW = "answered after its sender counts as lost"
    STUCK = "carried out and answered after its sender counts as lost"
    NO_BELL = "bell lost"
    BUSY = "503 because of load"
    OUTAGE = "store away"
    CUT_OFF = "one process cut off"
    KILL = "SIGKILL"
    STOP = "SIGSTOP, SIGCONT later"
    TERM = "SIGTERM"
    CLOCK = "clock set"
    POISON = "worker killed by its task"


@dataclass(frozen=True, slots=True)
class Weather:
    """Rates: of requests up to `stuck`, of rings `no_bell`, per second and session afterwards.

    Attributes:
        busy: Which share of requests the store refuses with 503 because there are too many. No seed draws it; plots set it.
        skew: By which share the rates of clocks may differ.
        preempt: How often acquiring a lock lets other strands run first.
    """

    crash_before: float = 0.0
    crash_after: float = 0.0
    lost: float = 0.0
    refused: float = 0.0
    error_after: float = 0.0
    late: float = 0.0
    slow: float = 0.0
    stuck: float = 0.0
    no_bell: float = 0.0
    outage: float = 0.0
    cut_off: float = 0.0
    kill: float = 0.0
    stop: float = 0.0
    term: float = 0.0
    clock: float = 0.0
    skew: float = 0.0
    preempt: float = 0.0
    busy: float = 0.0


CALM = Weather()

_STORM = Weather(
    crash_before=0.004,
    crash_after=0.008,
    lost=0.08,
    refused=0.08,
    error_after=0.05,
    late=0.05,
    slow=0.01,
    stuck=0.01,
    no_bell=1.0,
    outage=0.006,
    cut_off=0.02,
    kill=0.02,
    stop=0.05,
    term=0.02,
    clock=0.02,
    skew=0.15,
    preempt=0.05,
)


def draw_weather(lots: Lots) -> Weather:
    """Draw about half of all kinds of faults, each at its own rate; sometimes none at all."""
    if lots.chance(0.05):
        return replace(CALM, skew=_STORM.skew * lots.random())
    share = lots.choice((0.25, 0.5, 0.8))
    names = [one.name for one in fields(Weather) if one.name != "busy"]
    drawn = {name: getattr(_STORM, name) * lots.random() for name in names if lots.chance(share)}
    if "no_bell" in drawn and lots.chance(0.5):
        drawn["no_bell"] = 1.0
    return Weather(**drawn)
