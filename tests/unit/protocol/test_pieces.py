"""Calls in pieces: which bytes are parted, that equal ones are found again, and that what comes back is the call."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from starburst_executor.errors import PayloadError, RecordInvalid
from starburst_executor.protocol import calls, pieces
from starburst_executor.protocol.pieces import PIECE_BYTES, Piece
from starburst_executor.protocol.seal import Sealer
from starburst_executor.worker.runner.loader import Loader

GROUP = "0000.0000000000"
SEALER = Sealer(b"k" * 32, "a-session")


class Array:
    """Pickled as NumPy's arrays are: by a buffer of its own."""

    def __init__(self, data: bytearray | memoryview) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Array, (pickle.PickleBuffer(self.data),)


class Kept:
    """Keeps pieces by name, as a store would, and says which call named which."""

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}

    def keep(self, body: bytes | memoryview) -> Piece:
        name = pieces.name_of(SEALER, body)
        self.bodies[name] = bytes(body)
        return Piece(name, GROUP, 0, len(body))

    def dump(self, *args: Any, **kwargs: Any) -> bytes:
        parts = calls.dump_call_in_parts(args, kwargs, self.keep)
        return parts if isinstance(parts, bytes) else pieces.encode(parts)

    def load(self, call: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return calls.load_call(call, self.bodies)

    @property
    def sizes(self) -> list[int]:
        return sorted(map(len, self.bodies.values()))


# --- which bytes are parted -------------------------------------------------------------------------------------------

BIG = [
    b"b" * 100_000,
    "text " * 20_000,
    bytearray(b"a" * 100_000),
    [float(i) for i in range(20_000)],
    {"rows": [{"name": f"n{i}", "of": i} for i in range(10_000)]},
]


@pytest.mark.parametrize("value", BIG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("place", [lambda v: ((v,), {}), lambda v: ((1, "x", v), {"k": 2}), lambda v: ((), {"k": v})])
def test_a_big_value_is_parted_and_comes_back(value: object, place: Callable[[object], Any]) -> None:
    kept = Kept()
    args, kwargs = place(value)
    call = kept.dump(*args, **kwargs)
    assert len(call) < 5_000
    assert sum(kept.sizes) > 90_000
    assert kept.load(call) == (args, kwargs)


@pytest.mark.parametrize("args", [(), (1,), (b"x" * 60_000,), ([1, 2], {"a": 3}), ([b"x" * 30_000] * 3,)])
def test_what_is_not_big_is_one_pickle(args: tuple[Any, ...]) -> None:
    kept = Kept()
    call = kept.dump(*args)
    assert not kept.bodies
    assert call == calls.dump_call(args, {})
    assert calls.load_call(call) == (args, {})


def test_a_piece_is_what_the_user_has_and_nothing_around_it() -> None:
    kept = Kept()
    kept.dump({"x": Array(bytearray(b"x" * PIECE_BYTES)), "y": b"y" * PIECE_BYTES}, 1)
    assert kept.sizes == [PIECE_BYTES, PIECE_BYTES]


def test_an_array_of_any_shape_is_one_piece() -> None:
    kept = Kept()
    view = memoryview(bytearray(range(200)) * 500).cast("B", (500, 200))
    ((back,), _) = kept.load(kept.dump(Array(view)))
    assert kept.sizes == [100_000]
    assert bytes(back.data) == view.tobytes()


# --- what is found again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BIG, ids=lambda value: type(value).__name__)
def test_the_values_before_it_do_not_change_a_big_values_pieces(value: object) -> None:
    kept = Kept()
    kept.dump(1, "a", value, k=[1])
    sizes = kept.sizes
    for other in (2, 2**40):
        kept.dump(other, "another text", value, k=[other])
    assert kept.sizes == sizes


def test_a_longer_list_shares_what_it_has_in_common() -> None:
    kept = Kept()
    kept.dump(0, [float(i) for i in range(50_000)])
    n_before = sum(kept.sizes)
    kept.dump(0, [float(i) for i in range(51_000)])
    assert sum(kept.sizes) - n_before < 100_000


# --- what comes back --------------------------------------------------------------------------------------------------


def test_values_that_shared_an_object_share_it_again() -> None:
    kept = Kept()
    shared = [float(i) for i in range(20_000)]
    (one, two), named = kept.load(kept.dump(shared, {"same": shared}, also=shared))
    assert two["same"] is one
    assert named["also"] is one


def test_each_time_it_is_a_copy_that_may_be_changed() -> None:
    kept = Kept()
    call = kept.dump(Array(bytearray(100_000)), bytearray(100_000))
    (array, raw), _ = kept.load(call)
    array.data[0] = raw[0] = 1
    (array, raw), _ = kept.load(call)
    assert (array.data[0], raw[0]) == (0, 0)


def test_what_the_user_changes_afterwards_is_not_sent() -> None:
    kept = Kept()
    mine = bytearray(100_000)
    call = kept.dump(Array(mine))
    mine[0] = 1
    ((array,), _) = kept.load(call)
    assert array.data[0] == 0


def test_what_an_initializer_left_is_there_for_functions_in_big_calls() -> None:
    kept = Kept()
    loader = Loader(kept.bodies)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def initialize():\n global left\n left = 5\ndef read(): return left", namespace)
    loader.initialize(calls.dump_function(namespace["initialize"]))
    (_, read), _ = loader.load_call(kept.dump([0.5] * 20_000, namespace["read"]))
    assert read() == 5


def test_pickles_that_are_read_by_lines_are_read() -> None:
    old = pickle.dumps((("a", 1.5), {"k": 2}), protocol=0)
    for cut in (1, len(old) // 2):
        assert calls.load_call(pieces.encode([old[:cut], old[cut:]])) == (("a", 1.5), {"k": 2})


def test_a_missing_piece_is_said() -> None:
    with pytest.raises(PayloadError, match="missing"):
        calls.load_call(Kept().dump(b"x" * 100_000), {})


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_says_its_parts_in_order() -> None:
    parts = [b"small", Piece(b"n" * 32, GROUP, 5, 70_000), b""]
    assert pieces.decode(pieces.encode(parts)) == parts
    assert pieces.decode(calls.dump_call((1,), {})) is None


@pytest.mark.parametrize(
    "parts",
    [
        5, ["text"], [[b"n" * 32, GROUP, 0]], [[b"n" * 31, GROUP, 0, 1]], [[b"n" * 32, "../0", 0, 1]],
        [[b"n" * 32, GROUP, -1, 1]], [[b"n" * 32, GROUP, 0, -1]], [[b"n" * 32, GROUP, 0, 1.5]], [["n" * 32, GROUP, 0, 1]],
    ],
)  # fmt: skip
def test_a_record_that_is_none_is_refused(parts: object) -> None:
    with pytest.raises(RecordInvalid):
        pieces.decode(b"R" + msgpack.packb(parts))


def test_a_record_that_is_cut_is_refused() -> None:
    with pytest.raises(RecordInvalid):
        pieces.decode(pieces.encode([b"small"])[:-1])


def test_names_tell_sessions_apart() -> None:
    assert pieces.name_of(SEALER, b"x") == pieces.name_of(SEALER, memoryview(b"x"))
    assert pieces.name_of(SEALER, b"x") != pieces.name_of(Sealer(b"k" * 32, "another"), b"x")
