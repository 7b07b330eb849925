"""What every object store promises (`store/base.py`), on each of them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from starburst_executor.errors import ObjectNotFound, PreconditionFailed
from starburst_executor.store.base import ObjectStore, Stored
from starburst_executor.store.open import open_store
from starburst_executor.store.patient import PatientStore
from tests.contract.stores import append_mark
from tests.support.moto_server import ROOT

KEY = "sessions/s-1/status/0001/one-1"
BIG = bytes(range(256)) * (3 << 14)  # 12 MB: chunks on SQLite, three parts on S3


def read(store: ObjectStore, key: str = KEY) -> Stored:
    stored = store.get(key)
    assert stored is not None
    return stored


# --------------------------------------------------------------------------------------------------- one at a time


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_is_created_is_read_back(store: ObjectStore, kind: type) -> None:
    etag = store.create(KEY, kind(b"first"))
    assert read(store) == Stored(b"first", etag)
    assert type(read(store).body) is bytes


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    etag = store.create(KEY, b"")
    assert read(store) == Stored(b"", etag)
    assert store.get(KEY, start=0, length=10) == Stored(b"", etag)


def test_create_is_refused_where_there_is_an_object(store: ObjectStore) -> None:
    etag = store.create(KEY, b"first")
    with pytest.raises(PreconditionFailed):
        store.create(KEY, b"second")
    assert read(store) == Stored(b"first", etag)


def test_swap_replaces_what_was_expected(store: ObjectStore) -> None:
    first = store.create(KEY, b"first")
    second = store.swap(KEY, b"second", first)
    assert second != first
    assert read(store) == Stored(b"second", second)


def test_swap_is_refused_where_another_was_faster(store: ObjectStore) -> None:
    first = store.create(KEY, b"first")
    second = store.swap(KEY, b"second", first)
    with pytest.raises(PreconditionFailed):
        store.swap(KEY, b"third", first)
    assert read(store) == Stored(b"second", second)


def test_swap_of_nothing_makes_nothing(store: ObjectStore) -> None:
    etag = store.create(KEY, b"first")
    store.delete([KEY])
    with pytest.raises(ObjectNotFound):
        store.swap(KEY, b"second", etag)
    with pytest.raises(ObjectNotFound):
        store.get(KEY)


def test_put_asks_for_nothing(store: ObjectStore) -> None:
    assert store.put(KEY, b"first") == read(store).etag
    second = store.put(KEY, b"second")
    assert read(store) == Stored(b"second", second)
    third = store.swap(KEY, b"third", second)
    assert store.put(KEY, b"fourth") != third


def test_etags_do_not_come_back(store: ObjectStore) -> None:
    etags = [store.create(KEY, b"0")]
    for number in range(1, 10):
        etags.append(store.swap(KEY, b"%d" % number, etags[-1]))
    assert len(set(etags)) == len(etags)


def test_reading_nothing_is_an_error(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        store.get(KEY)
    with pytest.raises(ObjectNotFound):
        store.get_if_changed(KEY, "some-etag")


def test_reading_what_is_known_says_so(store: ObjectStore) -> None:
    first = store.create(KEY, b"first")
    assert store.get_if_changed(KEY, first) is None
    assert store.get_if_changed(KEY, first, start=1, length=2) is None
    second = store.swap(KEY, b"second", first)
    assert store.get_if_changed(KEY, first) == Stored(b"second", second)


@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (0, 3), (2, 3), (2, None), (4, 100), (9, 1), (10, 5), (50, None), (3, 0), (0, 0)]
)
def test_a_range_is_a_slice(store: ObjectStore, start: int, length: int | None) -> None:
    etag = store.create(KEY, b"0123456789")
    expected = b"0123456789"[start : None if length is None else start + length]
    assert store.get(KEY, start=start, length=length) == Stored(expected, etag)


def test_big_bodies(store: ObjectStore) -> None:
    etag = store.create(KEY, memoryview(BIG))
    assert read(store) == Stored(BIG, etag)
    assert [line.size for line in store.list("sessions/s-1/")] == [len(BIG)]
    for start, length in [(0, 10), (1 << 20, 1 << 20), ((1 << 20) - 3, 7), (len(BIG) - 5, 50), (5, 11 << 20)]:
        assert store.get(KEY, start=start, length=length) == Stored(BIG[start : start + length], etag)
    assert store.get(KEY, start=len(BIG) + 1) == Stored(b"", etag)
    assert store.get_if_changed(KEY, etag) is None


def test_big_bodies_are_conditional_too(store: ObjectStore) -> None:
    first = store.create(KEY, b"small")
    with pytest.raises(PreconditionFailed):
        store.create(KEY, BIG)
    second = store.swap(KEY, BIG, first)
    with pytest.raises(PreconditionFailed):
        store.swap(KEY, BIG[1:], first)
    assert read(store) == Stored(BIG, second)
    third = store.swap(KEY, b"small again", second)
    assert read(store) == Stored(b"small again", third)
    store.put(KEY, BIG)
    assert read(store).body == BIG


# ------------------------------------------------------------------------------------------------ listing, deleting


def test_a_listing_has_all_pages_sorted(store: ObjectStore) -> None:
    keys = [f"sessions/s-1/status/0001/{number:03d}" for number in range(30)]
    etags = {key: store.put(key, b"x" * number) for number, key in enumerate(reversed(keys))}
    lines = store.list("sessions/s-1/status/")
    assert [line.key for line in lines] == keys
    assert [line.size for line in lines] == [*range(29, -1, -1)]
    assert {line.key: line.etag for line in lines} == etags
    assert all(line.modified_at > 1.7e9 for line in lines)


def test_a_listing_has_what_starts_with_the_prefix(store: ObjectStore) -> None:
    for key in ("sessions/s-1/a/1", "sessions/s-1/ab/2", "sessions/s-1/b", "sessions/s-11/a/3", "probes/4"):
        store.put(key, key.encode())
    assert [line.key for line in store.list("sessions/s-1/a/")] == ["sessions/s-1/a/1"]
    assert [line.key for line in store.list("sessions/s-1/")] == [
        "sessions/s-1/a/1",
        "sessions/s-1/ab/2",
        "sessions/s-1/b",
    ]
    assert [line.key[-1] for line in store.list("sessions/")] == ["1", "2", "b", "3"]
    assert [line.key for line in store.list("probes/")] == ["probes/4"]
    assert store.list("sessions/s-2/") == []
    assert store.list("nothing/") == []


def test_folders_are_named_once(store: ObjectStore) -> None:
    for key in ("sessions/s-2/manifest", "sessions/s-1/manifest", "sessions/s-1/status/0001/x", "probes/1"):
        store.put(key, key.encode())
    for number in range(20):
        store.put(f"sessions/s-1/workers/w{number}", b"%d" % number)
    assert store.list_folders("sessions/") == ["s-1", "s-2"]
    assert store.list_folders("sessions/s-1/") == ["status", "workers"]
    assert store.list_folders("sessions/s-1/status/") == ["0001"]
    assert store.list_folders("sessions/s-3/") == []


def test_deleting(store: ObjectStore) -> None:
    keys = [f"sessions/s-1/x/{number}" for number in range(5)]
    for key in keys:
        store.create(key, key.encode())
    store.delete(iter([*keys[:3], "sessions/s-1/never", "sessions/s-9/never"]))
    assert [line.key for line in store.list("sessions/s-1/")] == keys[3:]
    store.delete(keys)
    store.delete(keys)
    store.delete([])
    assert store.list("sessions/s-1/") == []
    assert store.list_folders("sessions/") == []
    store.create(keys[0], b"again")
    assert read(store, keys[0]).body == b"again"


def test_closing_twice_is_harmless(store: ObjectStore) -> None:
    store.put(KEY, b"x")
    store.close()


def test_the_url_opens_the_same_store(store: ObjectStore) -> None:
    etag = store.put(KEY, b"x")
    other = open_store(store.url)
    assert other.url == store.url
    assert other.get(KEY) == Stored(b"x", etag)
    assert other.get_if_changed(KEY, etag) is None
    other.swap(KEY, b"y", etag)
    other.close()
    assert read(store).body == b"y"


# ----------------------------------------------------------------------------------------------------------- races


def test_one_of_many_creates_wins(store: ObjectStore) -> None:
    together = Barrier(8)

    def create(number: int) -> bool:
        together.wait()
        try:
            store.create(KEY, b"%d" % number)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [*pool.map(create, range(8))]
    assert won.count(True) == 1
    assert read(store).body == b"%d" % won.index(True)


def test_one_of_many_swaps_wins(store: ObjectStore) -> None:
    etag = store.create(KEY, b"start")
    together = Barrier(8)

    def swap(number: int) -> bool:
        together.wait()
        try:
            store.swap(KEY, b"%d" % number, etag)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [*pool.map(swap, range(8))]
    assert won.count(True) == 1
    assert read(store).body == b"%d" % won.index(True)


def test_no_mark_of_many_threads_is_lost(store: ObjectStore) -> None:
    store.create(KEY, b"start\n")
    marks = [b"%d-%d" % pair for pair in itertools.product(range(4), range(8))]
    with ThreadPoolExecutor(4) as pool:
        assert len([*pool.map(lambda mark: append_mark(store, KEY, mark), marks)]) == len(marks)
    assert sorted(read(store).body.split()) == sorted([b"start", *marks])


def test_no_mark_of_many_processes_is_lost(store: ObjectStore) -> None:
    if isinstance(store, PatientStore) or store.url.startswith("memory:"):
        pytest.skip("lives in this process")
    n_marks = 100 if store.url.startswith("sqlite:") else 10
    store.create(KEY, b"start\n")
    command = [sys.executable, "-m", "tests.contract.stores", store.url, KEY]
    running = [subprocess.Popen([*command, name, str(n_marks)], cwd=ROOT) for name in "abc"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    expected = [b"start", *(f"{name}-{number}".encode() for name in "abc" for number in range(n_marks))]
    assert sorted(read(store).body.split()) == sorted(expected)


def test_a_forked_child_uses_the_store(store: ObjectStore) -> None:
    if store.url.startswith("memory:"):
        pytest.skip("lives in this process")
    etag = store.create(KEY, b"parent")
    child = os.fork()
    if child == 0:
        try:
            store.swap(KEY, b"child", etag)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert read(store).body == b"child"
    append_mark(store, KEY, b"parent-again")
