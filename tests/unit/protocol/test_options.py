"""The options of tasks: what is accepted, what is stored, what is refused."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np
import pytest

from starburst_executor.errors import ConfigError, RecordInvalid, TaskTimeout, VersionMismatch
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.labels import labels_of, packed_labels
from starburst_executor.protocol.options import DEFAULT, Backoff, Limit, class_names, decoded, label_of
from starburst_executor.protocol.spans.record import Span, Status

FULL = DEFAULT.but(
    timeout=2, retries=3, retry_on=(OSError, KeyError), backoff=(1, 2, 30), seed=2**64 - 1, label="one of many"
)


def test_what_is_stored_comes_back_without_the_label() -> None:
    assert decoded(FULL.encode()) == FULL.but(label=None)
    assert FULL.retry_on == ("builtins.KeyError", "builtins.OSError")


def test_numbers_and_texts_of_numpy_are_as_pythons() -> None:
    given = DEFAULT.but(
        timeout=np.float32(2), retries=np.int64(3), backoff=(np.float64(1), np.int8(2), 30), seed=np.uint64(2**64 - 1), priority=np.int8(-3),
        limit=Limit("api", np.int32(2)), resources={"gpu": np.int64(1), "memory": np.float64(8e9)}, label=np.str_("a"),  # type: ignore[arg-type]  # that is the point
    )  # fmt: skip
    plain = DEFAULT.but(
        timeout=2.0, retries=3, backoff=(1.0, 2.0, 30.0), seed=2**64 - 1, priority=-3, limit=Limit("api", 2), resources={"gpu": 1, "memory": 8 * 10**9}, label="a"
    )  # fmt: skip
    assert given == plain
    assert repr(given) == repr(plain)
    assert given.encode() == plain.encode()


@pytest.mark.parametrize(
    "given",
    [
        {"timeout": True}, {"timeout": np.float64("nan")}, {"timeout": b"5"}, {"timeout": [5]}, {"retries": np.float64(3)}, {"retries": np.bool_(True)},
        {"resources": {"memory": 8.5}}, {"resources": {"cpu": 2.0}}, {"resources": {"cpu": 2**70}}, {"limit": (5, 5)}, {"limit": ("a", "b", "c")},
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DEFAULT.but(**given)


def test_defaults_are_no_bytes_and_equal_options_are_equal_bytes() -> None:
    assert DEFAULT.encode() == b""
    assert DEFAULT.but(label="a").encode() == b""
    assert decoded(b"") is DEFAULT
    assert DEFAULT.but(retries=1).but(timeout=5).encode() == DEFAULT.but(timeout=5.0).but(retries=1).encode()
    assert FULL.but(timeout=None, retries=None, retry_on=None, backoff=None, seed=None).encode() == b""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", math.nan),
        ("timeout", "5"),
        ("timeout", 1e9),
        ("retries", -1),
        ("retries", 101),
        ("retries", 1.5),
        ("retries", True),
        ("retry_on", ()),
        ("retry_on", (OSError, 5)),
        ("retry_on", int),
        ("retry_on", "OSError"),
        ("backoff", -1),
        ("backoff", (1, 0.5)),
        ("backoff", (1, 2, 3, 4)),
        ("backoff", math.inf),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 1.0),
        ("label", ""),
        ("label", "x" * 201),
        ("label", "two\nlines"),
        ("label", 5),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}="):
        DEFAULT.but(**{name: value})


def test_an_unknown_option_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown option 'retires': tasks have timeout, retries"):
        DEFAULT.but(retires=3)


@pytest.mark.parametrize("stored", [{"resources": 3, "retries": 1}, {"label": "x"}])
def test_stored_options_of_a_later_version_are_refused(stored: dict[str, Any]) -> None:
    with pytest.raises(VersionMismatch, match="use the version of starburst_executor that submitted them"):
        decoded(msgpack.packb(stored))


@pytest.mark.parametrize("stored", [b"\xc1", msgpack.packb([1]), msgpack.packb({"retries": "many"}), b"\x81"])
def test_stored_options_that_make_no_sense_are_refused(stored: bytes) -> None:
    with pytest.raises(RecordInvalid):
        decoded(stored)


def test_pauses_grow_up_to_the_longest() -> None:
    backoff = DEFAULT.but(backoff=(1, 3, 20)).backoff
    assert backoff is not None
    assert [backoff.pause_s(n) for n in (1, 2, 3, 4, 10_000)] == [1, 3, 9, 20, 20]
    assert DEFAULT.but(backoff=7).backoff == Backoff(7, 1, 7)
    assert [Backoff(7, 1, 7).pause_s(n) for n in (1, 2, 100)] == [7, 7, 7]


def test_a_failure_is_matched_by_the_names_of_its_bases() -> None:
    body = outcomes.dump_error(ConnectionResetError("gone"), names=class_names(ConnectionResetError))
    assert "builtins.OSError" in outcomes.failure_names(body)
    assert DEFAULT.but(retry_on=OSError).tries_again(outcomes.failure_names(body))
    assert not DEFAULT.but(retry_on=ValueError).tries_again(outcomes.failure_names(body))
    assert isinstance(outcomes.load_outcome(body)[1], ConnectionResetError)
    assert DEFAULT.tries_again(())


def test_what_the_agent_itself_reports_is_matched_by_its_class() -> None:
    late = outcomes.failure_names(outcomes.dump_reason(TaskTimeout("late")))
    assert DEFAULT.but(retry_on=TaskTimeout).tries_again(late)
    assert not DEFAULT.but(retry_on=OSError).tries_again(late) or issubclass(TaskTimeout, OSError)


def test_labels_are_given_or_made_of_the_arguments() -> None:
    assert label_of(DEFAULT, (1,), {}) == ""
    assert label_of(DEFAULT.but(label="all"), (1,), {}) == "all"
    assert label_of(DEFAULT.but(label="run {} {}".format), (1, 2), {}) == "run 1 2"
    with pytest.raises(ConfigError, match="label=5"):
        label_of(DEFAULT.but(label=lambda _: 5), (1,), {})


def with_labels(*labels: str, n_tasks: int | None = None) -> Status:
    more = packed_labels(labels) or None
    return Status(0, 0, ("f",), (Span(len(labels) if n_tasks is None else n_tasks),), more=more)


def test_labels_of_an_object_are_one_column() -> None:
    assert labels_of(with_labels("a", "", "ü")) == ("a", "", "ü")
    assert with_labels("", "").more is None
    assert labels_of(with_labels("", "")) == ()
    assert len(packed_labels(f"run {i // 100}, fold {i % 100}" for i in range(2048))["labels"]) < 8 * 2048


@pytest.mark.parametrize(
    "stored", [b"x", 5, packed_labels(["a", "b"])["labels"], packed_labels(["a" * 1000])["labels"]]
)
def test_labels_that_cannot_be_read_are_refused(stored: object) -> None:
    with pytest.raises(RecordInvalid):
        labels_of(Status(0, 0, ("f",), (Span(1),), more={"labels": stored}))


def test_what_is_no_label_is_shown_in_short() -> None:
    values: list[Any] = ["x" * 100_000, [0] * 100_000]
    for value in values:
        with pytest.raises(ConfigError, match="label=") as raised:
            DEFAULT.but(label=value)
        assert len(str(raised.value)) < 200
