"""A worker's swaps on status objects: races, lost answers, and what is dropped."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import msgpack
import pytest

from starburst_executor import Timings
from starburst_executor.errors import ObjectNotFound, RecordInvalid, StoreUnavailable, VersionMismatch
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import Located, Span, State, Status
from starburst_executor.testing import Asked, Fault
from starburst_executor.worker.claims import Claim, Claims
from starburst_executor.worker.runner.jobs import Completed, Finished
from tests.support.session_rig import Rig
from tests.support.spans import with_outcome

UNCLEAR = [Fault.ANSWER_LOST, Fault.ERROR_AFTER]
NOT_LANDED = [Fault.RESET, Fault.CONFLICT, Fault.THROTTLED]


class Worker:
    """One worker's claims on a session."""

    def __init__(self, rig: Rig | None = None, worker_id: str = "w") -> None:
        self.rig = rig or Rig()
        self.claims = Claims(self.rig.another(), worker_id, self.rig.clock)
        self.claims._session.manifest.refresh()

    def claim(self, key: str, size: int = 256, **how: bool) -> Claim | None:
        return self.claims.claim(key, size=lambda _: size, **how)[0]

    def take(self, key: str, size: int = 256) -> Claim:
        claim = self.claim(key, size)
        assert claim is not None
        return claim


def finding(value: object = 8, state: State = State.COMPLETED, output: tuple[bytes, bytes] = (b"", b"")) -> Finished:
    return Finished(1, state == State.COMPLETED, True, outcomes.dump_value(value), 0.5, *output)


def outcome(rig: Rig, key: str, index: int) -> object:
    """A task's value as a client reads it."""
    return outcomes.load_outcome(rig.outcome(key, index))[0]


# --- claim ------------------------------------------------------------------------------------------------------------


def test_a_claim_costs_two_requests_and_is_named_from_before_it_is_written() -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    named: list[dict[str, str]] = []
    worker.rig.before("swap", key, lambda: named.append(worker.claims.held()))
    with worker.rig.requests() as counts:
        claim = worker.take(key, 2)
    assert counts == {"get": 1, "swap": 1}
    assert claim.claim_id == "w.1"
    assert claim.open == {0, 1}
    assert named == [{"w.1": key}] == [worker.claims.held()]
    assert worker.rig.states(key) == [State.CLAIMED, State.CLAIMED, State.PENDING]


def test_the_size_is_told_by_the_object() -> None:
    worker = Worker()
    seen: list[Status] = []

    def size(found: Status) -> int:
        seen.append(found)
        return 1

    claim, after = worker.claims.claim(worker.rig.submit(2), size=size)
    assert claim is not None
    assert after is not None
    assert seen[0].entries[0].state == State.PENDING
    assert after.entries[0].state == State.CLAIMED


def test_options_of_a_later_version_are_refused_before_anything_is_written() -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    worker.rig.session.statuses.update(key, lambda status: replace(status, options=(msgpack.packb({"gpus": 1}),)))
    with worker.rig.requests() as counts, pytest.raises(VersionMismatch, match="gpus"):
        worker.take(key)
    assert counts == {"get": 1}
    assert worker.claims.held() == {}


def test_a_claim_has_tasks_of_one_set_of_options_and_knows_it() -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    packed = DEFAULT.but(retries=7).encode()
    spans = (Span(1), Span(1, options=1), Span(1))
    worker.rig.session.statuses.update(key, lambda status: replace(status, options=(packed,), spans=spans))
    claims = [worker.take(key), worker.take(key)]
    assert [(claim.open, claim.options.retries) for claim in claims] == [({0, 2}, None), ({1}, 7)]


def test_a_lost_race_gives_nothing_and_leaves_the_object_alone() -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    worker.rig.before("swap", key, lambda: worker.rig.claim(key, "other.1", 1))
    with worker.rig.requests() as counts:
        assert worker.claims.claim(key, size=lambda _: 2) == (None, None)
    assert counts == {"get": 1, "swap": 1}
    assert worker.claims.held() == {}
    assert worker.rig.states(key) == [State.CLAIMED, State.PENDING]


def test_where_nothing_is_pending_nothing_is_written() -> None:
    worker = Worker()
    key = worker.rig.submit(1)
    worker.rig.claim(key, "other.1")
    with worker.rig.requests() as counts:
        claim, seen = worker.claims.claim(key, size=lambda _: 1)
    assert claim is None
    assert seen is not None
    assert counts == {"get": 1}
    assert worker.claims.held() == {}
    for other in (key.replace("-1", "-2"), "no key of ours"):
        with pytest.raises(ObjectNotFound):
            worker.claims.claim(other, size=lambda _: 1)
    assert worker.claims.held() == {}


