"""The tasks that a runner has: `worker/given.py`; and the ends of several jobs as one event."""

from __future__ import annotations

import random
from typing import Any

import pytest

from starburst_executor.worker.given import Given
from starburst_executor.worker.placed import Placed, Stretch
from starburst_executor.worker.runner.jobs import Completed, Finished, gathered

CLAIM: Any = object()


def given(*parts: tuple[int, int, int]) -> Given:
    """Tasks by number of the first job, position of the first task, and their number."""
    tasks = Given()
    for number, first, n in parts:
        tasks.add(number, Stretch(CLAIM, first, n))
    return tasks


def positions(tasks: Given) -> list[int]:
    return [position for stretch in tasks for position in stretch.positions]


def end(number: int) -> Finished:
    return Finished(number, True, True, b"V", 0.0, b"", b"")


def test_each_number_has_its_task() -> None:
    tasks = given((1, 10, 3), (7, 20, 2))
    found = {number: tasks.get(number) for number in range(10)}
    assert {number: placed.position for number, placed in found.items() if placed} == {
        1: 10,
        2: 11,
        3: 12,
        7: 20,
        8: 21,
    }
    assert tasks.first() == (1, Placed(CLAIM, 10))
    assert Given().first() is None
    assert Given().get(1) is None


def test_what_ends_is_taken_from_the_front_and_the_rest_stays() -> None:
    tasks = given((1, 10, 3), (4, 50, 4))
    assert tasks.pop_run(1, 5) == [(1, Stretch(CLAIM, 10, 3)), (4, Stretch(CLAIM, 50, 2))]
    assert tasks.first() == (6, Placed(CLAIM, 52))
    assert len(tasks) == 2


def test_numbers_that_are_not_there_shift_no_task() -> None:
    tasks = given((1, 10, 2), (5, 20, 2))
    assert tasks.pop_run(1, 5) == [(1, Stretch(CLAIM, 10, 2)), (5, Stretch(CLAIM, 20, 1))]
    assert tasks.pop(2) is None
    assert positions(tasks) == [21]


def test_jobs_in_the_middle_can_be_taken_back() -> None:
    tasks = given((1, 10, 5))
    assert tasks.pop_all({2, 3, 5}) == [Stretch(CLAIM, 11, 2), Stretch(CLAIM, 14, 1)]
    assert (positions(tasks), len(tasks)) == ([10, 13], 2)
    assert tasks.clear() == [Stretch(CLAIM, 10, 1), Stretch(CLAIM, 13, 1)]
    assert (positions(tasks), len(tasks)) == ([], 0)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_dictionary_of_jobs(seed: int) -> None:
    chance = random.Random(seed)
    tasks, model, last = Given(), {}, 0
    for _ in range(200):
        step = chance.random()
        if step < 0.4:
            last += chance.randint(1, 3)
            first, n = chance.randrange(1000), chance.randint(1, 5)
            tasks.add(last, Stretch(CLAIM, first, n))
            model.update({last + i: first + i for i in range(n)})
            last += n - 1
        elif step < 0.8:
            start, n = chance.choice([*model, 1]), chance.randint(1, 8)
            found = {
                number + i: stretch.first + i for number, stretch in tasks.pop_run(start, n) for i in range(stretch.n)
            }
            assert found == {number: model.pop(number) for number in range(start, start + n) if number in model}
        else:
            numbers = {number for number in model if chance.random() < 0.3}
            popped = [position for stretch in tasks.pop_all(numbers) for position in stretch.positions]
            assert popped == [model.pop(number) for number in sorted(numbers)]
        assert positions(tasks) == list(model.values())
        assert len(tasks) == len(model)


def test_simulated_ends_with_gaps_between_their_numbers_are_events_of_their_own() -> None:
    """Jobs were taken back in between."""
    ends = [end(number) for number in (3, 4, 8, 9, 10, 12)]
    runs = [event for event in gathered(ends) if isinstance(event, Completed)]
    assert [(run.number, run.n) for run in runs] == [(3, 2), (8, 3), (12, 1)]
    assert [e for run in runs for e in run.each()] == ends
