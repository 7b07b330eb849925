"""Group commit: what a burst becomes, in which order it is written, and what one submit costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.client import batches, stored_functions, submitter
from starburst_executor.client.batches import Acknowledged, Batch
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.pieces import BigCall
from starburst_executor.client.rows import FutureRow
from starburst_executor.client.submitter import Submitter
from starburst_executor.client.task_options import CallOptions
from starburst_executor.errors import StoreUnavailable
from starburst_executor.protocol import calls, outcomes
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH
from starburst_executor.protocol.labels import labels_of
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import Entry, Located, Place, SizeClass, State
from starburst_executor.session import fan_out
from starburst_executor.testing import Asked, Fault
from tests.sessions import wait_until
from tests.support.session_rig import DIGEST, FUNCTION, Rig

PATIENCE_S = 20.0
MAX_BYTES = 128 * 1024  # of a status object


class NoCanceller:
    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        return 0

    def ask_to_cancel(self, future: StarburstFuture[Any], *, running: bool = False) -> None:
        """Do nothing."""

    def reattacher(self) -> None:
        return None

    has_left = False

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        raise AssertionError("it has not left")


class Client:
    """A submitter that the test steps: it takes and sends on request."""

    def __init__(self, *, queue_bytes: int = 2**28, workers: int = 4, ordinal: int = 0, is_far: bool = False) -> None:
        self.n_short: int | None = None
        self.n_ahead = 0
        self.options: dict[bytes, CallOptions] = {}
        self.rig = Rig(workers=workers)
        self.rig.objects.delete([self.rig.keys.function(DIGEST)])
        session = self.rig.another()
        session.manifest.refresh()
        self.acknowledged: list[Acknowledged] = []
        self.submitter = Submitter(
            session,
            ordinal=ordinal,
            n_workers=lambda: workers,
            n_short=lambda: self.n_short,
            n_ahead=lambda: self.n_ahead,
            queue_bytes=queue_bytes,
            acknowledged=self.acknowledged.append,
            is_far=is_far,
        )
        self.rig.asked.clear()

    def add(
        self,
        call: tuple[Any, ...] = (2, 3),
        *,
        failed: Exception | None = None,
        function: bytes = FUNCTION,
        options: bytes = b"",
        label: str = "",
    ) -> StarburstFuture[Any]:
        pickled: bytes | BigCall = b""
        if failed is None:
            parts = calls.dump_call_in_parts(call, {}, self.submitter.pieces.keep)
            pickled = parts if isinstance(parts, bytes) else BigCall(parts)
        outcome = None if failed is None else outcomes.dump_error(failed)
        return self.submitter.add(
            lambda index: StarburstFuture(NoCanceller(), 0, index),
            *(calls.digest(function), function, pickled, outcome),
            given=self.given(options, label),
        )

    def given(self, options: bytes, label: str) -> CallOptions:
        """Return the same object for the same options, as executors do."""
        if label:
            return CallOptions(DEFAULT, options, label)
        return self.options.setdefault(options, CallOptions(DEFAULT, options))

    def take(self) -> Batch | None:
        return self.submitter.take(timeout_s=0.0)

    def send_all(self) -> list[Batch]:
        batches = []
        while (batch := self.take()) is not None:
            self.submitter.send(batch)
            batches.append(batch)
        return batches


# --- what becomes of submits ------------------------------------------------------------------------------------------


def test_a_lone_submit_leaves_at_once_and_is_stored_in_order() -> None:
    client = Client()
    future = client.add()
    assert client.send_all()
    kinds = [(asked.kind, asked.key.rsplit("/", 2)[-2]) for asked in client.rig.asked]
    assert kinds == [("create", "functions"), ("create", "0000.000000"), ("put", "a-session")]
    (batch,) = client.acknowledged
    assert [waiting for part in batch.parts for waiting in part.futures()] == [future]
    assert client.rig.states(batch.key) == [State.PENDING]
    assert client.rig.objects.get_if_changed(batch.key, batch.etag) is None
    assert client.submitter.is_empty()
    bell = client.rig.bell()
    assert bell is not None
    assert bell.keys == (batch.key,)


@pytest.mark.parametrize(("late_s", "n_rings"), [(0.1, 1), (0.3, 2)])
def test_a_few_tasks_are_rung_for_while_they_are_written_and_again_if_that_takes_long(
    monkeypatch: pytest.MonkeyPatch, late_s: float, n_rings: int
) -> None:
    monkeypatch.setattr(fan_out, "_ON_THIS_MACHINE", ())
    client = Client(workers=4)
    rig = client.rig

    def plan(asked: Asked) -> None:
        if asked.kind == "create" and "/status/" in asked.key:
            wait_until(lambda: rig.bell() is not None)  # a ring after the answer would never come
            rig.clock.advance(late_s)

    rig.plan = plan
    client.add()
    client.send_all()
    assert len(client.acknowledged) == 1
    assert [asked.kind for asked in rig.asked].count("put") == n_rings


def test_a_stored_call_is_what_a_worker_can_open() -> None:
    client = Client()
    client.add((2, 10))
    client.send_all()
    seen = client.rig.read(client.acknowledged[0].key)
    assert client.rig.call(client.acknowledged[0].ref, 0) == ((2, 10), {})
    assert client.rig.session.payloads.function(seen.functions[0]) == FUNCTION


def test_options_are_stored_once_and_labels_as_a_column() -> None:
    client = Client()
    client.add()
    client.send_all()
    plain = client.rig.read(client.acknowledged[0].key)
    assert (plain.options, plain.more) == ((), None)
    first, second = DEFAULT.but(retries=1).encode(), DEFAULT.but(retries=2).encode()
    flying = (client.add(), client.take())[1]
    for options, label in [(first, "a"), (b"", ""), (second, "b"), (first, "c")]:
        client.add(options=options, label=label)
    assert flying is not None
    client.submitter.send(flying)
    client.send_all()
    stored = client.rig.read(client.acknowledged[-1].key)
    assert [stored.options_of(span) for span in stored.spans] == [first, b"", second, first]
    assert stored.options == (first, second)
    assert labels_of(stored) == ("a", "", "b", "c")


def test_while_one_flies_the_others_gather() -> None:
    client = Client()
    client.add()
    first = client.take()
    assert first is not None
    for _ in range(4):
        client.add()
    assert client.take() is None
    client.submitter.send(first)
    second = client.take()
    assert second is not None
    assert [future.index for future in second.futures()] == [1, 2, 3, 4]


def test_a_burst_becomes_about_two_objects_a_worker() -> None:
    client = Client(workers=4)
    for _ in range(800):
        client.add()
    sizes = [batch.n_tasks for batch in client.send_all()]
    assert sum(sizes) == 800
    assert 6 <= len(sizes) <= 12
    assert max(sizes) <= 256


def test_on_s3_each_worker_gets_one_object_of_a_burst_and_all_are_of_the_same_size() -> None:
    client = Client(workers=8, is_far=True)
    client.add()
    first = client.take()
    assert first is not None
    assert first.n_tasks == 1
    for _ in range(799):
        client.add()
    client.submitter._queue[0].function.is_stored.set()
    others = []
    while (batch := client.submitter.take(timeout_s=0.0)) is not None:
        others.append(batch)
    assert [batch.n_tasks for batch in others] == [100] * 7
    client.submitter.send(first)
    assert [batch.n_tasks for batch in client.send_all()] == []


def test_a_burst_on_s3_is_cut_once_its_function_is_stored() -> None:
    client = Client(workers=8, is_far=True)
    client.add()
    first = client.take()
    assert first is not None
    for _ in range(80):
        client.add()
    with ThreadPoolExecutor(1) as threads:
        taken = threads.submit(client.submitter.take)
        wait_until(lambda: client.submitter._is_beginning)
        for _ in range(720):
            client.add()
        assert not taken.done()
        client.submitter.send(first)
        batch = taken.result(PATIENCE_S)
    assert batch is not None
    assert batch.n_tasks == 100
    client.submitter.send(batch)


def test_the_first_object_of_a_burst_rings_for_all_of_it() -> None:
    client = Client(workers=4, is_far=True)
    client.add()
    first = client.take()
    for n_more, n_rung in ((2, 1), (2, 5)):
        for _ in range(n_more):
            client.add()
        assert first is not None
        client.submitter._writer.write(first)
        bell = client.rig.bell()
        assert bell is not None
        assert bell.n_tasks == n_rung


def test_objects_double_while_so_many_tasks_are_less_than_a_slice_of_work() -> None:
    client = Client(workers=1)
    for _ in range(12_000):
        client.add()

    def sizes(n: int) -> list[int]:
        batches = [client.take() for _ in range(n)]
        for batch in batches:
            assert batch is not None
            client.submitter.send(batch)
        return [batch.n_tasks for batch in batches if batch is not None]

    assert sizes(2) == [256, 256]  # nothing is known of them
    client.n_short = 1_000
    assert sizes(3) == [512, 1_000, 1_000]
    client.n_short = 10**6
    assert sizes(2) == [2_000, 2_048]
    client.n_short = 3
    assert sizes(1) == [256]


def test_short_tasks_are_still_about_two_objects_a_worker() -> None:
    client = Client(workers=4)
    client.n_short = 10**6
    for _ in range(8_000):
        client.add()
    sizes = [batch.n_tasks for batch in client.send_all()]
    assert max(sizes) == 1_000
    assert len(sizes) <= 12


def test_an_object_has_at_most_128_spans() -> None:
    client = Client(workers=1)
    functions = [FUNCTION, calls.dump_function(len)]
    for i in range(1_000):
        client.add(function=functions[i % 2])
    client.send_all()
    seen = [client.rig.read(client.rig.keys.status(one.ref)) for one in client.acknowledged]
    assert sum(status.n_tasks for status in seen) == 1_000
    assert max(len(status.spans) for status in seen) == 128


def test_ten_thousand_tiny_submits_become_objects_of_at_most_256_tasks_and_128_kb() -> None:
    client = Client(workers=1)
    for _ in range(10_000):
        client.add()
    with client.rig.requests() as counts:
        client.send_all()
    assert counts["create"] == 1 + 40
    assert sum(counts.values()) <= 100
    lines = client.rig.objects.list(client.rig.keys.statuses)
    assert max(line.size for line in lines) <= MAX_BYTES
    assert [group.ref.first for group in client.rig.session.statuses.all()] == list(range(0, 10_000, 256))
    assert {group.size_class for group in client.rig.session.statuses.all()} == {SizeClass.ALL_PENDING}


def place_of(entry: Entry) -> Place | None:
    return None if entry.call is None else entry.call.place


@pytest.mark.parametrize(("size", "n_tasks"), [(30_000, 1), (1_900, 16), (400, 256)])
def test_a_status_object_has_few_bytes_of_calls_inline(size: int, n_tasks: int) -> None:
    client = Client(workers=1)
    client.add()
    client.take()
    for _ in range(n_tasks):
        client.add((b"x" * size,))
    client.submitter.close()
    client.send_all()
    assert sum(done.ref.n_tasks for done in client.acknowledged) == n_tasks
    for done in client.acknowledged:
        assert all(isinstance(place_of(entry), bytes) for entry in client.rig.read(done.key).entries)
    assert max(line.size for line in client.rig.objects.list(client.rig.keys.statuses)) <= MAX_BYTES


@pytest.mark.parametrize(("size", "n_tasks"), [(33_000, 1), (4_200, 16), (600, 256)])
def test_calls_that_would_be_rewritten_too_often_are_stored_apart(size: int, n_tasks: int) -> None:
    client = Client(workers=1)
    client.add()
    client.take()
    for _ in range(n_tasks):
        client.add((b"x" * size,))
    client.submitter.close()
    client.send_all()
    for done in client.acknowledged:
        assert all(isinstance(place_of(entry), Located) for entry in client.rig.read(done.key).entries)
        assert client.rig.call(done.ref, 0)[0] == (b"x" * size,)
    assert sum(line.size for line in client.rig.objects.list(client.rig.keys.statuses)) < n_tasks * 60 + 500


def test_big_calls_are_stored_apart_before_the_object_that_names_them() -> None:
    client = Client()
    client.add()
    client.send_all()
    client.rig.asked.clear()
    for size in (40_000, 10, 200_000):
        client.add((b"x" * size,))
    client.send_all()
    assert [asked.key.split("/")[2] for asked in client.rig.asked if asked.kind == "create"] == ["calls", "status"]
    batch = client.acknowledged[-1]
    entries = client.rig.read(batch.key).entries
    # A record is inline whatever its pieces weigh; a call without pieces that is not small is read by its place.
    assert [isinstance(place_of(entry), Located) for entry in entries] == [True, False, False]
    for index, size in enumerate((40_000, 10, 200_000)):
        assert client.rig.call(batch.ref, index) == ((b"x" * size,), {})
    assert client.rig.objects.list(client.rig.keys.statuses)[-1].size < 1000


def test_a_function_is_stored_once_however_many_use_it() -> None:
    client = Client()
    other = calls.dump_function(len)
    for function in (FUNCTION, other, FUNCTION, other):
        client.add(function=function)
        client.send_all()
    assert sum("/functions/" in asked.key for asked in client.rig.asked) == 2
    client.add(function=FUNCTION)
    client.add(function=other)
    client.send_all()
    seen = client.rig.read(client.acknowledged[-1].key)
    assert len(seen.functions) == len({entry.function for entry in seen.entries})


@pytest.mark.parametrize("fault", [Fault.ANSWER_LOST, Fault.ERROR_AFTER, Fault.RESET])
@pytest.mark.parametrize("nth", [0, 1, 2])
def test_lost_answers_change_nothing(fault: Fault, nth: int) -> None:
    client = Client()
    client.rig.plan = lambda asked: fault if asked.number == client.rig.asked[0].number + nth else None
    client.add()
    client.send_all()
    (batch,) = client.acknowledged
    assert client.rig.states(batch.key) == [State.PENDING]
    assert client.rig.session.payloads.function(DIGEST) == FUNCTION
    assert len(client.rig.objects.list(client.rig.keys.statuses)) == 1


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_a_late_lone_submit_costs_as_much_as_an_early_one() -> None:
    client = Client()
    costs = []
    for _ in range(2000):
        client.rig.clock.advance(1.0)
        with client.rig.requests() as counts:
            client.add()
            client.send_all()
        costs.append(sum(counts.values()))
    # The first stores its function; the thousand-and-first opens an epoch.
    assert costs[0] == 3
    assert costs[1] == costs[1999] == 2
    assert costs[1000] == 3
    assert sum(costs) == 2 * 2000 + 2


def test_an_epoch_is_in_the_manifest_before_there_is_anything_in_it() -> None:
    client = Client()
    client.submitter._batching.n_statuses = STATUSES_PER_EPOCH - 1
    client.add()
    client.send_all()
    client.rig.asked.clear()
    client.add()
    client.send_all()
    kinds = [(asked.kind, asked.key) for asked in client.rig.asked]
    assert kinds[0] == ("swap", client.rig.keys.manifest)
    assert kinds[1][0] == "create"
    assert "/0000.000001/" in kinds[1][1]
    assert client.rig.another().manifest.current.submitters[0].open == (0, 1)


def test_an_epoch_opened_by_a_batch_that_overtook_another_is_opened_with_those_before() -> None:
    client = Client()
    client.submitter._batching.n_statuses = 3 * STATUSES_PER_EPOCH
    client.add()
    client.send_all()
    assert client.rig.another().manifest.current.submitters[0].open == (0, 1, 2, 3)


# --- cancelled and failed ---------------------------------------------------------------------------------------------


def test_cancelled_unsent_calls_keep_their_place() -> None:
    client = Client()
    futures = [client.add() for _ in range(3)]
    assert client.submitter.cancel_unsent([futures[1]]) == [futures[1]]
    assert futures[1].cancelled()
    client.send_all()
    (batch,) = client.acknowledged
    assert client.rig.states(batch.key) == [State.PENDING, State.CANCELLED, State.PENDING]
    assert batch.etag == "", "what has ended in it has to be read"


def test_what_is_sent_or_done_is_not_cancelled_here() -> None:
    client = Client()
    sent = client.add()
    client.send_all()
    queued = client.add()
    queued.complete(1, None)
    assert client.submitter.cancel_unsent([sent, queued]) == []
    client.send_all()
    assert client.submitter.cancel_unsent([sent]) == []
    assert client.rig.states(client.acknowledged[-1].key) == [State.PENDING]


def test_all_that_are_cancelled_know_it_even_if_the_callback_of_one_raises() -> None:
    client = Client()
    futures = [client.add() for _ in range(3)]

    def leave(_: object) -> None:
        raise SystemExit(3)

    futures[0].add_done_callback(leave)
    with pytest.raises(SystemExit):
        client.submitter.cancel_unsent(futures)
    assert [future.cancelled() for future in futures] == [True] * 3


def test_a_batch_that_is_cancelled_as_a_whole_costs_nothing_and_leaves_no_gap_in_its_epoch() -> None:
    client = Client()
    client.submitter.cancel_unsent([client.add() for _ in range(3)])
    with client.rig.requests() as counts:
        client.send_all()
    assert counts == {}
    assert client.submitter.is_empty()
    for _ in range(2):
        client.add()
        client.send_all()
    assert client.submitter._batching.n_statuses == 2


def test_calls_that_could_not_be_pickled_are_recorded_as_failed() -> None:
    client = Client()
    client.add(failed=TypeError("cannot pickle"))
    client.add()
    client.send_all()
    (batch,) = client.acknowledged
    seen = client.rig.read(batch.key)
    assert [entry.state for entry in seen.entries] == [State.FAILED, State.PENDING]
    error = outcomes.load_outcome(client.rig.outcome(batch.key, 0))[1]
    assert repr(error) == "TypeError('cannot pickle')"
    assert transitions.retry(seen, {0: 1}) is seen
    assert batch.etag == ""


def test_many_failures_do_not_make_an_object_big() -> None:
    client = Client(workers=1)
    for _ in range(300):
        client.add(failed=TypeError("x" * 2000))
    client.send_all()
    assert max(line.size for line in client.rig.objects.list(client.rig.keys.statuses)) <= MAX_BYTES + 64_000


# --- bounds and ends --------------------------------------------------------------------------------------------------


def test_a_full_queue_holds_up_who_submits_until_there_is_room() -> None:
    client = Client(queue_bytes=1000)
    client.add((b"x" * 2000,))
    added = threading.Event()

    def submit() -> None:
        client.add()
        added.set()

    thread = threading.Thread(target=submit)
    thread.start()
    assert not added.wait(0.05)
    batch = client.take()
    assert batch is not None
    assert not added.wait(0.02), "what is being sent takes room too"
    client.submitter.send(batch)
    assert added.wait(10.0)
    thread.join(10.0)
    client.send_all()
    assert client.submitter.is_empty()


def test_a_full_queue_is_an_error_in_an_event_loop_which_would_be_blocked() -> None:
    client = Client(queue_bytes=1000)

    async def submit() -> None:
        client.add((b"x" * 2000,))
        with pytest.raises(RuntimeError, match=r"await executor.submit_async\(...\)"):
            client.add()
        client.send_all()
        client.add()

    asyncio.run(submit())


def test_who_waits_for_room_is_told_when_sending_is_over() -> None:
    client = Client(queue_bytes=10)
    first = client.add((b"x" * 2000,))
    raised: list[BaseException] = []

    def submit() -> None:
        try:
            client.add()
        except StoreUnavailable as error:
            raised.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    assert client.submitter.fail(StoreUnavailable("gone")) == [first]
    thread.join(10.0)
    assert len(raised) == 1
    with pytest.raises(StoreUnavailable):
        client.add()
    with pytest.raises(StoreUnavailable):
        client.submitter.flush()


def test_a_flush_waits_for_every_acknowledgement() -> None:
    client = Client()
    assert client.submitter.flush(0.0)
    client.add()
    assert not client.submitter.flush(0.0)
    batch = client.take()
    assert batch is not None
    assert not client.submitter.flush(0.0)
    assert client.submitter.unacknowledged() == batch.futures()
    client.submitter.send(batch)
    assert client.submitter.flush(0.0)
    assert client.submitter.unacknowledged() == []


def test_after_the_close_the_rest_leaves_at_once_and_nothing_is_added() -> None:
    client = Client()
    client.add()
    flying = client.take()
    client.add()
    client.submitter.close()
    assert client.take() is not None
    assert client.submitter.take() is None
    assert flying is not None
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        client.add()


def test_what_fails_while_it_is_sent_is_no_longer_in_flight() -> None:
    client = Client()
    client.add()
    client.rig.plan = lambda asked: Fault.DENIED
    batch = client.take()
    assert batch is not None
    with pytest.raises(Exception, match="403"):
        client.submitter.send(batch)
    assert client.submitter.is_empty()
    assert client.acknowledged == []


def test_senders_side_by_side_store_each_task_once() -> None:
    client = Client(workers=8)
    threads = [
        threading.Thread(target=lambda: [client.submitter.send(b) for b in iter(client.submitter.take, None)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    functions = [calls.dump_function(f) for f in (pow, len, abs)]
    for number in range(2000):
        client.add(function=functions[number % 3])
    assert client.submitter.flush(20.0)
    client.submitter.close()
    for thread in threads:
        thread.join(10.0)
    indices = sorted(future.index for batch in client.acknowledged for part in batch.parts for future in part.futures())
    assert indices == list(range(2000))
    asked: list[Asked] = [each for each in client.rig.asked if "/functions/" in each.key]
    assert len(asked) == 3


# --- beside other threads ---------------------------------------------------------------------------------------------


def waits(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("wait", ["flush", "wait_flown"])
def test_what_others_submit_meanwhile_is_not_waited_for(wait: str) -> None:
    """Another thread submits all the time: at no moment is nothing queued or being sent."""
    client = Client()
    mine = client.add()
    batch = client.take()
    assert batch is not None
    submitter = client.submitter
    waiter = waits(submitter.flush if wait == "flush" else lambda: submitter.wait_flown([mine]))
    while not client.submitter._changed._waiters:  # type: ignore[attr-defined]  # it has begun to wait
        waiter.join(0.001)
        assert waiter.is_alive()
    for _ in range(30):
        client.add()
    other = client.take()
    assert other is not None
    client.add()
    client.submitter.send(batch)
    waiter.join(10.0)
    assert not waiter.is_alive()
    assert not client.submitter.is_empty()
    client.submitter.send(other)
    client.send_all()


def test_flush_waits_for_what_is_queued_and_for_what_flies() -> None:
    client = Client()
    client.add()
    first = client.take()
    client.add()
    assert first is not None
    assert not client.submitter.flush(0.0)
    client.submitter.send(first)
    assert not client.submitter.flush(0.0)
    client.send_all()
    assert client.submitter.flush(0.0)


def test_the_bytes_of_functions_count_in_the_queue() -> None:
    client = Client(queue_bytes=10_000)
    for i in range(2):
        client.add(function=b"f" * (5001 + i))
    more = threading.Thread(target=lambda: client.add(function=b"g" * 5000), daemon=True)
    more.start()
    more.join(0.2)
    assert more.is_alive(), "10,003 bytes of functions wait, 10,000 may"
    client.send_all()
    more.join(30)
    assert not more.is_alive()
    client.send_all()
    assert client.submitter._n_bytes == 0


def test_a_function_counts_once_however_many_calls_wait_for_it() -> None:
    client = Client(queue_bytes=100_000)
    for _ in range(50):
        client.add(function=b"f" * 9000)
    assert client.submitter._n_bytes < 20_000


def test_nothing_is_kept_of_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_functions, "_REMEMBERED", 10)
    client = Client()
    for i in range(100):
        futures = [client.add(function=b"f" * (1000 + i)) for _ in range(3)]
        client.submitter.cancel_unsent(futures[:2])
        client.send_all()
    client.submitter.cancel_unsent([client.add(function=b"never sent")])
    client.send_all()
    submitter = client.submitter
    assert len(submitter._functions._known) == 10
    assert not any(function.body for function in submitter._functions._known.values())
    assert not submitter._cancelled


def test_only_the_places_of_the_last_tasks_are_kept_and_older_ones_are_found_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "_REMEMBERED", 3)
    client = Client()
    for i in range(10):
        future = client.add()
        if i == 5:
            client.submitter.cancel_unsent([future])
        client.send_all()
    submitter, batching = client.submitter, client.submitter._batching
    assert len(batching._sent) == 3
    client.rig.asked.clear()
    recent = submitter._sent(9)
    assert recent is not None
    assert not client.rig.asked
    old = submitter._sent(2)
    assert old is not None
    assert old.is_stored.is_set()
    assert [asked.kind for asked in client.rig.asked] == ["list"]
    assert [client.rig.keys.status(sent.ref) for sent in (old, recent)] == [
        client.acknowledged[2].key,
        client.acknowledged[-1].key,
    ]
    assert submitter._sent(5) is None  # cancelled


def test_the_place_of_a_task_that_is_not_stored_yet_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_REMEMBERED", 1)
    client = Client()
    client.add()
    flying = client.take()
    assert flying is not None
    for _ in range(3):
        for _ in range(5):
            client.add()
        client.send_all()
    assert client.submitter._sent(0) is flying.sent
    client.submitter.send(flying)
    client.add()
    client.send_all()
    assert len(client.submitter._batching._sent) == 1


def test_a_function_that_was_forgotten_is_stored_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_functions, "_REMEMBERED", 1)
    client = Client()
    for function in (b"one", b"two", b"one", b"one"):
        client.add(function=function)
        client.send_all()
    assert len(client.acknowledged) == 4
    stored = [asked.key for asked in client.rig.asked if asked.kind == "create" and "/functions/" in asked.key]
    assert stored == [client.rig.keys.function(calls.digest(body)) for body in (b"one", b"two", b"one")]


# --- neighbours -------------------------------------------------------------------------------------------------------


def test_a_submit_that_is_interrupted_leaves_the_others_their_futures(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    in_flight = client.add()
    batch = client.take()
    assert batch is not None
    add = FutureRow.add

    def add_and_stop(row: FutureRow, i: int, future: StarburstFuture[Any]) -> None:
        add(row, i, future)
        raise KeyboardInterrupt

    futures = [client.add((0,)), client.add((1,))]
    monkeypatch.setattr(FutureRow, "add", add_and_stop)
    for options in (b"", b"other"):
        with pytest.raises(KeyboardInterrupt):
            client.add((99,), options=options)
    monkeypatch.undo()
    futures += [client.add((2,)), client.add((3,), options=b"other")]
    client.submitter.send(batch)
    client.send_all()
    assert [future.index for future in (in_flight, *futures)] == [0, 1, 2, 3, 4]
    stored = [
        (done, part.position + i, future)
        for done in client.acknowledged[1:]
        for part in done.parts
        for i, future in enumerate(part.futures())
    ]
    assert [future for _, _, future in stored] == futures
    assert [client.rig.call(done.ref, position)[0] for done, position, _ in stored] == [(0,), (1,), (2,), (3,)]


def test_neighbours_are_cut_where_an_object_would_have_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MAX_CALLS_BYTES", 1000)
    client = Client(workers=1)
    first = client.add(function=b"f" * 10)
    in_flight = client.take()
    sizes = [100, 100, 800, 900, 2000, 50, 50]
    futures = [client.add(("x" * size,), function=b"f" * 10) for size in sizes]
    assert in_flight is not None
    client.submitter.send(in_flight)
    client.submitter.close()  # so that everything queued is due
    sent = client.send_all()
    assert [batch.n_tasks for batch in sent] == [2, 1, 1, 1, 2]
    assert [future for batch in (in_flight, *sent) for future in batch.futures()] == [first, *futures]
    assert [
        len(client.rig.call(done.ref, i)[0][0]) for done in client.acknowledged[1:] for i in range(done.ref.n_tasks)
    ] == sizes


def far_ahead(monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client that has sent three full objects, whose workers have a million tasks before what it submits next."""
    monkeypatch.setattr(submitter, "_GATHERS_S", PATIENCE_S)
    client = Client(workers=1)
    client.n_ahead = 1_000_000
    for _ in range(3 * 256):
        client.add()
    client.send_all()
    return client


