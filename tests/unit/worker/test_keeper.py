"""A worker's signs of life: what it says, whom it watches, when it may go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.errors import ObjectNotFound, SessionNotFound, StoreUnavailable
from starburst_executor.protocol.records import (
    DETACHED,
    ClientBeat,
    Running,
    SessionState,
    WorkerBeat,
    WorkerState,
    encode,
)
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.beats import read_beat
from starburst_executor.testing import Asked, Fault
from starburst_executor.worker.claims import Claims
from starburst_executor.worker.keeper import Keeper
from starburst_executor.worker.runner.notes import Note
from starburst_executor.worker.runner.usage import RunningNow
from tests.support.session_rig import Rig


class Worker:
    """One worker's keeper. It is idle by default."""

    def __init__(self, rig: Rig | None = None, worker_id: str = "w5", *, bound: bool = False, **manifest: Any) -> None:
        self.rig = rig or Rig(**manifest)
        session = self.rig.another()
        session.manifest.refresh()
        self.worker_id = worker_id
        self.idle = True
        self.ran: list[RunningNow] = []
        self.claims = Claims(session, worker_id, self.rig.clock)
        self.give_up = threading.Event()
        self.keeper = Keeper(
            session,
            worker_id,
            self.claims,
            self.rig.clock,
            n_slots=2,
            bound=bound,
            is_idle=lambda: self.idle,
            running=lambda: self.ran,
            requests=lambda: {"get": 3},
        )

    def beat(self) -> WorkerBeat:
        found = read_beat(self.rig.session, self.rig.keys.worker(self.worker_id))
        assert found is not None
        return found[0]

    def turns(self, n: int, between: Callable[[int], object] = lambda _: None) -> None:
        for number in range(n):
            between(number)
            self.keeper.turn()
            self.keeper.watching.turn()
            self.rig.clock.advance(self.rig.timings.beat_s)

    def turns_of_beats(self, n: int) -> None:
        for _ in range(n):
            self.keeper.turn()
            self.rig.clock.advance(self.rig.timings.beat_s)


# --- beats ------------------------------------------------------------------------------------------------------------


def test_a_beat_tells_what_the_worker_holds_and_does() -> None:
    worker = Worker()
    key = worker.rig.submit(1)
    worker.claims.claim(key, size=lambda _: 1)
    worker.ran = [RunningNow("0-0", 2.5, -1, Note(1.0, None, "reads"))]
    worker.idle = False
    worker.keeper.say()
    beat = worker.beat()
    assert beat.number == 1
    assert beat.state == WorkerState.WORKING
    assert beat.claims == {"w5.1": key}
    assert beat.running == (Running("0-0", worker.rig.clock.now() - 2.5, None, None, 1.0, None, "reads"),)
    assert beat.requests == {"get": 3}
    assert beat.slots == 2


def test_beats_are_numbered_and_swapped_on_each_other() -> None:
    worker = Worker()
    with worker.rig.requests() as counts:
        for _ in range(3):
            worker.keeper.say()
    assert counts == {"create": 1, "swap": 2}
    assert worker.beat().number == 3


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.RESET])
def test_a_beat_whose_answer_was_lost_is_heard_all_the_same(fault: Fault) -> None:
    worker = Worker()
    worker.keeper.say()
    worker.rig.fail("swap", worker.rig.keys.worker("w5"), fault)
    worker.keeper.say(WorkerState.IDLE)
    assert worker.beat().state == WorkerState.IDLE
    worker.keeper.say()
    assert worker.beat().number == 3


def test_a_beat_that_lands_late_does_not_hide_the_next() -> None:
    worker = Worker()
    worker.keeper.say()
    worker.rig.plan = lambda asked: Fault.LATE if asked.kind == "swap" else None
    with pytest.raises(StoreUnavailable):
        worker.keeper.say()
    worker.rig.plan = lambda _: None
    worker.rig.faulty.land()
    key = worker.rig.submit(1)
    worker.claims.claim(key, size=lambda _: 1)
    worker.keeper.say()
    assert worker.beat().claims == {"w5.1": key}


def test_tasks_per_second_are_those_since_the_last_measurement() -> None:
    worker = Worker()
    worker.keeper.say()
    worker.claims.n_ended = 30
    worker.rig.clock.advance(15.0)
    worker.keeper.say()
    assert worker.beat().per_s == pytest.approx(2.0)


