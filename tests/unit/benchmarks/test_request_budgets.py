"""The budgets in requests and useful time (`docs/design/0001-protocol.md`), kept by the real client and agents in simulated time.

The figures come from seeds, not from this machine: the same lots at any speed. Each limit leaves a few percent for other seeds.
"""

from __future__ import annotations

import pytest

from benchmarks._far import Played, play

WORKERS = 50


def per_task(played: Played, n_tasks: int) -> float:
    return sum(played.requests.values()) / n_tasks


@pytest.mark.parametrize("seed", [1, 2])
def test_tiny_tasks_cost_a_fifth_of_a_request(seed: int) -> None:
    played = play([1e-4] * 10_000, WORKERS, seed=seed)
    assert per_task(played, 10_000) <= 0.2
    assert played.seconds <= 5.0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tasks_of_a_second_cost_six_requests(seed: int) -> None:
    played = play([1.0] * 500, WORKERS, seed=seed)
    assert per_task(played, 500) <= 6.0
    # The oldest is not left behind for those that are claimed more cheaply.
    assert played.first_s <= 3.0


def test_workers_are_busy_while_there_is_work() -> None:
    played = play([1.0] * 2000, WORKERS)
    assert 2000 / WORKERS / played.seconds >= 0.95
    assert per_task(played, 2000) <= 4.0


def test_a_lone_task_costs_what_its_way_costs() -> None:
    played = play([0.0], 1)
    # Function and status object, the ring; the claim, the commit. How often is asked meanwhile depends on latencies.
    assert {kind: played.requests[kind] for kind in ("create", "put", "swap")} == {
        "create": 2,
        "put": 1,
        "swap": 2,
    }
    assert played.requests["list"] <= 1
    assert played.requests["get"] + played.requests["not_modified"] <= 20
