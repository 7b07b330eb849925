"""Keys: built and parsed alike, and nothing hostile parses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.protocol import keys
from starburst_executor.protocol.keys import SessionKeys, StatusRef, is_session_id, session_folder, task_id, worker_of
from starburst_executor.store.url import join_url, split_url

KEYS = SessionKeys("20240101-000000-abcd")
REF = StatusRef(1, 255, 16, 3)

refs = st.builds(
    StatusRef,
    ordinal=st.integers(0, 16**4 - 1),
    first=st.integers(0, 16**10 - 1),
    n_tasks=st.integers(1, 2048),
    epoch=st.integers(0, 16**6 - 1),
    priority=st.integers(-100, 100),
    limit=st.sampled_from(["", "api", "A_1", "p1", "x" * 32]),
    resources=st.sampled_from(["", "1xgpu", "2xcpu.1xgpu.8000000000xmemory", "1xx1"]),
)


@given(refs)
@settings(max_examples=200)
def test_a_key_is_parsed_as_it_was_built(ref: StatusRef) -> None:
    key = KEYS.status(ref)
    assert KEYS.parse_status(key) == ref
    assert key.startswith(KEYS.epoch(ref.ordinal, ref.epoch))


@given(refs, refs)
@settings(max_examples=200)
def test_keys_sort_in_submission_order(one: StatusRef, other: StatusRef) -> None:
    if (one.ordinal, one.epoch, one.first) < (other.ordinal, other.epoch, other.first):
        assert KEYS.status(one) < KEYS.status(other)


GOOD = KEYS.status(REF)


@pytest.mark.parametrize(
    "key",
    [
        "",
        KEYS.statuses,
        GOOD + "\n",
        GOOD + "000",
        GOOD + "/x",
        GOOD.replace("-16", "-0"),
        GOOD.replace("-16", "-016"),
        GOOD.replace("-16", "-2049"),
        GOOD.replace("-16", "-1" + "0" * 5000),
        GOOD.replace("-16", "--16"),
        GOOD.replace("-16", "-\u0661\u0666"),
        GOOD.replace("-16", "-\uff11\uff16"),
        GOOD.replace("0001.000003/", "0002.000003/"),
        GOOD.replace("0001.000003/", "0001.000003/../0001.000003/"),
        GOOD.replace("00ff", "00FF"),
        GOOD.replace("sessions/", "/sessions/"),
        GOOD.replace(KEYS.session_id, "another-session"),
        "x" + GOOD,
    ],
)
def test_other_keys_are_ignored(key: str) -> None:
    assert KEYS.parse_status(key) is None


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_what_parses_is_what_would_be_built(tail: str) -> None:
    key = KEYS.statuses + tail
    ref = KEYS.parse_status(key)
    assert ref is None or KEYS.status(ref) == key


@pytest.mark.parametrize("good", ["abc", "20240101-000000-abcd", "a" * 63, "0--"])
def test_session_ids(good: str) -> None:
    assert is_session_id(good)
    assert session_folder(good) == f"sessions/{good}/"


@pytest.mark.parametrize(
    "bad",
    ["", "ab", "-ab", "a" * 64, "ABC", "a/b", "../x", "a b", "abc\n", "abc\0", "äbc", "a.c", "\u0661\u0661\u0661"],
)
def test_other_session_ids_are_refused(bad: str) -> None:
    assert not is_session_id(bad)
    with pytest.raises(ConfigError):
        SessionKeys(bad)
    with pytest.raises(ConfigError):
        split_url(f"s3://bucket/prefix/{bad}")


def test_every_object_of_a_session_is_in_its_folder() -> None:
    keys = [
        KEYS.manifest, KEYS.bell, KEYS.function("f" * 32), KEYS.calls(REF.status_id), KEYS.status(REF),
        KEYS.outcomes(REF.status_id, "w.1-1"), KEYS.logs(REF.status_id, "w.1-1"), KEYS.worker("w"), KEYS.client("c"),
    ]  # fmt: skip
    assert all(key.startswith("sessions/20240101-000000-abcd/") for key in keys)
    assert len(set(keys)) == len(keys)


def test_names() -> None:
    assert task_id(0, 17) == "0-17"
    assert worker_of("018f-ab.12") == "018f-ab"
    assert worker_of("") == ""


@pytest.mark.parametrize(
    "store", ["s3://bucket/prefix?region=eu-west-1&x=a/b", "s3://bucket", "sqlite:///tmp/folder", "memory://m"]
)
def test_a_sessions_url_is_its_stores_and_its_id(store: str) -> None:
    assert split_url(join_url(store, "a-session")) == (store, "a-session")


@pytest.mark.parametrize("url", ["", "abc", "s3://", "/tmp/abc", "s3://bucket/?abc", "?s3://bucket/abc"])
def test_what_is_no_sessions_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        split_url(url)


def test_code_is_named_by_month_and_content() -> None:
    name = "2026-04/" + "5f" * 32
    assert keys.code_key(name) == f"code/{name}"
    assert keys.code_digest(name) == "5f" * 32


@pytest.mark.parametrize(
    "name", ["", "5f" * 32, "2026-04/5f", "2026-4/" + "5f" * 32, "2026-04/" + "5F" * 32, "../" + "5f" * 32]
)
def test_no_other_name_is_one_of_code(name: str) -> None:
    with pytest.raises(RecordInvalid):
        keys.code_key(name)


def test_a_priority_is_the_end_of_a_key_and_none_of_it_is_the_default() -> None:
    ref = StatusRef(0, 3, 7, 0)
    assert KEYS.status(ref).endswith("-7")
    for priority in (-100, -1, 1, 100):
        ranked = ref._replace(priority=priority)
        assert KEYS.status(ranked) == f"{KEYS.status(ref)}-p{priority}"
        assert KEYS.parse_status(KEYS.status(ranked)) == ranked
    for end in ("-p0", "-p", "-p01", "-p+1", "-p-0", "-p1000", "-p1-p1", "-q1"):
        assert KEYS.parse_status(KEYS.status(ref) + end) is None
