"""What a worker asks of the store for the calls of a slice, what it keeps, and what it makes of spoilt ones."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from starburst_executor.errors import PayloadError, RecordInvalid, StoreUnavailable
from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.protocol.pieces import Piece
from starburst_executor.protocol.seal import SEAL_BYTES
from starburst_executor.protocol.spans import blocks
from starburst_executor.protocol.spans.record import CallBlock, Located, Place, Span, Status
from starburst_executor.testing import Fault
from starburst_executor.worker.call_reader import Arrived, CallReader, Wanted
from tests.support.session_rig import Rig

REF = StatusRef(0, 0, 8, 0)
STATUS = Status(0, 0, ("f",), (Span(8),))
KB = 1024
PATIENCE_S = 30.0


class Stage:
    """A session with `calls/` objects that tests fill, and the arguments of one worker."""

    def __init__(self, *, keep_bytes: int = 2**20) -> None:
        self.rig = Rig()
        self.reader = CallReader(self.rig.session, keep_bytes=keep_bytes)

    def store(self, *bodies: bytes, group: str = REF.status_id) -> list[Piece]:
        """Pieces side by side in one object."""
        self.rig.objects.put(self.rig.keys.calls(group), b"".join(bodies))
        starts = [sum(map(len, bodies[:i])) for i in range(len(bodies))]
        return [
            Piece(pieces.name_of(self.rig.sealer, b), group, start, len(b))
            for b, start in zip(bodies, starts, strict=True)
        ]

    def wanted(self, *parts: Piece | bytes, position: int = 0) -> Wanted:
        """A call in pieces, in a block of its own."""
        return self.block([pieces.encode(parts)], first=position)

    def block(self, payloads: Sequence[bytes], *, first: int = 0, take: Sequence[int] = ()) -> Wanted:
        """Calls that share an inline block, or the calls at these positions."""
        sealed = b"".join(self.sealed(payloads, first=first))
        return wanted(sealed, len(payloads), first=first, take=take)

    def sealed(self, payloads: Sequence[bytes], *, first: int = 0) -> list[bytes | memoryview]:
        return blocks.sealed_calls(self.rig.sealer, 0, first, "f", payloads)

    def get(self, wanted: Sequence[Wanted], at_most: int = 2**30) -> list[Arrived]:
        found = self.reader.get(wanted, at_most)
        assert all(isinstance(each, Arrived) for each in found), found
        return [each for each in found if isinstance(each, Arrived)]

    @property
    def n_gets(self) -> int:
        return sum(asked.kind == "get" for asked in self.rig.asked)


def wanted(place: Place, n: int, *, first: int = 0, take: Sequence[int] = ()) -> Wanted:
    return Wanted(REF, STATUS, CallBlock(first, n, 0, place), take or range(first, first + n))


def body(number: int, n_bytes: int = 100 * KB) -> bytes:
    return bytes([number]) * n_bytes


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_small_calls_ask_for_nothing() -> None:
    stage = Stage()
    dumped = [calls.dump_call((i, 2), {}) for i in range(3)]
    assert [each.call for each in stage.get([stage.block(dumped), stage.block(dumped, take=[1])])] == [
        *dumped,
        dumped[1],
    ]
    assert stage.n_gets == 0


def test_what_lies_side_by_side_is_read_in_one_range() -> None:
    stage = Stage()
    refs = stage.store(*(body(i) for i in range(6)))
    got = stage.get([stage.wanted(b"a", ref, b"z") for ref in refs[1:5]])
    assert [each.pieces for each in got] == [((refs[i].name, body(i)),) for i in range(1, 5)]
    assert stage.n_gets == 1
    assert stage.rig.session.store.requests.snapshot()["bytes_in"] == 400 * KB


def test_gaps_and_other_objects_are_ranges_of_their_own() -> None:
    stage = Stage()
    refs = stage.store(*(body(i) for i in range(4)))
    (other,) = stage.store(body(9), group="0000.0000000009")
    stage.get([stage.wanted(refs[0], refs[1], refs[3], other)])
    assert stage.n_gets == 3


def test_a_range_is_not_longer_than_is_good_for_memory() -> None:
    stage = Stage()
    refs = stage.store(*(body(i, 9 * KB * KB) for i in range(3)))
    stage.get([stage.wanted(*refs)])
    assert stage.n_gets == 3


def test_blocks_that_were_too_big_to_inline_are_read_together() -> None:
    stage = Stage()
    dumped = [calls.dump_call(([i] * 20_000,), {}) for i in range(6)]
    sealed = [b"".join(stage.sealed(dumped[i : i + 2], first=i)) for i in (0, 2, 4)]
    stage.store(*sealed)
    places = [Located("", sum(map(len, sealed[:i])), len(sealed[i])) for i in range(3)]
    got = stage.get([wanted(place, 2, first=2 * i) for i, place in enumerate(places)])
    assert [each.call for each in got] == dumped
    assert stage.n_gets == 1


def test_a_block_of_which_calls_are_taken_by_and_by_is_read_once() -> None:
    stage = Stage()
    dumped = [calls.dump_call((i,), {}) for i in range(8)]
    sealed = b"".join(stage.sealed(dumped))
    stage.store(sealed)
    place = Located("", 0, len(sealed))
    for take in ([0], [1, 2], [4, 6], [7]):
        assert [each.call for each in stage.get([wanted(place, 8, take=take)])] == [dumped[i] for i in take]
    assert stage.n_gets == 1


def test_as_many_blocks_come_as_may_be_in_memory_and_one_at_least() -> None:
    stage = Stage()
    sealed = [b"".join(stage.sealed([body(i)], first=i)) for i in range(4)]
    stage.store(*sealed)
    many = [wanted(Located("", sum(map(len, sealed[:i])), len(sealed[i])), 1, first=i) for i in range(4)]
    assert len(stage.reader.get(many, 150 * KB)) == 2
    assert len(stage.reader.get(many, 1)) == 1


def test_as_many_calls_come_as_may_be_in_memory_and_one_at_least() -> None:
    stage = Stage()
    refs = stage.store(*(body(i) for i in range(6)))
    wanted = [stage.wanted(ref) for ref in (*refs[:2], refs[0], *refs[2:])]
    # The third one brings nothing that the first has not brought.
    assert len(stage.get(wanted, at_most=250 * KB)) == 4
    assert len(stage.get(wanted, at_most=1)) == 1


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_piece_is_read_once() -> None:
    stage = Stage()
    (ref,) = stage.store(body(1))
    for i in range(5):
        (got,) = stage.get([stage.wanted(b"%d" % i, ref)])
        assert got.pieces == ((ref.name, body(1)),)
    assert stage.n_gets == 1


def test_what_was_not_wanted_for_longest_goes_first() -> None:
    stage = Stage(keep_bytes=350 * KB)
    refs = stage.store(*(body(i) for i in range(4)))
    for i in (0, 1, 2, 0, 3):
        stage.get([stage.wanted(refs[i])])
    assert stage.n_gets == 4
    stage.get([stage.wanted(refs[0], refs[2], refs[3])])
    assert stage.n_gets == 4
    stage.get([stage.wanted(refs[1])])
    assert stage.n_gets == 5


def test_what_a_call_needs_is_kept_however_big() -> None:
    stage = Stage(keep_bytes=1)
    refs = stage.store(*(body(i) for i in range(3)))
    for _ in range(3):
        stage.get([stage.wanted(*refs[:2])])
    assert stage.n_gets == 1
    stage.get([stage.wanted(refs[2])])
    stage.get([stage.wanted(refs[0])])
    assert stage.n_gets == 3


def slots(stage: Stage, *wanted: Wanted) -> list[list[object]]:
    """As many slots, all of which have asked before the first answer comes."""
    answers: list[list[object]] = []
    asked = threading.Semaphore(0)
    are_many = threading.Event()

    def ask(each: Wanted) -> None:
        asked.release()
        answers.append(list(stage.reader.get([each], 2**30)))

    threads = [threading.Thread(target=ask, args=(each,)) for each in wanted]

    def wait_for_all() -> None:
        if not are_many.is_set():
            are_many.set()
            for thread in threads[1:]:
                thread.start()
            for _ in threads:
                assert asked.acquire(timeout=PATIENCE_S)

    stage.rig.before("get", stage.rig.keys.calls(REF.status_id), wait_for_all)
    threads[0].start()
    assert are_many.wait(PATIENCE_S)
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    return answers


def test_of_slots_that_want_the_same_one_reads_it() -> None:
    stage = Stage()
    (ref,) = stage.store(body(1))
    answers = slots(stage, *[stage.wanted(ref)] * 4)
    assert stage.n_gets == 1
    assert {type(answer) for (answer,) in answers} == {Arrived}


def test_slots_that_want_what_another_reads_and_more_get_both() -> None:
    stage = Stage()
    refs = stage.store(body(1), body(2), body(3))
    answers = slots(stage, stage.wanted(refs[0], refs[1]), stage.wanted(refs[1], refs[2]), stage.wanted(*refs))
    assert {type(answer) for (answer,) in answers} == {Arrived}
    assert stage.rig.session.store.requests.snapshot()["bytes_in"] == 300 * KB


# --- what can be wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoilt", [b"x" * 100 * KB, b"", body(1)[:-1]])
def test_a_piece_that_is_not_what_its_name_says_costs_its_calls_alone(spoilt: bytes) -> None:
    stage = Stage()
    (bad,) = stage.store(body(1))
    (good,) = stage.store(body(2), group="0000.0000000009")
    stage.rig.objects.put(stage.rig.keys.calls(REF.status_id), spoilt)
    wanted = [stage.wanted(bad), stage.wanted(good, position=1), stage.wanted(good, bad, position=2)]
    one, two, three = stage.reader.get(wanted, 2**30)
    assert isinstance(two, Arrived)
    for each, task in ((one, "0-0"), (three, "0-2")):
        assert isinstance(each, RecordInvalid)
        assert f"task={task}" in str(each)
    stage.store(body(1))
    assert isinstance(stage.reader.get(wanted, 2**30)[0], Arrived)


def test_a_piece_that_is_missing_costs_its_calls_alone() -> None:
    stage = Stage()
    (ref,) = stage.store(body(1))
    stage.rig.objects.delete([stage.rig.keys.calls(REF.status_id)])
    small = stage.wanted(b"\x80")
    one, two = stage.reader.get([stage.wanted(ref), small], 2**30)
    assert isinstance(one, PayloadError)
    assert "task=0-0" in str(one)
    assert isinstance(two, Arrived)


def test_a_record_that_was_changed_names_no_pieces() -> None:
    stage = Stage()
    (ref,) = stage.store(body(1))
    place = stage.wanted(ref).block.place
    assert isinstance(place, bytes)
    (got,) = stage.reader.get([wanted(place[:-1] + bytes([place[-1] ^ 1]), 1)], 2**30)
    assert isinstance(got, RecordInvalid)
    assert stage.n_gets == 0


@pytest.mark.parametrize("spoilt", [0, SEAL_BYTES, SEAL_BYTES + 3, -1])
def test_a_flipped_byte_costs_the_tasks_of_its_block_alone(spoilt: int) -> None:
    stage = Stage()
    sealed = bytearray(b"".join(stage.sealed([calls.dump_call((i,), {}) for i in range(3)])))
    sealed[spoilt] ^= 1
    fine = stage.block([calls.dump_call((3,), {})], first=3)
    *bad, good = stage.reader.get([wanted(bytes(sealed), 3, take=[0, 2]), fine], 2**30)
    assert isinstance(good, Arrived)
    assert [type(each) for each in bad] == [RecordInvalid] * 2
    assert [task in str(each) for each, task in zip(bad, ("task=0-0", "task=0-2"), strict=True)] == [True, True]


def test_a_block_of_another_place_is_not_opened() -> None:
    stage = Stage()
    moved = stage.block([calls.dump_call((i,), {}) for i in range(2)], first=2)
    for first, n in ((0, 2), (2, 1)):
        (got, *_) = stage.reader.get([wanted(moved.block.place, n, first=first)], 2**30)
        assert isinstance(got, RecordInvalid)


def test_an_absent_call_costs_its_task_alone() -> None:
    stage = Stage()
    call = calls.dump_call((1,), {})
    one, two, three = stage.reader.get([stage.block([call, b"", call])], 2**30)
    assert isinstance(two, PayloadError)
    assert "task=0-1" in str(two)
    assert isinstance(one, Arrived)
    assert isinstance(three, Arrived)


def test_a_read_that_failed_is_tried_again_by_whoever_wants_it_next() -> None:
    stage = Stage()
    (ref,) = stage.store(body(1))
    stage.rig.plan = lambda asked: Fault.RESET if asked.kind == "get" else None
    with pytest.raises(StoreUnavailable):
        stage.get([stage.wanted(ref)])
    stage.rig.plan = lambda _: None
    assert stage.get([stage.wanted(ref)])[0].pieces == ((ref.name, body(1)),)
