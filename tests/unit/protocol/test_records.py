"""Manifest, beats, bell, outcome and bootstrap: what is written comes back, and whatever else comes is refused."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.config import Timings
from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.launch.bootstrap import Bootstrap, read_bootstrap, write_bootstrap
from starburst_executor.protocol import outcomes, records
from starburst_executor.protocol.records import (
    Bell,
    ClientBeat,
    Latency,
    Launch,
    Manifest,
    Running,
    SessionState,
    Submitter,
    WorkerBeat,
    WorkerState,
)
from tests.support.cpu_time import within_cpu_s
from tests.support.plain_values import plain_values

MANIFEST = Manifest(
    session_id="20240101-000000-abcd",
    kind=records.DETACHED,
    created_at=1.7e9,
    python="3.11",
    library="0.1",
    token=b"\x00\xff",
    slots=50,
    timings=Timings.embedded(),
    state=SessionState.BROKEN,
    reason="no worker could be started",
    retries=2,
    task_timeout=1.5,
    max_tasks_per_child=10,
    initializer="d" * 32,
    deadline_at=1.8e9,
    idle_exit=False,
    submitters=(Submitter("a", 2, (0, 1), ((1, "hold"),)), Submitter("b", 1, ())),
    launches=(Launch("l", "local", 4, "00ff", 1.7e9, True, 3, 1.6e9, 0.25, n_taken=6),),
    budget_usd=5.0,
    max_hourly_cost=1.5,
    spent_usd=0.75,
    n_taken=4,
    messages=("0123456789abcdef 20240101-000000-abcd/completed-3",),
)
BEAT = WorkerBeat(
    "w",
    7,
    WorkerState.LEAVING,
    4,
    1.0,
    2.0,
    {"w.1": "key"},
    (Running("0-1", 1.5, 0.5, 2**20, 3.0, 8.0, "reads"), Running("0-2", 2.5)),
    9,
    0.5,
    {"get": 3},
    "host:1",
    vcpus=2.0,
    memory_gb=3.5,
    gpus=1,
    lost_s=9.5,
    latency=Latency(1, 2, 3, 4),
    launcher_id="arn:aws:ecs:eu-west-1:123456789012:task/starburst/0123",
    trouble="disk full",
)
CLIENT_BEAT = ClientBeat("c", 3, 1.0, True)
BELL = Bell(("one", "two"), 12)
BOOTSTRAP = Bootstrap("00ff", ("/a", "/b\udcff"), "w", True, False, "/tmp/words")


def bootstrap_bytes(bootstrap: Bootstrap) -> bytes:
    pipe = io.BytesIO()
    write_bootstrap(pipe, bootstrap)
    return pipe.getvalue()


def read_framed(body: bytes) -> Bootstrap:
    return read_bootstrap(io.BytesIO(len(body).to_bytes(4, "big") + body))


def failure_bytes() -> bytes:
    try:
        raise ValueError("no")
    except ValueError as error:
        return outcomes.dump_error(error)


# What is decoded, by which function, from which valid body.
DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "manifest": (records.decode_manifest, records.encode(MANIFEST, "n")),
    "worker's beat": (records.decode_beat, records.encode(BEAT, "n")),
    "client's beat": (records.decode_client_beat, records.encode(CLIENT_BEAT, "n")),
    "bell": (records.decode_bell, records.encode(BELL, "n")),
    "bootstrap": (read_framed, bootstrap_bytes(BOOTSTRAP)[4:]),
}


@pytest.mark.parametrize(
    ("record", "decode"),
    [
        (MANIFEST, records.decode_manifest),
        (replace(MANIFEST, task_timeout=None, deadline_at=None, initializer=None), records.decode_manifest),
        (BEAT, records.decode_beat),
        (CLIENT_BEAT, records.decode_client_beat),
        (BELL, records.decode_bell),
    ],
)
def test_records_come_back_as_they_were(record: Any, decode: Callable[[bytes], object]) -> None:
    assert decode(records.encode(record, "n")) == record
    assert records.encode(record, "n") != records.encode(record, "m"), "equal bodies have equal ETags"


@pytest.mark.parametrize(
    "running",
    [
        Running("0-1", 1.5, float("nan")),
        Running("0-1", 1.5, done=float("inf")),
        Running("0-1", 1.5, total=-1.0),
        Running("0-1", 1.5, memory_bytes=-1),
        Running("0-1", 1.5, text=7),  # type: ignore[arg-type]  # what is not text
        ("0-1", 1.5),
    ],
)
def test_what_a_task_reports_is_checked(running: Any) -> None:
    with pytest.raises(RecordInvalid):
        records.decode_beat(records.encode(replace(BEAT, running=(running,)), "n"))


def test_a_text_of_a_task_is_one_short_line_without_control_characters() -> None:
    written = replace(BEAT, running=(Running("0-1", 1.5, done=1.0, text="\x1b[2Jred\nnext" + "x" * 500),))
    (running,) = records.decode_beat(records.encode(written, "n")).running
    assert running.text.startswith(" [2Jred next")
    assert len(running.text) == records.NOTE_CHARS
    assert running.text.endswith("…")


def test_a_bootstrap_comes_back_and_shows_no_key() -> None:
    pipe = io.BytesIO(bootstrap_bytes(BOOTSTRAP) + b"what follows is not its own")
    assert read_bootstrap(pipe) == BOOTSTRAP
    assert pipe.read(4) == b"what"
    assert "00ff" not in repr(BOOTSTRAP)


@pytest.mark.parametrize("n_bytes", [0, 3, 4, 20])
def test_half_a_bootstrap_is_refused(n_bytes: int) -> None:
    with pytest.raises(RecordInvalid):
        read_bootstrap(io.BytesIO(bootstrap_bytes(BOOTSTRAP)[:n_bytes]))


@pytest.mark.parametrize("what", DECODERS)
@given(body=st.binary(max_size=200))
@settings(max_examples=60)
@within_cpu_s(0.2)
def test_random_bytes_are_refused(what: str, body: bytes) -> None:
    with pytest.raises((RecordInvalid, VersionMismatch)):
        DECODERS[what][0](body)


values = plain_values(most_items=6, most_leaves=10)


def decodes_or_refuses(decode: Callable[[bytes], object], body: bytes) -> None:
    with contextlib.suppress(RecordInvalid, VersionMismatch):
        within_cpu_s(0.5)(decode)(body)


@pytest.mark.parametrize("what", DECODERS)
@given(data=st.data())
@settings(max_examples=100)
def test_changed_records_are_refused_or_are_records(what: str, data: st.DataObject) -> None:
    decode, body = DECODERS[what]
    record = msgpack.unpackb(body, unicode_errors="surrogateescape")
    where, key = {"": record}, ""
    while (inner := where[key]) and isinstance(inner, (list, dict)) and (key == "" or data.draw(st.booleans())):
        where = inner
        key = data.draw(st.sampled_from(list(inner) if isinstance(inner, dict) else list(range(len(inner)))))
    where[key] = data.draw(values)
    decodes_or_refuses(decode, msgpack.packb(record, unicode_errors="surrogateescape"))


@pytest.mark.parametrize("what", DECODERS)
@given(data=st.data())
@settings(max_examples=80)
def test_flipped_and_cut_bytes_are_refused_or_are_records(what: str, data: st.DataObject) -> None:
    decode, body = DECODERS[what]
    changed = bytearray(body)
    changed[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    decodes_or_refuses(decode, bytes(changed[: data.draw(st.integers(1, len(body)))]))


@pytest.mark.parametrize("what", ["manifest", "worker's beat", "client's beat", "bell"])
def test_another_format_is_named_and_missing_fields_are_refused(what: str) -> None:
    decode, body = DECODERS[what]
    record = msgpack.unpackb(body)
    with pytest.raises(VersionMismatch, match="format=2, known=3"):
        decode(msgpack.packb({**record, "format": 2}))
    optional = {"task_timeout", "max_tasks_per_child", "initializer", "deadline_at", "budget_usd", "max_hourly_cost"}
    optional |= {"task_logs", "stops", "has_priorities", "has_limits"}
    for name in record.keys() - optional - {"nonce", "pad"}:
        with pytest.raises(RecordInvalid):
            decode(msgpack.packb({key: value for key, value in record.items() if key != name}))


# --- outcomes ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100), st.sampled_from([b"", b"E", b"R", b"X"]))
@settings(max_examples=150)
@within_cpu_s(0.2)
def test_outcomes_of_random_bytes_are_refused(body: bytes, kind: bytes) -> None:
    if (kind + body)[:1] == b"V":
        return
    with pytest.raises(RecordInvalid):
        outcomes.load_outcome(kind + body)


@given(st.data())
@settings(max_examples=150)
def test_changed_failures_are_refused_or_are_failures(data: st.DataObject) -> None:
    """Without its pickle: only a holder of the key can change that, which is not defended against."""
    fields = msgpack.unpackb(failure_bytes()[1:])
    fields[3] = b""
    fields[data.draw(st.integers(0, 3))] = data.draw(values.filter(lambda value: not isinstance(value, bytes)))
    body = data.draw(st.sampled_from([b"E", b"R"])) + msgpack.packb(fields)
    for read in (outcomes.load_outcome, outcomes.describe_outcome):
        with contextlib.suppress(RecordInvalid):
            within_cpu_s(0.5)(read)(body)


# --- states -----------------------------------------------------------------------------------------------------------


def test_a_session_moves_only_forward() -> None:
    order = [SessionState.OPEN, SessionState.CLOSING, SessionState.TERMINATED, SessionState.DELETED]
    for i, state in enumerate(order):
        assert [state.may_become(other) for other in order] == [j > i for j in range(4)]
    ends = [SessionState.TERMINATED, SessionState.EXPIRED, SessionState.BROKEN]
    assert not any(a.may_become(b) for a in ends for b in ends)
    assert [state.is_over for state in SessionState] == [False, False, True, True, True, True]


def test_epochs_of_a_manifest() -> None:
    assert MANIFEST.open_epochs() == [(0, 0), (0, 1)]
    added = MANIFEST.with_submitter(2, Submitter("c", 1, (0,)))
    assert [s.client_id for s in added.submitters] == ["a", "b", "c"]
    assert added.with_submitter(1, Submitter("x", 1, ())).submitters[1].client_id == "x"