@pytest.mark.parametrize("fault", UNCLEAR)
def test_a_claim_whose_answer_was_lost_is_kept(fault: Fault) -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    worker.rig.fail("swap", key, fault)
    claim = worker.take(key)
    assert claim.open == {0, 1}
    assert [entry.attempt for entry in worker.rig.read(key).entries] == [1, 1]


@pytest.mark.parametrize("fault", UNCLEAR)
def test_a_claim_whose_answer_was_lost_is_found_among_what_others_wrote_since(fault: Fault) -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    n_swaps = 0

    def plan(asked: Asked) -> Fault | None:
        nonlocal n_swaps
        if (asked.kind, asked.key) != ("swap", key):
            return None
        n_swaps += 1
        if n_swaps == 2:
            worker.rig.claim(key, "other.1", 1)
        return fault if n_swaps == 1 else None

    worker.rig.plan = plan
    claim = worker.take(key, 2)
    assert claim.open == {0, 1}
    assert worker.rig.read(key).entries[2].claim == "other.1"
    assert worker.claims.held() == {"w.1": key}


@pytest.mark.parametrize("fault", NOT_LANDED)
def test_a_claim_that_did_not_land_while_another_did_is_none(fault: Fault) -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    n_swaps = 0

    def plan(asked: Asked) -> Fault | None:
        nonlocal n_swaps
        if (asked.kind, asked.key) != ("swap", key):
            return None
        n_swaps += 1
        if n_swaps == 2:
            worker.rig.claim(key, "other.1")
        return fault if n_swaps == 1 else None

    worker.rig.plan = plan
    assert worker.claims.claim(key, size=lambda _: 2) == (None, None)
    assert worker.claims.held() == {}


def test_a_claim_without_a_clear_answer_is_not_named_any_more() -> None:
    """It may stand: then its beats, which no longer name it, let watchers take it back."""
    worker = Worker()
    key = worker.rig.submit(1)
    worker.rig.plan = lambda asked: Fault.LATE if asked.kind == "swap" else None
    with pytest.raises(StoreUnavailable):
        worker.claim(key)
    assert worker.claims.held() == {}
    worker.rig.faulty.land()
    assert worker.rig.states(key) == [State.CLAIMED]


def test_a_task_on_its_last_try_is_only_for_a_worker_that_has_nothing_else() -> None:
    worker = Worker()
    key = worker.rig.submit(1)
    worker.rig.write_spans(key, losses=2, together=1, cohort="lost.1")
    assert worker.claim(key) is None
    claim = worker.claim(key, alone=True)
    assert claim is not None
    assert claim.has_losses


def test_a_task_with_a_loss_is_not_claimed_ahead() -> None:
    worker = Worker()
    key = worker.rig.submit(1)
    worker.rig.write_spans(key, losses=1, together=1, cohort="lost.1")
    assert worker.claim(key, ahead=True) is None
    assert worker.take(key).has_losses


# --- commit -----------------------------------------------------------------------------------------------------------


def test_a_commit_ends_tasks_and_claims_the_next_slice_in_one_swap() -> None:
    worker = Worker()
    key = worker.rig.submit(5)
    claim = worker.take(key, 2)
    claim.ended = {0: finding(0), 1: finding(1)}
    with worker.rig.requests() as counts:
        following = worker.claims.commit(claim, then=2)
    assert counts == {"swap": 1}
    assert following is not None
    assert following.open == {2, 3}
    assert worker.claims.held() == {following.claim_id: key}
    assert worker.claims.n_ended == 2
    assert worker.rig.states(key) == [State.COMPLETED] * 2 + [State.CLAIMED] * 2 + [State.PENDING]
    assert [outcome(worker.rig, key, i) for i in (0, 1)] == [0, 1]


def test_a_partial_commit_keeps_the_claim() -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    claim = worker.take(key)
    claim.ended = {1: finding()}
    assert not claim.all_ended
    assert worker.claims.commit(claim) is None
    assert claim.open == {0}
    assert claim.ended == {}
    assert worker.claims.held() == {"w.1": key}
    claim.ended = {0: finding()}
    assert claim.all_ended
    worker.claims.commit(claim)
    assert worker.claims.held() == {}