def test_a_worker_that_leaves_goes_on_leaving_until_it_says_otherwise() -> None:
    worker = Worker()
    worker.keeper.say(WorkerState.LEAVING)
    worker.keeper.turn()
    assert worker.beat().state == WorkerState.LEAVING
    worker.keeper.say(WorkerState.IDLE)
    worker.keeper.turn()
    assert worker.beat().state == WorkerState.IDLE
    worker.keeper.left()
    worker.keeper.say()
    assert worker.beat().state == WorkerState.LEFT


def test_a_turn_is_cheap() -> None:
    worker = Worker()
    for older in ("w1", "w2", "w3"):
        worker.rig.beat(older)
    worker.turns(1)
    with worker.rig.requests() as counts:
        worker.turns(1)
    assert counts == {"swap": 1, "get": 1}


# --- watching ---------------------------------------------------------------------------------------------------------


def gone_with_a_task(rig: Rig) -> str:
    key = rig.submit(1)
    rig.beat("w9", claims={"w9.1": key})
    rig.claim(key, "w9.1")
    return key


def test_one_of_the_three_oldest_takes_back_what_the_lost_held() -> None:
    worker = Worker()
    key = gone_with_a_task(worker.rig)
    worker.turns(4)
    assert worker.rig.states(key) == [State.CLAIMED]
    worker.turns(4)
    assert worker.rig.states(key) == [State.PENDING]


def test_younger_workers_do_not_watch() -> None:
    worker = Worker()
    key = gone_with_a_task(worker.rig)
    number = 0

    def older_beat(_: int) -> None:
        nonlocal number
        number += 1
        for older in ("w1", "w2", "w3"):
            worker.rig.beat(older, number)

    worker.turns(60, older_beat)
    assert worker.rig.states(key) == [State.CLAIMED]


@pytest.mark.parametrize("fate", ["lost", "left"])
def test_when_the_oldest_are_gone_the_next_watch(fate: str) -> None:
    worker = Worker()
    for older in ("w1", "w2", "w3"):
        worker.rig.beat(older, state=WorkerState.LEFT if fate == "left" else WorkerState.WORKING)
    key = gone_with_a_task(worker.rig)
    # Those that said so are passed over at once, the silent ones at the next ranking.
    worker.turns(9 if fate == "left" else 21 + 9)
    assert worker.rig.states(key) == [State.PENDING]


def test_a_worker_that_is_cut_off_itself_judges_nobody() -> None:
    worker = Worker()
    key = gone_with_a_task(worker.rig)
    worker.turns(6)
    worker.rig.plan = lambda asked: (
        Fault.RESET if asked == (asked.number, "swap", worker.rig.keys.worker("w5")) else None
    )
    with pytest.raises(StoreUnavailable):
        worker.keeper.turn()
    worker.rig.plan = lambda _: None
    worker.rig.clock.advance(worker.rig.timings.beat_s)
    worker.turns(2)
    assert worker.rig.states(key) == [State.CLAIMED]
    worker.turns(4)
    assert worker.rig.states(key) == [State.PENDING]


@pytest.mark.parametrize("state", [WorkerState.WORKING, WorkerState.LEFT])
def test_ranking_costs_one_listing_and_no_read_however_many_there_are_or_have_left(state: WorkerState) -> None:
    worker = Worker(worker_id="w999")
    for number in range(500):
        worker.rig.beat(f"w{number:03}", state=state)
    with worker.rig.requests() as counts:
        worker.keeper.turn()
    assert counts == {"create": 1, "get": 1}
    with worker.rig.requests() as counts:
        worker.keeper.watching.turn()
    # To learn its rank; where all others have left, it is the oldest, and looks and listens for clients.
    assert counts == {"list": 3 if state == WorkerState.LEFT else 1}


def test_a_look_without_a_beat_of_its_own_since_the_last_does_not_count() -> None:
    worker = Worker()
    key = gone_with_a_task(worker.rig)
    worker.keeper.turn()
    for _ in range(20):
        worker.keeper.watching.turn()
        worker.rig.clock.advance(worker.rig.timings.beat_s)
    assert worker.rig.states(key) == [State.CLAIMED]


