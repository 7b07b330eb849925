"""Who is lost, judged by looks alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.protocol.liveness import Watch, claims_of, hopeless, suspects
from starburst_executor.protocol.records import WorkerBeat, WorkerState
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import OutcomeBlock, Span, Status


def beat(number: int, *claims: str, state: WorkerState = WorkerState.WORKING) -> WorkerBeat:
    return WorkerBeat("w", number, state, 1, 0.0, 0.0, dict.fromkeys(claims, "key"))


def test_so_many_silent_looks_make_a_worker_lost() -> None:
    watch = Watch(4)
    watch.look({"w": "a"})
    for _ in range(3):
        watch.look({"w": "a"})
        assert not watch.is_lost("w")
    watch.look({"w": "a"})
    assert watch.is_lost("w")
    assert watch.lost() == {"w"}
    assert watch.judged_etag("w") == "a"


def test_a_beat_starts_the_count_anew() -> None:
    watch = Watch(2)
    for etag in "aabb":
        watch.look({"w": etag})
    assert not watch.is_lost("w")


def test_a_zombie_that_beats_again_lives() -> None:
    watch = Watch(1)
    watch.look({"w": "a"})
    watch.look({"w": "a"})
    assert watch.is_lost("w")
    watch.look({"w": "b"})
    assert not watch.is_lost("w")


def test_lost_is_a_state_and_stays_one() -> None:
    watch = Watch(1)
    for _ in range(5):
        watch.look({"w": "a"})
    assert watch.is_lost("w")
    assert watch.is_lost("w")


def test_a_failed_look_sets_every_count_to_zero() -> None:
    watch = Watch(2)
    for _ in range(5):
        watch.look({"w": "a", "v": "b"})
    watch.failed()
    assert watch.lost() == set()
    watch.look({"w": "a", "v": "b"})
    assert watch.lost() == set()
    watch.look({"w": "a", "v": "b"})
    assert watch.lost() == {"w", "v"}


def test_the_dead_are_lost_at_once_and_the_unseen_are_gone() -> None:
    watch = Watch(4)
    watch.look({"w": "a"})
    watch.dead.add("w")
    watch.look({"w": "b"})
    assert watch.is_lost("w")
    assert watch.is_lost("nobody")
    assert watch.judged_etag("nobody") is None
    watch.look({})
    assert watch.judged_etag("w") is None


@given(st.lists(st.sampled_from(["beat", "silence", "failed"]), max_size=30), st.integers(1, 5))
@settings(max_examples=100)
def test_lost_after_exactly_so_many_counted_looks(events: list[str], limit: int) -> None:
    watch, etag, silent = Watch(limit), 0, 0
    watch.look({"w": "0"})
    for event in events:
        if event == "failed":
            watch.failed()
            silent = 0
            continue
        etag += event == "beat"
        silent = 0 if event == "beat" else silent + 1
        watch.look({"w": str(etag)})
        assert watch.is_lost("w") == (silent >= limit)


def test_a_claim_is_forgotten_after_two_later_beats_without_it() -> None:
    watch = Watch(4)
    assert not watch.is_forgotten("w.1", beat(5))
    assert not watch.is_forgotten("w.1", beat(5))
    assert not watch.is_forgotten("w.1", beat(6))
    assert watch.is_forgotten("w.1", beat(7))


def test_a_claim_that_is_named_again_starts_anew() -> None:
    watch = Watch(4)
    assert not watch.is_forgotten("w.1", beat(5))
    assert not watch.is_forgotten("w.1", beat(9, "w.1"))
    assert not watch.is_forgotten("w.1", beat(10))
    assert watch.is_forgotten("w.1", beat(12))
    watch.settled("w.1")
    assert not watch.is_forgotten("w.1", beat(13))


def test_what_a_worker_names_when_it_has_left_counts_as_unnamed() -> None:
    watch = Watch(4)
    assert not watch.is_forgotten("w.1", beat(5, "w.1", state=WorkerState.LEFT))
    assert watch.is_forgotten("w.1", beat(7, "w.1", state=WorkerState.LEFT))


def test_suspects_are_the_claims_of_the_lost_and_the_rest_is_to_be_checked() -> None:
    seen = Status(0, 0, ("f",), (Span(4),))
    for claim_id in ("w.1", "v.1", "gone.1"):
        seen, _ = transitions.claim(seen, claim_id, at_most=1, now=0.0, max_losses=3)
    seen, _ = transitions.commit(seen, "v.1", [OutcomeBlock(1, 1, 1, 1, "v.1", b"")], 0.0)
    watch = Watch(1)
    watch.look({"w": "a", "v": "a"})
    assert suspects(claims_of(seen), watch) == suspects(claims_of(seen), watch)
    assert suspects(claims_of(seen), watch).lost == {"gone.1"}
    assert suspects(claims_of(seen), watch).to_check == {"w.1"}
    watch.look({"w": "a", "v": "b"})
    assert suspects(claims_of(seen), watch).lost == {"gone.1", "w.1"}


# --- workers that cannot work -----------------------------------------------------------------------------------------


def end_of(worker_id: str, host: str, words: str = "no right", n_ended: int = 0, left: bool = True) -> WorkerBeat:
    state = WorkerState.LEFT if left else WorkerState.IDLE
    return WorkerBeat(worker_id, 2, state, 1, 0.0, 0.0, n_ended=n_ended, where=f"{host}:1", words=words)


@pytest.mark.parametrize(
    ("why", "last", "is_hopeless"),
    [
        ("all failed on several machines", end_of("3", "b"), True),
        ("all on one machine", end_of("3", "a"), False),
        ("one has worked", end_of("3", "b", n_ended=1), False),
        ("one has left in good order", end_of("3", "b", words=""), False),
        ("one is there", end_of("3", "b", words="", left=False), False),
    ],
)
def test_only_failures_without_exception_on_more_than_one_machine_leave_no_hope(
    why: str, last: WorkerBeat, is_hopeless: bool
) -> None:
    beats = [end_of("2", "a"), last, end_of("1", "a", "older words")]
    assert bool(hopeless(beats)) is is_hopeless, why
    assert hopeless(beats) in ("", "no right")
    assert not hopeless(beats[:2])


def test_what_is_remembered_of_claims_ends_with_them() -> None:
    watch = Watch(4)
    for number in range(1, 101):
        watch.look({"w": str(number)})
        # Each was written right after the beat, and has ended by the next one.
        assert not watch.is_forgotten(f"w.{number}", beat(number))
        watch.standing({f"w.{number}", "w.stays"})
        assert len(watch._unnamed) == 1
    # What stands goes on being counted.
    for number, forgotten in ((101, False), (102, False), (103, True)):
        assert watch.is_forgotten("w.stays", beat(number)) is forgotten
        watch.standing({"w.stays"})


def test_the_dead_are_remembered_as_long_as_they_are_listed() -> None:
    watch = Watch(4)
    for number in range(100):
        watch.dead.add(f"w{number}")
        watch.look({f"w{number}": "a", "v": str(number)})
        assert watch.is_lost(f"w{number}")
        assert len(watch.dead) == 1
    assert watch.is_lost("w0")
