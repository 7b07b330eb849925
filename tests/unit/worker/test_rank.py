"""Whose turn it is: objects in turns of the living workers, lone tasks in an order of their own."""

from __future__ import annotations

from collections import Counter

import pytest

from starburst_executor.worker.rank import Rank

WORKERS = tuple(f"w{number}" for number in range(5))


def ranks(n_slots: int = 1, workers: tuple[str, ...] = WORKERS) -> list[Rank]:
    made = [Rank(n_slots) for _ in workers]
    for worker, rank in zip(workers, made, strict=True):
        rank.learn(worker, workers)
    return made


@pytest.mark.parametrize("n_slots", [1, 3])
def test_each_object_has_one_worker_and_each_worker_as_many_as_its_slots(n_slots: int) -> None:
    n_all = n_slots * len(WORKERS)
    turns = [[rank.has(place, n_all) for rank in ranks(n_slots)] for place in range(2 * n_all)]
    assert all(sum(turn) == 1 for turn in turns)
    assert all(sum(of_worker) == 2 * n_slots for of_worker in zip(*turns, strict=True))


def test_a_worker_that_has_not_listed_has_no_turn() -> None:
    rank = Rank(1)
    assert not any(rank.has(place, 4) for place in range(8))
    assert rank.before("key") is None
    assert not rank.is_whole(1)
    assert not rank.has_others


def test_those_that_have_left_leave_no_gap() -> None:
    before, after = ranks(), ranks(workers=WORKERS[1:])
    assert before[1].has(1, 4)
    assert after[0].has(0, 4)
    assert [rank.is_whole(5) for rank in (before[0], after[0])] == [True, False]


def test_the_order_for_an_object_is_one_that_all_know_and_another_for_each_object() -> None:
    firsts = Counter[int]()
    for number in range(200):
        order = [rank.before(f"object-{number}") for rank in ranks()]
        assert sorted(order, key=str) == [0, 1, 2, 3, 4]
        firsts[order.index(0)] += 1
    assert all(20 < n < 70 for n in firsts.values())
