"""Whether a client may leave its work to a worker: which signs count, and which are those of a worker on its way out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from starburst_executor.launch.base import Death
from starburst_executor.launch.local.processes import has_ended, identity, started_at
from starburst_executor.protocol.records import WorkerState
from tests.support.keeper_rig import Client, FakeLauncher, launches
from tests.support.session_rig import Rig

OUT = [WorkerState.LEAVING, WorkerState.LEFT]
IN = [WorkerState.IDLE, WorkerState.WORKING]


class There:
    """A client with a worker that was heard of, and whose process nothing here can look up."""

    def __init__(self, state: WorkerState = WorkerState.IDLE, **beat: str) -> None:
        self.rig, self.launcher = Rig(workers=1), FakeLauncher()
        self.client = Client(self.rig, self.launcher)
        self.rig.submit(1)
        self.client.turns(1.0)
        self.beat = beat
        self.number = 0
        self.says(state)
        self.client.turns(1.0)

    def says(self, state: WorkerState) -> None:
        self.number += 1
        self.rig.beat("w0", self.number, state, **self.beat)

    def leaves(self, within_s: float = 20.0) -> bool:
        return self.client.leaves(within_s)


@pytest.mark.parametrize("state", IN)
def test_a_worker_that_beats_again_stays(state: WorkerState) -> None:
    there = There()
    assert not there.leaves()
    there.says(state)
    assert there.leaves()


@pytest.mark.parametrize("state", OUT)
@pytest.mark.parametrize("again", OUT)
def test_one_on_its_way_out_does_not_count_however_often_it_says_so(state: WorkerState, again: WorkerState) -> None:
    there = There(state)
    assert not there.leaves()
    there.says(again)
    assert not there.leaves()


def test_one_that_took_its_leaving_back_stays() -> None:
    there = There(WorkerState.LEAVING)
    assert not there.leaves()
    there.says(WorkerState.IDLE)
    assert there.leaves()


def test_when_the_last_one_has_gone_another_is_started_and_heard_first() -> None:
    there = There(WorkerState.LEAVING)
    assert not there.leaves()
    there.says(WorkerState.LEFT)
    there.launcher.kill("w0", "exit status 0")
    assert not there.leaves()
    assert [launch.handle for launch in launches(there.rig)] == ["w1"]
    there.rig.beat("w1")
    assert there.leaves()


@pytest.mark.parametrize("state", IN)
def test_a_process_that_lives_here_need_not_beat_again(state: WorkerState) -> None:
    assert There(state, process=identity()).leaves(1.0)


@pytest.mark.parametrize("state", OUT)
def test_that_it_lives_does_not_help_one_on_its_way_out(state: WorkerState) -> None:
    assert not There(state, process=identity()).leaves()


def ended_process() -> str:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        machine = identity().partition(" ")[0]
        return f"{machine} {child.pid} {started_at(child.pid)}"
    finally:
        child.communicate()


def test_a_process_that_has_ended_does_not_count_whatever_its_last_beat_says() -> None:
    there = There(process=ended_process())
    assert not there.leaves()
    there.says(WorkerState.WORKING)  # it had written this before
    assert not there.leaves()


@pytest.mark.parametrize(("state", "stays"), [*((s, True) for s in IN), *((s, False) for s in OUT)])
def test_a_claim_is_a_sign_of_life_and_says_nothing_of_leaving(state: WorkerState, stays: bool) -> None:
    there = There(state)
    there.client.claims = {"w0.1"}
    assert not there.leaves()
    there.client.claims = {"w0.2"}
    assert there.leaves() == stays


def test_one_whose_death_was_seen_does_not_count() -> None:
    there = There()
    assert not there.leaves()
    there.launcher.deaths = lambda handle: [Death("w0", "killed")]  # type: ignore[method-assign]
    there.says(WorkerState.WORKING)
    assert not there.leaves()


def test_one_that_was_asked_to_leave_does_not_count_whatever_it_says() -> None:
    """`scale` to fewer tasks replaces a worker that has all slots: who leaves at once must not leave the work to the old one."""
    rig, launcher = Rig(workers=4), FakeLauncher()
    launcher.stop = lambda handle, *, at_once: launcher.stopped.append((handle, at_once))  # type: ignore[method-assign]
    client = Client(rig, launcher)
    rig.submit(2)
    client.turns(1.0)
    old = "w0"
    launcher.drained = lambda handle: [old] if launcher.stopped and handle not in launcher.dead else []  # type: ignore[method-assign]
    rig.beat(old, 1, WorkerState.WORKING, process=identity())
    client.turns(1.0)
    rig.session.manifest.change(lambda manifest: replace(manifest, slots=2))
    client.session.manifest.refresh()
    client.keeper.renumber()
    assert not client.leaves(20.0)
    rig.beat(old, 2, WorkerState.WORKING, process=identity())
    assert not client.leaves(20.0)
    assert launcher.stopped == [("w0", False)]
    launcher.kill("w0", "exit status 0")
    assert not client.leaves(20.0)
    assert [order.n_slots for order in launcher.orders] == [4, 2]
    rig.beat("w1")
    assert client.leaves()


def test_with_nothing_left_to_do_no_worker_is_needed() -> None:
    there = There(WorkerState.LEAVING)
    assert not there.leaves()
    there.client.needs = False
    assert there.leaves(1.0)


@pytest.mark.parametrize(("heard", "stays"), [(False, True), (True, False)])
def test_an_engine_that_keeps_trying_may_be_left_to_a_worker_on_its_way_in_not_out(heard: bool, stays: bool) -> None:
    rig, launcher = Rig(workers=1), FakeLauncher()
    launcher.keeps_trying = True
    client = Client(rig, launcher)
    rig.submit(1)
    client.turns(1.0)
    (launch,) = launches(rig)
    if heard:
        rig.beat(f"{launch.launch_id.partition('-')[0]}-0", 1, WorkerState.LEAVING)
    assert client.leaves(20.0) == stays


# --- looking a process up ---------------------------------------------------------------------------------------------


def test_a_process_is_told_by_machine_number_and_start() -> None:
    machine, pid, started = identity().split(" ", 2)
    assert int(pid) == os.getpid()
    assert has_ended(identity()) is False
    assert has_ended(f"{machine} {pid} {started}1") is True
    assert has_ended(ended_process()) is True


@pytest.mark.parametrize(
    "changed",
    [
        lambda machine, pid, started: "",
        lambda machine, pid, started: f"elsewhere/{machine} {pid} {started}",
        lambda machine, pid, started: f"{machine} {pid}",
        lambda machine, pid, started: f"{machine} -1 {started}",
        lambda machine, pid, started: f"{machine} ../1 {started}",
        lambda machine, pid, started: f"{machine} {'9' * 5000} {started}",
    ],
)
def test_of_what_is_no_process_of_this_machine_nothing_is_said(changed: Callable[[str, str, str], str]) -> None:
    assert has_ended(changed(*identity().split(" ", 2))) is None
