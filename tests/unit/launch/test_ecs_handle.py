"""A launch as a string: the same handle gives the same calls, and what is no handle is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starburst_executor.launch.aws.ecs_handle import Call, EcsHandle

BEGUN = EcsHandle("a-session", "0190a0b0c0d-0011223344556677", 4, 50, True)


def ids(n: int) -> tuple[tuple[str, int], ...]:
    return tuple((f"{i:032x}", 4) for i in range(n))


def test_calls_of_ten_and_a_last_one_for_the_rest() -> None:
    assert BEGUN.next_calls(10, 4) == [Call(0, 10, 4), Call(1, 2, 4), Call(2, 1, 2)]
    assert BEGUN.next_calls(10, 1) == [Call(0, 10, 4)]
    begun = replace(BEGUN, n_calls=1, tasks=ids(10))
    assert begun.next_calls(10, 4) == [Call(1, 2, 4), Call(2, 1, 2)]
    assert replace(begun, tasks=(*ids(12), ("f" * 32, 2))).next_calls(10, 4) == []


def test_unclear_calls_come_first_and_as_they_were() -> None:
    begun = replace(BEGUN, n_calls=2, repeat=(Call(0, 10, 4),), tasks=ids(2))
    assert begun.n_left == 2
    assert begun.next_calls(10, 4) == [Call(0, 10, 4), Call(2, 1, 2)]


def test_there_and_back() -> None:
    begun = replace(BEGUN, n_calls=3, n_tries=1, provider=1, repeat=(Call(2, 1, 2),), tasks=ids(3), why_fewer="few")
    assert EcsHandle.load(begun.dump()) == begun
    assert EcsHandle.load(BEGUN.dump()) == BEGUN


def test_a_thousand_workers_fit_into_a_manifest() -> None:
    assert len(replace(BEGUN, tasks=ids(1000)).dump()) < 25_000


@given(st.one_of(st.text(), st.binary().map(bytes.hex)))
def test_what_is_no_handle_is_none(text: str) -> None:
    assert EcsHandle.load(text) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"n_slots_each": 0},
        {"n_slots": -1},
        {"provider": "x"},
        {"launch_id": 7},
        {"detached": 1},
        {"repeat": ((1, 2, "x"),)},
    ],
)
def test_what_is_wrong_in_a_handle_makes_it_none(changed: dict[str, object]) -> None:
    assert EcsHandle.load(replace(BEGUN, **changed).dump()) is None  # type: ignore[arg-type]


def test_ids_of_different_lengths_come_back() -> None:
    begun = replace(BEGUN, tasks=(("aaaaaaaa", 4), ("bbbb-bbbb-bbbb", 4)))
    assert EcsHandle.load(begun.dump()) == begun


def test_ids_are_opaque() -> None:
    """Older accounts and emulators have hyphens in them."""
    tasks = (("0f578fe9-30a6-4819-b668-dbeb268e34b7", 4), ("task-one", 2))
    assert EcsHandle.load(replace(BEGUN, tasks=tasks).dump()) == replace(BEGUN, tasks=tasks)
