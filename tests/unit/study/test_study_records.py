"""The record of a study and its tables: what is written is read again, and each way of being broken says which it is."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starburst_executor.clock import SystemClock
from starburst_executor.errors import ObjectNotFound, RecordInvalid, StudyNotFound, VersionMismatch
from starburst_executor.study import record_form as records
from starburst_executor.study.artefacts import KINDS, Artefact
from starburst_executor.study.exporting import from_json, plain_json, to_json
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import Approval, Change, StageRecord, StudyRecord, Survivor
from starburst_executor.study.record_form import decode, encode
from starburst_executor.study.stage import MOST_TRIALS
from starburst_executor.study.tables import STATES, TrialRow, counted, decode_table, encode_table
from starburst_executor.testing import MemoryStore

texts = st.text(max_size=8)
numbers = st.one_of(st.integers(-(2**40), 2**40), st.floats(allow_nan=False))
moments = st.one_of(st.integers(0, 2**32), st.floats(0, 2**32))
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), texts, numbers, st.binary(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
params = st.dictionaries(texts, plain, max_size=3)
metrics = st.dictionaries(texts, numbers, max_size=3)
counts = st.integers(0, 2**31)
artefacts = st.builds(Artefact, texts, counts, st.sampled_from(KINDS))
survivors = st.builds(Survivor, texts, metrics, params, st.dictionaries(texts, artefacts, max_size=2))
stages = st.builds(
    StageRecord,
    name=texts,
    state=st.sampled_from(records.STAGE_STATES),
    trials=st.integers(0, MOST_TRIALS),
    edition=counts,
    round=counts,
    started_at=st.none() | moments,
    completed_at=st.none() | moments,
    completed=counts,
    survivors=st.lists(survivors, max_size=3).map(tuple),
    reason=texts,
    policy=params,
    table=st.none() | texts,
    carried=st.none() | texts,
    approval=st.none() | st.builds(Approval, texts, texts, moments),
    metadata=params,
)
studies = st.builds(
    StudyRecord,
    name=texts,
    generation=counts,
    created_at=moments,
    state=st.sampled_from(records.STUDY_STATES),
    reason=texts,
    seed=st.integers(-(2**62), 2**62),
    settings=params,
    stages=st.lists(stages, max_size=3).map(tuple),
    changes=st.lists(st.builds(Change, texts, texts, texts, texts, moments), max_size=2).map(tuple),
)

rows = st.lists(
    st.builds(
        TrialRow,
        stage=st.just("one"),
        index=counts,
        state=st.sampled_from(STATES),
        kind=texts,
        error=texts,
        metrics=metrics,
        params=params,
        artefacts=st.dictionaries(texts, artefacts, max_size=2),
        curve=st.lists(st.tuples(counts, metrics), max_size=2).map(tuple),
        seconds=st.floats(0, 1e9),
    ),
    max_size=4,
)


@given(studies, texts)
def test_a_record_is_read_as_it_was_written(study: StudyRecord, nonce: str) -> None:
    assert decode(encode(study, nonce)) == study


@given(rows)
def test_a_table_is_read_as_it_was_written(table: list[TrialRow]) -> None:
    digest, body = encode_table("one", table)
    assert decode_table(body, digest) == table
    assert encode_table("one", table) == (digest, body)
    assert counted(table).ended == len(table)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_say_that_they_are_none(body: bytes) -> None:
    with pytest.raises((RecordInvalid, VersionMismatch)):
        decode(body)
    with pytest.raises((RecordInvalid, VersionMismatch)):
        decode_table(body, hashlib.sha256(body).hexdigest())


@given(studies, st.data())
def test_a_record_with_one_changed_byte_is_not_read(study: StudyRecord, data: st.DataObject) -> None:
    body = bytearray(encode(study, "nonce"))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(RecordInvalid, VersionMismatch):
        assert decode(bytes(body)) == study  # the nonce alone may differ


def stored(change: dict[str, Any], **whole: Any) -> bytes:
    """A record with the digest of its body, whatever that holds."""
    study = StudyRecord("s", stages=(StageRecord("one"), StageRecord("two", survivors=(Survivor("two/1"),))))
    fields = records.to_plain(study)
    for path, value in change.items():
        *way, last = path.split(".")
        place: Any = fields
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        if value is KeyError:
            del place[last]
        else:
            place[last] = value
    body = msgpack.packb(fields)
    return msgpack.packb({"format": 3, "digest": hashlib.sha256(body).hexdigest(), "nonce": "n", "body": body, **whole})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages.1.completed": -1}, r"malformed: field stages\[1\]\.completed: must be a number, 0 or more, not -1"),
        (
            {"stages.0.state": "finished"},
            r"malformed: field stages\[0\]\.state: must be one of pending, running, waiting",
        ),
        (
            {"stages.1.survivors.0.metrics": {"x": "high"}},
            r"field stages\[1\]\.survivors\[0\]\.metrics\.x: must be a number",
        ),
        (
            {"stages.1.trials": 10**18},
            r"malformed: field stages\[1\]\.trials: must be a number, 0\.\.1,000,000, not 1000000000000000000",
        ),
        ({"stages": "none"}, "malformed: field stages: must be a list, not 'none'"),
        ({"generation": KeyError}, "malformed: field generation: must be a value, not 'nothing'"),
        ({"state": "broken"}, "malformed: field state: must be one of open, aborted, complete"),
        ({"seed": 1.5}, "malformed: field seed: must be int"),
        ({"created_at": 1e18}, "malformed: field created_at: must be seconds since 1970, before the year 10000"),
        ({"stages.0.started_at": math.nan}, r"field stages\[0\]\.started_at: must be seconds since 1970"),
        (
            {"stages.1.survivors.0.artefacts": {"model": ["digest", -1]}},
            r"field stages\[1\]\.survivors\[0\]\.artefacts\.model: must be a digest, a size and a kind",
        ),
        ({"stages.0.measures": {"loss": "min"}}, r"field stages\[0\]\.measures\.loss: must be a direction and a unit"),
        ({"stages.0.code": {"run": 1}}, r"field stages\[0\]\.code\.run: must be str"),
    ],
)
def test_a_malformed_record_names_its_field(change: dict[str, Any], says: str) -> None:
    with pytest.raises(RecordInvalid, match=says):
        decode(stored(change))


def test_each_way_of_being_broken_says_which_it_is() -> None:
    assert decode(stored({})).names == ["one", "two"]
    with pytest.raises(VersionMismatch, match="newer format: format=4, known=3"):
        decode(stored({}, format=4))
    with pytest.raises(VersionMismatch, match="older format: format=1, known=3; finish it with the version"):
        decode(stored({}, format=1))
    with pytest.raises(RecordInvalid, match="does not have its digest"):
        decode(stored({}, digest="0" * 64))
    with pytest.raises(RecordInvalid, match="malformed: field body"):
        decode(stored({}, body=7))
    with pytest.raises(RecordInvalid, match="it has no fields"):
        decode(msgpack.packb([1]))
    with pytest.raises(RecordInvalid, match="cannot be read"):
        decode(b"")


def test_a_broken_record_points_to_the_generation_before() -> None:
    store = MemoryStore()
    study = StudyObjects(store, "mine", SystemClock())
    with pytest.raises(StudyNotFound, match="no such study: study=mine"):
        study.read()
    study.create(StudyRecord("mine", stages=(StageRecord("one"),)))
    store.put("studies/mine/record", b"rubbish")
    with pytest.raises(RecordInvalid, match="there is no generation before it that can be read"):
        StudyObjects(store, "mine", SystemClock()).read()
    store.delete(["studies/mine/record"])
    study = StudyObjects(store, "mine", SystemClock())
    study.create(StudyRecord("mine", stages=(StageRecord("one"),)))
    study.change(lambda record: replace(record, reason="a"))
    study.change(lambda record: replace(record, reason="b"))
    store.put("studies/mine/record", b"rubbish")
    with pytest.raises(RecordInvalid, match="generation 2 before it can be read"):
        StudyObjects(store, "mine", SystemClock()).read()
    assert study.previous().reason == "a"


def test_a_change_is_made_of_the_newest_record_and_of_nothing_else() -> None:
    store, clock = MemoryStore(), SystemClock()
    one, other = StudyObjects(store, "mine", clock), StudyObjects(store, "mine", clock)
    one.create(StudyRecord("mine", stages=(StageRecord("one"),)))
    assert other.create(StudyRecord("mine", seed=5)).seed == 0  # what is there stays
    one.change(lambda record: replace(record, reason="first"))
    changed = other.change(lambda record: replace(record, reason=f"{record.reason}, second"))
    assert (changed.reason, changed.generation) == ("first, second", 3)
    before = store.get("studies/mine/record").etag
    assert one.change(lambda record: record) == changed
    assert store.get("studies/mine/record").etag == before
    with pytest.raises(ValueError, match="no"):
        one.change(lambda record: (_ for _ in ()).throw(ValueError("no")))


def test_a_record_that_no_process_could_read_is_not_written() -> None:
    store = MemoryStore()
    study = StudyObjects(store, "mine", SystemClock())
    wrong: Any = 5
    with pytest.raises(RecordInvalid, match="field reason: must be str, not 5"):
        study.create(StudyRecord("mine", reason=wrong))
    assert not study.exists()
    study.create(StudyRecord("mine", stages=(StageRecord("one"),)))
    with pytest.raises(RecordInvalid, match=r"field stages\[0\]\.approval\.by: must be str, not 5"):
        study.change(lambda record: replace(record, stages=(StageRecord("one", approval=Approval(wrong, "", 0.0)),)))
    assert StudyObjects(store, "mine", SystemClock()).read().stages == (StageRecord("one"),)


marks = st.sampled_from(["float", "base64", "map", "x"])
marked = st.dictionaries(
    marks,
    st.recursive(
        st.sampled_from(["nan", "aGk=", math.inf, b"hi", 1]), lambda inner: st.dictionaries(marks, inner, max_size=2)
    ),
    max_size=2,
)


@given(marked, st.dictionaries(marks, st.sampled_from([1, math.inf]), max_size=2))
def test_an_export_is_read_as_it_was_written(params: dict[str, Any], metrics: dict[str, float]) -> None:
    survivor = Survivor("one/0", metrics, params, {})
    study = StudyRecord("mine", settings=params, stages=(StageRecord("one", survivors=(survivor,), metadata=params),))
    row = TrialRow("one", 0, "completed", metrics=metrics, params=params, curve=((1, metrics),))
    digest, _ = encode_table("one", [row])
    assert from_json(to_json(study, {digest: [row]}, {"one": [b"entry"]})) == (
        study,
        {digest: [row]},
        {"one": [b"entry"]},
    )


ODD = [
    None,
    True,
    -1,
    1.5,
    10**30,
    "x",
    "\ud800",
    [],
    ["a", 1],
    [[1]],
    {},
    {"a": "b"},
    {"a": 10**30},
    {"a": [1]},
    {"base64": "?"},
]


@pytest.mark.parametrize("place", ["tables", "table", "row", *plain_json(TrialRow("one", 0, "completed"))])
@pytest.mark.parametrize("odd", ODD, ids=ascii)
def test_an_export_that_was_changed_is_refused_whatever_stands_in_it(place: str, odd: Any) -> None:
    row = TrialRow(
        "one",
        0,
        "completed",
        metrics={"x": 2.0},
        params={"p": 1},
        artefacts={"m": Artefact("d", 1, "bytes")},
        curve=((1, {"x": 3.0}),),
        seconds=2.0,
    )
    digest, _ = encode_table("one", [row])
    record = StudyRecord("mine", stages=(StageRecord("one", table=digest),))
    whole = json.loads(to_json(record, {digest: [row]}, {}))
    if place == "tables":
        whole["tables"] = odd
    elif place == "table":
        whole["tables"][digest] = odd
    elif place == "row":
        whole["tables"][digest][0] = odd
    else:
        whole["tables"][digest][0][place] = odd
    with suppress(RecordInvalid):
        assert from_json(json.dumps(whole)) == (record, {}, {})


@pytest.mark.parametrize("field", range(9))
@pytest.mark.parametrize("odd", [one for one in ODD if one not in (10**30, "\ud800", {"a": 10**30})], ids=ascii)
def test_a_table_of_other_values_is_no_table(field: int, odd: Any) -> None:
    fields: list[Any] = [
        0,
        "completed",
        "",
        "",
        {"x": 2.0},
        {"p": 1},
        {"m": ["digest", 1, "bytes"]},
        [[1, {"x": 3.0}]],
        2.0,
    ]
    fields[field] = odd
    body = msgpack.packb({"format": 2, "stage": "one", "rows": [fields]})
    with suppress(RecordInvalid):
        [row] = decode_table(body, hashlib.sha256(body).hexdigest())
        assert encode_table("one", [row])[1]
        assert all(type(value) in (int, float) for value in [row.seconds, *row.metrics.values()])
        assert all(type(step) is int and isinstance(values, dict) for step, values in row.curve)


def test_a_change_of_a_study_that_was_deleted_leaves_nothing() -> None:
    store = MemoryStore()
    study = StudyObjects(store, "mine", SystemClock())
    study.create(StudyRecord("mine", stages=(StageRecord("one"),)))
    StudyObjects(store, "mine", SystemClock()).delete()
    with pytest.raises(StudyNotFound):
        study.change(lambda record: replace(record, reason="a"))
    assert store.list("") == []


def test_tables_are_checked_against_their_digests() -> None:
    store = MemoryStore()
    study = StudyObjects(store, "mine", SystemClock())
    digest = study.write_table("one", [TrialRow("one", 0, "completed", metrics={"x": 1.5})])
    assert study.write_table("one", [TrialRow("one", 0, "completed", metrics={"x": 1.5})]) == digest
    assert study.read_table(digest)[0].metrics == {"x": 1.5}
    store.put(f"studies/mine/trials/{digest}", b"other")
    with pytest.raises(RecordInvalid, match="has been changed"):
        study.read_table(digest)
    with pytest.raises(RecordInvalid, match="is missing"):
        study.read_table("0" * 64)
    study.delete()
    with pytest.raises(ObjectNotFound):
        store.get(f"studies/mine/trials/{digest}")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' * 100_000, "{", "[]"], ids=["lists", "maps", "open", "list"]
)
def test_what_is_no_export_is_an_error_whatever_its_depth(text: str) -> None:
    with pytest.raises(RecordInvalid, match="not an exported study"):
        from_json(text)
