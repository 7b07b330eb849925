"""The objects of one session, changed by several at once."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from starburst_executor.client.counting import census
from starburst_executor.errors import (
    ObjectNotFound,
    PayloadError,
    RecordInvalid,
    SessionNotFound,
    StoreUnavailable,
    VersionMismatch,
)
from starburst_executor.protocol import records
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.records import DETACHED, Bell, Manifest, SessionState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import blocks, encoding, transitions
from starburst_executor.protocol.spans.record import CallBlock, Located, OutcomeBlock, SizeClass, Span, State, Status
from starburst_executor.session.epochs import close_epochs
from starburst_executor.session.store import SessionStore
from starburst_executor.store.base import Body
from starburst_executor.testing import Fault, MemoryStore
from tests.support.session_rig import DIGEST, FUNCTION, Rig


def more_workers(manifest: Manifest) -> Manifest | None:
    return replace(manifest, slots=manifest.slots + 1)


def hold(session: SessionStore, epoch: int = 0) -> None:
    """What a retry does first."""
    session.manifest.change(
        lambda m: m.with_submitter(0, replace(m.submitters[0], open=(epoch,), holds=((epoch, "a hold"),)))
    )


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_a_change_costs_one_request() -> None:
    rig = Rig()
    with rig.requests() as counts:
        assert rig.session.manifest.change(more_workers).slots == 5
    assert counts == {"swap": 1}
    assert rig.another().manifest.current.slots == 5


def test_a_change_that_lost_a_race_is_made_on_what_the_winner_wrote() -> None:
    rig = Rig()
    other = rig.another()
    rig.before("swap", rig.keys.manifest, lambda: other.manifest.end(SessionState.CLOSING, "other"), nth=1)
    changed = rig.session.manifest.change(more_workers)
    assert (changed.slots, changed.state) == (5, SessionState.CLOSING)
    assert rig.another().manifest.current == changed


def test_of_changes_by_two_sessions_none_is_lost() -> None:
    rig = Rig()
    one, other = rig.another(), rig.another()
    for _ in range(5):
        one.manifest.change(more_workers)
        other.manifest.change(more_workers)
    assert rig.session.manifest.refresh().slots == 14


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.ERROR_AFTER, Fault.RESET, Fault.CONFLICT])
def test_an_unclear_change_is_made_once(fault: Fault) -> None:
    rig = Rig()
    rig.fail("swap", rig.keys.manifest, fault)
    assert rig.session.manifest.change(lambda m: replace(m, slots=9)).slots == 9
    assert rig.another().manifest.current.slots == 9


def test_nothing_to_do_is_said_by_a_fresh_manifest_only() -> None:
    rig = Rig()
    stale = rig.another()
    assert stale.manifest.current.slots == 4
    rig.session.manifest.change(more_workers)
    # By what it remembers there is nothing to do.
    assert stale.manifest.change(lambda m: replace(m, slots=9) if m.slots == 5 else None).slots == 9


def test_nothing_to_do_writes_nothing() -> None:
    rig = Rig()
    with rig.requests() as counts:
        rig.session.manifest.change(lambda _: None)
    assert counts == {"get": 1}


def test_the_state_moves_only_forward() -> None:
    rig = Rig()
    assert rig.session.manifest.end(SessionState.EXPIRED, "late").state == SessionState.EXPIRED
    assert rig.another().manifest.end(SessionState.TERMINATED, "again").reason == "late"
    assert rig.session.manifest.end(SessionState.DELETED, "").state == SessionState.DELETED


def test_a_session_that_is_gone_says_so() -> None:
    rig = Rig()
    rig.objects.delete([rig.keys.manifest])
    for ask in (
        rig.another().manifest.refresh,
        lambda: rig.session.manifest.change(more_workers),
        rig.session.manifest.refresh,
    ):
        with pytest.raises(SessionNotFound, match="session=a-session"):
            ask()


def test_an_unchanged_manifest_is_not_read_again() -> None:
    rig = Rig()
    before = rig.session.manifest.current
    assert rig.session.manifest.refresh() is before


def test_a_wrong_key_is_noticed() -> None:
    rig = Rig()
    assert rig.session.manifest.has_right_key()
    rig.session.manifest.change(lambda m: replace(m, token=b"x" * 32))
    assert not rig.session.manifest.has_right_key()


# What another program may be after, and what it would write.
FORGED: dict[str, object] = {
    "kind": DETACHED,
    "slots": 10_000,
    "initializer": DIGEST,
    "owner": "a process that is gone",
    "keep": True,
    "idle_exit": False,
    "deadline_at": 1e12,
    "retries": 100,
    "max_losses": 100,
    "max_result_bytes": 2**50,
    "task_timeout": 1e6,
    "max_tasks_per_child": 1,
    "budget_usd": 1e6,
    "max_hourly_cost": 1e6,
    "name": "theirs",
    "max_failures": "1000",
    "task_logs": 10,
}
# What workers and clients change all the time, or what has a seal of its own.
OPEN = {
    *(
        "session_id",
        "created_at",
        "python",
        "library",
        "token",
        "timings",
        "state",
        "reason",
        "error",
        "launcher",
        "launcher_seal",
    ),
    *("submitters", "launches", "spent_usd", "n_taken", "messages", "stops", "has_priorities", "has_limits", "seal"),
}


def test_of_each_field_it_is_known_whether_it_is_sealed() -> None:
    names = {field.name for field in fields(Manifest)}
    assert names == FORGED.keys() | OPEN


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("key", [b"", b"another"])
def test_settings_that_were_changed_without_the_key_are_refused(name: str, key: bytes) -> None:
    rig = Rig()
    here = rig.another()
    here.manifest.refresh()
    stranger = SessionStore(rig.objects, "a-session", Sealer(key, "a-session"), rig.clock)
    stranger.manifest.change(lambda m: None if getattr(m, name) == FORGED[name] else replace(m, **{name: FORGED[name]}))
    before = rig.objects.get(rig.keys.manifest)
    for session in (here, rig.session, rig.another()):
        with pytest.raises(RecordInvalid, match=r"settings.*session=a-session"):
            session.manifest.refresh()
        # Then no change of this client's has its seal either.
        with pytest.raises(RecordInvalid):
            session.manifest.change(lambda m: replace(m, reason="changed"))
    assert rig.objects.get(rig.keys.manifest) == before


def test_states_are_not_sealed_and_the_seal_outlives_their_changes() -> None:
    rig = Rig(task_timeout=5, max_hourly_cost=2)  # integers here, floats once read
    stranger = SessionStore(rig.objects, "a-session", Sealer(b"", "a-session"), rig.clock)
    assert stranger.manifest.current.task_timeout == 5.0
    rig.session.manifest.change(lambda m: replace(m, reason="one"))
    assert rig.another().manifest.refresh().reason == "one"


def test_a_stranger_cannot_pass_for_a_session_of_another_key() -> None:
    """A token that does not fit means a wrong key; but this session's key was right before."""
    rig = Rig()
    here = rig.another()
    assert here.manifest.has_right_key()
    stranger = SessionStore(rig.objects, "a-session", Sealer(b"", "a-session"), rig.clock)
    stranger.manifest.change(lambda m: None if m.keep else replace(m, keep=True, token=b"x" * 32))
    with pytest.raises(RecordInvalid):
        here.manifest.refresh()
    assert not rig.another().manifest.has_right_key()


