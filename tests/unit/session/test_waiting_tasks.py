"""Which waiting tasks a worker releases and which it fails, and what that asks of the store."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from starburst_executor.errors import DependencyFailed, RecordInvalid
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.spans import after, encoding, transitions
from starburst_executor.protocol.spans.after import AFTER, Upstream, upstream_of
from starburst_executor.protocol.spans.record import BLOCKED, SizeClass, Span, State, Status
from starburst_executor.session.dependencies import Dependencies, ready
from tests.support.session_rig import DIGEST, Rig
from tests.support.spans import end, pending

U, D = StatusRef(0, 0, 3, 0), StatusRef(0, 3, 3, 0)
PLACE = "0000.000000/0000.0000000000-3"
VALUE = bytes(outcomes.dump_value(7))
ERROR = outcomes.dump_error(ValueError("no"))


class Stage:
    """An object of three tasks, and one of which each task waits for some of them."""

    def __init__(self, waits: dict[int, Iterable[int]] | None = None) -> None:
        self.rig = Rig()
        self.session = self.rig.session
        self.dependencies = Dependencies(self.session)
        self.upstream = self.rig.keys.status(U)
        self.key = self.rig.keys.status(D)
        self.waits = waits or {0: [0], 1: [1], 2: [0, 2]}
        self.rig.objects.create(self.upstream, encoding.encode(pending(self.rig.sealer, [b"\x80"] * 3), "n"))
        rows = {at: [Upstream(PLACE, i) for i in upstream] for at, upstream in self.waits.items()}
        blocked = pending(self.rig.sealer, [b"\x80"] * 3, first=3)
        blocked = Status(0, 3, blocked.functions, (Span(3, BLOCKED),), blocked.calls, more={AFTER: after.encoded(rows)})
        self.rig.objects.create(self.key, encoding.encode(blocked, "n"))

    def end(self, *positions: int, failed: bool = False) -> None:
        def step(current: Status) -> Status:
            current, _ = transitions.claim(current, "w.1", at_most=3, now=1.0, max_losses=3)
            return end(self.rig.sealer, current, "w.1", positions, ERROR if failed else VALUE, failed=failed)

        self.session.statuses.update(self.upstream, step)

    def turn(self) -> list[tuple[str, int]]:
        released = self.dependencies.turn(self.session.statuses.of_epochs([(0, 0)]))
        return [(done.key, done.n_tasks) for done in released]

    def status(self) -> Status:
        return self.session.statuses.read(self.key).status

    def states(self) -> list[int]:
        return [self.status().span(i).state for i in range(3)]


def test_a_task_is_released_when_all_that_it_waits_for_has_completed_and_not_before() -> None:
    stage = Stage()
    assert stage.turn() == []
    assert stage.dependencies.has_any
    stage.end(0)
    assert stage.turn() == [(stage.key, 1)]
    assert stage.states() == [State.PENDING, BLOCKED, BLOCKED]
    stage.end(2)
    stage.end(1)
    assert stage.turn() == [(stage.key, 2)]
    assert stage.states() == [State.PENDING] * 3
    assert stage.turn() == []
    assert not stage.dependencies.has_any


def test_without_news_a_look_asks_for_nothing_and_the_end_of_an_object_needs_no_read() -> None:
    stage = Stage()
    stage.end(0, failed=False)
    stage.turn()
    with stage.rig.requests() as n:
        stage.turn()
        stage.turn()
    assert +n == {"list": 2}
    stage.end(1, 2)
    with stage.rig.requests() as n:
        assert stage.turn() == [(stage.key, 2)]
    # Listed as all completed: the object that was waited for is not read. The other one is, to be swapped, and a ring.
    assert +n == {"list": 1, "get": 1, "swap": 1, "put": 1}
    rig = Rig()
    rig.objects.create(rig.keys.status(U), encoding.encode(pending(rig.sealer, [b"\x80"] * 3), "n"))
    with rig.requests() as n:
        Dependencies(rig.session).turn(rig.session.statuses.of_epochs([(0, 0)]))
    assert +n == {"list": 1}


def test_another_worker_finds_the_same_without_having_seen_anything() -> None:
    stage = Stage()
    stage.end(0, 1, 2)
    another = Dependencies(stage.rig.another())
    assert [done.n_tasks for done in another.turn(stage.session.statuses.of_epochs([(0, 0)]))] == [3]
    assert stage.turn() == []


def test_an_error_fails_what_waits_for_it_with_itself_as_the_cause_and_a_retry_blocks_it_again() -> None:
    stage = Stage()
    stage.end(0, failed=True)
    assert stage.turn() == []
    status = stage.status()
    assert [entry.state for entry in status.entries] == [State.FAILED, State.PENDING, State.FAILED]
    assert stage.dependencies.n_failed == 2
    entry = status.entry(2)
    assert entry.outcome is not None
    (body,) = stage.session.payloads.outcomes(D.status_id, status, entry.outcome)
    _, error = outcomes.load_outcome(body)
    assert isinstance(error, DependencyFailed)
    assert "task=0-0: builtins.ValueError: no" in str(error)
    assert isinstance(error.__cause__, ValueError)
    for key, runs in ((stage.upstream, {0: 1}), (stage.key, {0: 1, 2: 1})):
        stage.session.statuses.update(key, lambda current, runs=runs: transitions.retry(current, runs))
    assert stage.states() == [BLOCKED] * 3
    assert stage.status().span(2).run == 2
    assert stage.turn() == []
    stage.end(0)
    assert stage.turn() == [(stage.key, 1)]


def test_a_retry_that_comes_between_the_look_and_the_swap_keeps_what_waits() -> None:
    stage = Stage()
    stage.end(0, failed=True)
    listing = stage.session.statuses.of_epochs([(0, 0)])

    def retried() -> None:
        stage.session.statuses.update(stage.upstream, lambda current: transitions.retry(current, {0: 1}))

    stage.rig.before("get", stage.key, retried, nth=2)
    stage.dependencies.turn(listing)
    assert stage.states() == [BLOCKED] * 3


def test_a_cancelled_task_fails_what_waits_for_it() -> None:
    stage = Stage()
    stage.session.statuses.update(stage.upstream, lambda current: transitions.cancel(current, [1], 1.0)[0])
    stage.turn()
    assert [entry.state for entry in stage.status().entries] == [State.PENDING, State.FAILED, State.PENDING]


def test_what_waits_counts_as_pending_and_can_be_cancelled_and_ended() -> None:
    stage = Stage()
    status = stage.status()
    assert status.counts() == {State.PENDING: 3}
    assert not any(span.has_ended for span in status.spans)
    (listed,) = [line for line in stage.session.statuses.all() if line.key == stage.key]
    assert (listed.size_class, listed.has_blocked) == (SizeClass.BLOCKED, True)
    assert not listed.size_class.has_pending
    assert not listed.size_class.has_ended
    assert transitions.claim(status, "w.9", at_most=3, now=1.0, max_losses=3) == (status, [])
    assert transitions.cancel(status, [1], 1.0)[0].span(1).state == State.CANCELLED
    ended = transitions.end_rest(status, 1.0, None)
    assert encoding.size_class(ended) == SizeClass.ALL_ENDED


def test_an_object_with_claimed_and_blocked_tasks_shows_both() -> None:
    status = Status(0, 3, (DIGEST,), (Span(1, State.CLAIMED, claim="w.1"), Span(2, BLOCKED)))
    assert encoding.size_class(status) == SizeClass.SOME_CLAIMED
    assert encoding.pending_order(status) == encoding.BLOCKED_ORDER
    most = Status(0, 0, (DIGEST,), (Span(2048),))
    assert encoding.pending_order(most) < encoding.BLOCKED_ORDER


def test_the_field_survives_encoding_and_a_damaged_one_is_refused() -> None:
    stage = Stage()
    assert upstream_of(stage.status())[2] == (Upstream(PLACE, 0), Upstream(PLACE, 2))
    for wrong in (
        5,
        ((), ((0, ((0, 0),)),)),
        ((PLACE,), ((0, ((0, -1),)),)),
        ((3,), ()),
        ((PLACE,), ((0, ((1, 0),)),)),
    ):
        with pytest.raises(RecordInvalid):
            upstream_of(Status(0, 0, (), (Span(1, BLOCKED),), more={AFTER: wrong}))


def test_ready_needs_all_and_fails_of_one() -> None:
    a, b, c = (Upstream(PLACE, i) for i in range(3))
    states = {a: State.COMPLETED, b: State.FAILED}
    assert ready({0: (a,), 1: (a, b), 2: (a, c), 3: (c, b)}, states.get) == ([0], {1: b, 3: b})
