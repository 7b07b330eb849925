"""What becomes of writes whose answers are unclear."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

import pytest

from starburst_executor.errors import AccessDenied, ObjectNotFound, PreconditionFailed, StoreUnavailable
from starburst_executor.store import writes
from starburst_executor.store.base import Stored
from starburst_executor.store.patient import PatientStore
from starburst_executor.testing import FakeClock
from starburst_executor.testing.faulty import Asked, Fault, FaultyStore, Plan, in_turn
from starburst_executor.testing.memory import MemoryStore
from tests.contract.stores import HurriedClock

KEY = "sessions/s/status/0001/x"


class Line:
    """A patient store, the bad line below it, and the objects at its end."""

    def __init__(self, plan: Plan, *, patience_s: float = 60.0, stop: threading.Event | None = None) -> None:
        self.objects = MemoryStore()
        self.faulty = FaultyStore(self.objects, plan)
        self.clock = HurriedClock()
        self.store = PatientStore(self.faulty, self.clock, patience_s=patience_s, stop=stop)

    def body(self) -> bytes:
        stored = self.objects.get(KEY)
        assert stored is not None
        return stored.body

    def n(self, *kinds: str) -> int:
        counts = self.store.requests.snapshot()
        return sum(counts[kind] for kind in kinds)


def interposed(faults: list[Fault | Callable[[], object] | None]) -> Plan:
    """A plan over all requests in which a function stands for something that happens just before a request."""

    def plan(asked: Asked) -> Fault | None:
        while faults:
            step = faults.pop(0)
            if isinstance(step, Fault) or step is None:
                return step
            step()
        return None

    return plan


def test_a_lost_answer_is_found_by_its_bytes() -> None:
    line = Line(in_turn([Fault.ANSWER_LOST]))
    first = line.objects.create(KEY, b"first")
    etag = line.store.swap(KEY, b"mine", first)
    assert line.body() == b"mine"
    assert line.objects.get_if_changed(KEY, etag) is None
    assert line.n("swap") == 2
    assert line.n("get") == 1
    assert line.n("retried") == 1
    assert line.n("lost_races") == 0


def test_a_lost_answer_of_a_create_is_found_by_its_bytes() -> None:
    line = Line(in_turn([Fault.ERROR_AFTER]))
    etag = line.store.create(KEY, b"mine")
    assert line.objects.get_if_changed(KEY, etag) is None


def test_an_answered_refusal_is_a_lost_race_and_nothing_is_read() -> None:
    line = Line(in_turn([]))
    first = line.objects.create(KEY, b"first")
    line.objects.swap(KEY, b"theirs", first)
    with pytest.raises(PreconditionFailed) as refused:
        line.store.swap(KEY, b"mine", first)
    assert not refused.value.unclear
    assert line.n("get", "not_modified") == 0
    assert line.n("lost_races") == 1


def test_a_refusal_after_an_unclear_try_says_so() -> None:
    plan = interposed([Fault.ANSWER_LOST])
    line = Line(plan)
    first = line.objects.create(KEY, b"first")
    lost = line.faulty.plan

    def overwritten(asked: Asked) -> Fault | None:
        if asked.number == 1:
            line.objects.put(KEY, b"theirs, made of mine")
        return lost(asked)

    line.faulty.plan = overwritten
    with pytest.raises(PreconditionFailed) as refused:
        line.store.swap(KEY, b"mine", first)
    assert refused.value.unclear


def test_seeing_the_expected_etag_proves_nothing() -> None:
    # The first try lands late, the second never arrives: a read in between shows what was expected.
    line = Line(interposed([Fault.LATE, Fault.RESET]))
    first = line.objects.create(KEY, b"first")
    etag = line.store.swap(KEY, b"mine", first)
    assert line.n("not_modified") == 1
    assert line.n("swap") == 3
    assert line.faulty.land() == 0
    assert line.objects.get_if_changed(KEY, etag) is None


def test_a_read_settles_it_once_the_etag_has_moved() -> None:
    steps: list[Fault | Callable[[], object] | None] = [Fault.LATE, Fault.RESET]
    line = Line(interposed(steps))
    steps.append(line.faulty.land)
    first = line.objects.create(KEY, b"first")
    etag = line.store.swap(KEY, b"mine", first)
    assert line.body() == b"mine"
    assert line.objects.get_if_changed(KEY, etag) is None
    assert line.n("swap") == 2


def test_a_server_that_answers_500_to_the_loser_is_understood() -> None:
    line = Line(lambda asked: Fault.ERROR_AFTER if asked.kind == "swap" else None)
    first = line.objects.create(KEY, b"first")
    line.objects.swap(KEY, b"theirs", first)
    with pytest.raises(PreconditionFailed) as refused:
        line.store.swap(KEY, b"mine", first)
    assert refused.value.unclear
    assert line.body() == b"theirs"


def test_writes_go_on_while_reads_fail() -> None:
    line = Line(lambda asked: Fault.RESET if asked.kind == "get" or asked.number < 2 else None)
    first = line.objects.create(KEY, b"first")
    line.store.swap(KEY, b"mine", first)
    assert line.body() == b"mine"
    assert line.n("swap") == 3


@pytest.mark.parametrize("faults", [[Fault.RESET], [Fault.ANSWER_LOST], [Fault.RESET, Fault.RESET]])
def test_a_create_finds_what_others_created(faults: list[Fault]) -> None:
    line = Line(in_turn(faults))
    line.objects.create(KEY, b"theirs")
    with pytest.raises(PreconditionFailed) as refused:
        line.store.create(KEY, b"mine")
    assert refused.value.unclear
    assert line.body() == b"theirs"


def test_a_create_that_was_deleted_since_is_unclear() -> None:
    line = Line(interposed([Fault.ANSWER_LOST, None]))

    def deleted(asked: Asked) -> Fault | None:
        if asked.kind == "get":
            line.objects.delete([KEY])
        return Fault.ANSWER_LOST if asked.number == 0 else None

    line.faulty.plan = deleted
    with pytest.raises(PreconditionFailed) as refused:
        line.store.create(KEY, b"mine")
    assert refused.value.unclear


def test_a_swap_of_what_is_gone_is_an_error() -> None:
    line = Line(in_turn([Fault.RESET, Fault.RESET]))
    with pytest.raises(ObjectNotFound):
        line.store.swap(KEY, b"mine", "no-such-etag")


@pytest.mark.parametrize("size", [3, 4, 5, 8, 11])
def test_big_bodies_are_compared_piece_by_piece(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(writes, "_COMPARED_AT_ONCE", 4)
    body = b"0123456789x"[:size]
    line = Line(in_turn([Fault.ANSWER_LOST]))
    first = line.objects.create(KEY, b"first")
    etag = line.store.swap(KEY, body, first)
    assert line.objects.get_if_changed(KEY, etag) is None


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (b"0123456789", b"012345678"),
        (b"0123456789", b"01234567890"),
        (b"01234567", b"012345678"),
        (b"0123456789", b"012345678X"),
        (b"0123456789", b"X123456789"),
        (b"0123456789", b"0123X56789"),
    ],
)
def test_a_big_body_of_others_is_told_from_mine(monkeypatch: pytest.MonkeyPatch, mine: bytes, theirs: bytes) -> None:
    monkeypatch.setattr(writes, "_COMPARED_AT_ONCE", 4)
    line = Line(in_turn([Fault.RESET]))
    line.objects.create(KEY, theirs)
    with pytest.raises(PreconditionFailed):
        line.store.create(KEY, mine)


def test_what_is_denied_is_not_asked_again() -> None:
    line = Line(lambda _: Fault.DENIED)
    for ask in (
        lambda: line.store.get(KEY),
        lambda: line.store.put(KEY, b"x"),
        lambda: line.store.create(KEY, b"x"),
        lambda: line.store.swap(KEY, b"x", "etag"),
        lambda: line.store.list("sessions/"),
        lambda: line.store.list_folders("sessions/"),
        lambda: line.store.delete([KEY]),
    ):
        with pytest.raises(AccessDenied):
            ask()
    assert line.faulty.n_asked == 7
    assert line.clock.waits == []


def test_patience_ends() -> None:
    line = Line(lambda _: Fault.RESET, patience_s=100)
    with pytest.raises(
        StoreUnavailable, match=r"no clear answer from memory://\w+ for 100 s: last error: connection reset"
    ):
        line.store.put(KEY, b"x")
    assert sum(line.clock.waits) == pytest.approx(100)
    assert 0.025 <= line.clock.waits[0] <= 0.05
    assert max(line.clock.waits) <= 5.0
    assert line.n("put") == len(line.clock.waits) + 1 == line.n("retried") + 1


def test_a_try_that_hangs_over_the_end_of_patience_is_not_the_last() -> None:
    """The store is away for 299 s of 300. The try before the last began on a line that is dead, and hangs for 30 s."""
    line = Line(lambda _: None, patience_s=300)
    put, n_tries = line.faulty.put, [0]

    def hangs(key: str, body: bytes) -> str:
        n_tries[0] += 1
        now = line.clock.monotonic() - began
        if now < 299:
            line.clock.wait(threading.Event(), 30.0)
            raise StoreUnavailable("no answer within 30 s")
        return put(key, body)

    line.faulty.put = hangs  # type: ignore[method-assign]
    began = line.clock.monotonic()
    assert line.store.put(KEY, b"x")
    assert line.clock.monotonic() - began > 299
    assert n_tries[0] < 20


@pytest.mark.parametrize(("patience_s", "words"), [(300.0, "again for up to "), (math.inf, "again: last error")])
def test_a_long_wait_says_why_after_ten_seconds_and_then_each_minute(
    caplog: pytest.LogCaptureFixture, patience_s: float, words: str
) -> None:
    line = Line(lambda _: Fault.RESET if line.clock.monotonic() - began < 150.0 else None, patience_s=patience_s)
    began = line.clock.monotonic()
    line.store.create(KEY, b"mine")
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 3
    assert "no clear answer from memory://" in said[0].getMessage()
    assert words in said[0].getMessage()


def test_what_a_long_wait_is_for_can_be_asked_while_it_lasts() -> None:
    asked: list[tuple[float, str]] = []

    def plan(_: object) -> Fault | None:
        waited_s = line.clock.monotonic() - began
        asked.append((waited_s, line.store.trouble))
        return Fault.RESET if waited_s < 30.0 else None

    line = Line(plan)
    began = line.clock.monotonic()
    line.store.create(KEY, b"mine")
    assert {trouble for waited_s, trouble in asked if waited_s < 10.0} == {""}
    assert "connection reset" in asked[-1][1]
    assert not line.store.trouble


def test_a_short_wait_is_not_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(lambda _: Fault.RESET if line.clock.monotonic() - began < 8.0 else None)
    began = line.clock.monotonic()
    line.store.create(KEY, b"mine")
    assert line.n("retried") > 3
    assert not caplog.records


def test_endless_patience_ends_when_stopped() -> None:
    stop = threading.Event()

    def plan(asked: Asked) -> Fault:
        if asked.number == 1_000:
            stop.set()
        return Fault.RESET

    line = Line(plan, patience_s=math.inf, stop=stop)
    with pytest.raises(StoreUnavailable):
        line.store.get(KEY)
    assert line.faulty.n_asked == 1_001


def test_every_try_is_counted() -> None:
    line = Line(interposed([Fault.RESET]))
    etag = line.store.put(KEY, b"12345")
    line.store.get(KEY)
    line.store.get_if_changed(KEY, etag)
    with pytest.raises(ObjectNotFound):
        line.store.get("nothing")
    line.store.create(KEY + "2", b"123")
    line.store.list("sessions/")
    line.store.list_folders("sessions/")
    line.store.delete([KEY])
    snapshot = line.store.requests.snapshot()
    durations = {kind: snapshot.pop(kind) for kind in list(snapshot) if kind.endswith("_us")}
    assert set(durations) == {"get_us", "list_us", "create_us", "swap_us", "put_us", "delete_us"}
    assert snapshot == {
        "get": 2,
        "not_modified": 1,
        "list": 2,
        "create": 1,
        "swap": 0,
        "put": 2,
        "delete": 1,
        "bytes_out": 13,
        "bytes_in": 5,
        "retried": 1,
        "lost_races": 0,
    }


def test_requests_take_as_long_as_the_store_and_not_as_the_pauses_between_tries() -> None:
    clock = FakeClock()

    class Slow(MemoryStore):
        def get(self, key: str, *, start: int = 0, length: int | None = None) -> Stored:
            clock.advance(0.25)
            return super().get(key, start=start, length=length)

    objects = Slow(clock=clock)
    store = PatientStore(FaultyStore(objects, interposed([Fault.RESET])), clock, patience_s=60.0)
    objects.put(KEY, b"1")
    store.get(KEY)
    store.get(KEY)
    took_us = store.requests.snapshot()["get_us"]
    assert 500_000 <= took_us <= 750_000


def test_a_long_listing_counts_its_pages() -> None:
    line = Line(in_turn([]))
    for number in range(2_001):
        line.objects.put(f"sessions/{number}", b"")
    line.store.list("sessions/")
    line.store.delete(f"sessions/{number}" for number in range(2_001))
    assert line.n("list") == 3
    assert line.n("delete") == 3


# --- when its owner must leave ----------------------------------------------------------------------------------------


def test_a_wait_for_an_answer_ends_when_its_owner_must_leave() -> None:
    """A thread that waits already learns of it at once, and tries once more."""
    clock = FakeClock(held=True)
    store = PatientStore(FaultyStore(MemoryStore(), lambda _: Fault.RESET), clock, patience_s=6 * 3600.0)
    errors: list[StoreUnavailable] = []

    def ask() -> None:
        try:
            store.get(KEY)
        except StoreUnavailable as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    clock.wait_waiting()
    store.limit(0.0)
    asking.join(30)
    assert len(errors) == 1
    assert clock.monotonic() == 0.0


def test_after_its_time_each_request_is_one_try_until_it_is_given_more() -> None:
    line = Line(lambda _: Fault.RESET, patience_s=3600.0)
    line.store.limit(2.0)
    with pytest.raises(StoreUnavailable):
        line.store.get(KEY)
    assert 2.0 <= line.clock.monotonic() < 3.0
    before = line.n("get")
    with pytest.raises(StoreUnavailable):
        line.store.get(KEY)
    assert line.n("get") == before + 1
    line.store.limit(1.0)
    with pytest.raises(StoreUnavailable):
        line.store.get(KEY)
    assert line.n("get") > before + 2
