"""The status object: what its transitions may and may not do, and what its bytes tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol import status
from starburst_executor.protocol.status import Ended, Entry, Located, SizeClass, State, Status

MAX_LOSSES = 3
REASON = b"reason"


def fresh(n_tasks: int) -> Status:
    return Status(0, 7, ("f" * 32,), tuple(Entry.pending(0, b"call") for _ in range(n_tasks)))


def claimed(seen: Status, claim_id: str, at_most: int = 256, **how: bool) -> tuple[Status, list[int]]:
    return status.claim(seen, claim_id, at_most=at_most, now=1.0, max_losses=MAX_LOSSES, **how)


def lose(seen: Status, claim_id: str) -> Status:
    return status.take_back(seen, {claim_id}, lost=True, max_losses=MAX_LOSSES, now=2.0, outcome=lambda *_: REASON)


def end(seen: Status, claim_id: str, *indices: int, state: State = State.COMPLETED) -> tuple[Status, list[int]]:
    return status.commit(seen, claim_id, {i: Ended(state, b"out", None, 0.1, 0) for i in indices}, 3.0)


# --- the model --------------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """One status object under every transition in any order; a plain model says what each may do to each task."""

    def __init__(self) -> None:
        super().__init__()
        self.n_claims = 0
        self.live: dict[str, set[int]] = {}  # claims and what they hold, in the model
        self.stale: list[str] = ["w.0"]

    @initialize(n_tasks=st.integers(1, 6))
    def start(self, n_tasks: int) -> None:
        self.now = fresh(n_tasks)
        self.states = [State.PENDING] * n_tasks
        self.losses = [0] * n_tasks

    def turn(self, changed: Status, touched: dict[int, State]) -> None:
        """Take the result over: exactly `touched` may differ, and must be in these states."""
        assert len(changed.entries) == len(self.now.entries)
        for i, (old, new) in enumerate(zip(self.now.entries, changed.entries, strict=True)):
            if i in touched:
                assert new.state == touched[i]
                self.states[i] = touched[i]
            else:
                assert new == old, i
            assert new.attempt >= old.attempt
            assert new.run >= old.run
            if old.has_ended and new.run == old.run:
                assert new == old, "an ended entry changed within its run"
        assert (changed is self.now) == (changed.entries == self.now.entries)
        self.now = changed

    def settle(self, claim_id: str, indices: set[int]) -> None:
        self.live[claim_id] -= indices
        if not self.live[claim_id]:
            del self.live[claim_id]
            self.stale.append(claim_id)

    @rule(at_most=st.integers(1, 4), alone=st.booleans(), ahead=st.booleans())
    def claim(self, at_most: int, alone: bool, ahead: bool) -> None:
        self.n_claims += 1
        claim_id = f"w.{self.n_claims}"
        changed, taken = claimed(self.now, claim_id, at_most, alone=alone, ahead=ahead)
        assert taken == sorted(taken)
        assert len(taken) <= at_most
        assert all(self.states[i] == State.PENDING for i in taken)
        lossy = [i for i in taken if self.losses[i]]
        assert not lossy or (len(taken) == 1 and not ahead)
        assert alone or all(self.losses[i] < MAX_LOSSES - 1 for i in taken)
        free = [i for i, s in enumerate(self.states) if s == State.PENDING and (not self.losses[i] or not ahead)]
        if any(alone or self.losses[i] < MAX_LOSSES - 1 for i in free):
            assert taken, "a task that may be claimed was not"
        for i in taken:
            assert changed.entries[i].attempt == self.now.entries[i].attempt + 1
            assert changed.entries[i].claim == claim_id
        self.turn(changed, dict.fromkeys(taken, State.CLAIMED))
        if taken:
            self.live[claim_id] = set(taken)
        else:
            self.stale.append(claim_id)

    def pick(self, data: st.DataObject) -> tuple[str, set[int], set[int]]:
        """Some claim, mostly a live one; some indices; and those of them it holds."""
        claim_id = data.draw(st.sampled_from([*self.live, *self.live, *self.stale]), "claim")
        indices = data.draw(st.sets(st.integers(0, len(self.states) - 1)), "indices")
        return claim_id, indices, indices & self.live.get(claim_id, set())

    @rule(data=st.data(), state=st.sampled_from([State.COMPLETED, State.FAILED]))
    def commit(self, data: st.DataObject, state: State) -> None:
        claim_id, indices, mine = self.pick(data)
        changed, ended = end(self.now, claim_id, *indices, state=state)
        assert set(ended) == mine
        for i in mine:
            assert changed.entries[i].claim == claim_id
            assert changed.entries[i].outcome == b"out"
            assert (changed.entries[i].call is None) == (state == State.COMPLETED)
        self.turn(changed, dict.fromkeys(mine, state))
        if mine:
            self.settle(claim_id, mine)

    @rule(data=st.data(), refused=st.booleans())
    def release(self, data: st.DataObject, refused: bool) -> None:
        claim_id, indices, mine = self.pick(data)
        changed = status.release(self.now, claim_id, indices, refused=refused)
        for i in mine:
            assert changed.entries[i].losses == self.losses[i]
            assert changed.entries[i].refusals == self.now.entries[i].refusals + refused
        self.turn(changed, dict.fromkeys(mine, State.PENDING))
        if mine:
            self.settle(claim_id, mine)

    @rule(data=st.data(), lost=st.booleans())
    def take_back(self, data: st.DataObject, lost: bool) -> None:
        claim_id, _, _ = self.pick(data)
        mine = set(self.live.get(claim_id, ()))
        changed = status.take_back(
            self.now, {claim_id}, lost=lost, max_losses=MAX_LOSSES, now=2.0, outcome=lambda *_: REASON
        )
        touched = {}
        for i in mine:
            self.losses[i] += lost
            touched[i] = State.FAILED if self.losses[i] >= MAX_LOSSES else State.PENDING
            assert changed.entries[i].losses == self.losses[i]
            assert (changed.entries[i].outcome == REASON) == (touched[i] == State.FAILED)
        self.turn(changed, touched)
        if mine:
            self.settle(claim_id, mine)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        indices = data.draw(st.lists(st.integers(0, len(self.states) - 1)))
        pending = {i for i in indices if self.states[i] == State.PENDING}
        changed, cancelled = status.cancel(self.now, indices, 4.0)
        assert set(cancelled) == pending
        self.turn(changed, dict.fromkeys(pending, State.CANCELLED))

    @rule(failed=st.booleans(), pending_only=st.booleans())
    def end_rest(self, failed: bool, pending_only: bool) -> None:
        outcome: Callable[..., bytes] | None = (lambda *_: REASON) if failed else None
        left = {i for i, e in enumerate(self.now.entries) if not e.has_ended}
        if pending_only:
            left = {i for i in left if self.states[i] == State.PENDING}
        changed = status.end_rest(self.now, 5.0, outcome, pending_only=pending_only)
        self.turn(changed, dict.fromkeys(left, State.FAILED if failed else State.CANCELLED))
        for claim_id in [c for c in self.live if self.live[c] & left]:
            self.settle(claim_id, left & self.live[claim_id])

    @precondition(lambda self: State.FAILED in self.states)
    @rule(twice=st.booleans())
    def retry(self, twice: bool) -> None:
        runs = {i: self.now.entries[i].run for i, s in enumerate(self.states) if s == State.FAILED}
        changed = status.retry(self.now, runs)
        for i, run in runs.items():
            assert changed.entries[i].run == run + 1
            assert changed.entries[i].outcome is None
            self.losses[i] = 0
        if twice:
            assert status.retry(changed, runs) is changed
        self.turn(changed, dict.fromkeys(runs, State.PENDING))

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "now"):
            return
        for i, entry in enumerate(self.now.entries):
            holders = [claim_id for claim_id, held in self.live.items() if i in held]
            assert holders == ([entry.claim] if entry.state == State.CLAIMED else [])
            assert (entry.state != State.PENDING) or entry.claim == ""
        body = status.encode(self.now, "nonce")
        assert status.decode(body) == self.now
        assert len(body) % 8 == status.size_class(self.now.entries) == class_by_hand(self.states)


def class_by_hand(states: list[State]) -> SizeClass:
    if all(s == State.PENDING for s in states):
        return SizeClass.ALL_PENDING
    if any(s == State.PENDING for s in states):
        return SizeClass.SOME_PENDING
    if any(s == State.CLAIMED for s in states):
        return SizeClass.SOME_CLAIMED
    return SizeClass.ALL_COMPLETED if all(s == State.COMPLETED for s in states) else SizeClass.ALL_ENDED


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_task_that_lost_a_worker_is_claimed_by_itself() -> None:
    seen, _ = claimed(fresh(4), "w.1", 2)
    seen = lose(seen, "w.1")
    assert claimed(seen, "w.2")[1] == [0]
    assert claimed(seen, "w.2", ahead=True)[1] == [2, 3]
    seen, _ = claimed(seen, "w.2")
    assert claimed(seen, "w.3")[1] == [1]


def test_tasks_before_one_with_a_loss_do_not_take_it_along() -> None:
    seen = fresh(3)
    seen = seen.with_entries({1: seen.entries[1]._replace(losses=1)})
    assert claimed(seen, "w.1")[1] == [0]


def test_the_last_try_needs_a_worker_to_itself_and_only_then_is_lost() -> None:
    seen = fresh(1)
    for nth in range(MAX_LOSSES):
        is_last = nth == MAX_LOSSES - 1
        assert status.awaits_solo(seen, MAX_LOSSES) == is_last
        assert claimed(seen, "w.9")[1] == ([] if is_last else [0])
        seen, taken = claimed(seen, f"w.{nth}", alone=True)
        assert taken == [0]
        assert seen.entries[0].state == State.CLAIMED
        seen = lose(seen, f"w.{nth}")
    assert seen.entries[0].state == State.FAILED
    assert seen.entries[0].outcome == REASON


@pytest.mark.parametrize("max_losses", [1, 2, 5])
def test_a_task_fails_of_so_many_losses_and_only_a_suspect_waits_for_a_worker_to_itself(max_losses: int) -> None:
    seen = fresh(2)
    for n_losses in range(max_losses):
        is_suspect = 0 < n_losses == max_losses - 1
        assert status.awaits_solo(seen, max_losses) == is_suspect
        _, taken = status.claim(seen, "w.1", at_most=1, now=1.0, max_losses=max_losses)
        assert taken == [1 if is_suspect else 0]
        seen, taken = status.claim(seen, "w.1", at_most=1, now=1.0, max_losses=max_losses, alone=True)
        assert taken == [0]
        seen = status.take_back(seen, {"w.1"}, lost=True, max_losses=max_losses, now=2.0, outcome=lambda *_: REASON)
    assert [entry.state for entry in seen.entries] == [State.FAILED, State.PENDING]


def test_a_commit_keeps_the_failures_of_what_stays_claimed_and_of_nothing_else() -> None:
    seen, _ = claimed(fresh(3), "w.1", 2)
    ended = {0: Ended(State.COMPLETED, b"out", None, 0.1, 0)}
    changed, mine = status.commit(seen, "w.1", ended, 3.0, failures={0: 7, 1: 2, 2: 5})
    assert mine == [0]
    assert [entry.failures for entry in changed.entries] == [0, 2, 0]
    assert [entry.failures for entry in lose(changed, "w.1").entries] == [0, 2, 0]
    assert status.commit(changed, "w.1", {}, 3.0, failures={1: 2})[0] is changed


def test_a_retry_forgets_losses_but_never_attempts() -> None:
    seen, _ = claimed(fresh(1), "w.1")
    seen, _ = end(lose(seen, "w.1"), "w.1", 0)
    seen, _ = claimed(seen, "w.2")
    seen, _ = end(seen, "w.2", 0, state=State.FAILED)
    entry = status.retry(seen, {0: 1}).entries[0]
    assert (entry.run, entry.attempt, entry.losses, entry.failures) == (2, 2, 0, 0)
    assert status.retry(seen, {0: 2}) is seen


def test_what_cannot_be_run_cannot_be_retried() -> None:
    seen = fresh(1)
    seen = seen.with_entries({0: seen.entries[0]._replace(state=State.FAILED, call=None)})
    assert status.retry(seen, {0: 1}) is seen


def test_no_outcome_fits_two_places() -> None:
    """The seal of an outcome distinguishes task, run, attempt and claim."""
    seen, _ = claimed(fresh(2), "w.1")
    labels = {
        status.outcome_label(seen, 0, seen.entries[0]),
        status.outcome_label(seen, 1, seen.entries[1]),
        status.outcome_label(seen, 0, seen.entries[0]._replace(run=2)),
        status.outcome_label(seen, 0, seen.entries[0]._replace(attempt=2)),
        status.outcome_label(seen, 0, seen.entries[0]._replace(claim="w.2")),
        status.outcome_label(Status(1, 7, (), ()), 0, seen.entries[0]),
    }
    assert len(labels) == 6


# --- bytes ------------------------------------------------------------------------------------------------------------

located = st.builds(Located, st.text("0123456789abcdef.-", max_size=40), st.integers(0, 2**40), st.integers(0, 2**40))
entries = st.builds(
    Entry,
    state=st.sampled_from(State),
    run=st.integers(1, 9),
    attempt=st.integers(0, 300),
    failures=st.integers(0, 100),
    losses=st.integers(0, 3),
    refusals=st.integers(0, 2),
    claim=st.text(max_size=40),
    function=st.just(0),
    call=st.none() | st.binary(max_size=50) | located,
    outcome=st.none() | st.binary(max_size=50) | located,
    log=st.none() | located,
    at=st.floats(0, 2e9),
    seconds=st.floats(0, 1e6),
)
statuses = st.builds(
    Status,
    ordinal=st.integers(0, 65535),
    first=st.integers(0, 2**40 - 1),
    functions=st.lists(st.text(min_size=1, max_size=32), min_size=1, max_size=3).map(tuple),
    entries=st.lists(entries, min_size=1, max_size=8).map(tuple),
)


@given(statuses, st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_bytes_come_back_as_they_were_and_tell_their_class(seen: Status, nonce: str) -> None:
    body = status.encode(seen, nonce)
    assert status.decode(body) == seen
    assert len(body) % 8 == status.size_class(seen.entries)


@pytest.mark.parametrize("n_tasks", [1, 2, 16, 255, 256])
def test_full_of_inline_outcomes_an_object_keeps_its_limit(n_tasks: int) -> None:
    limit = status.inline_bytes(n_tasks)
    worker_id = "018f0000000-0123abcd"
    entry = Entry(
        State.COMPLETED, 9, 300, 100, 2, 1, f"{worker_id}.123456", 0, None, b"x" * limit,
        Located(f"{worker_id}.123456-1234", 2**40, 2**30), 1.7e9, 1e5,
    )  # fmt: skip
    body = status.encode(Status(65535, 2**40 - 1, ("f" * 32,), (entry,) * n_tasks), "n" * 16)
    assert len(body) <= status.MAX_BYTES + 256


def test_inline_bytes_shrink_with_the_number_of_tasks() -> None:
    assert status.inline_bytes(1) > 100_000
    assert 200 < status.inline_bytes(256) < 512


def decodes_or_refuses(body: bytes) -> None:
    try:
        seen = status.decode(body)
    except (RecordInvalid, VersionMismatch):
        return
    assert status.decode(status.encode(seen, "n")) == seen or any(e.at != e.at for e in seen.entries)


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=200)
def test_random_bytes_are_refused(body: bytes) -> None:
    with pytest.raises((RecordInvalid, VersionMismatch)):
        status.decode(body)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=15,
)


@given(statuses, st.data())
@settings(max_examples=150, deadline=500, suppress_health_check=[HealthCheck.too_slow])
def test_changed_records_are_refused_or_are_records(seen: Status, data: st.DataObject) -> None:
    record: dict[str, Any] = msgpack.unpackb(status.encode(seen, "n"))
    where: Any = record
    key: Any = data.draw(st.sampled_from(list(record)))
    while isinstance(where[key], list) and where[key] and data.draw(st.booleans()):
        where = where[key]
        key = data.draw(st.integers(0, len(where) - 1))
    if data.draw(st.booleans()):
        where[key] = data.draw(values)
    else:
        del where[key]
    decodes_or_refuses(msgpack.packb(record))


@given(statuses, st.data())
@settings(max_examples=120, deadline=500)
def test_flipped_and_cut_bytes_are_refused_or_are_records(seen: Status, data: st.DataObject) -> None:
    body = bytearray(status.encode(seen, "n"))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    decodes_or_refuses(bytes(body[: data.draw(st.integers(0, len(body)))]))
    decodes_or_refuses(bytes(body))


def test_lies_about_length_and_depth_cost_nothing() -> None:
    for body in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xd6\xff" + b"\xff" * 4,
    ):
        with pytest.raises(RecordInvalid):
            status.decode(body)


def test_another_format_is_named() -> None:
    record = msgpack.unpackb(status.encode(fresh(1), "n"))
    record["format"] = 3
    with pytest.raises(VersionMismatch, match="format=3, known=2"):
        status.decode(msgpack.packb(record))


def test_a_place_is_no_path() -> None:
    seen = fresh(1)
    seen = seen.with_entries({0: seen.entries[0]._replace(outcome=Located("../../other/x", 0, 1))})
    with pytest.raises(RecordInvalid):
        status.decode(status.encode(seen, "n"))


@pytest.mark.parametrize("n_tasks", [0, 257])
def test_an_object_of_no_or_too_many_tasks_is_refused(n_tasks: int) -> None:
    with pytest.raises(RecordInvalid, match=f"tasks={n_tasks}"):
        status.decode(status.encode(fresh(n_tasks), "n"))


def test_a_function_that_is_not_named_is_refused() -> None:
    seen = fresh(1)
    with pytest.raises(RecordInvalid):
        status.decode(status.encode(seen.with_entries({0: seen.entries[0]._replace(function=1)}), "n"))


def test_a_retry_with_another_function_changes_what_failed_and_nothing_else() -> None:
    entries = (
        Entry.pending(0, b"a")._replace(state=State.FAILED, attempt=2, failures=1, claim="w.1"),
        Entry.pending(0, b"b")._replace(state=State.COMPLETED, claim="w.1"),
    )
    before = Status(0, 5, ("old",), entries)
    after = status.retry(before, {0: 1, 1: 1}, "new", {0: b"resealed", 1: b"x"})
    assert after.functions == ("old", "new")
    assert after.entries[0] == Entry.pending(1, b"resealed")._replace(run=2, attempt=2)
    assert after.entries[1] == entries[1]
    # The same write again, after its answer was lost, changes nothing.
    assert status.retry(after, {0: 1}, "new", {0: b"resealed"}) is after


def test_the_time_of_the_submit_stays_through_every_change_and_may_be_missing() -> None:
    submitted = replace(fresh(2), submitted_at=1234.5)
    claimed, _ = status.claim(submitted, "w.1", at_most=2, now=1300.0, max_losses=3)
    assert status.decode(status.encode(claimed, "n")).submitted_at == 1234.5
    raw = msgpack.unpackb(status.encode(submitted, "n"))
    del raw["submitted_at"]
    assert status.decode(msgpack.packb(raw)).submitted_at == 0.0
    with pytest.raises(RecordInvalid):
        status.decode(msgpack.packb({**raw, "submitted_at": "now"}))
