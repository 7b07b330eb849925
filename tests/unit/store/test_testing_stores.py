"""The stores that others test with: what goes wrong when, and how long it takes."""

from __future__ import annotations

import pytest

from starburst_executor.errors import StoreUnavailable
from starburst_executor.testing.faulty import Fault, FaultyStore, by_chance, in_turn
from starburst_executor.testing.memory import MemoryStore
from starburst_executor.testing.slow import SlowStore
from tests.contract.stores import HurriedClock


def test_a_late_write_lands_when_told() -> None:
    objects = MemoryStore()
    faulty = FaultyStore(objects, in_turn([Fault.LATE, Fault.LATE]))
    for body in (b"first", b"second"):
        with pytest.raises(StoreUnavailable):
            faulty.create("key", body)
    assert objects.list("") == []
    assert faulty.land() == 1
    assert faulty.land() == 0
    assert faulty.get("key") == objects.get("key")


def test_a_plan_by_chance_is_reproducible() -> None:
    def outcomes(seed: int) -> list[bool]:
        faulty = FaultyStore(MemoryStore(), by_chance(HurriedClock(seed), 0.5, [Fault.RESET], kinds=["put"]))
        went = []
        for number in range(100):
            faulty.list("")
            try:
                faulty.put("key", b"%d" % number)
            except StoreUnavailable:
                went.append(False)
            else:
                went.append(True)
        return went

    assert outcomes(1) == outcomes(1) != outcomes(2)
    assert 30 < outcomes(1).count(True) < 70


def test_a_slow_store_takes_its_time() -> None:
    clock = HurriedClock()
    objects = MemoryStore()
    slow = SlowStore(objects, clock, get_s=1, put_s=10, list_s=100, delete_s=1_000)
    etag = slow.create("a/b", b"x")
    slow.swap("a/b", b"y", etag)
    slow.put("a/c", b"z")
    slow.get("a/b")
    slow.list("a/")
    slow.list_folders("")
    slow.delete(["a/b"])
    assert clock.waits == [10, 10, 10, 1, 100, 100, 1_000]
    for number in range(2_001):
        objects.put(f"many/{number}", b"")
    clock.waits.clear()
    slow.list("many/")
    assert clock.waits == [100] * 3
