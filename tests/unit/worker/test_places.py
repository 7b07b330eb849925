"""Places that tasks lend while they wait for tasks of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from starburst_executor import context
from starburst_executor.clock import SystemClock
from starburst_executor.context import current_task
from starburst_executor.errors import StoreUnavailable
from starburst_executor.worker import places
from starburst_executor.worker.leaving import Leaving, Stop
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.places import MoreSlots, Retirement
from starburst_executor.worker.runner import wire
from starburst_executor.worker.runner.lending import Lending
from starburst_executor.worker.slot import Slot
from starburst_executor.worker.slots import Slots
from tests.support.runner_rig import Rig, finished, value_of, wait_until
from tests.support.slot_stage import Stage


class Counted:
    """A worker with this many places to lend."""

    def __init__(self, left: int = 1) -> None:
        self.left = left

    def lend(self) -> bool:
        self.left -= 1
        if self.left < 0:
            self.left = 0
            return False
        return True

    def take_back(self) -> None:
        self.left += 1


def test_a_place_is_lent_once_until_the_job_goes_on_or_has_ended() -> None:
    worker = Counted()
    lending = Lending(worker)
    assert lending.settle({7}) is None
    lending.hear(wire.LEND, 7)
    assert lending.settle({7}) is True
    assert worker.left == 0
    lending.hear(wire.LEND, 7)
    assert lending.settle({7}) is True, "asked again"
    lending.hear(wire.RESUME, 7)
    assert worker.left == 0, "not while the runner's lock is held"
    assert lending.settle({7}) is None
    assert worker.left == 1
    lending.hear(wire.LEND, 7)
    assert lending.settle({7}) is True
    lending.hear(wire.RESUME, 7)
    lending.hear(wire.LEND, 7)
    assert lending.settle({7}) is True
    assert worker.left == 0, "taken back, and lent again"
    assert lending.settle({8}) is None
    assert worker.left == 1, "the job has ended"
    lending.hear(wire.LEND, 7)
    assert lending.settle({8}) is False, "it had ended before"
    other = Lending(Counted(0))
    other.hear(wire.LEND, 1)
    assert other.settle({1}) is False


class FakeSlot:
    def __init__(self, retires: threading.Event) -> None:
        self.retires = retires
        self.news = threading.Event()
        self.is_idle = True
        self.is_retired = False

    def retire(self) -> None:
        self.is_retired = True


def more_slots(made: dict[int, FakeSlot], draining: threading.Event) -> MoreSlots:
    def make(number: int, retires: threading.Event) -> Any:
        made[number] = FakeSlot(retires)
        return made[number]

    def work(slot: Any, retires: threading.Event) -> None:
        while not (retires.is_set() and slot.is_idle):
            slot.news.wait(0.01)

    return MoreSlots(2, make, work, draining)


def test_a_slot_more_for_each_waiting_task_and_an_idle_one_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_MOST_LENT", 2)
    made: dict[int, FakeSlot] = {}
    more = more_slots(made, threading.Event())
    assert more.lend()
    assert more.lend()
    assert not more.lend(), "too many tasks wait"
    first, second = made[2], made[3]
    first.is_idle = False
    more.take_back()
    wait_until(lambda: second.is_retired)
    assert not first.retires.is_set()
    more.take_back()
    assert first.retires.is_set()
    assert more.lend()
    assert sorted(made) == [2, 3], "the number of the one that has ended; the other has a task yet"
    first.is_idle = True
    wait_until(lambda: first.is_retired)
    more.take_back()
    wait_until(lambda: not more.slots())


def test_an_error_that_ends_an_additional_slot_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its beats would name the slot's claims for ever, and no worker would take their tasks back."""

    def fails(_: Slot) -> bool:
        raise StoreUnavailable("no answer")

    def guard(target: Callable[[], object]) -> None:
        with pytest.raises(StoreUnavailable):
            target()
        leaving.stop(Stop.FAILED)

    stage, leaving = Stage(), Leaving(SystemClock())
    monkeypatch.setattr(Slot, "step", fails)
    slots = Slots(1, stage.slots[0]._shared, cast("Any", None), leaving, broken=lambda _: None, guard=guard)
    assert slots.lend(0)
    wait_until(lambda: leaving.why == Stop.FAILED)


def test_a_worker_that_drains_retires_all() -> None:
    draining = threading.Event()
    retires = Retirement(draining)
    assert not retires.is_set()
    draining.set()
    assert retires.is_set()


def ask() -> str:
    try:
        cast("Any", current_task()).executor()
    except RuntimeError as error:
        return str(error)
    return "lent"


def test_a_task_that_gets_no_place_says_what_to_do_and_the_jobs_behind_it_run() -> None:
    with Rig() as rig:
        rig.nursery.configure(sys_path=[], tee=False, session=("sqlite:///unused/s", b"k" * 32))
        runner = rig.spawn()
        rig.send(runner, ask, ())
        rig.send(runner, abs, (-3,))
        first, second = map(value_of, finished(runner, 2))
        assert "too many tasks of this worker wait for tasks of their own" in first
        assert second == 3


def wait_for_others() -> None:
    cast("Any", context)._access.lend()
    time.sleep(600)


def test_a_listener_that_fails_takes_back_what_its_runner_has_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Counted()
    with Rig() as rig:
        rig.nursery.configure(sys_path=[], tee=False, session=("sqlite:///unused/s", b"k" * 32))
        runner = rig.spawn(places=worker)
        listener = Listener(runner, SystemClock(), task_timeout=None, heard=lambda: None)
        listener.start("runner-0")
        rig.send(cast("Any", listener), wait_for_others, ())
        wait_until(lambda: worker.left == 0)
        monkeypatch.setattr(runner, "poll", lambda _: 1 / 0)
        runner.wake()
        wait_until(lambda: listener.has_ended)
        assert worker.left == 1
