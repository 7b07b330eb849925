"""The bytes of a status object and of its blocks: what they tell, and which ones are refused."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import blocks, encoding, transitions
from starburst_executor.protocol.spans.record import (
    BLOCK_TASKS,
    BLOCKED,
    MAX_TASKS,
    CallBlock,
    Located,
    OutcomeBlock,
    Span,
    State,
    Status,
)
from tests.support.cpu_time import within_cpu_s
from tests.support.plain_values import plain_values

SEALER = Sealer(b"k" * 32, "a-session")
WORKER = "018f0000000-0123abcd"
numbers = st.integers(0, 2**40)
more = st.none() | st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.binary(max_size=9), max_size=2)


def pending(n_tasks: int) -> Status:
    return Status(0, 7, ("f" * 32,), (Span(n_tasks),))


@st.composite
def statuses(draw: Any) -> Status:
    claims = st.sampled_from(["", "w.1", "w.2", f"{WORKER}.77"])
    spans = draw(
        st.lists(
            st.builds(
                Span,
                n=st.integers(1, 90),
                state=st.sampled_from([State.PENDING, State.CLAIMED, State.COMPLETED, State.CANCELLED, BLOCKED]).map(
                    int
                ),
                run=st.integers(1, 9),
                attempt=st.integers(0, 300),
                failures=st.integers(0, 100),
                losses=st.integers(0, 3),
                together=st.integers(0, 2048),
                cohort=claims,
                refusals=st.integers(0, 2),
                claim=claims,
                function=st.just(0),
                options=st.just(0),
                at=st.floats(0, 2e9),
            ),
            min_size=1,
            max_size=5,
        )
    )
    n_tasks = sum(span.n for span in spans)

    def ranges() -> tuple[int, int]:
        first = draw(st.integers(0, n_tasks - 1))
        return first, draw(st.integers(1, min(BLOCK_TASKS, n_tasks - first)))

    calls, outcomes = [], []
    for _ in range(draw(st.integers(0, min(3, n_tasks)))):
        place = draw(st.binary(max_size=50) | st.builds(Located, st.just(""), numbers, numbers))
        calls.append(CallBlock(*ranges(), 0, place, draw(more)))
    for _ in range(draw(st.integers(0, min(3, n_tasks)))):
        first, n = ranges()
        claim = draw(claims)
        offsets = st.sets(st.integers(0, n - 1)).map(sorted)
        parts = st.integers(1, 9).map(lambda k, claim=claim: f"{claim}-{k}")
        outcomes.append(
            OutcomeBlock(
                first, n, draw(st.integers(1, 9)), draw(st.integers(0, 9)), claim,
                draw(st.binary(max_size=50) | st.builds(Located, parts, numbers, numbers)),
                tuple(draw(offsets)),
                tuple((i, draw(st.integers(1, 9))) for i in draw(offsets)),
                draw(st.sampled_from([b"", array("f", range(n)).tobytes()])),
                tuple((i, draw(st.integers(1, 9)), draw(numbers), draw(numbers)) for i in draw(offsets)),
                draw(more),
            )
        )  # fmt: skip
    return Status(
        draw(st.integers(0, 65535)), draw(numbers), ("f" * 32,), tuple(spans), tuple(calls), tuple(outcomes),
        draw(st.floats(0, 2e9)), (), draw(more),
    )  # fmt: skip


@given(statuses(), st.text(max_size=20))
@settings(max_examples=120)
def test_bytes_come_back_as_they_were_and_tell_their_class(seen: Status, nonce: str) -> None:
    body = encoding.encode(seen, nonce)
    assert encoding.decode(body) == seen
    assert len(body) % 8 == encoding.size_class(seen)
    assert len(body) // 8 % 8 == encoding.pending_order(seen)


@pytest.mark.parametrize(
    ("n_pending", "order"), [(1, 1), (3, 1), (4, 2), (15, 2), (16, 3), (255, 4), (256, 5), (2048, 6)]
)
def test_the_order_of_what_is_pending(n_pending: int, order: int) -> None:
    assert encoding.pending_order(pending(n_pending)) == order
    assert encoding.pending_order(replace(pending(1), spans=(Span(9, State.CANCELLED),))) == 0


@given(statuses())
@settings(max_examples=100)
@within_cpu_s(0.4)
def test_all_entries_together_are_what_each_is_alone(status: Status) -> None:
    assert status.entries == tuple(status.entry(position) for position in range(status.n_tasks))


@within_cpu_s(0.5)
def decodes_or_refuses(body: bytes) -> None:
    try:
        seen = encoding.decode(body)
    except (RecordInvalid, VersionMismatch):
        return
    assert encoding.decode(encoding.encode(seen, "n")) == seen or "nan" in repr(seen)
    assert len(seen.entries) == seen.n_tasks <= MAX_TASKS


@given(st.binary(max_size=300))
@settings(max_examples=200)
@within_cpu_s(0.2)
def test_random_bytes_are_refused(body: bytes) -> None:
    with pytest.raises((RecordInvalid, VersionMismatch)):
        encoding.decode(body)


values = plain_values(most_items=14, most_leaves=15)


@given(statuses(), st.data())
@settings(max_examples=150)
def test_changed_records_are_refused_or_are_records(seen: Status, data: st.DataObject) -> None:
    record: dict[str, Any] = msgpack.unpackb(encoding.encode(seen, "n"))
    where: Any = record
    key: Any = data.draw(st.sampled_from(list(record)))
    while isinstance(where[key], list) and where[key] and data.draw(st.booleans()):
        where = where[key]
        key = data.draw(st.integers(0, len(where) - 1))
    if data.draw(st.booleans()):
        where[key] = data.draw(values)
    else:
        del where[key]
    decodes_or_refuses(msgpack.packb(record))


@given(statuses(), st.data())
@settings(max_examples=100)
def test_flipped_and_cut_bytes_are_refused_or_are_records(seen: Status, data: st.DataObject) -> None:
    body = bytearray(encoding.encode(seen, "n"))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    decodes_or_refuses(bytes(body[: data.draw(st.integers(0, len(body)))]))
    decodes_or_refuses(bytes(body))


def test_lies_about_length_and_depth_cost_nothing() -> None:
    for body in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\xd6\xff" + b"\xff" * 4,
    ):
        with pytest.raises(RecordInvalid):
            encoding.decode(body)


@pytest.mark.parametrize("n_tasks", [0, MAX_TASKS + 1, 2**60])
def test_an_object_of_no_or_too_many_tasks_is_refused(n_tasks: int) -> None:
    with pytest.raises(RecordInvalid, match="not a status object" if n_tasks == 0 else f"tasks={n_tasks}"):
        encoding.decode(encoding.encode(pending(n_tasks), "n") if n_tasks else msgpack.packb({"format": 3}))


def test_many_spans_of_no_task_are_refused() -> None:
    with pytest.raises(RecordInvalid):
        encoding.decode(encoding.encode(replace(pending(1), spans=(Span(1), Span(0))), "n"))


def test_more_blocks_than_tasks_are_refused() -> None:
    calls = (CallBlock(0, 1, 0, b"x"),) * 2
    with pytest.raises(RecordInvalid, match="more blocks"):
        encoding.decode(encoding.encode(replace(pending(1), calls=calls), "n"))


def test_another_format_is_named() -> None:
    record = msgpack.unpackb(encoding.encode(pending(1), "n"))
    record["format"] = 2
    with pytest.raises(VersionMismatch, match="format=2, known=3"):
        encoding.decode(msgpack.packb(record))


def test_a_place_is_no_path() -> None:
    outcome = OutcomeBlock(0, 1, 1, 1, "../../other/x", Located("../../other/x-1", 0, 1))
    with pytest.raises(RecordInvalid):
        encoding.decode(encoding.encode(replace(pending(1), outcomes=(outcome,)), "n"))


def test_a_function_that_is_not_named_is_refused() -> None:
    with pytest.raises(RecordInvalid):
        encoding.decode(encoding.encode(replace(pending(1), spans=(Span(1, function=1),)), "n"))


def test_the_time_of_the_submit_stays_through_every_change() -> None:
    submitted = replace(pending(2), submitted_at=1234.5)
    claimed, _ = transitions.claim(submitted, "w.1", at_most=2, now=1300.0, max_losses=3)
    assert encoding.decode(encoding.encode(claimed, "n")).submitted_at == 1234.5
    raw = msgpack.unpackb(encoding.encode(submitted, "n"))
    with pytest.raises(RecordInvalid):
        encoding.decode(msgpack.packb({**raw, "submitted_at": "now"}))


# --- blocks -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=BLOCK_TASKS))
def test_payloads_come_back_out_of_a_block_in_order(payloads: list[bytes]) -> None:
    parts = blocks.sealed_calls(SEALER, 0, 7, "f", payloads)
    block = CallBlock(0, len(payloads), 0, b"".join(parts))
    seen = Status(0, 7, ("f",), (Span(len(payloads)),), (block,))
    assert list(map(bytes, blocks.open_calls(SEALER, seen, block, block.place))) == payloads  # type: ignore[arg-type]
    content = memoryview(b"".join(parts[1:]))
    for i, payload in enumerate(payloads):
        start = blocks.offset_of(content, len(payloads), i)
        assert b"".join(parts)[start : start + len(payload)] == payload


def test_one_payload_for_all() -> None:
    parts = blocks.sealed_outcomes(SEALER, 0, 7, (1, 0, ""), [b"reason"], same_for=3)
    block = OutcomeBlock(0, 3, 1, 0, "", b"".join(parts), (0, 1, 2))
    seen = Status(0, 7, ("f",), (Span(3, State.COMPLETED),), (), (block,))
    assert list(map(bytes, blocks.open_outcomes(SEALER, seen, block, block.place))) == [b"reason"] * 3  # type: ignore[arg-type]


def test_no_outcomes_fit_two_places() -> None:
    """The seal of outcomes distinguishes tasks, run, attempt and claim; that of calls, tasks and function."""
    base = OutcomeBlock(1, 2, 1, 1, "w.1", b"")
    seen = Status(0, 7, ("f", "g"), (Span(9),))
    body = b"".join(blocks.sealed_outcomes(SEALER, 0, 8, (1, 1, "w.1"), [b"a", b"b"]))
    assert len(blocks.open_outcomes(SEALER, seen, base, body)) == 2
    for other in (
        base._replace(first=2),
        base._replace(n=3),
        base._replace(run=2),
        base._replace(attempt=2),
        base._replace(claim="w.2"),
    ):
        with pytest.raises(RecordInvalid):
            blocks.open_outcomes(SEALER, seen, other, body)
    with pytest.raises(RecordInvalid):
        blocks.open_outcomes(SEALER, replace(seen, ordinal=1), base, body)
    called = CallBlock(1, 2, 0, b"")
    body = b"".join(blocks.sealed_calls(SEALER, 0, 8, "f", [b"a", b"b"]))
    assert len(blocks.open_calls(SEALER, seen, called, body)) == 2
    for another in (called._replace(first=2), called._replace(n=1), called._replace(function=1)):
        with pytest.raises(RecordInvalid):
            blocks.open_calls(SEALER, seen, another, body)
    with pytest.raises(RecordInvalid):
        blocks.open_outcomes(SEALER, seen, base, body)


@given(st.binary(max_size=60), st.integers(1, BLOCK_TASKS))
def test_any_content_is_read_or_refused(content: bytes, n: int) -> None:
    try:
        payloads = blocks.unpacked(memoryview(content), n)
    except RecordInvalid:
        return
    assert len(payloads) == n


@given(st.lists(st.sampled_from([0, 9, 1_000, 4_000, 8_192, 8_193, 40_000]), max_size=200))
def test_neighbours_alike_are_cut_into_the_same_blocks(sizes: list[int]) -> None:
    cut = [range(start, start + n) for start, n in blocks.cut_neighbours(sizes)]
    assert [list(block) for block in cut] == list(blocks.cut((i, 0, size) for i, size in enumerate(sizes)))


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 1), st.sampled_from([9, 4_000, 40_000])), max_size=90))
def test_blocks_hold_each_task_once_and_neighbours_alike(items: list[tuple[int, int, int]]) -> None:
    by_position = {position: (mark, size) for position, mark, size in items}
    ordered = [(position, *by_position[position]) for position in sorted(by_position)]
    cut = list(blocks.cut(ordered))
    assert [position for block in cut for position in block] == sorted(by_position)
    for block in cut:
        assert block == list(range(block[0], block[0] + len(block)))
        assert len({by_position[position][0] for position in block}) == 1
        assert len(block) <= BLOCK_TASKS
        assert len(block) == 1 or all(by_position[position][1] <= 8 * 1024 for position in block)
        assert len(block) == 1 or sum(by_position[position][1] for position in block) <= 64 * 1024


@pytest.mark.parametrize("n_tasks", [1, 2, 64, 256, MAX_TASKS])
def test_what_is_inline_by_its_share_is_little(n_tasks: int) -> None:
    sizes = [min(BLOCK_TASKS, n_tasks - at) for at in range(0, n_tasks, BLOCK_TASKS)]
    assert sum(blocks.inline_bytes(n, n_tasks) for n in sizes) <= 128 * 1024
    assert blocks.inline_bytes(1, 1) == 32 * 1024
    assert blocks.inline_bytes(64, MAX_TASKS) == 64 * 64
