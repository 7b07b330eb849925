"""What the ends of workers say of starting more, as a table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.client.trials import End, Trials, end_of
from starburst_executor.launch.base import Death
from starburst_executor.protocol.records import Running, WorkerBeat, WorkerState
from starburst_executor.testing import FakeClock

DIED = Death("w", "exit status 3")
KILLED = replace(DIED, was_killed=True)
TAKEN = replace(DIED, was_taken=True)


def beat(state: WorkerState = WorkerState.WORKING, n_ended: int = 0, words: str = "") -> WorkerBeat:
    return WorkerBeat("w", 1, state, 1, 0.0, 0.0, n_ended=n_ended, words=words)


@pytest.mark.parametrize(
    ("death", "last", "end"),
    [
        (DIED, None, End.FAILED),
        (KILLED, None, End.KILLED),
        (TAKEN, None, End.TAKEN),
        (DIED, beat(), End.FAILED),
        (KILLED, beat(), End.KILLED),
        (TAKEN, beat(), End.TAKEN),
        (DIED, beat(WorkerState.LEFT), End.LEFT),
        (DIED, beat(WorkerState.LEFT, words="no right"), End.FAILED),
        (KILLED, beat(WorkerState.LEFT, words="no right"), End.FAILED),
        (DIED, replace(beat(WorkerState.LEFT, words="no right"), running=(Running("0-0", 1.0),)), End.KILLED),
        (DIED, beat(n_ended=1), End.WORKED),
        (KILLED, beat(n_ended=1), End.WORKED),
        (DIED, beat(WorkerState.LEFT, n_ended=1, words="no right"), End.WORN),
    ],
)
def test_how_a_worker_ended(death: Death, last: WorkerBeat | None, end: End) -> None:
    assert end_of(death, last) is end


def after(*ends: End, every_s: float = 0.0) -> Trials:
    clock = FakeClock()
    trials = Trials(clock, launch_s=60.0)
    for end in ends:
        clock.advance(every_s)
        trials.ended(end, "words", was_heard=False)
    return trials


@pytest.mark.parametrize(
    ("ends", "every_s", "is_hopeless"),
    [
        ([End.FAILED] * 2, 0.0, False),
        ([End.FAILED] * 3, 0.0, True),
        ([End.FAILED, End.FAILED, End.WORKED, End.FAILED], 0.0, False),
        ([End.FAILED, End.KILLED, End.FAILED, End.LEFT, End.FAILED], 0.0, True),
        ([End.WORN] * 50, 0.0, False),
        ([End.KILLED] * 9, 30.0, False),
        ([End.KILLED] * 100, 0.1, False),  # in ten seconds: another program kills them
        ([End.KILLED] * 10, 7.0, True),
        ([End.TAKEN] * 50, 30.0, False),
        ([End.LEFT] * 50, 30.0, False),
    ],
)
def test_when_there_is_no_hope(ends: list[End], every_s: float, is_hopeless: bool) -> None:
    assert bool(after(*ends, every_s=every_s).hopeless()) is is_hopeless


@pytest.mark.parametrize(
    ("ends", "least_s", "most_s"),
    [
        ([End.WORKED], 0.0, 0.0),
        ([End.LEFT], 0.0, 0.0),
        ([End.KILLED], 0.0, 0.0),
        ([End.KILLED] * 2, 0.05, 0.1),
        ([End.KILLED] * 20, 30.0, 60.0),
        ([End.FAILED], 0.25, 0.5),
        ([End.FAILED] * 2, 0.5, 1.0),
        ([End.FAILED] * 20, 30.0, 60.0),
        ([End.TAKEN], 2.5, 5.0),
        ([End.WORN], 0.25, 0.5),
        ([End.WORN] * 20, 30.0, 60.0),
        ([*[End.WORN] * 20, End.WORKED, End.WORN], 0.25, 60.0),
    ],
)
def test_how_long_the_next_start_waits(ends: list[End], least_s: float, most_s: float) -> None:
    trials = after(*ends)
    assert least_s <= max(0.0, trials.next_start_at - trials.clock.monotonic()) <= most_s