def test_a_beat_waits_neither_for_a_repair_nor_for_a_store_that_hangs() -> None:
    worker = Worker()
    rig = worker.rig
    for number in range(3):
        rig.claim(rig.submit(1, first=number), f"w9{number}.1")
    worker.turns(7)  # the first repair reads nothing, since all may be changing
    hangs, goes_on = threading.Event(), threading.Event()

    def plan(asked: Asked) -> None:
        if asked.kind == "get" and asked.key.startswith(rig.keys.statuses):
            hangs.set()
            goes_on.wait(30)

    rig.plan = plan
    worker.keeper.turn()
    watching = threading.Thread(target=worker.keeper.watching.turn)
    watching.start()
    assert hangs.wait(30)
    try:
        number_before = worker.beat().number
        with rig.requests() as counts:
            worker.turns_of_beats(3)
        assert counts == {"swap": 3, "get": 3}
        assert worker.beat().number == number_before + 3
    finally:
        goes_on.set()
        watching.join(30)


# --- clients ----------------------------------------------------------------------------------------------------------


def test_without_its_client_an_attached_session_ends() -> None:
    worker = Worker()
    for number in range(30):
        worker.rig.objects.put(worker.rig.keys.client("c"), encode(ClientBeat("c", number, 0.0), str(number)))
        worker.turns(1)
        assert worker.rig.session.manifest.refresh().state == SessionState.OPEN
    worker.turns(23)
    assert worker.rig.session.manifest.refresh().state == SessionState.OPEN
    worker.turns(4)
    assert worker.rig.session.manifest.refresh().state == SessionState.TERMINATED


@pytest.mark.parametrize("outage_s", [250.0, 292.0, 299.9])
@pytest.mark.parametrize("who", ["the client", "the worker", "both"])
def test_an_outage_for_which_a_client_has_patience_ends_no_session(who: str, outage_s: float) -> None:
    worker = Worker()
    clock, timings, rig = worker.rig.clock, worker.rig.timings, worker.rig
    assert outage_s < timings.patience_s

    def client_beats(number: int) -> None:
        rig.objects.put(rig.keys.client("c"), encode(ClientBeat("c", number, 0.0), str(number)))

    client_beats(1)
    worker.turns(3, client_beats)
    # The line goes down right before the client's next beat is due, and the client hears of its return last.
    clock.advance(timings.beat_s - 0.1)
    if who == "the client":
        worker.turns(int((outage_s + 35.0) / timings.beat_s))
    else:
        swap = rig.objects.swap

        def away(*arguments: Any) -> str:
            clock.advance(outage_s)
            rig.objects.swap = swap  # type: ignore[method-assign]
            return swap(*arguments)

        rig.objects.swap = away  # type: ignore[method-assign]
        worker.keeper.turn()
        if who == "both":
            worker.turns(2)
    assert rig.session.manifest.refresh().state == SessionState.OPEN
    client_beats(99)
    worker.turns(3)
    assert rig.session.manifest.refresh().state == SessionState.OPEN


@pytest.mark.parametrize("bound", [True, False])
def test_a_detached_session_or_a_bound_worker_needs_no_beats_of_clients(bound: bool) -> None:
    worker = Worker(bound=True) if bound else Worker(kind=DETACHED)
    worker.turns(40)
    assert worker.rig.session.manifest.refresh().state == SessionState.OPEN


# --- the deadline -----------------------------------------------------------------------------------------------------


def test_a_session_whose_time_is_over_expires() -> None:
    worker = Worker(deadline_at=1_700_000_100.0)
    worker.turns(7)
    assert worker.keeper.turn().state == SessionState.EXPIRED


def test_of_extend_and_expire_the_first_to_land_wins() -> None:
    worker = Worker(deadline_at=1_700_000_010.0)
    worker.keeper.turn()
    worker.rig.clock.advance(11.0)
    client = worker.rig.another()
    client.manifest.refresh()
    extended = lambda manifest: replace(manifest, deadline_at=1_700_000_999.0)  # noqa: E731
    worker.rig.before("swap", worker.rig.keys.manifest, lambda: client.manifest.change(extended))
    assert worker.keeper.turn().state == SessionState.OPEN
    assert worker.rig.session.manifest.refresh().deadline_at == 1_700_000_999.0


def test_a_deleted_session_or_beat_is_told() -> None:
    worker = Worker()
    worker.keeper.turn()
    worker.rig.objects.delete([worker.rig.keys.manifest])
    with pytest.raises(SessionNotFound):
        worker.keeper.turn()
    worker.rig.objects.delete([worker.rig.keys.worker("w5")])
    with pytest.raises(ObjectNotFound):
        worker.keeper.turn()
    worker.keeper.left()


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_an_idle_worker_may_leave_when_all_has_ended() -> None:
    worker = Worker()
    worker.rig.end(worker.rig.submit(1))
    assert worker.keeper.may_leave(worker.give_up)
    assert worker.beat().state == WorkerState.LEAVING