def test_nothing_to_commit_costs_nothing() -> None:
    worker = Worker()
    claim = worker.take(worker.rig.submit(1))
    with worker.rig.requests() as counts:
        assert worker.claims.commit(claim, then=1) is None
    assert counts == {}
    assert list(worker.claims.held()) == ["w.1"]


def test_a_commit_lands_on_what_others_wrote() -> None:
    worker, other = Worker(), None
    key = worker.rig.submit(4)
    claim = worker.take(key, 2)
    other = Worker(worker.rig, "other").take(key, 1)
    claim.ended = {0: finding(), 1: finding()}
    with worker.rig.requests() as counts:
        following = worker.claims.commit(claim, then=9)
    assert counts == {"swap": 2, "get": 1}
    assert following is not None
    assert following.open == {3}
    assert worker.rig.read(key).entries[2].claim == other.claim_id


def test_a_commit_reads_first_what_another_worker_works_on_too() -> None:
    worker = Worker()
    key = worker.rig.submit(4)
    other = Worker(worker.rig, "other")
    theirs = other.take(key, 1)
    claim = worker.take(key, 1)
    theirs.ended = {0: finding()}
    other.claims.commit(theirs, then=1)
    claim.ended = {1: finding()}
    with worker.rig.requests() as counts:
        following = worker.claims.commit(claim, then=9)
    assert counts == {"get": 1, "swap": 1}
    assert following is not None
    assert following.open == {3}


def _claim_and_release(rig: Rig, key: str, claim_id: str) -> None:
    rig.claim(key, claim_id, 1)
    rig.write(key, lambda seen: transitions.release(seen, claim_id, seen.under(claim_id)))


@pytest.mark.parametrize(("n_others", "most_s"), [(3, 0.0), (49, 50 / 8 * 0.1), (255, 2.0)])
def test_after_a_lost_race_many_workers_do_not_try_again_at_once(n_others: int, most_s: float) -> None:
    rig = Rig(timings=Timings.remote())
    key = rig.submit(n_others + 21)
    workers = [Worker(rig, f"w{i}") for i in range(n_others)]
    for other in workers:
        other.take(key, 1)
    worker = Worker(rig)
    pauses = []
    for number in range(20):
        claim = worker.take(key, 1)
        claim.ended = {position: finding() for position in claim.open}
        # Another one is faster: it claims a task after this worker has read the object, and gives it back.
        rig.before("swap", key, partial(_claim_and_release, rig, key, f"w0.{2 + number}"))
        before = rig.clock.monotonic()
        worker.claims.commit(claim)
        assert not claim.open
        pauses.append(rig.clock.monotonic() - before)
    assert max(pauses) <= most_s
    assert (max(pauses) > most_s / 2, len(set(pauses)) > 10) == (most_s > 0, most_s > 0)


def test_a_claim_ahead_on_what_is_shared_and_used_up_costs_nothing() -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    Worker(worker.rig, "other").take(key, 1)
    claim = worker.take(key)
    with worker.rig.requests() as counts:
        assert worker.claims.commit(claim, then=9, ahead=True) is None
    assert counts == {}


def test_outcomes_of_tasks_that_were_taken_away_are_dropped() -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    claim = worker.take(key)
    worker.rig.write(
        key,
        lambda seen: transitions.take_back(seen, {"w.1"}, lost=True, max_losses=3, now=0.0, outcome=lambda *_: b""),
    )
    worker.rig.end(key, "theirs")
    claim.ended = {0: finding("mine"), 1: finding("mine")}
    assert worker.claims.commit(claim) is None
    assert claim.open == set()
    assert worker.claims.held() == {}
    assert worker.claims.n_ended == 0
    assert outcome(worker.rig, key, 0) == "theirs"


def test_of_a_claim_that_was_half_taken_away_the_other_half_counts() -> None:
    worker = Worker()
    key = worker.rig.submit(2)
    claim = worker.take(key)
    worker.rig.write(key, lambda seen: transitions.release(seen, "w.1", [0]))
    claim.ended = {0: finding("mine"), 1: finding("mine")}
    worker.claims.commit(claim)
    assert worker.rig.states(key) == [State.PENDING, State.COMPLETED]
    assert worker.claims.n_ended == 1


