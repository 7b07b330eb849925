"""The log of keys: entries follow one another without gaps, whichever client writes them, and no key gets two tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.records import OnceEntry, decode_once, encode
from starburst_executor.protocol.records.once import ONCE, pack_lengths
from starburst_executor.session.once import OnceLog, open_once
from tests.support.session_rig import Rig


def digest(n: int) -> bytes:
    return n.to_bytes(16, "big")


def entry(keys: list[int], *, sizes: tuple[int, ...] | None = None) -> OnceEntry:
    records = [b"\x80call %d" % n for n in keys]
    return OnceEntry(
        number=0,
        first=0,
        first_object=0,
        sizes=sizes or (len(keys),),
        keys=b"".join(map(digest, keys)),
        arguments=b"".join(digest(n + 1000) for n in keys),
        function="f" * 32,
        function_name="m.f",
        signature="(x)",
        texts=b"",
        lengths=pack_lengths(records),
        records=b"".join(records),
    )


def test_the_log_is_listed_once_among_the_submitters_whoever_opens_it() -> None:
    rig = Rig()
    assert open_once(rig.session) == 1
    assert open_once(rig.another()) == 1
    assert [s.client_id for s in rig.another().manifest.current.submitters] == ["c0", ONCE]


def test_entries_follow_one_another_and_a_client_that_is_late_reads_the_other_one_first() -> None:
    rig = Rig()
    one, other = OnceLog(rig.session), OnceLog(rig.another())
    one.read()
    other.read()
    assert one.append(entry([1, 2, 3], sizes=(2, 1)))
    assert not other.append(entry([4]))
    assert other.find([digest(1), digest(4)]) == {}
    other.read()
    assert other.find([digest(1), digest(3), digest(4)]) == {digest(1): 0, digest(3): 2}
    assert other.append(entry([4, 5]))
    one.read()
    assert (one.n_entries, one.n_tasks, one.n_objects) == (2, 5, 3)
    many = {digest(n): n for n in range(100)}
    assert one.find(many) == {digest(n): n - 1 for n in (1, 2, 3, 4, 5)}
    assert [ref.status_id for n in (0, 3) for ref in one.entry_of(n).refs(1)] == [
        "0001.0000000000", "0001.0000000002", "0001.0000000003",
    ]  # fmt: skip
    assert one.calls_of(one.entry_of(4)) == [b"\x80call 4", b"\x80call 5"]


def test_a_key_that_two_entries_have_is_the_last_ones() -> None:
    rig = Rig()
    log = OnceLog(rig.session)
    log.read()
    assert log.append(entry([1, 2]))
    assert log.append(entry([2]))
    assert log.find([digest(2)]) == {digest(2): 2}
    assert log.find({digest(n): n for n in range(50)})[digest(2)] == 2


def test_a_key_is_found_only_where_a_key_begins() -> None:
    rig = Rig()
    log = OnceLog(rig.session)
    log.read()
    inside = digest(7)[8:] + digest(9)[:8]
    assert log.append(entry([7, 9]))
    assert log.find([inside]) == {}


def test_reading_again_costs_one_request_and_a_first_time_one_an_entry() -> None:
    rig = Rig()
    log = OnceLog(rig.session)
    log.read()
    for n in range(5):
        assert log.append(entry([n]))
    late = OnceLog(rig.another())
    rig.asked.clear()
    late.read()
    assert [asked.kind for asked in rig.asked] == ["list", *["get"] * 6]
    rig.asked.clear()
    late.read()
    assert [asked.kind for asked in rig.asked] == ["get"]


def test_an_entry_that_was_changed_without_the_key_is_refused() -> None:
    rig = Rig()
    log = OnceLog(rig.session)
    log.read()
    assert log.append(entry([1]))
    key = rig.keys.once(0)
    stored = decode_once(rig.objects.get(key).body)
    rig.objects.put(key, encode(replace(stored, keys=digest(2)), "n"))
    with pytest.raises(RecordInvalid, match="seal"):
        OnceLog(rig.another()).read()


def test_a_log_from_which_something_was_deleted_is_refused() -> None:
    rig = Rig()
    log = OnceLog(rig.session)
    log.read()
    for n in range(3):
        assert log.append(entry([n]))
    rig.objects.delete([rig.keys.once(1)])
    with pytest.raises(RecordInvalid, match="gap"):
        OnceLog(rig.another()).read()
