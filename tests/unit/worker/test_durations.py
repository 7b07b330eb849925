"""Estimates of how long tasks take."""

from __future__ import annotations

from array import array

import pytest

from starburst_executor.protocol.spans.record import ENDED, OutcomeBlock, Span, State, Status
from starburst_executor.worker import durations as durations_module
from starburst_executor.worker.durations import Durations


def test_estimates_follow_their_measurements() -> None:
    durations = Durations()
    assert durations.of("f") is None
    durations.add("f", 1.0)
    assert durations.of("f") == 1.0
    for _ in range(20):
        durations.add("f", 3.0)
    assert durations.of("f") == pytest.approx(3.0, abs=0.1)
    assert durations.of("g") is None


def test_one_outlier_moves_an_estimate_by_a_fifth() -> None:
    durations = Durations()
    assert durations.latest is None
    durations.add("f", 1.0)
    durations.add("f", 11.0)
    assert durations.of("f") == durations.latest == pytest.approx(3.0)


def seen(*states: State) -> Status:
    """Tasks of two functions in turn; those that completed took 2 s, those that failed 9 s."""
    spans = tuple(
        Span(
            1, state if state == State.PENDING else ENDED, function=i % 2, claim="" if state == State.PENDING else "w.1"
        )
        for i, state in enumerate(states)
    )
    ends = tuple(
        OutcomeBlock(
            i,
            1,
            1,
            0,
            "w.1",
            b"",
            failed=(0,) if state == State.FAILED else (),
            seconds=array("f", [9.0 if state == State.FAILED else 2.0]).tobytes(),
        )
        for i, state in enumerate(states)
        if state != State.PENDING
    )
    return Status(0, 0, ("f", "g"), spans, (), ends)


def test_the_next_task_is_estimated_by_its_function_or_else_by_its_neighbours() -> None:
    durations = Durations()
    waiting = seen(State.COMPLETED, State.PENDING, State.FAILED)
    assert durations.of_next(seen(State.PENDING)) is None
    assert durations.of_next(waiting) == 2.0
    durations.add("f", 5.0)
    assert durations.of_next(waiting) == 2.0
    durations.add("g", 7.0)
    assert durations.of_next(waiting) == 7.0
    assert durations.of_next(seen(State.COMPLETED)) is None


def test_estimates_of_functions_without_end_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations_module, "_MOST", 100)
    durations = Durations()
    for i in range(1000):
        durations.add(str(i), 1.0)
        assert durations.of(str(i)) == 1.0
        assert len(durations._estimates) <= 100