@pytest.mark.parametrize("end", ["full", "flush", "close"])
def test_a_sender_waits_for_a_full_object_while_enough_tasks_are_ahead(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    client = far_ahead(monkeypatch)
    client.add()
    with ThreadPoolExecutor(2) as threads:
        taken = threads.submit(client.submitter.take)
        wait_until(lambda: client.submitter._full_at == 256)
        if end == "full":
            for _ in range(254):
                client.add()
            assert not taken.done()
            client.add()
        elif end == "flush":
            flushed = threads.submit(client.submitter.flush, PATIENCE_S)
        else:
            client.submitter.close()
        batch = taken.result(PATIENCE_S)
        assert batch is not None
        assert batch.n_tasks == (256 if end == "full" else 1)
        client.submitter.send(batch)
        assert end != "flush" or flushed.result(PATIENCE_S)


@pytest.mark.parametrize(("n_ahead", "priority"), [(1000, 0), (1_000_000, 1)])
def test_no_sender_waits_while_workers_may_or_for_tasks_that_go_first(
    monkeypatch: pytest.MonkeyPatch, n_ahead: int, priority: int
) -> None:
    client = far_ahead(monkeypatch)
    client.n_ahead = n_ahead
    client.options[b""] = CallOptions.of(replace(DEFAULT, priority=priority))
    client.add()
    batch = client.take()
    assert batch is not None
    assert batch.n_tasks == 1


def test_what_was_submitted_long_ago_makes_no_objects_larger() -> None:
    client = Client(workers=4)
    for _ in range(4000):
        client.add()
    client.n_ahead = 4000  # when the last of these is sent, most have not run
    client.send_all()
    client.n_ahead = 0
    for _ in range(100):
        client.add()
    batch = client.take()
    assert batch is not None
    assert batch.n_tasks == 100 // (2 * 4)
