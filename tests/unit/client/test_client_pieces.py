"""Big pieces of calls: each is uploaded once, by any sender, even if calls are cancelled."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from starburst_executor.client.batches import Batch
from starburst_executor.client.pieces import BigCall, KeptPiece, Pieces
from starburst_executor.errors import StoreUnavailable
from starburst_executor.protocol.seal import Sealer
from starburst_executor.testing import Fault
from starburst_executor.worker.call_reader import Arrived, CallReader, Wanted
from tests.unit.client.test_submitter import Client

MB = 2**20


def calls_stored(client: Client) -> list[int]:
    return [line.size for line in client.rig.objects.list(f"{client.rig.keys.folder}calls/")]


def all_calls(client: Client) -> list[object]:
    """The arguments of every task, as workers get them."""
    return [client.rig.call(done.ref, i)[0] for done in client.acknowledged for i in range(done.ref.n_tasks)]


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_an_argument_that_all_calls_share_goes_up_once_and_down_once_for_each_worker() -> None:
    client = Client(workers=2)
    shared = bytes(MB)
    for i in range(1_000):
        client.add((i, shared))
    with client.rig.requests() as counts:
        batches = client.send_all()
    assert counts["create"] == len(batches) + 2  # status objects, the function, the argument
    sent = client.submitter._writer._session.store.requests.snapshot()["bytes_out"]
    assert MB <= sent < 1.25 * MB
    client.rig.asked.clear()
    for _ in range(2):
        session = client.rig.another()
        reader = CallReader(session)
        for done in client.acknowledged:
            seen = client.rig.read(done.key)
            wanted = [Wanted(done.ref, seen, block, range(block.first, block.first + block.n)) for block in seen.calls]
            assert all(isinstance(each, Arrived) for each in reader.get(wanted, 2**30))
        assert session.store.requests.snapshot()["bytes_in"] == MB
    assert [asked.kind for asked in client.rig.asked] == ["get", "get"]


def test_arguments_that_no_calls_share_cost_one_object_for_each_status_object() -> None:
    client = Client()
    for i in range(20):
        client.add((i, bytes([i]) * 100_000))
    batches = client.send_all()
    assert len(batches) == 4
    assert len(calls_stored(client)) == 4
    assert sum(calls_stored(client)) == 20 * 100_000
    assert [args[0] for args in all_calls(client)] == list(range(20))  # type: ignore[index]


def test_what_the_user_changes_before_it_is_sent_is_sent_as_it_was() -> None:
    client = Client()
    mine = bytearray(MB)
    client.add((0, mine))
    mine[0] = 1
    client.add((1, mine))
    client.send_all()
    assert all_calls(client) == [(0, bytearray(MB)), (1, mine)]
    assert sum(calls_stored(client)) == 2 * MB


def test_what_was_stored_long_ago_is_found_again() -> None:
    client = Client()
    for i in range(3):
        client.add((i, bytes(MB)))
        client.send_all()
        gc.collect()
    assert calls_stored(client) == [MB]
    assert all_calls(client) == [(i, bytes(MB)) for i in range(3)]


def test_a_call_waits_with_the_bytes_that_it_alone_brings() -> None:
    known = Pieces(Sealer(b"k" * 32, "s"))
    one, two = (BigCall([b"small", known.keep(bytes(MB))]) for _ in range(2))
    assert len(one) >= MB
    assert len(two) < 100


# --- who stores it ----------------------------------------------------------------------------------------------------


def two_batches(client: Client, one: bytes = bytes(MB), two: bytes = bytes(MB)) -> tuple[Batch, Batch]:
    """The second is cut while the first flies; each has a call with both pieces."""
    client.add((0, one, two))
    first = client.take()
    client.add((1, two, one))
    for i in range(2, 17):
        client.add((i,))
    second = client.take()
    assert first is not None
    assert second is not None
    return first, second


def test_of_two_senders_one_stores_it_and_the_other_waits_for_that() -> None:
    client = Client()
    first, second = two_batches(client)
    thread = threading.Thread(target=client.submitter.send, args=(second,))
    stored = client.rig.keys.calls("0000.0000000000")
    # The second batch is sent while the first one's calls object is on its way.
    client.rig.before("create", stored, thread.start)
    client.submitter.send(first)
    thread.join(30)
    assert not thread.is_alive()
    order = [asked.key.split("/")[2] for asked in client.rig.asked if asked.kind == "create"]
    assert order.count("calls") == 1
    assert order.index("calls") < order.index("status")
    assert calls_stored(client) == [MB]
    assert len(all_calls(client)) == first.n_tasks + second.n_tasks


def test_senders_that_wait_for_each_others_pieces_do_not_wait_for_ever() -> None:
    client = Client()
    first, second = two_batches(client, b"1" * MB, b"2" * MB)
    known = client.submitter.pieces
    place, ones = known.place, known.keep(b"1" * MB)

    def place_each_with_its_own(wanted: KeptPiece, status_id: str, start: int) -> bytes | None:
        """A race, put in order: the first batch has the ones in hand, the second the twos."""
        owner = "0000.0000000000" if wanted is ones else "0000.0000000001"
        body = wanted.body
        place(wanted, owner, 0)
        return body if status_id == owner else None

    known.place = place_each_with_its_own  # type: ignore[method-assign]  # see there
    threads = [threading.Thread(target=client.submitter.send, args=(batch,)) for batch in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(calls_stored(client)) == 2
    assert (0, b"1" * MB, b"2" * MB) in all_calls(client)
    assert (1, b"2" * MB, b"1" * MB) in all_calls(client)


def test_a_cancelled_call_leaves_its_pieces_to_the_next_one() -> None:
    client = Client()
    cancelled = client.add((0, bytes(MB)))
    client.add((1, bytes(MB)))
    client.submitter.cancel_unsent([cancelled])
    client.send_all()
    assert calls_stored(client) == [MB]
    (done,) = client.acknowledged
    assert client.rig.call(done.ref, 1)[0] == (1, bytes(MB))


def test_nothing_is_kept_of_calls_that_are_gone() -> None:
    known = Pieces(Sealer(b"k" * 32, "s"))
    forgotten = weakref.ref(known.keep(bytes(MB)))
    gc.collect()
    assert forgotten() is None
    stored = known.keep(bytes(MB))
    assert known.place(stored, "0000.0000000000", 0) == bytes(MB)
    known.stored([stored])
    assert stored.body == b""
    assert known.keep(bytes(MB)) is stored


def test_a_piece_that_cannot_be_stored_keeps_its_calls_from_being_stored() -> None:
    client = Client()
    first, second = two_batches(client)
    client.rig.plan = lambda asked: Fault.RESET if "/calls/" in asked.key else None
    with pytest.raises(StoreUnavailable):
        client.submitter.send(first)
    client.submitter.fail(StoreUnavailable("gone"))
    with pytest.raises(StoreUnavailable):
        client.submitter.send(second)
    assert not client.acknowledged