@pytest.mark.parametrize("fault", UNCLEAR)
@pytest.mark.parametrize("interposed", [False, True])
def test_a_commit_whose_answer_was_lost_counts_once_and_keeps_the_next_slice(fault: Fault, interposed: bool) -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    claim = worker.take(key, 1)
    claim.ended = {0: finding()}
    n_swaps = 0

    def plan(asked: Asked) -> Fault | None:
        nonlocal n_swaps
        if (asked.kind, asked.key) != ("swap", key):
            return None
        n_swaps += 1
        if n_swaps == 2 and interposed:
            worker.rig.claim(key, "other.1")
        return fault if n_swaps == 1 else None

    worker.rig.plan = plan
    following = worker.claims.commit(claim, then=1)
    assert following is not None
    assert following.open == {1}
    assert worker.claims.n_ended == 1
    assert worker.claims.held() == {following.claim_id: key}
    assert [entry.attempt for entry in worker.rig.read(key).entries] == [1, 1, int(interposed)]


def test_big_outcomes_share_an_object_and_are_found_in_it() -> None:
    worker = Worker()
    key = worker.rig.submit(256)
    claim = worker.take(key, 7)
    values = {0: "small", 2: "a" * 5000, 3: "b" * 5000, 5: "c" * 5000, 6: "d" * 100}
    claim.ended = {i: finding(value) for i, value in values.items()}
    with worker.rig.requests() as counts:
        worker.claims.commit(claim)
    assert counts == {"create": 1, "swap": 1}
    assert {i: outcome(worker.rig, key, i) for i in values} == values
    stored = worker.rig.read(key).outcomes
    assert [(block.first, block.n) for block in stored] == [(0, 1), (2, 2), (5, 2)]
    assert [isinstance(block.place, Located) for block in stored] == [False, True, True]
    assert len(worker.rig.objects.list(f"{worker.rig.keys.folder}outcomes/")) == 1


def test_tasks_that_end_are_gathered_to_blocks_with_columns_of_what_differs() -> None:
    worker = Worker()
    key = worker.rig.submit(300)
    claim = worker.take(key, 300)
    claim.ended = {i: finding(i, State.FAILED if i % 3 else State.COMPLETED) for i in range(300) if i != 280}
    assert claim.count_failure(1) == 1
    assert claim.count_failure(1) == 2
    worker.claims.commit(claim)
    seen = worker.rig.read(key)
    assert [(block.first, block.n) for block in seen.outcomes] == [(0, 256), (256, 24), (281, 19)]
    assert [i for i in range(300) if seen.entry(i).state == State.COMPLETED] == list(range(0, 300, 3))
    assert seen.entry(280).state == State.CLAIMED
    assert {(seen.entry(i).seconds, seen.entry(i).failures) for i in range(2, 280)} == {(0.5, 0)}
    assert seen.entry(1).failures == 2
    assert [outcome(worker.rig, key, i) for i in range(300) if i != 280] == [i for i in range(300) if i != 280]


