"""Bins of ends and busy slots: as if each task had been laid out over time, at any length of a session."""

from __future__ import annotations

import random

import pytest

from starburst_executor.dashboard.strips import MOST_BINS, MOST_DRAWN, Strip, Timeline, skyline

BEGAN = 1_700_000_000.0


def laid_out(tasks: list[tuple[str, float, float]], shown: Timeline) -> list[float]:
    """The mean number of running tasks in each bin, task by task."""
    busy = [0.0] * len(shown.busy)
    for _, end, seconds in tasks:
        for i in range(len(busy)):
            left = BEGAN + i * shown.bin_s
            busy[i] += max(0.0, min(end, left + shown.bin_s) - max(end - seconds, left)) / shown.bin_s
    return busy


@pytest.mark.parametrize("span_s", [3.0, 90.0, 86_400.0, 40 * 86_400.0])
def test_bins_are_what_laying_out_every_task_gives(span_s: float) -> None:
    lots = random.Random(span_s)
    strip, tasks = Strip(BEGAN), []
    for _ in range(300):
        seconds = lots.uniform(0, span_s / 10)
        tasks.append(
            (lots.choice(["completed", "failed", "cancelled"]), BEGAN + lots.uniform(seconds, span_s), seconds)
        )
        state, end, seconds = tasks[-1]
        strip.add([state], end, [seconds], 1)
    shown = strip.at(BEGAN + span_s, [], [])
    assert len(shown.busy) <= MOST_DRAWN
    assert shown.bin_s * len(shown.busy) >= max(end for _, end, _ in tasks) - BEGAN
    assert shown.busy == pytest.approx(laid_out(tasks, shown), abs=1e-3)
    for name in ("completed", "failed", "cancelled"):
        bins = getattr(shown, name)
        assert sum(bins) == sum(state == name for state, _, _ in tasks)


@pytest.mark.parametrize("span_s", [3.0, 86_400.0])
def test_tasks_that_ran_one_after_the_other_are_as_many_tasks_alone(span_s: float) -> None:
    lots = random.Random(span_s)
    one_by_one, together = Strip(BEGAN), Strip(BEGAN)
    for _ in range(40):
        n = lots.randrange(1, 30)
        states = lots.choices(["completed", "failed"], k=n)
        seconds = [lots.choice([0.0, lots.uniform(0, span_s / 200)]) for _ in range(n)]
        end = BEGAN + lots.uniform(0, span_s)  # some begin before the session, by another clock
        together.add(states, end, seconds, 1)
        for i in reversed(range(n)):
            one_by_one.add([states[i]], end, [seconds[i]], 1)
            end -= seconds[i]
    for shown, expected in zip(together.at(BEGAN + span_s, [], []), one_by_one.at(BEGAN + span_s, [], []), strict=True):
        assert shown == pytest.approx(expected, abs=1e-3)


def test_a_task_that_is_taken_out_leaves_nothing() -> None:
    strip = Strip(BEGAN)
    strip.add(["completed"], BEGAN + 5, [2.0], 1)
    before = strip.at(BEGAN + 5, [], [])
    strip.add(["failed"] * 2, BEGAN + 4, [3.0, 0.5], 1)
    strip.add(["failed"] * 2, BEGAN + 4, [3.0, 0.5], -1)
    assert strip.at(BEGAN + 5, [], []) == before


def test_running_tasks_and_objects_that_were_not_read_are_shown_at_their_place() -> None:
    strip = Strip(BEGAN)
    shown = strip.at(BEGAN + 10, [(BEGAN + 2, 7)], [BEGAN + 6])
    per_s = len(shown.unread) / (shown.bin_s * len(shown.unread))
    assert shown.unread[int(2 * per_s)] == 7
    assert shown.busy == pytest.approx(laid_out([("", BEGAN + 10, 4.0)], shown), abs=1e-6)


@pytest.mark.parametrize("at", [0.0, -1e18, BEGAN - 100, BEGAN + 1e12, float("inf")])
def test_a_wrong_clock_breaks_nothing(at: float) -> None:
    strip = Strip(BEGAN)
    strip.add(["completed"], at, [1.0], 1)
    shown = strip.at(BEGAN + 1, [(at, 1)], [at])
    assert sum(shown.completed) == 1
    assert len(shown.completed) <= MOST_BINS


def test_a_skyline_has_a_step_for_each_value_and_shows_the_smallest() -> None:
    assert skyline([], 1) == skyline([0, 0], 1) == skyline([1, 2], 0) == ""
    path = skyline([1.0, 1.0, 0.0, 0.001], 1.0, width=40, height=100)
    assert path == "M0 100H0V0H20V100H30V99H40V100z"
    assert len(skyline([i % 7 for i in range(MOST_DRAWN)], 6.0)) < 800