# --- status objects ---------------------------------------------------------------------------------------------------


def test_an_update_lands_on_what_others_wrote() -> None:
    rig = Rig()
    key = rig.submit(2)
    rig.before("swap", key, lambda: rig.claim(key, "w.1", 1))
    found = rig.session.statuses.update(key, lambda seen: transitions.cancel(seen, [0, 1], 1.0)[0])
    assert found is not None
    assert rig.states(key) == [State.CLAIMED, State.CANCELLED]
    assert rig.session.statuses.read_if_changed(key, found.etag) is None


def test_an_update_whose_answer_is_lost_is_made_once() -> None:
    rig = Rig()
    key = rig.submit(2)
    rig.fail("swap", key, Fault.ANSWER_LOST)
    rig.session.statuses.update(key, lambda seen: transitions.claim(seen, "w.1", at_most=1, now=0.0, max_losses=3)[0])
    assert [entry.attempt for entry in rig.read(key).entries] == [1, 0]


def test_an_update_with_nothing_to_do_writes_nothing() -> None:
    rig = Rig()
    key = rig.submit(1)
    with rig.requests() as counts:
        assert rig.session.statuses.update(key, lambda seen: seen) is not None
    assert counts == {"get": 1}
    assert rig.session.statuses.update(key.replace("-1", "-2"), lambda seen: seen) is None


