"""What the transitions of a status object may and may not do, against a model that knows tasks and no spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from starburst_executor.protocol.spans import blocks, encoding, transitions
from starburst_executor.protocol.spans.record import (
    BLOCK_TASKS,
    CallBlock,
    Entry,
    OutcomeBlock,
    SizeClass,
    Span,
    State,
    Status,
    ranges_of,
)
from tests.support.spans import with_spans

MAX_LOSSES = 3
REASON = b"reason"


def fresh(n_tasks: int, *, kinds: Iterable[int] = (0,)) -> Status:
    """Pending tasks; `kinds` are the functions of equal parts of them."""
    cycle = list(kinds)
    size = -(-n_tasks // len(cycle))
    spans, calls = [], []
    for i, kind in enumerate(cycle):
        n = min(size, n_tasks - i * size)
        if n <= 0:
            break
        spans.append(Span(n, function=kind))
        calls += [
            CallBlock(block[0], len(block), kind, b"call")
            for block in blocks.cut((i * size + k, 0, 9) for k in range(n))
        ]
    return Status(0, 7, tuple(str(kind) * 32 for kind in range(max(cycle) + 1)), tuple(spans), tuple(calls))


def claimed(seen: Status, claim_id: str, at_most: int = 256, **how: bool) -> tuple[Status, list[int]]:
    return transitions.claim(seen, claim_id, at_most=at_most, now=1.0, max_losses=MAX_LOSSES, **how)


def lose(seen: Status, claim_id: str, max_losses: int = MAX_LOSSES) -> Status:
    return transitions.take_back(seen, {claim_id}, lost=True, max_losses=max_losses, now=2.0, outcome=lambda *_: REASON)


def outcomes_of(seen: Status, positions: Iterable[int], failed: Iterable[int] = ()) -> list[OutcomeBlock]:
    """Blocks of outcomes as a worker makes them, of the run, attempt and claim that the tasks have now."""
    marks = {i: (e.run, e.attempt, e.claim) for i in sorted(positions) for e in [seen.entry(i)]}
    lost = set(failed)
    return [
        OutcomeBlock(block[0], len(block), *marks[block[0]], b"out", tuple(i - block[0] for i in block if i in lost))
        for block in blocks.cut((i, mark, 9) for i, mark in marks.items())
    ]


def end(seen: Status, claim_id: str, *positions: int, failed: Iterable[int] = ()) -> tuple[Status, list[int]]:
    return transitions.commit(seen, claim_id, outcomes_of(seen, positions, failed), 3.0)


# --- the model --------------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """One status object under every transition in any order; a plain model says what each may do to each task."""

    def __init__(self) -> None:
        super().__init__()
        self.n_claims = 0
        self.live: dict[str, set[int]] = {}  # claims and what they hold, in the model
        self.stale: list[str] = ["w.0"]
        self.late: list[tuple[str, list[OutcomeBlock]]] = []  # outcomes of workers that were taken for lost

    @initialize(n_tasks=st.integers(1, 12) | st.just(70), kinds=st.sampled_from([(0,), (0, 1), (0, 1, 0)]))
    def start(self, n_tasks: int, kinds: tuple[int, ...]) -> None:
        self.now = fresh(n_tasks, kinds=kinds)
        self.states = [State.PENDING] * n_tasks
        self.losses = [0] * n_tasks
        self.cohorts = [""] * n_tasks

    def turn(self, changed: Status, touched: dict[int, State]) -> None:
        """Take the result over: exactly `touched` may differ, and must be in these states."""
        before, after = self.now.entries, changed.entries
        assert len(after) == len(before)
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            if i in touched:
                assert new.state == touched[i]
                self.states[i] = touched[i]
            else:
                assert without_call(new) == without_call(old), i
            assert new.attempt >= old.attempt
            assert new.run >= old.run
            if old.has_ended and new.run == old.run:
                assert without_call(new) == without_call(old), "an ended task changed within its run"
        assert (changed is self.now) == (not touched and changed.spans == self.now.spans)
        self.now = changed

    def settle(self, claim_id: str, positions: set[int]) -> None:
        self.live[claim_id] -= positions
        if not self.live[claim_id]:
            del self.live[claim_id]
            self.stale.append(claim_id)

    @rule(at_most=st.integers(1, 40), alone=st.booleans(), ahead=st.booleans())
    def claim(self, at_most: int, alone: bool, ahead: bool) -> None:
        self.n_claims += 1
        claim_id = f"w.{self.n_claims}"
        before = self.now.entries
        changed, taken = claimed(self.now, claim_id, at_most, alone=alone, ahead=ahead)
        assert taken == sorted(set(taken))
        assert len(taken) <= at_most
        assert all(self.states[i] == State.PENDING for i in taken)
        assert len({before[i].function for i in taken}) <= 1, "a claim has one function"
        suspects = [i for i in taken if before[i].is_suspect]
        if suspects:
            assert suspects == taken, "suspects were claimed along with others"
            assert not ahead
            assert len({before[i].cohort for i in taken}) == 1, "two cohorts in one claim"
            assert len(taken) <= max(1, before[taken[0]].together // 16)
        assert alone or all(self.losses[i] < MAX_LOSSES - 1 for i in taken)
        assert len(taken) == 1 or all(self.losses[i] < MAX_LOSSES - 1 for i in taken)
        free = [i for i, s in enumerate(self.states) if s == State.PENDING and not (ahead and before[i].is_suspect)]
        if any(alone or self.losses[i] < MAX_LOSSES - 1 for i in free):
            assert taken, "a task that may be claimed was not"
        for i in taken:
            assert changed.entry(i).attempt == before[i].attempt + 1
            assert changed.entry(i).claim == claim_id
        self.turn(changed, dict.fromkeys(taken, State.CLAIMED))
        if taken:
            self.live[claim_id] = set(taken)
        else:
            self.stale.append(claim_id)

    def pick(self, data: st.DataObject) -> tuple[str, set[int], set[int]]:
        """Some claim, mostly a live one; some positions; and those of them it holds."""
        claim_id = data.draw(st.sampled_from([*self.live, *self.live, *self.stale]), "claim")
        positions = data.draw(st.sets(st.integers(0, len(self.states) - 1)), "positions")
        if data.draw(st.booleans(), "a range"):
            positions = set(range(min(positions, default=0), max(positions, default=0) + 1))
        return claim_id, positions, positions & self.live.get(claim_id, set())

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        claim_id, positions, mine = self.pick(data)
        failed = data.draw(st.sets(st.sampled_from(sorted(positions)))) if positions else set()
        ended = outcomes_of(self.now, mine, failed)
        changed, committed = transitions.commit(self.now, claim_id, ended, 3.0)
        assert set(committed) == mine
        for i in mine:
            entry = changed.entry(i)
            assert entry.claim == claim_id
            assert entry.outcome is not None
            assert entry.outcome.place == b"out"
        self.turn(changed, {i: State.FAILED if i in failed else State.COMPLETED for i in mine})
        assert transitions.commit(self.now, claim_id, ended, 3.0)[0] is self.now, "a second time changes nothing"
        if mine:
            self.settle(claim_id, mine)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def commit_late(self, data: st.DataObject) -> None:
        claim_id, ended = data.draw(st.sampled_from(self.late))
        held = set(self.live.get(claim_id, ()))
        mine = {i for block in ended for i in range(block.first, block.first + block.n)} & held
        changed, committed = transitions.commit(self.now, claim_id, ended, 3.0)
        assert set(committed) == mine
        self.turn(changed, dict.fromkeys(mine, State.COMPLETED))
        if mine:
            self.settle(claim_id, mine)

    @rule(data=st.data(), n_failures=st.integers(1, 3))
    def fail_for_now(self, data: st.DataObject, n_failures: int) -> None:
        claim_id, positions, mine = self.pick(data)
        changed, _ = transitions.commit(self.now, claim_id, [], 3.0, failures=dict.fromkeys(positions, n_failures))
        for i, (old, new) in enumerate(zip(self.now.entries, changed.entries, strict=True)):
            assert new.failures == (n_failures if i in mine else old.failures)
        self.now = changed

    @rule(data=st.data(), refused=st.booleans())
    def release(self, data: st.DataObject, refused: bool) -> None:
        claim_id, positions, mine = self.pick(data)
        changed = transitions.release(self.now, claim_id, positions, refused=refused)
        for i in mine:
            assert changed.entry(i).losses == self.losses[i]
            assert changed.entry(i).cohort == self.cohorts[i]
            assert changed.entry(i).refusals == self.now.entry(i).refusals + refused
        self.turn(changed, dict.fromkeys(mine, State.PENDING))
        if mine:
            self.settle(claim_id, mine)

    @rule(data=st.data(), lost=st.booleans())
    def take_back(self, data: st.DataObject, lost: bool) -> None:
        claim_id, _, some = self.pick(data)
        mine = set(self.live.get(claim_id, ()))
        self.late.append((claim_id, outcomes_of(self.now, some)))
        changed = transitions.take_back(
            self.now, {claim_id}, lost=lost, max_losses=MAX_LOSSES, now=2.0, outcome=lambda *_: REASON
        )
        touched = {}
        for i in mine:
            if lost:
                alone = len(mine) == 1
                self.losses[i] = self.losses[i] + 1 if alone else max(0, min(self.losses[i] + 1, MAX_LOSSES - 2))
                self.cohorts[i] = claim_id if self.losses[i] < MAX_LOSSES else self.cohorts[i]
            touched[i] = State.FAILED if self.losses[i] >= MAX_LOSSES else State.PENDING
            entry = changed.entry(i)
            assert entry.losses == self.losses[i]
            assert (entry.outcome is not None) == (touched[i] == State.FAILED)
            assert entry.cohort == self.cohorts[i]
        assert sum(state == State.FAILED for state in touched.values()) <= 1, "an innocent one was blamed"
        self.turn(changed, touched)
        if mine:
            self.settle(claim_id, mine)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        positions = data.draw(st.lists(st.integers(0, len(self.states) - 1)))
        pending = {i for i in positions if self.states[i] == State.PENDING}
        changed, cancelled = transitions.cancel(self.now, positions, 4.0)
        assert sorted(cancelled) == sorted(pending)
        self.turn(changed, dict.fromkeys(pending, State.CANCELLED))

    @rule(failed=st.booleans(), pending_only=st.booleans())
    def end_rest(self, failed: bool, pending_only: bool) -> None:
        outcome: Any = (lambda *_: REASON) if failed else None
        left = {i for i, e in enumerate(self.now.entries) if not e.has_ended}
        if pending_only:
            left = {i for i in left if self.states[i] == State.PENDING}
        changed = transitions.end_rest(self.now, 5.0, outcome, pending_only=pending_only)
        self.turn(changed, dict.fromkeys(left, State.FAILED if failed else State.CANCELLED))
        for claim_id in [c for c in self.live if self.live[c] & left]:
            self.settle(claim_id, left & self.live[claim_id])

    @precondition(lambda self: State.FAILED in self.states)
    @rule(data=st.data(), twice=st.booleans(), replaced=st.booleans())
    def retry(self, data: st.DataObject, twice: bool, replaced: bool) -> None:
        failed = [i for i, s in enumerate(self.states) if s == State.FAILED]
        chosen = sorted(data.draw(st.sets(st.sampled_from(failed), min_size=1)))
        runs = {i: self.now.entry(i).run for i in chosen}
        how: dict[str, Any] = {}
        if replaced:
            calls = [(block[0], len(block), b"sealed again") for block in blocks.cut((i, 0, 9) for i in chosen)]
            how = {"function": "new", "calls": calls}
        changed = transitions.retry(self.now, runs, **how)
        for i, run in runs.items():
            entry = changed.entry(i)
            assert entry.run == run + 1
            assert entry.outcome is None
            assert entry.call is not None
            assert not replaced or (changed.functions[entry.function], entry.call.place) == ("new", b"sealed again")
            self.losses[i], self.cohorts[i] = 0, ""
        if twice:
            assert transitions.retry(changed, runs, **how) is changed
        self.turn(changed, dict.fromkeys(runs, State.PENDING))

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "now"):
            return
        for i, entry in enumerate(self.now.entries):
            holders = [claim_id for claim_id, held in self.live.items() if i in held]
            assert holders == ([entry.claim] if entry.state == State.CLAIMED else [])
            assert (entry.state != State.PENDING) or entry.claim == ""
            assert entry.state == State.COMPLETED or entry.call is not None, "a call is gone that may be needed"
            in_run = entry.state in (State.COMPLETED, State.FAILED)
            assert (entry.outcome is not None) == in_run
        assert self.now.counts() == Counter(self.states)
        assert self.now.failed() == [i for i, s in enumerate(self.states) if s == State.FAILED]
        assert all(a[1:] != b[1:] for a, b in zip(self.now.spans, self.now.spans[1:])), "neighbours were not joined"  # noqa: B905
        body = encoding.encode(self.now, "nonce")
        assert encoding.decode(body) == self.now
        assert len(body) % 8 == encoding.size_class(self.now) == class_by_hand(self.states)
        n_pending = self.states.count(State.PENDING)
        assert len(body) // 8 % 8 == next(k for k in range(8) if n_pending < 4**k)


def without_call(entry: Entry) -> Entry:
    """An entry without its call, which goes when its whole block has completed."""
    return entry._replace(call=None)


def class_by_hand(states: list[State]) -> SizeClass:
    if all(s == State.PENDING for s in states):
        return SizeClass.ALL_PENDING
    if any(s == State.PENDING for s in states):
        return SizeClass.SOME_PENDING
    if any(s == State.CLAIMED for s in states):
        return SizeClass.SOME_CLAIMED
    return SizeClass.ALL_COMPLETED if all(s == State.COMPLETED for s in states) else SizeClass.ALL_ENDED


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=25)


# --- spans ------------------------------------------------------------------------------------------------------------


def test_neighbours_that_end_alike_share_a_span_whichever_of_them_failed() -> None:
    seen, _ = claimed(fresh(8), "w.1")
    seen, _ = end(seen, "w.1", *range(8), failed=[1, 3, 5])
    assert len(seen.spans) == 1
    assert seen.counts() == {State.COMPLETED: 5, State.FAILED: 3}


def test_what_two_claims_ended_stays_apart() -> None:
    seen, _ = claimed(fresh(4), "w.1", 2)
    seen, _ = claimed(seen, "w.2", 2)
    seen, _ = end(seen, "w.1", 0, 1)
    seen, _ = end(seen, "w.2", 2, 3)
    assert [(span.n, span.claim) for span in seen.spans] == [(2, "w.1"), (2, "w.2")]


def test_a_claim_gathers_pending_spans_of_one_function() -> None:
    seen, _ = transitions.cancel(fresh(6, kinds=(0, 1, 0)), [1], 1.0)
    assert claimed(seen, "w.1")[1] == [0, 4, 5]


def test_a_call_block_goes_when_all_its_tasks_have_completed() -> None:
    first, n = BLOCK_TASKS, BLOCK_TASKS + 36  # of the second block, and in all
    seen, _ = claimed(fresh(n), "w.1")
    seen, _ = end(seen, "w.1", *range(first - 1))
    assert [block.first for block in seen.calls] == [0, first]
    seen, _ = end(seen, "w.1", first - 1)
    assert [block.first for block in seen.calls] == [first]
    seen, _ = end(seen, "w.1", *range(first, n), failed=[first + 6])
    assert [block.first for block in seen.calls] == [first]


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_task_that_lost_a_worker_is_claimed_by_itself() -> None:
    seen, _ = claimed(fresh(4), "w.1", 2)
    seen = lose(seen, "w.1")
    assert claimed(seen, "w.2")[1] == [0]
    assert claimed(seen, "w.2", ahead=True)[1] == [2, 3]
    seen, _ = claimed(seen, "w.2")
    assert claimed(seen, "w.3")[1] == [1]


def test_tasks_before_one_with_a_loss_do_not_take_it_along() -> None:
    seen = with_spans(fresh(3), [1], losses=1)
    assert claimed(seen, "w.1")[1] == [0]


def test_a_poisonous_task_among_many_costs_five_workers_and_no_other_task() -> None:
    """2,048 tasks under one claim; the one that kills its worker is found by cohorts of 128, 8 and 1."""
    poison, n_claims, n_dead = 1234, 0, 0
    seen = fresh(2048)
    sizes = []
    while transitions.has_pending(seen):
        n_claims += 1
        seen, taken = claimed(seen, f"w.{n_claims}", 4096, alone=True)
        assert taken
        if poison in taken:
            n_dead += 1
            sizes.append(len(taken))
            seen = lose(seen, f"w.{n_claims}")
        else:
            seen, _ = end(seen, f"w.{n_claims}", *taken)
    assert sizes == [2048, 128, 8, 1, 1]
    assert n_dead == 5
    assert seen.failed() == [poison]
    assert seen.counts() == {State.COMPLETED: 2047, State.FAILED: 1}


def test_two_cohorts_of_neighbours_stay_apart() -> None:
    seen, _ = claimed(fresh(64), "w.1", 32)
    seen, _ = claimed(seen, "w.2", 32)
    seen = lose(lose(seen, "w.1"), "w.2")
    assert [(span.n, span.together, span.cohort) for span in seen.spans] == [(32, 32, "w.1"), (32, 32, "w.2")]
    seen, _ = claimed(seen, "w.3")
    assert seen.under("w.3") == [0, 1]


def test_the_last_try_needs_a_worker_to_itself_and_only_then_is_lost() -> None:
    seen = fresh(1)
    for nth in range(MAX_LOSSES):
        is_last = nth == MAX_LOSSES - 1
        assert transitions.awaits_solo(seen, MAX_LOSSES) == is_last
        assert claimed(seen, "w.9")[1] == ([] if is_last else [0])
        seen, taken = claimed(seen, f"w.{nth}", alone=True)
        assert taken == [0]
        assert seen.entry(0).state == State.CLAIMED
        seen = lose(seen, f"w.{nth}")
    assert seen.entry(0).state == State.FAILED
    block = seen.entry(0).outcome
    assert block is not None
    assert block.place == REASON


@pytest.mark.parametrize("max_losses", [1, 2, 5])
def test_a_task_fails_of_so_many_losses_and_only_a_suspect_waits_for_a_worker_to_itself(max_losses: int) -> None:
    seen = fresh(2)
    for n_losses in range(max_losses):
        is_suspect = 0 < n_losses == max_losses - 1
        assert transitions.awaits_solo(seen, max_losses) == is_suspect
        _, taken = transitions.claim(seen, "w.1", at_most=1, now=1.0, max_losses=max_losses)
        assert taken == [1 if is_suspect else 0]
        seen, taken = transitions.claim(seen, f"w.{n_losses}", at_most=1, now=1.0, max_losses=max_losses, alone=True)
        assert taken == [0]
        seen = lose(seen, f"w.{n_losses}", max_losses)
    assert [entry.state for entry in seen.entries] == [State.FAILED, State.PENDING]


def test_a_commit_keeps_the_failures_of_what_stays_claimed_and_of_nothing_else() -> None:
    seen, _ = claimed(fresh(3), "w.1", 2)
    ended = outcomes_of(seen, [0])
    changed, mine = transitions.commit(seen, "w.1", ended, 3.0, failures={0: 7, 1: 2, 2: 5})
    assert mine == [0]
    assert [entry.failures for entry in changed.entries] == [0, 2, 0]
    assert [entry.failures for entry in lose(changed, "w.1").entries] == [0, 2, 0]
    assert transitions.commit(changed, "w.1", [], 3.0, failures={1: 2})[0] is changed


def test_what_was_released_keeps_its_failures() -> None:
    seen, _ = claimed(fresh(3), "w.1")
    seen = transitions.release(seen, "w.1", [0, 1], failures={1: 2, 2: 5})
    assert [entry.failures for entry in seen.entries] == [0, 2, 0]


def test_a_retry_forgets_losses_but_never_attempts() -> None:
    seen, _ = claimed(fresh(1), "w.1")
    seen, _ = claimed(lose(seen, "w.1"), "w.2")
    seen, _ = end(seen, "w.2", 0, failed=[0])
    entry = transitions.retry(seen, {0: 1}).entry(0)
    assert (entry.run, entry.attempt, entry.losses, entry.cohort, entry.failures) == (2, 2, 0, "", 0)
    assert transitions.retry(seen, {0: 2}) is seen


def test_what_cannot_be_run_cannot_be_retried() -> None:
    """A call that could not be pickled is stored as failed, without a call."""
    failed = OutcomeBlock(0, 1, 1, 0, "", b"out", (0,))
    seen = Status(0, 7, ("f" * 32,), (Span(1, State.COMPLETED),), (), (failed,))
    assert seen.failed() == [0]
    assert transitions.retry(seen, {0: 1}) is seen


def test_a_retry_with_another_function_changes_what_failed_and_nothing_else() -> None:
    seen, _ = claimed(fresh(3), "w.1")
    seen, _ = end(seen, "w.1", 0, 1, 2, failed=[1])
    after = transitions.retry(seen, {0: 1, 1: 1}, "new", [(1, 1, b"sealed again")])
    assert after.functions == ("0" * 32, "new")
    assert [entry.state for entry in after.entries] == [State.COMPLETED, State.PENDING, State.COMPLETED]
    assert after.entry(1).call == CallBlock(1, 1, 1, b"sealed again")
    assert without_call(after.entry(0)) == without_call(seen.entry(0))
    # The same write again, after its answer was lost, changes nothing.
    assert transitions.retry(after, {1: 1}, "new", [(1, 1, b"sealed again")]) is after


def test_ranges_of_positions() -> None:
    assert ranges_of([]) == []
    assert ranges_of([0, 1, 2, 5, 7, 8]) == [(0, 3), (5, 6), (7, 9)]
