"""Stored outcomes become done futures: what is asked for, what is downloaded, and what each kind of damage costs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.client.collector import Collector
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.watched import EndedSpan
from starburst_executor.errors import PayloadError, RecordInvalid, SessionNotFound, StoreUnavailable
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.records import SessionState
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import Located, Span, State, Status
from starburst_executor.testing import Fault, MemoryStore
from tests.support.rows import parts_of
from tests.support.session_rig import Rig
from tests.support.spans import ended, ends, with_outcome, with_spans


class NoCanceller:
    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        return 0

    def reattacher(self) -> None:
        return None

    has_left = False

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        raise AssertionError("it has not left")


@pytest.fixture(autouse=True, params=["one by one", "in rows"])
def ways_to_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is run with futures that wait one by one, and with futures that wait in rows."""
    monkeypatch.setattr(Client, "in_rows", request.param == "in rows")


def one_by_one(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    return iter([function(item) for item in items])


class Client:
    """A collector that the test polls.

    Attributes:
        in_rows: Futures of the first run wait in rows, as those of submits do, instead of one by one.
    """

    in_rows = False

    def __init__(self, *, few: int = 12, warn_bytes: int = 2**28) -> None:
        self.rig = Rig()
        self._keys: set[str] = set()
        session = self.rig.another()
        session.manifest.refresh()
        self.collector = Collector(session, one_by_one, few=few, warn_bytes=warn_bytes)

    def submit(
        self, n_tasks: int = 1, first: int = 0, *, run: int = 1, known: bool = True
    ) -> tuple[str, list[StarburstFuture[Any]]]:
        """A status object and the futures that wait for its tasks."""
        key = self.rig.submit(n_tasks, first=first)
        return key, self.watch(key, run=run, known=known)

    def watch(self, key: str, *, run: int = 1, known: bool = True) -> list[StarburstFuture[Any]]:
        ref = self.rig.keys.parse_status(key)
        stored = self.rig.objects.get(key)
        assert stored is not None
        futures: list[StarburstFuture[Any]] = [
            StarburstFuture(NoCanceller(), 0, ref.first + i, run) for i in range(ref.n_tasks)
        ]
        etag = stored.etag if known else ""
        if self.in_rows and run == 1 and key not in self._keys:
            self.collector.watch_rows(key, ref, etag, parts_of(futures))
        else:
            self.collector.watch(key, ref, etag, enumerate(futures))
        self._keys.add(key)
        return futures

    def end_apart(self, key: str, values: list[object], part: str = "w.1-1") -> None:
        """Complete the tasks with outcomes in an object of their own."""
        rig, ref = self.rig, self.rig.keys.parse_status(key)
        rig.claim(key, "w.1")
        seen, body, ended = rig.read(key), b"", []
        for i, value in enumerate(values):
            (block,) = ends(rig.sealer, seen, [i], outcomes.dump_value(value), seconds=0.0)
            assert isinstance(block.place, bytes)
            ended.append(block._replace(place=Located(part, len(body), len(block.place))))
            body += block.place
        rig.objects.create(rig.keys.outcomes(ref.status_id, part), body)
        rig.write(key, lambda now: transitions.commit(now, "w.1", ended, 0.0)[0])


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_few_objects_are_asked_for_one_by_one_and_cost_nothing_while_unchanged() -> None:
    client = Client()
    for first in range(12):
        client.submit(1, first)
    with client.rig.requests() as counts:
        assert not client.collector.poll()
    assert counts == {"get": 12}
    assert client.collector.n_waiting == 12


def test_many_objects_are_listed_and_only_those_that_ended_are_read() -> None:
    client = Client()
    submitted = [client.submit(1, first) for first in range(50)]
    with client.rig.requests() as counts:
        assert not client.collector.poll()
    assert counts == {"list": 1}
    for key, _ in submitted[:3]:
        client.rig.end(key)
    with client.rig.requests() as counts:
        assert client.collector.poll()
    assert counts == {"list": 1, "get": 3}
    assert [future.done() for _, (future,) in submitted] == [True] * 3 + [False] * 47
    with client.rig.requests() as counts:
        client.collector.poll()
    assert counts == {"list": 1}


def test_each_epoch_is_listed_once() -> None:
    client = Client(few=1)
    for epoch in range(3):
        for first in range(2):
            key = client.rig.submit(1, first=epoch * 10 + first, epoch=epoch)
            client.watch(key)
    with client.rig.requests() as counts:
        client.collector.poll()
    assert counts == {"list": 3}


def test_with_nothing_to_wait_for_nothing_is_asked() -> None:
    client = Client()
    key, _ = client.submit()
    client.rig.end(key)
    client.collector.poll()
    with client.rig.requests() as counts:
        assert not client.collector.poll()
    assert counts == {}


def test_an_object_that_ended_before_it_was_watched_is_read_once() -> None:
    client = Client()
    key = client.rig.submit(2)
    client.rig.end(key, "early")
    futures = client.watch(key, known=False)
    assert client.collector.poll()
    assert [future.result(0) for future in futures] == ["early", "early"]


@pytest.mark.parametrize("few", [0, 12])
def test_new_futures_of_a_known_object_have_it_read_again(few: int) -> None:
    client = Client(few=few)
    key, (ended, running) = client.submit(2)
    client.rig.end(key)
    client.rig.write(key, lambda seen: with_spans(seen, [1], state=State.CLAIMED))
    client.collector.poll()
    assert (ended.done(), running.done()) == (True, False)
    # Somebody asks for the same tasks once more, and nothing changes in the object.
    again = client.watch(key, known=False)
    client.collector.poll()
    assert again[0].result(0) == 8


def test_polls_follow_each_other_quickly_after_news_and_slowly_without() -> None:
    client = Client()
    key, _ = client.submit(2)
    # No worker hears of a call, claims and commits it sooner; then, in the first second, for which a lone call lasts, no pause matters.
    soonest_s = client.collector.pause_s()
    assert soonest_s == 3 * client.rig.timings.poll_min_s
    client.rig.clock.advance(soonest_s)
    assert max(client.collector.pause_s() for _ in range(10)) <= client.rig.timings.poll_min_s / 2
    client.rig.clock.advance(client.rig.timings.poll_max_s)
    pauses = [client.collector.pause_s() for _ in range(10)]
    assert 0.5 <= pauses[-1] <= client.rig.timings.poll_max_s
    client.rig.claim(key, "w.1", 1)
    client.collector.poll()
    assert client.collector.pause_s() <= client.rig.timings.poll_min_s


def test_while_more_tasks_wait_than_can_run_polls_keep_the_pace_of_the_tasks() -> None:
    client = Client()
    key, _ = client.submit(100)
    for i in range(99):
        client.rig.claim(key, "w.1", 1)
        client.rig.write(
            key,
            lambda seen, i=i: transitions.commit(  # type: ignore[misc]
                seen, "w.1", ends(client.rig.sealer, seen, [i], outcomes.dump_value(8), seconds=2.0), 0.0
            )[0],
        )
        if i == 89:
            client.collector.poll()
            assert client.rig.session.manifest.current.slots < client.collector.n_waiting == 10
            assert client.collector.pause_s() < 0.1, "the first results of a run are read soon"
            client.rig.clock.advance(20.0)
            assert 0.4 < client.collector.pause_s() <= 0.5
    client.collector.poll()
    client.rig.clock.advance(3 * client.rig.timings.poll_min_s)
    assert client.collector.pause_s() <= client.rig.timings.poll_min_s


# --- futures ----------------------------------------------------------------------------------------------------------


def test_futures_run_and_end_as_their_tasks_do() -> None:
    client = Client()
    key, futures = client.submit(3)
    client.rig.claim(key, "w.1", 2)
    assert client.collector.poll()
    assert [future.running() for future in futures] == [True, True, False]
    client.rig.write(key, lambda seen: transitions.release(seen, "w.1", [0, 1]))
    client.rig.end(key, "value")
    client.collector.poll()
    assert [future.result(0) for future in futures] == ["value"] * 3
    assert client.collector.n_waiting == 0
    assert client.collector.waiting() == []


def test_a_task_cancelled_elsewhere_cancels_its_future_even_if_it_ran() -> None:
    client = Client()
    key, (one, other) = client.submit(2)
    client.rig.claim(key, "w.1", 1)
    client.collector.poll()
    assert one.running()
    client.rig.write(key, lambda seen: transitions.end_rest(seen, 0.0, None))
    client.collector.poll()
    for future in (one, other):
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(0)
    assert client.collector.n_waiting == 0


def test_a_future_of_a_second_run_is_not_completed_by_the_first() -> None:
    client = Client()
    key = client.rig.submit(1)
    client.rig.claim(key, "other.1")
    error = outcomes.dump_error(ValueError("first"))
    client.rig.write(key, lambda seen: ended(client.rig.sealer, seen, "other.1", error, 0.0, failed=True))
    first, second = client.watch(key, known=False), client.watch(key, run=2, known=False)
    client.collector.poll()
    assert str(first[0].exception(0)) == "first"
    assert not second[0].done()
    client.rig.write(key, lambda seen: transitions.retry(seen, {0: 1}))
    client.rig.end(key, "second", claim_id="other.2")
    client.collector.poll()
    assert second[0].result(0) == "second"


def test_a_future_of_a_first_run_that_was_missed_is_completed_by_a_later_one() -> None:
    client = Client()
    key, (future,) = client.submit()
    client.rig.write_spans(key, run=2)
    client.rig.end(key, "second")
    client.collector.poll()
    assert future.result(0) == "second"


def test_done_is_told_to_who_waits_for_all() -> None:
    client = Client()
    key, _ = client.submit()
    with client.collector.done:
        client.rig.end(key)
    client.collector.poll()
    with client.collector.done:
        assert client.collector.done.wait_for(lambda: client.collector.n_waiting <= 0, 0.0)


def test_futures_that_are_done_are_not_held_until_their_whole_object_is() -> None:
    client = Client()
    key, futures = client.submit(3)
    watched = client.collector._watched[key]
    done = weakref.ref(futures.pop(0))
    watched.forget(EndedSpan(0, Span(1), list(watched.waiting())[:1] if watched.futures else [], watched.left_in(0, 1)))
    assert done() is None
    assert [future for _, waiting in watched.waiting() for future in waiting] == futures


def test_keys_of_futures() -> None:
    client = Client()
    one, (a, b) = client.submit(2)
    other, (c,) = client.submit(1, 2)
    assert client.collector.keys_of([a, c]) == {one: [0], other: [0]}
    assert client.collector.keys_of([b]) == {one: [1]}
    assert client.collector.keys_of([]) == {}


# --- outcome objects ---------------------------------------------------------------------------------------------------


def test_outcomes_that_share_an_object_are_downloaded_in_one_request() -> None:
    client = Client()
    key, futures = client.submit(4)
    client.end_apart(key, ["a" * 1000, "b", "c", "d" * 10])
    with client.rig.requests() as counts:
        client.collector.poll()
    assert counts == {"get": 2}
    assert [future.result(0) for future in futures] == ["a" * 1000, "b", "c", "d" * 10]


def test_only_the_range_that_is_new_is_downloaded() -> None:
    client = Client()
    key, futures = client.submit(3)
    client.end_apart(key, ["a" * 1000, "b", "c"])
    futures[0].complete("elsewhere", None)
    watched = client.collector._watched[key]
    watched.forget(EndedSpan(0, Span(1), list(watched.futures.items())[:1], watched.left_in(0, 1)))
    client.collector.poll()
    assert [future.result(0) for future in futures[1:]] == ["b", "c"]


def test_a_missing_outcome_fails_the_futures_that_it_holds_and_no_others() -> None:
    client = Client()
    key, (gone, _) = client.submit(2)
    other, (fine,) = client.submit(1, 2)
    client.end_apart(key, ["x", "y"])
    client.rig.objects.delete([line.key for line in client.rig.objects.list(f"{client.rig.keys.folder}outcomes/")])
    client.rig.end(other, "fine")
    client.collector.poll()
    assert fine.result(0) == "fine"
    error = gone.exception(0)
    assert isinstance(error, PayloadError)
    assert "a stored outcome is missing" in str(error)


def test_an_outcome_that_could_not_be_fetched_is_fetched_by_the_next_poll() -> None:
    client = Client()
    key, futures = client.submit(1)
    client.end_apart(key, ["x"])
    client.rig.plan = lambda asked: Fault.RESET if "/outcomes/" in asked.key else None
    with pytest.raises(StoreUnavailable):
        client.collector.poll()
    client.rig.plan = lambda _: None
    client.collector.poll()
    assert futures[0].result(0) == "x"


def end_one_by_one(client: Client, key: str, value: object) -> None:
    """Another worker completes two tasks under two claims, so that each outcome has a block of its own."""
    body = outcomes.dump_value(value)
    for number in (1, 2):
        client.rig.claim(key, f"other.{number}", 1)
        client.rig.write(key, lambda seen, n=number: ended(client.rig.sealer, seen, f"other.{n}", body, 0.0))  # type: ignore[misc]


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_wrong_seal_fails_the_futures_of_that_block_alone_and_nothing_is_unpickled() -> None:
    client = Client()
    key, (bad, good) = client.submit(2)
    end_one_by_one(client, key, "value")
    hostile = b"x" * 32 + b"".join(blocks.packed([outcomes.dump_value("evil")]))
    client.rig.write(key, lambda seen: with_outcome(seen, 0, hostile))
    client.collector.poll()
    assert isinstance(bad.exception(0), RecordInvalid)
    assert good.result(0) == "value"


def test_an_outcome_moved_to_another_task_or_attempt_is_refused() -> None:
    client = Client()
    key, (one, other) = client.submit(2)
    end_one_by_one(client, key, "value")
    first = client.rig.read(key).entries[0].outcome
    assert first is not None

    def move(seen: Status) -> Status:
        seen = with_outcome(seen, 1, first.place)
        found = (seen.outcomes[0]._replace(attempt=2), *seen.outcomes[1:])
        return replace(with_spans(seen, [0], attempt=2), outcomes=found)

    client.rig.write(key, move)
    client.collector.poll()
    assert isinstance(one.exception(0), RecordInvalid)
    assert isinstance(other.exception(0), RecordInvalid)


@pytest.mark.parametrize("few", [0, 12])
def test_an_object_moved_to_anothers_key_gives_no_outcomes(few: int) -> None:
    client = Client(few=few)
    key, (future,) = client.submit(1)
    client.rig.end(key, "mine")
    other, (victim,) = client.submit(1, 1)
    moved = client.rig.objects.get(key)
    assert moved is not None
    client.rig.objects.put(other, moved.body)
    client.collector.poll()
    assert future.result(0) == "mine"
    assert isinstance(victim.exception(0), RecordInvalid)


@pytest.mark.parametrize("few", [0, 12])
def test_a_missing_object_fails_its_futures_alone(few: int) -> None:
    client = Client(few=few)
    key, futures = client.submit(2)
    _, (other,) = client.submit(1, 2)
    client.rig.objects.delete([key])
    client.collector.poll()
    assert all(isinstance(future.exception(0), PayloadError) for future in futures)
    assert not other.done()
    assert client.collector.n_waiting == 1


@pytest.mark.parametrize("few", [0, 12])
def test_a_broken_object_fails_its_futures_alone(few: int) -> None:
    client = Client(few=few)
    key, (broken,) = client.submit(1)
    other, (fine,) = client.submit(1, 1)
    client.rig.objects.put(key, b"\xc1" * 12)
    client.rig.end(other)
    client.collector.poll()
    assert isinstance(broken.exception(0), RecordInvalid)
    assert fine.result(0) == 8


def test_an_ended_entry_without_an_outcome_fails_its_future() -> None:
    client = Client()
    key, (future,) = client.submit(1)
    client.rig.write_spans(key, state=State.COMPLETED)
    client.collector.poll()
    assert isinstance(future.exception(0), PayloadError)


@pytest.mark.parametrize("few", [0, 12])
@pytest.mark.parametrize("manifest", ["deleted", "gone"])
def test_a_deleted_session_is_told_and_not_mistaken_for_a_missing_object(few: int, manifest: str) -> None:
    client = Client(few=few)
    key, (future,) = client.submit(1)
    if manifest == "gone":
        client.rig.objects.delete([client.rig.keys.manifest])
    else:
        client.rig.session.manifest.change(lambda m: replace(m, state=SessionState.DELETED))
    client.rig.objects.delete([key])
    with pytest.raises(SessionNotFound):
        client.collector.poll()
    assert not future.done()


# --- silence ----------------------------------------------------------------------------------------------------------


def spoil(client: Client, key: str) -> None:
    """Other bytes under the same ETag, as a disk or a server that is broken has them."""
    stored = client.rig.objects._objects[key]
    client.rig.objects._objects[key] = replace(stored, body=b"spoilt" + stored.body[6:])


@pytest.mark.parametrize("few", [1, 12])
@pytest.mark.parametrize("was_read", [False, True])
def test_bytes_that_changed_under_their_etag_are_found(few: int, was_read: bool) -> None:
    client = Client(few=few)
    submitted = [client.submit(1, first) for first in range(3)]
    if was_read:
        for key, _ in submitted:
            client.rig.claim(key, "w.1")
        client.collector.poll()
    key, (future,) = submitted[1]
    spoil(client, key)
    for _ in range(25):
        client.rig.clock.advance(client.rig.timings.poll_max_s)
        client.collector.poll()
    error = future.exception(0)
    assert isinstance(error, RecordInvalid)
    assert key in str(error)
    assert [other.done() for _, (other,) in submitted] == [False, True, False]


def test_news_of_others_do_not_keep_a_silent_object_from_being_read() -> None:
    client = Client()
    key, (future,) = client.submit()
    spoil(client, key)
    for first in range(1, 30):
        other, _ = client.submit(1, first)
        client.rig.end(other)
        client.rig.clock.advance(client.rig.timings.poll_max_s)
        assert client.collector.poll() or future.done()
    assert isinstance(future.exception(0), RecordInvalid)


def test_silence_costs_one_read_in_twenty_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    client.submit()
    get, n_reads = client.rig.objects.get, 0

    def counted(key: str, **how: int) -> Any:
        nonlocal n_reads
        n_reads += 1
        return get(key, **how)

    monkeypatch.setattr(client.rig.objects, "get", counted)
    for _ in range(200):
        client.rig.clock.advance(client.rig.timings.poll_max_s)
        client.collector.poll()
    assert 1 <= n_reads <= 200 / 20


@pytest.mark.parametrize("n_lacking", [1, 3])
def test_an_object_that_a_listing_lacks_is_read_before_it_counts_as_gone(
    monkeypatch: pytest.MonkeyPatch, n_lacking: int
) -> None:
    """A listing may lag, and a server may answer with less than there is."""
    client = Client(few=1)
    all_futures = [client.submit(first=first)[1][0] for first in range(3)]
    rig, whole = client.rig, MemoryStore.list
    monkeypatch.setattr(MemoryStore, "list", lambda store, prefix: whole(store, prefix)[n_lacking:])
    with rig.requests() as asked:
        assert not client.collector.poll()
    assert asked["get"] + asked["not_modified"] >= n_lacking
    assert not any(future.done() for future in all_futures)
    monkeypatch.undo()
    rig.end(rig.keys.status(StatusRef(0, 0, 1, 0)), 8)
    client.collector.poll()
    assert all_futures[0].result(0) == 8