def test_a_listing_tells_how_things_stand_without_a_read() -> None:
    rig = Rig()
    keys = [rig.submit(2, first=first) for first in (0, 2, 4, 6)]
    rig.claim(keys[1], "w.1", 1)
    rig.claim(keys[2], "w.2")
    rig.end(keys[3])
    rig.objects.put(f"{rig.keys.statuses}0000.000000/stray", b"")
    cut = rig.keys.status(StatusRef(0, 8, 2, 0))
    rig.objects.put(cut, b"1234567")  # no class has this size
    with rig.requests() as counts:
        groups = rig.session.statuses.of_epochs([(0, 0)])
    assert counts == {"list": 1}
    assert [group.key for group in groups] == [*keys, cut]
    classes = [SizeClass.ALL_PENDING, SizeClass.SOME_PENDING, SizeClass.SOME_CLAIMED, SizeClass.ALL_COMPLETED]
    classes.append(SizeClass.ALL_ENDED)  # nothing can be done in it, and its tasks do not vanish
    assert [group.size_class for group in groups] == classes
    assert rig.session.statuses.all() == groups


@pytest.mark.parametrize("change", [{"first": 5}, {"ordinal": 1}, {"spans": (Span(1),), "calls": ()}])
def test_a_body_under_anothers_key_is_refused(change: dict[str, object]) -> None:
    """Its outcomes are sealed for the tasks that it names; they must not become those of the tasks that its key names."""
    rig = Rig()
    key = rig.submit(2)
    rig.write(key, lambda seen: replace(seen, **change))  # type: ignore[arg-type]
    with pytest.raises(RecordInvalid, match="does not match its key"):
        rig.session.statuses.read(key)


# --- epochs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def full() -> Rig:
    """A session whose first epoch is full and has ended."""
    rig = Rig()
    done = Span(1, State.COMPLETED)
    for first in range(STATUSES_PER_EPOCH):
        body = encoding.encode(Status(0, first, (DIGEST,), (done,)), "n")
        rig.objects.create(rig.keys.status(StatusRef(0, first, 1, 0)), body)
    return rig


def open_epochs(rig: Rig) -> list[tuple[int, int]]:
    return rig.another().manifest.current.open_epochs()


def test_a_full_and_ended_epoch_is_listed_no_more(full: Rig) -> None:
    close_epochs(full.session, full.session.statuses.of_epochs([(0, 0)]))
    assert open_epochs(full) == []
    with full.requests() as counts:
        close_epochs(full.session, full.session.statuses.all())
    assert counts["swap"] == 0


def test_an_epoch_that_is_not_full_or_not_ended_stays_open(full: Rig) -> None:
    groups = full.session.statuses.of_epochs([(0, 0)])
    close_epochs(full.session, groups[:-1])
    assert open_epochs(full) == [(0, 0)]
    # The listing is a hint: a task was retried since.
    full.write_spans(groups[5].key, state=State.PENDING)
    close_epochs(full.session, groups)
    assert open_epochs(full) == [(0, 0)]


