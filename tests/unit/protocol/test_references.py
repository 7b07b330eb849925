"""Shared values: the bytes that are stored, and what a process makes of a ref."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from starburst_executor import DependencyFailed, SharedRef
from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol import calls, pieces, references
from starburst_executor.protocol.pieces import Shared
from starburst_executor.testing import InlineExecutor

NAME = "5f" * 32
REF = SharedRef("a-session", NAME, 100, 16)
SHARED = Shared("a-session", bytes.fromhex(NAME), 100, 16)
MINIMAL = 100_000


def stored(value: object) -> memoryview:
    return memoryview(b"".join(references.lay(value).views))


def test_arrays_of_every_size_are_buffers_at_aligned_places_and_come_back_as_read_only_views() -> None:
    value = {"a": np.arange(3_000.0), "b": np.arange(9_001, dtype=np.int8), "small": np.arange(3), "0-d": np.array(5)}
    body = stored({**value, "text": "x", "empty": np.zeros((0, 3))})
    pickled, buffers = references.open_laid(body)
    assert [buffer.nbytes for buffer in buffers] == [24_000, 9_001, 24, 8]
    assert len(pickled) < 1_000
    loaded = pickle.loads(pickled, buffers=buffers)
    assert loaded["empty"].shape == (0, 3)
    for name, array in value.items():
        assert np.array_equal(loaded[name], array)
        assert not loaded[name].flags.owndata
        assert not loaded[name].flags.writeable
    whole = np.frombuffer(body, np.uint8)
    assert (loaded["a"].ctypes.data - whole.ctypes.data) % 64 == 0


def test_arrays_that_numpy_would_copy_into_the_pickle_are_buffers_too(tmp_path: Path) -> None:
    grid = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "grid.npy", grid)
    in_file = np.load(tmp_path / "grid.npy", mmap_mode="r")
    value = [grid[:, ::2], grid[::-1], np.asfortranarray(grid), in_file, in_file[:, 1]]
    pickled, buffers = references.open_laid(stored(value))
    loaded = pickle.loads(pickled, buffers=buffers)
    assert len(buffers) == len(value)
    for array, expected in zip(loaded, value, strict=True):
        assert type(array) is np.ndarray
        assert np.array_equal(array, expected)
        assert not array.flags.writeable


@pytest.mark.parametrize("cut", [0, 5, 11, 30, -1])
def test_bytes_that_were_cut_are_refused(cut: int) -> None:
    body = stored(np.arange(3_000.0))
    with pytest.raises(RecordInvalid, match="shared value"):
        references.open_laid(body[:cut])


def test_parts_are_the_bytes_in_order_whatever_their_size() -> None:
    laid = references.lay([np.arange(1_000.0), np.arange(2_000.0)])
    whole = b"".join(laid.views)
    for part_bytes in (7, 64, 1_000, 10**6):
        parts = [b"".join(laid.part(at, at + part_bytes)) for at in range(0, len(whole), part_bytes)]
        assert b"".join(parts) == whole
        assert {len(part) for part in parts[:-1]} <= {part_bytes}


def test_a_value_that_contains_a_ref_is_refused() -> None:
    with pytest.raises(ValueError, match="contains the ref of another"):
        references.lay({"inner": REF})


def test_calls_and_functions_list_the_refs_that_they_contain_each_once() -> None:
    def function() -> object:
        return REF

    call = calls.dump_call((REF, {"nested": [REF]}), {})
    assert pieces.shared_in(call) == (SHARED,)
    assert calls.shared_of(calls.dump_function(function, "2026-04/" + "0" * 64)) == (SHARED,)
    big = calls.dump_call_in_parts((REF, "x" * MINIMAL), {}, bytes)
    assert isinstance(big, list)
    assert [part for part in big if isinstance(part, Shared)] == [SHARED]
    assert pieces.shared_in(calls.dump_call((1,), {})) == calls.shared_of(calls.dump_function(pow)) == ()


def test_a_ref_is_its_value_in_a_process_that_was_given_it_and_itself_elsewhere() -> None:
    call = calls.dump_call((REF,), {"k": [REF]})
    assert calls.load_call(call) == ((REF,), {"k": [REF]})
    with references.values_from({NAME: 7}.__getitem__):
        assert calls.load_call(call) == ((7,), {"k": [7]})
    with references.values_from({}.__getitem__):
        assert calls.load_call(call) == ((REF,), {"k": [REF]})


def test_only_the_ref_that_put_returned_deletes_and_then_it_cannot_be_submitted() -> None:
    deleted: list[SharedRef] = []
    ref = SharedRef("a-session", NAME, 100, 16, deleted.append)
    copied = pickle.loads(pickle.dumps(ref))
    assert copied == ref
    assert hash(copied) == hash(ref)
    with pytest.raises(RuntimeError, match="`put` returned"):
        copied.delete()
    ref.delete()
    assert deleted == [ref]
    with pytest.raises(ValueError, match=r"deleted by `ref\.delete\(\)`"):
        calls.dump_call((ref,), {})


@pytest.mark.parametrize(
    "raw",
    [
        ("shared",),
        ("shared", "s", b"short", 1, 1),
        ("shared", 1, b"n" * 32, 1, 1),
        ("shared", "s", b"n" * 32, -1, 1),
        ("shared", "s", b"n" * 32, 1, 0),
    ],
)
def test_a_record_with_a_wrong_ref_is_refused(raw: tuple[object, ...]) -> None:
    with pytest.raises(RecordInvalid):
        pieces.decode(pieces.encode([b"\x80", raw]))  # type: ignore[list-item]  # as from the store


def test_the_inline_executor_shares_values_as_workers_do() -> None:
    def look(array: np.ndarray, nested: dict[str, np.ndarray]) -> tuple[bool, float, bool]:
        return array.flags.writeable, float(array.sum()), nested["a"] is array

    with InlineExecutor() as executor:
        ref = executor.put(np.ones(10_000))
        assert executor.submit(look, ref, {"a": ref}).result() == (False, 10_000.0, True)
        total = executor.submit(float, executor.submit(sum, [1, 2]))
        assert executor.submit(pow, total, executor.submit(int, 2)).result() == 9.0
        failed = executor.submit(float, executor.submit(divmod, 1, 0)).exception()
        assert isinstance(failed, DependencyFailed)
        assert isinstance(failed.__cause__, ZeroDivisionError)
        ref.delete()
        assert isinstance(executor.submit(look, ref, {}).exception(), ValueError)