def test_it_stays_for_a_task_that_became_pending_after_it_had_said_that_it_leaves() -> None:
    worker = Worker()
    said: list[WorkerState] = []

    def submit() -> None:
        said.append(worker.beat().state)
        worker.rig.submit(1)

    worker.rig.before("list", worker.rig.keys.epoch(0, 0), submit)
    assert not worker.keeper.may_leave(worker.give_up)
    assert said == [WorkerState.LEAVING]
    assert worker.beat().state == WorkerState.IDLE


def test_it_stays_while_it_holds_a_claim_itself() -> None:
    worker = Worker()
    key = worker.rig.submit(1)
    worker.claims.claim(key, size=lambda _: 1)
    worker.rig.beat("peer", 1, WorkerState.IDLE)
    peer = beating(worker.rig, "peer", WorkerState.IDLE)
    assert not worker.keeper.may_leave(worker.give_up)
    assert peer == [2]


def beating(rig: Rig, worker_id: str, state: WorkerState) -> list[int]:
    """A peer that beats once more before its beat is read the second time."""
    numbers: list[int] = []
    n_lists = 0

    def plan(asked: Asked) -> None:
        nonlocal n_lists
        if (asked.kind, asked.key) == ("list", rig.keys.workers):
            n_lists += 1
            if n_lists == 2:
                rig.beat(worker_id, 2, state)
                numbers.append(2)

    rig.plan = plan
    return numbers


@pytest.mark.parametrize(
    ("peer", "beats", "kind", "goes"),
    [
        (WorkerState.IDLE, True, "attached", True),
        (WorkerState.IDLE, False, "attached", False),
        (WorkerState.WORKING, True, "attached", False),
        (WorkerState.LEAVING, True, "attached", False),
        (None, False, "attached", False),
        (WorkerState.IDLE, True, DETACHED, False),
    ],
)
def test_the_last_idle_worker_stays_while_anothers_claim_stands(
    peer: WorkerState | None, beats: bool, kind: str, goes: bool
) -> None:
    worker = Worker(kind=kind)
    worker.rig.claim(worker.rig.submit(1), "busy.1")
    worker.rig.beat("busy", 1, WorkerState.WORKING)
    if peer is not None:
        worker.rig.beat("peer", 1, peer)
    if peer is not None and beats:
        beating(worker.rig, "peer", peer)
    assert worker.keeper.may_leave(worker.give_up) is goes
    assert worker.beat().state == (WorkerState.LEAVING if goes else WorkerState.IDLE)


# --- when it cannot go on ---------------------------------------------------------------------------------------------


def test_a_worker_that_cannot_go_on_says_why_in_its_last_beat() -> None:
    worker = Worker()
    worker.keeper.say()
    worker.keeper.left("no right to read functions")
    beat = worker.beat()
    assert (beat.state, beat.words, beat.has_failed) == (WorkerState.LEFT, "no right to read functions", True)


def test_the_last_of_several_that_cannot_go_on_ends_the_session_with_the_reason() -> None:
    worker = Worker(kind=DETACHED)
    for name, host in (("w1", "a"), ("w2", "b")):
        worker.rig.beat(name, 2, WorkerState.LEFT, words="no right", where=f"{host}:1")
    worker.keeper.say()
    assert worker.keeper.break_if_hopeless().state == SessionState.OPEN
    worker.keeper.left("no right here either")
    manifest = worker.keeper.break_if_hopeless()
    assert (manifest.state, manifest.reason) == (
        SessionState.BROKEN,
        "no worker could do any work: no right here either",
    )


def test_a_beat_that_waits_for_the_store_does_not_keep_a_worker_that_cannot_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("starburst_executor.worker.keeper._FAREWELL_S", 0.01)
    worker = Worker()
    worker.keeper.say()
    with worker.keeper._lock:  # a beat is on its way
        leaving = threading.Thread(target=worker.keeper.left, args=("no right",))
        leaving.start()
        leaving.join(10)
        assert not leaving.is_alive()
    assert worker.beat().state == WorkerState.IDLE