def test_a_listing_that_lacks_an_object_closes_no_epoch(full: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = full.session.statuses.of_epochs([(0, 0)])
    full.write_spans(groups[5].key, state=State.PENDING)
    whole = MemoryStore.list
    monkeypatch.setattr(
        MemoryStore, "list", lambda store, prefix: [line for line in whole(store, prefix) if line.key != groups[5].key]
    )
    close_epochs(full.session, groups)
    assert open_epochs(full) == [(0, 0)]


def test_a_retry_that_holds_an_epoch_keeps_it_open(full: Rig) -> None:
    groups = full.session.statuses.of_epochs([(0, 0)])
    hold(full.another())
    close_epochs(full.session, groups)
    assert open_epochs(full) == [(0, 0)]


@pytest.mark.parametrize("moment", ["list", "swap"])
def test_a_hold_that_comes_between_is_seen(full: Rig, moment: str) -> None:
    """After the manifest was read, whether before or after the epoch is listed again, the hold makes the swap fail."""
    groups = full.session.statuses.of_epochs([(0, 0)])
    key = full.keys.manifest if moment == "swap" else full.keys.epoch(0, 0)
    full.before(moment, key, lambda: hold(full.another()))
    close_epochs(full.session, groups)
    assert open_epochs(full) == [(0, 0)]
    assert full.session.manifest.current.submitters[0].holds == ((0, "a hold"),)


# --- spoilt status objects ----------------------------------------------------------------------------------------------


def spoilt_body(how: str, size: int) -> bytes:
    whole = encoding.encode(Status(0, 0, (DIGEST,), (Span(1),), (CallBlock(0, 1, 0, b"x" * 99),)), "n")
    bodies = {
        "garbage": b"\xc1" * size,
        "cut": whole[: len(whole) // 8 * 8 - 8],
        "empty": b"",
        "newer": whole.replace(bytes([0xA6]) + b"format\x03", bytes([0xA6]) + b"format\x05"),
        "another's": encoding.encode(Status(0, 7, (DIGEST,), (Span(1),)), "n"),
    }
    return bodies[how]


SPOILT = ["garbage", "cut", "empty", "newer", "another's"]


@pytest.mark.parametrize("size", range(80, 88))
@pytest.mark.parametrize("how", SPOILT)
def test_what_could_not_be_read_is_listed_as_ended(how: str, size: int) -> None:
    """Whatever its size says. Otherwise a worker would wait for it for ever."""
    rig = Rig()
    key = rig.submit(1)
    rig.objects.put(key, spoilt_body(how, size))
    with pytest.raises((RecordInvalid, VersionMismatch)):
        rig.session.statuses.read(key)
    for groups in (rig.session.statuses.all(), rig.session.statuses.of_epochs([(0, 0)])):
        assert [group.size_class for group in groups] == [SizeClass.ALL_ENDED]
    # Only as it is now: what is there later is judged anew.
    rig.objects.delete([key])
    rig.submit(1)
    assert [group.size_class for group in rig.session.statuses.all()] == [SizeClass.ALL_PENDING]


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("n_others", [0, 5])
def test_a_census_comes_to_an_end_beside_spoilt_objects(how: str, n_others: int) -> None:
    rig = Rig()
    for first in range(1, 1 + n_others):
        rig.end(rig.submit(1, first=first))
    key = rig.submit(1)
    rig.objects.put(key, spoilt_body(how, 80))  # by its size all are pending
    rig.objects.put(f"{rig.keys.statuses}foreign", b"")
    rig.objects.put(f"{rig.keys.epoch(0, 0)}not-one-of-ours", b"")
    counts = census(rig.session)
    assert counts == {State.FAILED: 1, **({State.COMPLETED: n_others} if n_others else {})}
    with rig.requests() as asked:
        assert census(rig.session) == counts
    assert asked["get"] == 1


def test_a_census_reads_few_of_what_is_pending() -> None:
    rig = Rig()
    for first in range(13):
        rig.submit(1, first=first)
    with rig.requests() as asked:
        assert census(rig.session) == {State.PENDING: 13}
    assert asked["get"] == 0


# --- payloads ---------------------------------------------------------------------------------------------------------


def test_payloads_are_checked_and_missing_ones_named() -> None:
    rig = Rig()
    assert rig.session.payloads.function(DIGEST) == FUNCTION
    with pytest.raises(PayloadError, match=r"missing: function nothing"):
        rig.session.payloads.function("nothing")
    rig.objects.put(rig.keys.function("moved"), rig.sealer.sealed("function", DIGEST, FUNCTION))
    with pytest.raises(RecordInvalid):
        rig.session.payloads.function("moved")
    rig.objects.put(rig.keys.calls("g"), b"before call after")
    assert rig.session.payloads.calls("g", 7, 4) == b"call"
    with pytest.raises(PayloadError, match=r"missing: big calls"):
        rig.session.payloads.calls("none", 0, 1)
    mark = (1, 1, "w.1")
    body = b"".join(blocks.sealed_outcomes(rig.sealer, 0, 0, mark, [b"V"]))
    rig.objects.put(rig.keys.outcomes("g", "w.1-1"), body)
    block = OutcomeBlock(0, 1, *mark, Located("w.1-1", 0, len(body)))
    seen = Status(0, 0, (DIGEST,), (Span(1, State.COMPLETED),))
    assert list(map(bytes, rig.session.payloads.outcomes("g", seen, block))) == [b"V"]
    with pytest.raises(RecordInvalid):
        rig.session.payloads.outcomes("g", seen, block._replace(attempt=2))
    with pytest.raises(PayloadError, match="missing: outcomes"):
        rig.session.payloads.outcomes("none", seen, block)


# --- the bell ---------------------------------------------------------------------------------------------------------


def test_rings_gather_while_the_gap_lasts() -> None:
    rig = Rig()
    with rig.requests() as counts:
        rig.session.bell.ring(["a"], 1)
        assert rig.bell() == Bell(("a",), 1)
        rig.session.bell.ring(["b"], 2)
        assert rig.bell() == Bell(("b",), 2)
        rig.session.bell.ring(["c"], 3)
        rig.session.bell.ring(["d"], 4)
        assert rig.bell() == Bell(("b",), 2)
        wait_s = rig.session.bell.ring_due()
        assert wait_s == pytest.approx(2 * rig.timings.ring_gap_s)
        rig.clock.advance(wait_s)
        assert rig.session.bell.ring_due() is None
        assert rig.bell() == Bell(("c", "d"), 7)
        assert rig.session.bell.ring_due() is None
    assert counts == {"put": 3}


def test_what_gathers_while_a_ring_is_written_is_rung_by_whoever_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    put = rig.session.store.put
    rung = []

    def put_slowly(key: str, body: Body) -> str:
        if not rung:
            rung.append(rig.session.bell.ring(["b"], 2))
            rung.append(rig.session.bell.ring(["c"], 3))
            assert rig.session.bell.ring_due() is None
        return put(key, body)

    monkeypatch.setattr(rig.session.store, "put", put_slowly)
    with rig.requests() as counts:
        rig.session.bell.ring(["a"], 1)
    assert rig.bell() == Bell(("b", "c"), 5)
    assert counts == {"put": 2}


def test_a_ring_names_only_the_newest_keys() -> None:
    rig = Rig()
    rig.session.bell.ring(["first"], 1)
    rig.session.bell.ring(["second"], 1)
    for number in range(50):
        rig.session.bell.ring([str(number)], 1)
    rig.clock.advance(1.0)
    rig.session.bell.ring_due()
    assert rig.bell() == Bell(tuple(str(number) for number in range(18, 50)), 50)


def test_an_empty_ring_rings() -> None:
    rig = Rig()
    rig.session.bell.ring((), 1)
    assert rig.bell() == Bell((), 1)


def test_the_bell_is_read_once_and_a_broken_one_still_says_look() -> None:
    rig = Rig()
    assert rig.session.bell.read(None) is None
    rig.session.bell.ring(["a"], 1)
    found = rig.session.bell.read(None)
    assert found is not None
    assert found[0].keys == ("a",)
    assert rig.session.bell.read(found[1]) is None
    for body in (b"\xc1", records.encode(Bell(), "n").replace(b"\xa6format\x03", b"\xa6format\x04")):
        rig.objects.put(rig.keys.bell, body)
        broken = rig.session.bell.read(found[1])
        assert broken is not None
        assert broken[0] == Bell()


def test_what_is_unclear_for_too_long_is_raised() -> None:
    rig = Rig()
    key = rig.submit(1)
    rig.plan = lambda asked: Fault.RESET if asked.kind == "get" else None
    with pytest.raises(StoreUnavailable):
        rig.session.statuses.update(key, lambda seen: seen)
    rig.plan = lambda _: None
    with pytest.raises(ObjectNotFound):
        rig.session.statuses.read(key + "0")