def test_tasks_of_different_attempts_are_in_blocks_of_their_own() -> None:
    worker = Worker()
    key = worker.rig.submit(4)
    worker.rig.claim(key, "other.1", 2)
    worker.rig.write(key, lambda seen: transitions.release(seen, "other.1", [0, 1], failures={1: 3}))
    claim = worker.take(key)
    assert [claim.span(i).attempt for i in range(4)] == [2, 2, 1, 1]
    assert [claim.n_failures(i) for i in range(4)] == [0, 3, 0, 0]
    claim.ended = {i: finding(i) for i in range(4)}
    worker.claims.commit(claim)
    seen = worker.rig.read(key)
    assert [(block.first, block.n, block.attempt) for block in seen.outcomes] == [(0, 2, 2), (2, 2, 1)]
    assert [entry.failures for entry in seen.entries] == [0, 3, 0, 0]
    assert [outcome(worker.rig, key, i) for i in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("is_raced", [False, True])
def test_outcomes_for_which_the_object_has_no_room_are_stored_apart(
    monkeypatch: pytest.MonkeyPatch, is_raced: bool
) -> None:
    """The room counts at the swap: in a race, the other worker's outcomes have taken it."""
    worker = Worker()
    key = worker.rig.submit(4)
    claim = worker.take(key, 2)
    other = Worker(worker.rig, "other")
    claim.ended = {0: finding("mine"), 1: finding("x" * 1000)}

    def commit_others() -> None:
        theirs = other.take(key)
        theirs.ended = {2: finding("y" * 1000)}
        other.claims.commit(theirs)

    if is_raced:
        worker.rig.before("swap", key, commit_others)
    else:
        commit_others()
    n_calls = sum(len(block.place) for block in worker.rig.read(key).calls)
    monkeypatch.setattr(blocks, "MAX_INLINE", n_calls + 2000)
    worker.claims.commit(claim)
    seen = worker.rig.read(key)
    assert seen.n_inline <= n_calls + 2000
    assert [isinstance(block.place, Located) for block in seen.outcomes] == [False, True]
    assert [outcome(worker.rig, key, i) for i in (0, 1, 2)] == ["mine", "x" * 1000, "y" * 1000]


def test_tasks_that_were_lost_together_are_claimed_without_others_and_a_part_of_them() -> None:
    worker = Worker()
    key = worker.rig.submit(70)
    worker.rig.write_spans(key, *range(64), together=64, cohort="lost.1")
    assert worker.take(key).open == {0, 1, 2, 3}
    claim = worker.take(key)
    assert claim.open == {4, 5, 6, 7}
    assert claim.has_losses
    ahead = worker.claim(key, ahead=True)
    assert ahead is not None
    assert ahead.open == set(range(64, 70))
    assert not ahead.has_losses


def test_outcomes_are_stored_before_the_commit_that_names_them() -> None:
    worker = Worker()
    key = worker.rig.submit(256)
    claim = worker.take(key, 1)
    claim.ended = {0: finding("a" * 5000, output=(b"said", b""))}
    worker.rig.asked.clear()
    worker.claims.commit(claim)
    assert [asked.kind for asked in worker.rig.asked] == ["create", "create", "swap"]


def test_outcome_objects_are_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starburst_executor.worker.outcome_writer._PART_BYTES", 10_000)
    worker = Worker()
    key = worker.rig.submit(256)
    claim = worker.take(key, 8)
    values = ["a" * 4000, "b" * 4000, "c" * 4000, "d" * 30_000]
    claim.ended = {2 * i: finding(value) for i, value in enumerate(values)}
    worker.claims.commit(claim)
    sizes = [line.size for line in worker.rig.objects.list(f"{worker.rig.keys.folder}outcomes/")]
    assert len(sizes) == 3
    assert sorted(sizes)[:2] == sorted(size for size in sizes if size <= 10_000)
    assert [outcome(worker.rig, key, 2 * i) for i in range(4)] == values


@pytest.mark.parametrize("fault", UNCLEAR + NOT_LANDED)
def test_big_outcomes_survive_a_lost_answer(fault: Fault) -> None:
    worker = Worker()
    key = worker.rig.submit(256)
    claim = worker.take(key, 1)
    claim.ended = {0: finding("a" * 5000)}
    left = [fault]
    worker.rig.plan = lambda asked: left.pop() if left and asked.kind == "create" else None
    worker.claims.commit(claim)
    assert outcome(worker.rig, key, 0) == "a" * 5000


def test_what_a_task_printed_is_stored_beside_its_outcome() -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    claim = worker.take(key)
    claim.ended = {0: finding(), 1: finding(output=(b"out", b"err")), 2: finding(output=(b"", b"more"))}
    worker.claims.commit(claim)
    logs = [entry.log for entry in worker.rig.read(key).entries]
    assert logs[0] is None
    for log, printed in ((logs[1], [b"out", b"err"]), (logs[2], [b"", b"more"])):
        assert log is not None
        stored = worker.rig.objects.get(
            worker.rig.keys.logs(claim.ref.status_id, log.part), start=log.start, length=log.length
        )
        assert stored is not None
        assert msgpack.unpackb(stored.body) == printed


def test_outcomes_are_sealed_for_their_tasks() -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    claim = worker.take(key)
    claim.ended = {0: finding("zero"), 2: finding("two")}
    worker.claims.commit(claim)
    block = worker.rig.read(key).entry(0).outcome
    assert block is not None
    worker.rig.write(key, lambda seen: with_outcome(seen, 2, block.place))
    assert outcome(worker.rig, key, 0) == "zero"
    with pytest.raises(RecordInvalid, match="wrong seal"):
        outcome(worker.rig, key, 2)


# --- release ----------------------------------------------------------------------------------------------------------


def test_a_release_makes_tasks_pending_and_rings() -> None:
    worker = Worker()
    key = worker.rig.submit(3)
    claim = worker.take(key)
    claim.ended = {2: finding()}
    with worker.rig.requests() as counts:
        worker.claims.release(claim, [1, 2])
    assert counts == {"swap": 1, "put": 1}
    assert claim.open == {0}
    assert claim.ended == {}
    assert worker.rig.states(key) == [State.CLAIMED, State.PENDING, State.PENDING]
    bell = worker.rig.bell()
    assert bell is not None
    assert (bell.keys, bell.n_tasks) == ((key,), 2)
    worker.claims.release(claim, [0], refused=True)
    assert worker.claims.held() == {}
    assert [entry.refusals for entry in worker.rig.read(key).entries] == [1, 0, 0]
    with worker.rig.requests() as counts:
        worker.claims.release(claim, [0])
    assert counts == {}


def test_the_outcome_of_a_task_that_is_released_no_longer_counts_for_the_next_commit() -> None:
    worker = Worker()
    claim = worker.take(worker.rig.submit(2), 2)
    for position in (0, 1):
        claim.end(position, finding())
    worker.claims.release(claim, [1])
    assert claim.ended == {0: finding()}
    assert claim.ended_bytes == finding().n_bytes


@pytest.mark.parametrize("fault", UNCLEAR + NOT_LANDED)
def test_a_release_whose_answer_was_lost_does_not_touch_who_claimed_since(fault: Fault) -> None:
    worker = Worker()
    key = worker.rig.submit(1)
    claim = worker.take(key)
    n_swaps = 0

    def plan(asked: Asked) -> Fault | None:
        nonlocal n_swaps
        if (asked.kind, asked.key) != ("swap", key):
            return None
        n_swaps += 1
        if n_swaps == 2 and worker.rig.states(key) == [State.PENDING]:
            worker.rig.claim(key, "other.1")
        return fault if n_swaps == 1 else None

    worker.rig.plan = plan
    worker.claims.release(claim, [0])
    entry = worker.rig.read(key).entries[0]
    assert entry.claim == ("other.1" if fault in UNCLEAR else "")
    assert worker.claims.held() == {}


def test_the_ends_of_neighbours_count_for_those_that_the_claim_still_holds() -> None:
    worker = Worker()
    key = worker.rig.submit(6)
    claim = worker.take(key, 6)
    claim.keep({0, 1, 3, 5})
    claim.end_run(1, Completed(1, [outcomes.dump_value(value) for value in "bcde"], [0.5] * 4))
    assert (sorted(claim.ended), claim.returned) == ([1, 3], [])
    assert [outcomes.load_outcome(claim.ended[i].outcome)[0] for i in (1, 3)] == ["b", "d"]
    assert claim.ended_bytes == sum(end.n_bytes for end in claim.ended.values())


def test_tasks_that_returned_are_dropped_when_the_claim_loses_them() -> None:
    worker = Worker()
    claim = worker.take(worker.rig.submit(6), 6)
    run = Completed(1, [outcomes.dump_value(value) for value in "abc"], [0.5] * 3)
    claim.end_run(2, run)
    claim.keep({0, 2, 3, 4})
    assert (claim.returned, claim.n_ended) == ([(2, run)], 3)
    claim.keep({0, 2, 4})
    assert (sorted(claim.ended), claim.returned, claim.n_ended) == ([2, 4], [], 2)
    assert claim.ended_bytes == sum(end.n_bytes for end in claim.ended.values())


@pytest.mark.parametrize("has_failed", [False, True])
def test_runs_of_tasks_that_returned_are_committed_in_blocks(has_failed: bool) -> None:
    """In any order, with gaps between them, and beside tasks that ended by themselves."""
    worker = Worker()
    key = worker.rig.submit(600)
    claim = worker.take(key, 600)
    values = [bytes(9000) if i == 270 else i for i in range(600)]
    for first, n in ((400, 30), (0, 260), (260, 139)):
        run = Completed(1, [outcomes.dump_value(value) for value in values[first : first + n]], [0.25] * n)
        claim.end_run(first, run)
    if has_failed:
        claim.end(599, finding(599, State.FAILED))
    worker.claims.commit(claim)
    ended = [*range(399), *range(400, 430)]
    assert [outcome(worker.rig, key, i) for i in ended] == [values[i] for i in ended]
    assert (claim.n_ended, claim.ended_bytes) == (0, 0)
    assert claim.open == set(range(600)) - {*ended, *([599] if has_failed else [])}
    blocks = worker.rig.read(key).outcomes
    assert [(block.first, block.n) for block in blocks if block.first < 599] == [
        (0, 256), (256, 14), (270, 1), (271, 128), (400, 30)
    ]  # fmt: skip
    assert all(set(block.durations()) == {0.25} for block in blocks if block.first < 599)
