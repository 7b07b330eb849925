"""Workers that are started step by step: the steps are kept, another client goes on, and time ends what never comes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.errors import LaunchError, NoCapacity
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.protocol.records import SessionState
from tests.support.keeper_rig import Client, FakeLauncher, launches
from tests.support.session_rig import Rig


class SlowLauncher(FakeLauncher):
    """One slot a step; its handle is how many there are."""

    def __init__(self, pause_s: float = 2.0, error: LaunchError | None = None, most: int = 10_000) -> None:
        super().__init__()
        self.pause_s, self.error, self.most = pause_s, error, most
        self.steps: list[tuple[str, str]] = []
        self.takes_all = False

    def start(self, order: Order, handle: str = "") -> Started:
        self.steps.append((order.launch_id, handle))
        n_slots = min(int(handle or 0) + (self.error is None), self.most)
        more_s = None if n_slots == min(order.n_slots, self.most) and n_slots else self.pause_s
        return Started(str(n_slots), n_slots, more_s, self.error)

    def deaths(self, handle: str) -> list[Death]:
        return [Death(f"w{n}", "taken back", was_taken=True) for n in range(len(self.steps))] if self.takes_all else []

    def slots_alive(self, handle: str) -> int:
        return 0 if self.takes_all else int(handle)

    def describe(self, handle: str) -> str:
        return f"{handle} on their way"

    def stop(self, handle: str, *, at_once: bool) -> None:
        self.stopped.append((handle, at_once))


def broken(client: Client) -> str:
    manifest = client.rig.another().manifest.current
    assert manifest.state == SessionState.BROKEN
    return manifest.reason


def test_each_step_is_in_the_manifest_and_the_client_beats_meanwhile() -> None:
    rig, launcher = Rig(workers=20), SlowLauncher(pause_s=2.0)
    client = Client(rig, launcher)
    client.turns(5.0)
    (launch,) = launches(rig)
    assert (launch.handle, launch.slots, launch.settled) == ("3", 20, False)
    client.turns(45.0)
    (launch,) = launches(rig)
    assert (launch.handle, launch.slots, launch.settled) == ("20", 20, True)
    assert [handle for _, handle in launcher.steps] == ["", *map(str, range(1, 20))]
    assert {launch_id for launch_id, _ in launcher.steps} == {launch.launch_id}
    assert client.beat().number >= 3


def test_an_unfinished_launch_counts_in_full_while_its_client_is_at_it() -> None:
    rig, launcher, other = Rig(workers=2), SlowLauncher(pause_s=45.0), SlowLauncher()
    one, two = Client(rig, launcher, "c1"), Client(rig, other, "c2")
    for _ in range(50):
        one.turns(1.0)
        two.turns(0.1)
    assert other.steps == []
    assert launches(rig)[0].settled


def test_what_a_dead_client_has_begun_another_goes_on_with() -> None:
    rig, launcher, other = Rig(workers=4), SlowLauncher(), SlowLauncher()
    Client(rig, launcher, "c1").turns(2.5)
    (begun,) = launches(rig)
    two = Client(rig, other, "c2")
    two.turns(19.0)
    assert other.steps == []
    two.turns(15.0)
    assert other.steps[0] == (begun.launch_id, begun.handle) == (launcher.steps[0][0], "2")
    assert [(launch.handle, launch.settled) for launch in launches(rig)] == [("4", True)]


def test_what_a_client_was_starting_when_it_left_another_goes_on_with_at_once() -> None:
    rig, launcher, other = Rig(workers=4), SlowLauncher(), SlowLauncher()
    one = Client(rig, launcher, "c1")
    one.turns(2.5)
    (begun,) = launches(rig)
    one.keeper.leave()
    Client(rig, other, "c2").turns(1.0)
    assert other.steps[0] == (begun.launch_id, begun.handle)


def test_a_client_that_left_before_it_had_started_any_leaves_no_intent() -> None:
    rig, launcher = Rig(workers=4), SlowLauncher()
    one = Client(rig, launcher, "c1")
    going = rig.session.manifest.current.launches
    launcher.start = lambda order, handle="": Started("", 0, 5.0)  # type: ignore[method-assign,misc]  # no handle yet
    one.turns(1.0)
    assert len(launches(rig)) == 1
    one.keeper.leave()
    assert launches(rig) == going == ()


def test_the_time_in_which_the_store_was_away_does_not_make_a_launch_too_late() -> None:
    rig, launcher = Rig(workers=4), SlowLauncher(pause_s=2.0)
    client = Client(rig, launcher)
    client.turns(2.5)
    swap = rig.objects.swap

    def away(*arguments: Any) -> str:
        rig.clock.advance(250.0)
        rig.objects.swap = swap  # type: ignore[method-assign]
        return swap(*arguments)

    rig.objects.swap = away  # type: ignore[method-assign]
    rig.beat("w")
    client.turns(260.0)
    assert [(launch.handle, launch.settled) for launch in launches(rig)] == [("4", True)]
    assert rig.another().manifest.current.state == SessionState.OPEN


def test_a_client_that_wakes_does_not_put_back_what_another_has_gone_on_with() -> None:
    rig, launcher = Rig(workers=4), SlowLauncher()
    one, two = Client(rig, launcher, "c1"), Client(rig, SlowLauncher(), "c2")
    one.turns(2.5)
    two.turns(40.0)
    settled = launches(rig)
    assert settled[0].settled
    one.turns(5.0)
    assert launches(rig) == settled


def test_what_never_comes_is_an_error_with_the_engines_words_in_time() -> None:
    rig, launcher = Rig(workers=4), SlowLauncher(error=NoCapacity("no room in the whole town"))
    client = Client(rig, launcher)
    rig.submit(1)
    client.turns(rig.timings.launch_s - 1)
    assert rig.another().manifest.current.state == SessionState.OPEN
    client.turns(5.0)
    assert broken(client) == "no worker could be started: no room in the whole town"


def test_leaving_raises_the_error_in_its_own_class() -> None:
    rig, launcher = Rig(workers=4), SlowLauncher(error=NoCapacity("no room"))
    with pytest.raises(NoCapacity, match="no room"):
        Client(rig, launcher).leaves()


def test_those_that_are_there_work_and_the_others_are_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    rig, launcher = Rig(workers=4), SlowLauncher(most=3)
    client = Client(rig, launcher)
    start = launcher.start

    def partly(order: Order, handle: str = "") -> Started:
        return replace(start(order, handle), error=NoCapacity("no room for more"))

    launcher.start = partly  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        client.turns(5.0)
    assert [(launch.handle, launch.slots, launch.settled) for launch in launches(rig)] == [("3", 3, True)]
    assert "slots=3, asked=4: no room for more" in caplog.text
    n_before = len(launcher.steps)
    client.turns(60.0)
    assert len(launcher.steps) > n_before


def test_workers_taken_before_their_first_beat_are_not_futile_but_asked_for_more_and_more_slowly() -> None:
    rig, launcher = Rig(workers=1), SlowLauncher(pause_s=0.1)
    launcher.takes_all = True
    client = Client(rig, launcher)
    client.turns(rig.timings.launch_s - 5)
    assert rig.another().manifest.current.state == SessionState.OPEN
    assert 3 < len(launcher.steps) < 10
    client.turns(60.0)
    assert "no worker of launcher 'fake' was heard of within 60 s: taken back" in broken(client)


def test_silence_is_told_with_what_the_engine_says_and_stops_what_is_on_its_way() -> None:
    rig, launcher = Rig(workers=1), SlowLauncher()
    client = Client(rig, launcher)
    key = rig.submit(1)
    client.turns(rig.timings.launch_s + 5)
    assert broken(client) == "no worker of launcher 'fake' was heard of within 60 s: 1 on their way"
    assert launcher.stopped == [("1", False)]
    assert rig.read(key).entries[0].outcome is not None


def test_a_client_leaves_to_an_engine_that_goes_on_by_itself_without_hearing_of_a_worker() -> None:
    rig, launcher = Rig(workers=2), SlowLauncher(pause_s=0.1)
    launcher.keeps_trying = True
    assert Client(rig, launcher).leaves()
    assert [(launch.handle, launch.settled) for launch in launches(rig)] == [("2", True)]


class Knowing(FakeLauncher):
    """Each order is two workers, of which it can stop one; the handle is the order's number."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up: dict[str, str] = {}
        self.refuses = False

    def _workers(self, handle: str) -> list[str]:
        return [f"{handle}-a", f"{handle}-b"][: self.orders[int(handle[1:])].n_slots]

    def expected(self, handle: str) -> list[str]:
        return [one for one in self._workers(handle) if one not in self.given_up]

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        if not self.refuses:
            self.given_up[worker_id] = words
        return not self.refuses

    def deaths(self, handle: str) -> list[Death]:
        return [Death(one, f"stopped: {words}") for one, words in self.given_up.items() if one in self._workers(handle)]

    def slots_alive(self, handle: str) -> int:
        return len(self.expected(handle))


