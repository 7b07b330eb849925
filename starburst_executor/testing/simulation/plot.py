"""The decisions of a seed before the run: the session, its tasks, its workers, the weather."""

from __future__ import annotations

from dataclasses import dataclass

from starburst_executor.config import Timings
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.tasks import Behaviour
from starburst_executor.testing.simulation.weather import Weather, draw_weather

__all__ = ["LOST_S", "TIMINGS", "Plot", "draw_plot"]

TIMINGS = Timings(
    beat_s=4.0,
    look_s=4.0,
    looks_until_lost=4,
    commit_s=1.0,
    slice_s=1.0,
    poll_min_s=0.2,
    poll_max_s=4.0,
    bell_min_s=0.2,
    bell_max_s=4.0,
    ring_gap_s=0.5,
    idle_exit_s=20.0,
    client_gone_s=40.0,
    grace_s=5.0,
    patience_s=60.0,
    launch_s=40.0,
    retry_first_s=0.5,
    retry_most_s=4.0,
    rank_s=20.0,
)
LOST_S = TIMINGS.look_s * TIMINGS.looks_until_lost


@dataclass(frozen=True, slots=True)
class Plot:
    """One simulation.

    Attributes:
        is_detached: Which of the two executors.
        url: The store's URL, which decides whether the client treats it as embedded.
        n_workers: Number of slots requested.
        slots_each: Most slots of one worker.
        tells_deaths: Whether the launcher reports deaths of workers.
        tasks: Behaviour and duration in seconds of each.
        storm_s: How long faults occur.
        n_clients: Number of clients that reattach during the storm.
        ends_with: How the last client ends the run: `cleanup`, `terminate` or `leave`.
        n_once: Number of calls that each client of a detached session submits once.
        n_at_once: How many of the tasks with a limit, every third one, may run at once; None if none has one.
        stops: Whether clients that cancel tasks also cancel those that run.
        timings: The session's.
        has_options: Whether tasks have options of their own: retries, classes to retry on, backoffs, time limits.
    """

    is_detached: bool
    url: str
    n_workers: int
    slots_each: int
    tells_deaths: bool
    tasks: tuple[tuple[Behaviour, float], ...]
    retries: int
    task_timeout: float | None
    max_tasks_per_child: int | None
    absolute_timeout: float | None
    weather: Weather
    latency_s: float
    storm_s: float
    n_clients: int
    ends_with: str
    n_once: int = 0
    stops: bool = False
    timings: Timings = TIMINGS
    n_at_once: int | None = None
    has_options: bool = False


_BEHAVIOURS = (
    (Behaviour.WELL, 60),
    (Behaviour.BIG, 3),
    (Behaviour.PRINTS, 5),
    (Behaviour.RAISES, 6),
    (Behaviour.FLAKY, 8),
    (Behaviour.CRASHES, 4),
    (Behaviour.POISON, 4),
    (Behaviour.REFUSED, 3),
)


def _seconds(lots: Lots, *, short: bool) -> float:
    if lots.chance(0.1):
        return lots.between(5.0, 30.0)
    return lots.between(0.02, 0.4) if short or lots.chance(0.5) else lots.between(0.5, 8.0)


def draw_plot(lots: Lots) -> Plot:
    """Return the plot of a seed."""
    short = lots.chance(0.6)
    n_tasks = lots.count(1, 14)
    behaviours = [behaviour for behaviour, weight in _BEHAVIOURS for _ in range(weight)]
    if lots.chance(0.4):
        behaviours = [Behaviour.WELL]
    tasks = tuple((lots.choice(behaviours), _seconds(lots, short=short)) for _ in range(n_tasks))
    return Plot(
        is_detached=lots.chance(0.8),
        url=lots.choice(("sim://bucket", "memory://here")),
        n_workers=lots.count(1, 4),
        slots_each=lots.count(1, 2),
        tells_deaths=lots.chance(0.5),
        tasks=tasks,
        retries=lots.choice((0, 0, 1, 2)),
        task_timeout=lots.choice((None, None, 4.0)),
        max_tasks_per_child=lots.choice((None, None, None, 2)),
        absolute_timeout=lots.between(10.0, 70.0) if lots.chance(0.15) else None,
        weather=draw_weather(lots),
        latency_s=lots.choice((0.005, 0.05, 0.3)),
        storm_s=lots.between(20.0, 70.0),
        n_clients=lots.choice((0, 1, 1, 2)),
        ends_with=lots.choice(("cleanup", "cleanup", "cleanup", "terminate", "leave")),
        n_once=lots.choice((0, 0, 0, 8, 15)),
        stops=lots.chance(0.4),
        n_at_once=lots.choice((None, None, 1, 2)),
    )
