"""Which claims a worker reads again because tasks of them may have been cancelled."""

from __future__ import annotations

import os
import signal
from typing import Any, cast

import pytest

from starburst_executor.session.stops import ALL
from starburst_executor.testing import FakeClock
from starburst_executor.worker.doubts import Doubts
from starburst_executor.worker.nudge import Nudge
from starburst_executor.worker.runner.usage import RunningNow


class Held:
    def __init__(self, *claims: str) -> None:
        self.claims = dict.fromkeys(claims, "a key")

    def held(self) -> dict[str, str]:
        return dict(self.claims)


def doubts_of(*claims: str) -> tuple[Doubts, Held, FakeClock]:
    held, clock = Held(*claims), FakeClock()
    claims_of_worker: Any = held
    return Doubts(claims_of_worker, clock, 1.0, 40.0), held, clock


def test_a_named_claim_is_read_at_once_and_then_after_growing_pauses_until_it_is_settled() -> None:
    doubts, held, clock = doubts_of("w.1", "w.2")
    assert not doubts.is_due("w.1")
    assert doubts.heard(["w.1", "v.1"])
    assert not doubts.heard(["w.1", "v.1"]), "no news"
    times = []
    for at in range(40):
        if doubts.is_due("w.1"):
            times.append(at)
        assert not doubts.is_due("w.2")
        clock.advance(1.0)
    assert times == [0, 1, 3, 7, 15, 23, 31, 39]
    assert doubts.heard(["w.1"], again=True)
    assert doubts.is_due("w.1")
    del held.claims["w.1"]
    doubts.heard(["w.1"])
    clock.advance(100.0)
    assert not doubts.is_due("w.1")


def test_a_mark_for_all_concerns_the_claims_that_are_held_when_it_is_new() -> None:
    doubts, held, _ = doubts_of("w.1")
    assert doubts.heard([f"{ALL}1"])
    held.claims["w.2"] = "a key"
    assert not doubts.heard([f"{ALL}1"])
    assert doubts.is_due("w.1")
    assert not doubts.is_due("w.2")
    assert doubts.heard([f"{ALL}2"])
    assert doubts.is_due("w.2")


@pytest.mark.parametrize(
    ("seconds", "expected_s", "n_looks"),
    [
        ([3600.0], None, 1200),
        ([0.1, 2.9], None, 0),
        ([], None, 0),
        ([14.0], 10.0, 0),
        ([14.0], 12.0, 1200),
        ([15.0], 10.0, 1200),
    ],
)
def test_the_manifest_is_read_five_times_a_beat_while_a_task_runs_for_long(
    seconds: list[float], expected_s: float | None, n_looks: int
) -> None:
    clock = FakeClock()
    doubts = Doubts(cast("Any", Held()), clock, 1.0, 15.0)
    running = [RunningNow(f"0-{i}", ran_s, 0, None) for i, ran_s in enumerate(seconds)]
    n = 0
    for _ in range(3600):  # the finder wakes each second
        clock.advance(1.0)
        n += doubts.wants_news(running, expected_s)
    assert n == n_looks


def test_a_nudge_is_taken_once() -> None:
    nudge = Nudge()
    before = signal.signal(signal.SIGUSR1, nudge.on_signal)
    try:
        assert not nudge.take()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert nudge.take()
        assert not nudge.take()
    finally:
        signal.signal(signal.SIGUSR1, before)