def one_of_two(launcher: Knowing) -> tuple[Rig, Client]:
    """Two workers were started, and one of them beats."""
    rig = Rig(workers=2)
    client = Client(rig, launcher)
    client.turns(5.0)
    rig.beat("w0-a")
    return rig, client


def test_a_worker_that_never_beats_is_stopped_counted_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    launcher = Knowing()
    rig, client = one_of_two(launcher)
    client.turns(rig.another().manifest.current.timings.launch_s - 20)
    assert launcher.given_up == {}
    with caplog.at_level(logging.WARNING):
        client.turns(60.0)
    assert launcher.given_up == {"w0-b": "no beat within 60 s"}
    assert "a worker never beat and is stopped: worker=w0-b" in caplog.text
    assert "a worker has ended: worker=w0-b, stopped: no beat within 60 s" in caplog.text
    assert len(launcher.orders) == 2
    assert rig.another().manifest.current.state == SessionState.OPEN


def test_a_worker_that_cannot_be_stopped_alone_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    launcher = Knowing()
    launcher.refuses = True
    _, client = one_of_two(launcher)
    with caplog.at_level(logging.WARNING):
        client.turns(200.0)
    assert caplog.text.count("a worker never beat and cannot be stopped alone: worker=w0-b") == 1
    assert len(launcher.orders) == 1


def test_time_in_which_the_store_was_away_is_no_silence() -> None:
    launcher = Knowing()
    rig, client = one_of_two(launcher)
    client.turns(30.0)
    # As if nothing had been asked of the store meanwhile, nor answered by it.
    rig.clock.advance(600.0)
    client.turns(5.0)
    assert launcher.given_up == {}
