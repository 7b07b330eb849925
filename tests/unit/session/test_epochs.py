"""Epochs are listed while a task in them may change, even if clients came, left or died."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.client import tasks
from starburst_executor.client.submitter import submitter_record
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import DETACHED, ClientBeat, SessionState, encode
from starburst_executor.protocol.spans import encoding
from starburst_executor.protocol.spans.record import Span, State, Status
from starburst_executor.session import epochs
from starburst_executor.session.epochs import close_epochs, leave, list_again, return_of
from starburst_executor.session.repair import Watcher
from tests.support.session_rig import DIGEST, Rig

LOOKS = 4


def rig_with(n_clients: int) -> Rig:
    """A session that this number of clients joined; `c0` began it."""
    return Rig(kind=DETACHED, submitters=tuple(submitter_record(f"c{i}") for i in range(n_clients)))


def submit(rig: Rig, ordinal: int, state: State = State.COMPLETED, first: int = 0) -> str:
    """A status object of one task; its key."""
    record = Status(ordinal, first, (DIGEST,), (Span(1, state),))
    key: str = rig.keys.status(StatusRef(ordinal, first, 1, 0))
    rig.objects.create(key, encoding.encode(record, rig.clock.new_id()))
    return key


def beat(rig: Rig, client_id: str, number: int = 1) -> None:
    rig.objects.put(rig.keys.client(client_id), encode(ClientBeat(client_id, number, 0.0), rig.clock.new_id()))


def opened(rig: Rig) -> list[tuple[int, int]]:
    return rig.another().manifest.current.open_epochs()


def look(rig: Rig) -> None:
    """A worker looks for work."""
    session = rig.another()
    listed = session.manifest.refresh().open_epochs()
    close_epochs(session, session.statuses.of_epochs(listed), listed)


# --- clients that leave ---------------------------------------------------------------------------------------------


def test_the_epoch_of_a_client_that_leaves_with_all_done_is_listed_no_more() -> None:
    rig = rig_with(2)
    submit(rig, 1)
    with rig.requests() as counts:
        leave(rig.session, 1)
    assert counts == {"list": 1, "swap": 1}
    assert opened(rig) == [(0, 0)]
    # Twice is once.
    leave(rig.session, 1)
    assert opened(rig) == [(0, 0)]


def test_what_it_leaves_behind_is_listed_until_it_has_ended() -> None:
    rig = rig_with(2)
    key = submit(rig, 1, State.PENDING)
    leave(rig.session, 1)
    look(rig)
    assert opened(rig) == [(0, 0), (1, 0)]
    rig.write_spans(key, state=State.COMPLETED)
    look(rig)
    assert opened(rig) == [(0, 0)]


def test_an_epoch_without_any_task_of_a_client_that_left_is_listed_no_more() -> None:
    rig = rig_with(2)
    rig.session.manifest.change(lambda m: m.with_submitter(1, replace(m.submitters[1], left=True)))
    look(rig)
    assert opened(rig) == [(0, 0)]


def test_that_of_a_client_that_is_there_stays_for_what_it_submits_next() -> None:
    rig = rig_with(2)
    submit(rig, 0)
    submit(rig, 1)
    look(rig)
    assert opened(rig) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("moment", ["list", "swap"])
def test_a_retry_that_comes_as_it_leaves_keeps_its_epoch(moment: str) -> None:
    rig = rig_with(2)
    submit(rig, 1)
    another = rig.another()
    key = rig.keys.manifest if moment == "swap" else rig.keys.epoch(1, 0)
    rig.session.manifest.refresh()

    def retry() -> None:
        another.manifest.change(lambda m: tasks._held(m, ordinal=1, epoch=0, hold="x.1"))

    rig.before(moment, key, retry)
    leave(rig.session, 1)
    assert opened(rig) == [(0, 0), (1, 0)]
    rig.plan = lambda _: None
    another.manifest.change(lambda m: tasks._unheld(m, ordinal=1, epoch=0, hold="x.1"))
    look(rig)
    assert opened(rig) == [(0, 0)]


def test_what_a_look_costs_does_not_grow_with_the_clients_that_came() -> None:
    rig = rig_with(60)
    for ordinal in range(1, 60):
        submit(rig, ordinal)
        leave(rig.another(), ordinal)
    session = rig.another()
    with rig.requests() as counts:
        session.statuses.of_epochs(session.manifest.refresh().open_epochs())
    assert counts == {"get": 1, "list": 1}


# --- clients that die -----------------------------------------------------------------------------------------------


def watched(rig: Rig, seconds: float, *, alive: tuple[str, ...] = ()) -> None:
    """Time passes, in which a watcher looks and repairs, and these clients beat."""
    watcher, timings = Watcher(rig.another(), LOOKS), rig.timings
    for number in range(int(seconds / timings.look_s)):
        for client_id in alive:
            beat(rig, client_id, 100 + number)
        watcher.look()
        if number % LOOKS == LOOKS - 1:
            watcher.repair()
        rig.clock.advance(timings.look_s)


def gone_s(rig: Rig) -> float:
    return rig.timings.client_gone_s + rig.timings.unheard_s


def test_the_epochs_of_clients_that_died_are_closed_once_they_are_known_to_be_gone() -> None:
    rig = rig_with(5)
    for ordinal in range(5):
        submit(rig, ordinal)
        beat(rig, f"c{ordinal}")
    watched(rig, gone_s(rig) - 10.0, alive=("c0", "c3"))
    assert len(opened(rig)) == 5
    watched(rig, gone_s(rig) + 3 * LOOKS * rig.timings.look_s, alive=("c0", "c3"))
    assert opened(rig) == [(0, 0), (3, 0)]


def test_those_with_tasks_that_have_not_ended_stay() -> None:
    rig = rig_with(3)
    for ordinal, state in enumerate((State.COMPLETED, State.COMPLETED, State.PENDING)):
        submit(rig, ordinal, state)
        beat(rig, f"c{ordinal}")
    watched(rig, 2 * gone_s(rig), alive=("c0",))
    assert opened(rig) == [(0, 0), (2, 0)]


def test_a_client_that_has_not_beaten_yet_is_not_taken_for_gone() -> None:
    rig = rig_with(2)
    submit(rig, 0)
    submit(rig, 1)
    beat(rig, "c0")
    watched(rig, 2 * gone_s(rig), alive=("c0",))
    assert opened(rig) == [(0, 0), (1, 0)]


def test_the_hold_of_a_retry_whose_client_died_is_taken_off() -> None:
    rig = rig_with(1)
    submit(rig, 0)
    beat(rig, "c0")
    beat(rig, "c9")
    rig.session.manifest.change(lambda m: tasks._held(m, ordinal=0, epoch=0, hold=epochs.hold_of("c9", "1")))
    watched(rig, gone_s(rig) - 10.0, alive=("c0",))
    assert rig.another().manifest.current.submitters[0].holds
    watched(rig, 2 * gone_s(rig), alive=("c0",))
    assert not rig.another().manifest.current.submitters[0].holds
    # It lived after all: what it made pending is listed.
    rig.session.manifest.change(lambda m: m.with_submitter(0, replace(m.submitters[0], open=())))
    rig.session.manifest.change(lambda m: tasks._unheld(m, ordinal=0, epoch=0, hold=epochs.hold_of("c9", "1")))
    assert opened(rig) == [(0, 0)]


def test_a_client_that_was_taken_for_gone_and_is_not_has_its_epochs_listed_again() -> None:
    rig = rig_with(2)
    for ordinal in range(2):
        submit(rig, ordinal)
        beat(rig, f"c{ordinal}")
    watched(rig, 2 * gone_s(rig), alive=("c0",))
    assert opened(rig) == [(0, 0)]
    submit(rig, 1, State.PENDING, first=1)
    client = rig.another()
    client.manifest.refresh()
    return_of(client, "c1")
    assert opened(rig) == [(0, 0), (1, 0)]
    with rig.requests() as counts:
        return_of(client, "c1")
    assert counts == {}


def test_who_asks_for_all_futures_has_listed_again_what_is_in_no_open_epoch() -> None:
    rig = rig_with(2)
    leave(rig.session, 1)
    submit(rig, 1, State.PENDING)
    assert opened(rig) == [(0, 0)]
    session = rig.another()
    list_again(session, session.statuses.all())
    assert opened(rig) == [(0, 0), (1, 0)]
    with rig.requests() as counts:
        list_again(session, ())
    assert counts == {}


def test_a_session_that_is_over_is_left_as_it_is() -> None:
    rig = rig_with(2)
    submit(rig, 1)
    rig.session.manifest.end(SessionState.TERMINATED, "")
    leave(rig.session, 1)
    look(rig)
    assert opened(rig) == [(0, 0), (1, 0)]
