"""What a session has cost: from the manifest alone an upper estimate, with the beats a close one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.config import Timings
from starburst_executor.errors import BudgetExceeded, ExecutorBroken
from starburst_executor.protocol import money
from starburst_executor.protocol.records import Launch, Manifest, Running, SessionState, WorkerBeat, WorkerState

HOUR = 3600.0
# Ten slots at a dollar an hour each, all started at 0.
LAUNCH = Launch("0001-aa", "fargate", 10, "h", 0.0, True, 10, 0.0, 10.0)


def manifest(*launches: Launch, **fields: Any) -> Manifest:
    made = Manifest("s", "detached", 0.0, "3.11", "0", b"", 10, Timings())
    return replace(made, launches=launches, **fields)


def beat(
    digits: str, begins: float, ends: float, *, left: bool = False, slots: int = 1, launch: str = "0001"
) -> WorkerBeat:
    state = WorkerState.LEFT if left else WorkerState.WORKING
    return WorkerBeat(f"{launch}-{digits}", 1, state, slots, begins, ends)


def test_the_manifest_alone_is_an_upper_estimate() -> None:
    local = replace(LAUNCH, launch_id="0002-bb", usd_per_hour=0.0)
    assert money.spent(manifest(LAUNCH, local, spent_usd=1.5), 2 * HOUR) == pytest.approx(21.5)
    assert money.usd_per_hour(manifest(LAUNCH, local)) == 10.0


def test_nobody_is_billed_for_less_than_a_minute() -> None:
    assert money.spent(manifest(LAUNCH), 1.0) == pytest.approx(10 / 60)


def test_a_clock_that_is_behind_gives_no_money_back() -> None:
    assert money.spent(manifest(LAUNCH), -HOUR) == pytest.approx(10 / 60)


def test_those_who_have_left_are_not_counted_on() -> None:
    beats = [beat(f"{n}", 60, HOUR, left=True) for n in range(9)] + [beat("9", 60, 5 * HOUR)]
    assert money.spent(manifest(LAUNCH), 5 * HOUR, beats) == pytest.approx(9 * 1 + 5)
    assert money.usd_per_hour(manifest(LAUNCH), beats) == pytest.approx(1.0)
    assert money.spent(manifest(LAUNCH), 5 * HOUR, beats[:9]) == pytest.approx(9 * 1 + 5), "one was never heard of"


def test_the_dead_have_ended_with_their_last_beat() -> None:
    beats = [beat("0", 0, HOUR, slots=10)]
    assert money.spent(manifest(LAUNCH), 5 * HOUR, beats) == pytest.approx(50)
    assert money.spent(manifest(LAUNCH), 5 * HOUR, beats, {"0001-0"}) == pytest.approx(10)
    assert money.usd_per_hour(manifest(LAUNCH), beats, {"0001-0"}) == 0.0


def test_who_is_started_in_place_of_another_is_paid_for_from_its_own_start() -> None:
    beats = [beat("0", 0, HOUR, left=True, slots=10), beat("1", 2 * HOUR, 3 * HOUR, slots=10)]
    assert money.spent(manifest(LAUNCH), 3 * HOUR, beats) == pytest.approx(20)
    assert money.usd_per_hour(manifest(LAUNCH), beats) == pytest.approx(10.0)


def test_workers_of_other_launches_are_theirs() -> None:
    other = replace(LAUNCH, launch_id="0002-bb", since=4 * HOUR)
    beats = [beat("0", 0, HOUR, left=True, slots=10), beat("0", 4 * HOUR, 5 * HOUR, slots=10, launch="0002")]
    assert money.spent(manifest(LAUNCH, other), 5 * HOUR, beats) == pytest.approx(20)


def test_while_workers_are_started_those_that_were_count_and_the_others_if_nobody_is_at_it() -> None:
    going = replace(LAUNCH, settled=False, started=4, at=HOUR)
    assert money.spent(manifest(going), HOUR) == pytest.approx(4)
    # Its client died an hour ago, perhaps right after it had started all of them.
    assert money.spent(manifest(going), 2 * HOUR) == pytest.approx(4 * 2 + 6 * 1)
    settled = money.settled(going, 5)
    assert (settled.slots, settled.started, settled.usd_per_hour, settled.settled) == (5, 5, 5.0, True)
    assert money.settled(replace(going, slots=0), 0).usd_per_hour == 0.0


def test_what_is_over_is_kept_as_a_sum() -> None:
    young = replace(LAUNCH, launch_id="0002-bb", since=4 * HOUR)
    beats = [beat("0", 0, HOUR, slots=5), beat("1", 0, HOUR / 2, left=True, slots=4)]
    left = money.without(manifest(LAUNCH, young, spent_usd=1.0), [LAUNCH], 9 * HOUR, beats)
    assert left.launches == (young,)
    # The tenth slot was never heard of, and has cost the least that anything costs.
    assert left.spent_usd == pytest.approx(1.0 + 5 + 2 + 1 / 60)


def test_a_session_that_is_over_costs_nothing_an_hour() -> None:
    assert money.usd_per_hour(manifest(LAUNCH, state=SessionState.TERMINATED)) == 0.0


def test_a_broken_session_has_the_error_that_fits() -> None:
    over = manifest(LAUNCH, budget_usd=5.0)
    reason = money.budget_reason(over, 5.25)
    error = money.ended_by(replace(over, state=SessionState.BROKEN, reason=reason, error=money.BUDGET_EXCEEDED))
    assert isinstance(error, BudgetExceeded)
    assert str(error).startswith("the session's workers have cost about $5.25, its budget is $5.00")
    broken = money.ended_by(replace(over, state=SessionState.BROKEN, reason="no worker could be started"))
    assert isinstance(broken, ExecutorBroken)
    assert money.ended_by(over) is None


def test_work_in_vain_is_what_was_dropped_and_what_ran_when_a_worker_died():
    base = WorkerBeat("w", 1, WorkerState.WORKING, 2, 0.0, 100.0)
    beats = [
        replace(base, worker_id="told", state=WorkerState.LEFT, lost_s=30.0),
        replace(base, worker_id="died", running=(Running("0-1", 40.0), Running("0-2", 90.0))),
        replace(base, worker_id="lives", running=(Running("0-3", 0.0),)),
    ]
    now = manifest(LAUNCH)
    seconds, usd = money.thrown_away(now, beats, {"died"})
    assert seconds == 30 + 60 + 10
    # Ten slots for ten dollars an hour.
    assert usd == pytest.approx(100 / 3600)
    assert money.thrown_away(manifest(), beats) == (30.0, 0.0)


def test_interruptions_of_launches_that_are_over_still_count():
    lives, over = replace(LAUNCH, n_taken=2), replace(LAUNCH, launch_id="0002-bb", n_taken=5)
    both = manifest(lives, over)
    assert both.n_interruptions == 7
    left = money.without(both, [over], 0.0)
    assert (left.launches, left.n_taken, left.n_interruptions) == ((lives,), 5, 7)
