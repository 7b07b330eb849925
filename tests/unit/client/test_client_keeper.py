"""A client's care for the workers: each is started once, each death is seen, and what cannot be started is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.errors import ExecutorBroken, LaunchError, ObjectNotFound, StoreUnavailable
from starburst_executor.launch.base import Order, Started
from starburst_executor.launch.local.processes import identity
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.records import ClientBeat, Launch, SessionState, WorkerState, encode
from starburst_executor.protocol.spans.record import State
from starburst_executor.testing import Fault
from tests.support.keeper_rig import Client, FakeLauncher, launches
from tests.support.session_rig import Rig


def reason_of(rig: Rig, key: str) -> BaseException | None:
    return outcomes.load_outcome(rig.outcome(key, 0))[1]


# --- starting ---------------------------------------------------------------------------------------------------------


def test_workers_are_started_when_there_is_work_and_their_handle_is_kept() -> None:
    rig, launcher = Rig(workers=4), FakeLauncher()
    client = Client(rig, launcher)
    client.needs = False
    client.turns(1.0)
    assert launcher.orders == []
    client.needs = True
    client.turns(1.0)
    assert [order.n_slots for order in launcher.orders] == [4]
    (launch,) = launches(rig)
    assert (launch.handle, launch.slots, launch.launcher) == ("w0", 4, "fake")


def test_an_intent_is_in_the_manifest_before_anything_is_started() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    seen: list[tuple[Launch, ...]] = []
    start = launcher.start

    def watched(order: Order, handle: str = "") -> Started:
        seen.append(launches(rig))
        return start(order, handle)

    launcher.start = watched  # type: ignore[method-assign]
    client.keeper.turn()
    assert [(launch.handle, launch.slots) for launch in seen[0]] == [("", 4)]


def test_two_clients_do_not_both_start() -> None:
    rig, launcher = Rig(), FakeLauncher()
    one, other = Client(rig, launcher, "c1"), Client(rig, launcher, "c2")
    # The other has its turn at the very moment that the first writes its intent.
    rig.before("swap", rig.keys.manifest, other.keeper.turn)
    one.keeper.turn()
    rig.clock.advance(1.0)
    one.keeper.turn()
    other.keeper.turn()
    assert len(launcher.orders) == 1
    assert [launch.handle for launch in launches(rig)] == ["w0"]


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.RESET, Fault.ERROR_AFTER])
def test_an_intent_whose_answer_was_lost_starts_once(fault: Fault) -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    rig.fail("swap", rig.keys.manifest, fault)
    client.turns(1.0)
    assert len(launcher.orders) == 1
    assert [launch.handle for launch in launches(rig)] == ["w0"]


def test_an_intent_of_a_client_that_died_counts_for_a_while_and_then_no_more() -> None:
    rig, launcher = Rig(), FakeLauncher()
    intend(rig, "gone")
    client = Client(rig, launcher)
    client.turns(10.0)
    assert launcher.orders == []
    client.turns(20.0)
    assert len(launcher.orders) == 1
    assert [launch.handle for launch in launches(rig)] == ["w0"]


def intend(rig: Rig, client_id: str, *beats: ClientBeat) -> None:
    """A client has written that it is about to start workers, and is not heard of any more."""
    launch = Launch("l", "fake", 4, "", rig.clock.now(), client=client_id)
    rig.session.manifest.change(lambda m: replace(m, launches=(launch,)))
    for beat in beats:
        rig.objects.put(rig.keys.client(client_id), encode(beat, rig.clock.new_id()))


@pytest.mark.parametrize(
    ("why", "starts"),
    [
        ("it has left", True),
        ("its process has ended", True),
        ("it has handed over", True),
        ("its process lives", False),
        ("it is on another machine", False),
    ],
)
def test_an_intent_whose_client_is_known_to_be_gone_holds_nobody_up(why: str, starts: bool) -> None:
    rig, launcher = Rig(), FakeLauncher()
    machine, pid, started = identity().split(" ", 2)
    process = {
        "its process has ended": f"{machine} {pid} {started}0",
        "it is on another machine": f"{machine}x {pid} {started}0",
    }.get(why, identity())
    left = why == "it has left"
    intend(rig, "" if why == "it has handed over" else "b", ClientBeat("b", 1, 0.0, left, process))
    client = Client(rig, launcher)
    client.turns(2.0)
    assert bool(launcher.orders) is starts


def test_an_intent_that_is_left_to_others_while_they_wait_is_taken_over_within_a_second() -> None:
    rig, launcher = Rig(), FakeLauncher()
    intend(rig, "b", ClientBeat("b", 1, 0.0, False, identity()))
    client = Client(rig, launcher)
    client.turns(8.0)
    assert launcher.orders == []
    # Not at the next beat, when the manifest is read in any case.
    rig.objects.put(rig.keys.client("b"), encode(ClientBeat("b", 2, 0.0, True, identity()), "left"))
    client.turns(1.5)
    assert len(launcher.orders) == 1


def test_a_client_is_known_before_its_intent() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    seen: list[bool] = []
    rig.before("swap", rig.keys.manifest, lambda: seen.append(not client.beat().left))
    # As when it leaves before its first beat was due.
    client.keeper._starter.turn()  # type: ignore[union-attr]  # it has a launcher
    assert seen == [True]
    assert launches(rig)[0].client == client.client_id


def test_workers_that_took_long_to_start_are_found_all_the_same() -> None:
    """Another client dropped the intent meanwhile, as too old."""
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    start = launcher.start

    def slow(order: Order, handle: str = "") -> Started:
        rig.session.manifest.change(lambda m: replace(m, launches=()))
        return start(order, handle)

    launcher.start = slow  # type: ignore[method-assign]
    client.keeper.turn()
    assert [launch.handle for launch in launches(rig)] == ["w0"]


def test_nothing_is_started_for_a_session_that_ends_at_that_moment() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    ending = rig.another()
    ending.manifest.refresh()
    rig.before("swap", rig.keys.manifest, lambda: ending.manifest.end(SessionState.TERMINATED, "over"))
    client.keeper.turn()
    assert launcher.orders == []


def test_workers_that_another_client_ended_with_the_session_are_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    client.keeper.turn()
    rig.another().manifest.end(SessionState.TERMINATED, "over")
    launcher.kill("w0", "", by_signal=True)
    rig.clock.advance(1.0)
    client.keeper.turn()
    assert client.keeper.buried == {"w0"}
    assert caplog.messages == []


def test_only_what_is_missing_is_started() -> None:
    rig, launcher = Rig(workers=4), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(1.0)
    rig.session.manifest.change(lambda m: replace(m, slots=6))
    client.session.manifest.refresh()
    client.turns(1.0)
    assert [order.n_slots for order in launcher.orders] == [4, 2]


def test_surplus_workers_are_drained_newest_first() -> None:
    rig, launcher = Rig(workers=4), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(1.0)
    for workers in (6, 4):
        rig.session.manifest.change(lambda m, n=workers: replace(m, slots=n))  # type: ignore[misc]
        client.session.manifest.refresh()
        client.keeper.renumber()
        client.turns(1.0)
    assert launcher.stopped == [("w1", False)]
    assert len(launcher.orders) == 2


def test_an_idle_turn_costs_nothing_between_beats() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(1.0)
    rig.beat("w0")
    client.turns(1.0)
    with rig.requests() as counts:
        client.turns(5.0)
    assert counts == {}


# --- dying ------------------------------------------------------------------------------------------------------------


def test_a_death_that_the_launcher_saw_is_repaired_at_once_and_the_worker_replaced() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(1.0)
    key = rig.submit(2)
    rig.beat("w0", claims={"w0.1": key})
    rig.claim(key, "w0.1")
    launcher.kill("w0", by_signal=True)
    before = rig.clock.monotonic()
    client.turns(0.5)
    assert rig.states(key) == [State.PENDING] * 2
    assert [entry.losses for entry in rig.read(key).entries] == [1, 1]
    assert rig.clock.monotonic() - before < 1.0
    assert len(launcher.orders) == 2


def test_a_client_without_a_launcher_repairs_by_looking() -> None:
    rig = Rig()
    client = Client(rig)
    key = rig.submit(1)
    rig.beat("w", claims={"w.1": key})
    rig.claim(key, "w.1")
    client.turns(50.0)
    assert rig.states(key) == [State.CLAIMED]
    client.turns(70.0)
    assert rig.states(key) == [State.PENDING]


def test_three_futile_starts_in_a_row_break_the_session_with_the_last_words() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    key = rig.submit(1)
    for number in range(3):
        assert rig.another().manifest.current.state == SessionState.OPEN
        client.turns(2.5)
        assert len(launcher.orders) == number + 1
        launcher.kill(f"w{number}", "no module named x")
    client.turns(1.0)
    assert rig.another().manifest.current.state == SessionState.BROKEN
    assert len(launcher.orders) == 3
    error = reason_of(rig, key)
    assert isinstance(error, ExecutorBroken)
    assert "no worker could be started: no module named x" in str(error)


def test_workers_that_die_between_the_look_at_deaths_and_the_next_start_count_too() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    doomed: set[str] = set()
    slots_alive = launcher.slots_alive

    def dies(handle: str) -> int:
        if handle in doomed and handle not in launcher.dead:
            launcher.kill(handle)
        return slots_alive(handle)

    launcher.slots_alive = dies  # type: ignore[method-assign]
    for number in range(3):
        client.turns(2.5)
        assert len(launcher.orders) == number + 1
        doomed.add(f"w{number}")
    client.turns(5.0)
    assert rig.another().manifest.current.state == SessionState.BROKEN
    assert len(launcher.orders) == 3


def test_workers_that_have_worked_in_between_keep_the_session_going() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    for number in range(8):
        client.turns(2.5)
        if number % 3 == 2:
            rig.beat(f"w{number}", n_ended=1)
        launcher.kill(f"w{number}")
    client.turns(2.5)
    assert rig.another().manifest.current.state == SessionState.OPEN
    assert len(launcher.orders) == 9


def test_workers_that_beat_and_can_do_nothing_are_not_replaced_without_end() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    key = rig.submit(5)
    for number in range(3):
        client.turns(2.5)
        rig.beat(f"w{number}", 2, WorkerState.LEFT, words="no right to read functions")
        launcher.kill(f"w{number}", "exit status 3")
    client.turns(60.0)
    assert len(launcher.orders) == 3
    error = reason_of(rig, key)
    assert isinstance(error, ExecutorBroken)
    assert "no worker could do any work: no right to read functions; exit status 3 (3 in a row" in str(error)


def test_workers_that_were_killed_at_their_start_prove_nothing() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    rig.submit(1)
    for number in range(8):
        client.turns(0.1 * 2**number)
        launcher.kill(f"w{number}", "exit status -9", by_signal=True)
    client.turns(15.0)
    assert rig.another().manifest.current.state == SessionState.OPEN
    assert len(launcher.orders) == 9


def test_workers_that_are_killed_whatever_is_done_end_in_an_error_with_their_words() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    key = rig.submit(1)
    for _ in range(400):
        client.turns(1.0)
        number = len(launcher.orders) - 1
        rig.beat(f"w{number}", 1)
        launcher.kill(f"w{number}", "exit status -9", by_signal=True)
    assert 10 <= len(launcher.orders) <= 13  # the pauses have jitter
    assert "no worker could do any work: exit status -9 (1" in str(reason_of(rig, key))


def test_while_workers_that_joined_by_hand_do_the_work_nothing_breaks() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    rig.submit(1)
    for number in range(60):
        rig.beat("by-hand", number)
        client.turns(5.0)
        for order in range(len(launcher.orders)):
            launcher.kill(f"w{order}")
    assert rig.another().manifest.current.state == SessionState.OPEN
    assert 3 < len(launcher.orders) < 20


def test_what_the_launcher_refuses_is_said() -> None:
    rig, launcher = Rig(), FakeLauncher()
    launcher.refusal = LaunchError("no room")
    client = Client(rig, launcher)
    key = rig.submit(1)
    client.keeper.turn()
    assert "no worker could be started: no room" in str(reason_of(rig, key))


# --- silence ----------------------------------------------------------------------------------------------------------


def test_workers_that_live_and_say_nothing_break_the_session_in_time() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(rig.timings.launch_s - 5)
    assert rig.another().manifest.current.state == SessionState.OPEN
    client.turns(10.0)
    assert rig.another().manifest.current.state == SessionState.BROKEN


def test_the_time_in_which_the_store_was_away_is_no_silence() -> None:
    """Workers that were started right before an outage are heard of a moment after it, like the client itself."""
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(2.0)
    listing = rig.objects.list

    def away(prefix: str) -> Any:
        rig.clock.advance(292.0)
        rig.objects.list = listing  # type: ignore[method-assign]
        return listing(prefix)

    rig.objects.list = away  # type: ignore[method-assign]
    client.turns(300.0)
    assert rig.another().manifest.current.state == SessionState.OPEN
    rig.beat("w0", 1)
    client.turns(90.0)
    assert rig.another().manifest.current.state == SessionState.OPEN


def test_the_beats_of_workers_that_are_gone_do_not_hide_that_new_ones_are_silent() -> None:
    rig, launcher = Rig(), FakeLauncher()
    rig.beat("earlier", state=WorkerState.LEFT)
    client = Client(rig, launcher)
    client.turns(3 * rig.timings.launch_s)
    assert rig.another().manifest.current.state == SessionState.BROKEN


def test_one_silent_worker_beside_others_that_work_breaks_nothing() -> None:
    rig, launcher = Rig(workers=4), FakeLauncher()
    client = Client(rig, launcher)
    client.turns(1.0)
    rig.session.manifest.change(lambda m: replace(m, slots=5))
    for number in range(20):
        rig.beat("w0", number)
        client.turns(rig.timings.beat_s)
    assert len(launcher.orders) == 2
    assert rig.another().manifest.current.state == SessionState.OPEN


# --- beats ------------------------------------------------------------------------------------------------------------


def test_a_client_beats_and_says_when_it_leaves() -> None:
    rig = Rig()
    client = Client(rig)
    with rig.requests() as counts:
        client.keeper.leave()
    assert counts == {}
    client.turns(40.0)
    assert (client.beat().number, client.beat().left) == (3, False)
    client.keeper.leave()
    assert client.beat().left


def test_a_client_that_is_cut_off_judges_nobody() -> None:
    rig = Rig()
    client = Client(rig)
    key = rig.submit(1)
    rig.beat("w", claims={"w.1": key})
    rig.claim(key, "w.1")
    client.turns(85.0)
    rig.plan = lambda asked: Fault.RESET if asked.kind == "swap" else None
    rig.clock.advance(rig.timings.beat_s)
    with pytest.raises(StoreUnavailable):
        client.keeper.turn()
    assert client.keeper._watcher.watch.lost() == set()


def test_what_is_left_of_a_session_that_is_over_is_ended_by_whoever_is_there() -> None:
    rig = Rig()
    client = Client(rig)
    key = rig.submit(2)
    rig.another().manifest.end(SessionState.EXPIRED, "late")
    client.turns(1.0)
    assert rig.states(key) == [State.FAILED] * 2


def test_leaving_a_session_that_was_deleted_is_harmless() -> None:
    rig = Rig()
    client = Client(rig)
    client.keeper.beat()
    rig.objects.delete([rig.keys.client("c")])
    client.keeper.leave()
    with pytest.raises(ObjectNotFound):
        client.keeper.beat()


# --- leaving work behind ----------------------------------------------------------------------------------------------


def test_a_client_that_leaves_work_behind_waits_for_a_worker_to_be_heard() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    start = launcher.start

    def started(order: Order, handle: str = "") -> Started:
        found = start(order, handle)
        rig.beat(found.handle)
        return found

    launcher.start = started  # type: ignore[method-assign]
    assert client.leaves()
    assert len(launcher.orders) == 1


def test_a_client_that_cannot_leave_its_work_to_anybody_says_so() -> None:
    rig, launcher = Rig(), FakeLauncher()
    launcher.refusal = LaunchError("no room")
    with pytest.raises(LaunchError, match="no room"):
        Client(rig, launcher).leaves()
    assert Client(rig).leaves()


class Failing(Client):
    """Its tasks fail as soon as the session is broken."""

    @property
    def needs(self) -> bool:
        return self.session.manifest.current.state is SessionState.OPEN

    @needs.setter
    def needs(self, _: bool) -> None:
        pass


def test_a_client_that_leaves_says_why_there_are_no_workers_also_where_its_tasks_have_failed_by_then() -> None:
    rig, launcher = Rig(), FakeLauncher()
    launcher.refusal = LaunchError("no room")
    with pytest.raises(LaunchError, match="no room"):
        Failing(rig, launcher).leaves()


def test_a_client_that_is_asked_to_leave_in_the_middle_of_a_turn_still_looks_for_a_worker_that_stays() -> None:
    rig, launcher = Rig(), FakeLauncher()
    client = Client(rig, launcher)
    start = launcher.start

    def asked(order: Order, handle: str = "") -> Started:
        client.keeper.ask_to_leave()
        return start(order, handle)

    launcher.start = asked  # type: ignore[method-assign]
    client.turns(1.0)
    assert launcher.orders
    assert not client.keeper.may_leave.is_set()
