"""What a listing of beats says, and what is read."""

from __future__ import annotations

import pytest

from starburst_executor.protocol import records
from starburst_executor.protocol.records import ClientBeat, WorkerBeat, WorkerState
from starburst_executor.session.beats import Beats, list_clients, list_workers, read_beats
from tests.support.session_rig import Rig


@pytest.mark.parametrize("state", WorkerState)
@pytest.mark.parametrize("n_bytes", range(9))
def test_the_length_of_a_beat_says_what_its_worker_does(state: WorkerState, n_bytes: int) -> None:
    beat = WorkerBeat("w", 3, state, 1, 0.0, 1.0, words="x" * n_bytes)
    body = records.encode(beat, "nonce")
    assert records.state_of(len(body)) == state
    assert records.decode_beat(body) == beat


@pytest.mark.parametrize("left", [True, False])
def test_the_length_of_a_clients_beat_says_whether_it_has_left(left: bool) -> None:
    rig = Rig()
    rig.objects.put(rig.keys.client("c"), records.encode(ClientBeat("c", 1, 0.0, left=left), "n"))
    assert [(sign.owner, sign.has_left) for sign in list_clients(rig.session)] == [("c", left)]


def test_a_length_that_says_nothing_is_that_of_one_that_works() -> None:
    assert {records.state_of(n) for n in range(4, 8)} == {WorkerState.WORKING}


def test_a_listing_says_who_has_left_without_a_read() -> None:
    rig = Rig()
    rig.beat("a", 2, WorkerState.LEFT)
    rig.beat("b", 2, WorkerState.IDLE)
    with rig.requests() as counts:
        assert [(sign.owner, sign.state) for sign in list_workers(rig.session)] == [
            ("a", WorkerState.LEFT),
            ("b", WorkerState.IDLE),
        ]
    assert counts == {"list": 1}


def test_only_beats_that_have_changed_are_read_again() -> None:
    rig = Rig()
    for i in range(50):
        rig.beat(f"v{i:02}", 2, WorkerState.LEFT, claims={f"v{i}.1": "key"})
    rig.beat("w", 1)
    beats = Beats(rig.session)
    assert [beat.number for beat in beats.read()] == [2] * 50 + [1]
    rig.beat("w", 2)
    rig.objects.put(rig.keys.worker("x"), b"spoilt")
    with rig.requests() as counts:
        assert [beat.number for beat in beats.read()] == [2] * 51
    assert counts == {"list": 1, "get": 2}
    with rig.requests() as counts:
        assert [beat.worker_id for beat in beats.read(lambda worker_id: worker_id < "v02")] == ["v00", "v01"]
    assert counts == {"list": 1}
    assert [beat.worker_id for beat, _ in read_beats(rig.session)] == [f"v{i:02}" for i in range(50)] + ["w"]
