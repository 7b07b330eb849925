"""How much a slot claims and how long an outcome waits, by tasks' durations and the time that the worker has been busy."""

from __future__ import annotations

import pytest

from starburst_executor import Timings
from starburst_executor.protocol.spans.record import MAX_TASKS
from starburst_executor.testing.clock import FakeClock
from starburst_executor.worker.busy import Busy
from starburst_executor.worker.pace import pace_of

REMOTE, EMBEDDED = pace_of(Timings.remote()), pace_of(Timings.embedded())


@pytest.mark.parametrize(("busy_s", "within_s"), [(0, 1), (50, 1), (100, 2), (200, 4), (500, 10), (750, 15), (1e9, 15)])
def test_outcomes_wait_for_two_percent_of_the_run(busy_s: float, within_s: float) -> None:
    assert REMOTE.commit_within_s(busy_s, is_scarce=False) == pytest.approx(within_s)
    assert REMOTE.commit_within_s(busy_s, is_scarce=True) == 1
    assert EMBEDDED.commit_within_s(busy_s, is_scarce=False) == 0.2
    # The last task of a slice may end a little later than planned, so that one swap stores all of them.
    assert REMOTE.commit_within_s(busy_s, is_scarce=False, is_last=True) == pytest.approx(1.05 * within_s)
    assert REMOTE.commit_within_s(busy_s, is_scarce=True, is_last=True) == 1


@pytest.mark.parametrize(
    ("estimate_s", "fair_share", "busy_s", "size"),
    [
        (None, 1000, 1000, 1),
        (1.0, 1000, 0, 2),  # the first of two outcomes waits for a second
        (1.0, 1000, 200, 5),
        (1.0, 1000, 1e6, 16),
        (1.0, 6, 1e6, 3),  # half a fair share
        (1.0, 1, 1e6, 1),
        (10.0, 1000, 100, 1),
        (4.0, 1000, 1e6, 4),
        (10.0, 1000, 1e6, 2),
        (600.0, 1000, 1e6, 1),
        (0.1, 5, 0, 5),  # a first slice may hold a whole fair share
        (0.0, 1000, 0, MAX_TASKS),
    ],
)
def test_a_slice_is_what_may_wait_and_leaves_others_their_share(
    estimate_s: float | None, fair_share: int, busy_s: float, size: int
) -> None:
    assert REMOTE.slice_size(estimate_s, fair_share, busy_s) == size


@pytest.mark.parametrize("estimate_s", [0.001, 0.01, 0.3, 1.0, 2.5, 7.0, 20.0])
@pytest.mark.parametrize("busy_s", [0.0, 60.0, 300.0, 5000.0])
@pytest.mark.parametrize("fair_share", [1, 2, 9, 100, 10_000])
@pytest.mark.parametrize("n_meet", [0.0, 1.0, 50.0, 1000.0])
def test_no_outcome_of_a_slice_waits_too_long_for_its_end(
    estimate_s: float, busy_s: float, fair_share: int, n_meet: float
) -> None:
    size = REMOTE.slice_size(estimate_s, fair_share, busy_s, n_meet=n_meet)
    assert (size - 1) * estimate_s <= REMOTE.commit_within_s(busy_s, is_scarce=False) + 1e-9
    # What waits behind the first task of a slice, with the next slice, is not released at once as too much.
    assert not REMOTE.holds_too_much(2 * size - 1, estimate_s, busy_s)


def test_a_worker_is_busy_until_it_has_had_nothing_to_do_for_a_while() -> None:
    clock = FakeClock()
    busy = Busy(clock, gap_s=1.0)
    assert busy.seconds() == 0
    busy.begin(0)
    clock.advance(5.0)
    busy.begin(1)
    busy.end(0)
    clock.advance(5.0)
    assert busy.seconds() == 10
    busy.end(1)
    assert busy.seconds() == 0
    clock.advance(0.5)
    busy.begin(1)
    assert busy.seconds() == 10.5
    busy.end(1)
    clock.advance(1.5)
    busy.begin(0)
    clock.advance(1.0)
    assert busy.seconds() == 1.0


@pytest.mark.parametrize(
    ("estimate_s", "fair_share", "busy_s", "n_meet", "size"),
    [
        (1.0, 1, 200, 1, 1),  # no other slot looks for tasks there
        (1.0, 1, 200, 50, 2),  # a swap excludes fifty workers for 5 s in all: more than a task takes
        (1.0, 4, 200, 50, 4),
        (1.0, 4, 200, 1000, 5),  # no outcome waits for longer than 4 s
        (1.0, 1, 0, 1000, 2),
        (10.0, 1, 200, 50, 1),  # tasks that take longer than that are taken one by one
        (10.0, 1, 1e6, 1000, 2),
    ],
)
def test_where_many_workers_meet_a_slice_is_longer_than_their_share(
    estimate_s: float, fair_share: int, busy_s: float, n_meet: float, size: int
) -> None:
    assert REMOTE.slice_size(estimate_s, fair_share, busy_s, n_meet=n_meet) == size
    # A swap of the embedded store takes a millisecond.
    assert EMBEDDED.slice_size(estimate_s, fair_share, busy_s, n_meet=n_meet) <= max(1, fair_share // 2)


def test_a_slice_holds_only_so_many_bytes_of_outcomes() -> None:
    assert REMOTE.slice_size(0.001, 10_000, 1e6, size=0.0) == MAX_TASKS
    assert REMOTE.slice_size(0.01, 1000, 1e6, size=4 * 2**20) == 8
    assert REMOTE.slice_size(0.01, 1000, 1e6, size=2**30) == 1
