"""`timings.py`: what is in range, and what survives the manifest."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, strategies

from starburst_executor.config import Timings
from starburst_executor.errors import ConfigError, RecordInvalid


def test_timings_survive_the_manifest():
    for timings in (Timings.remote(), Timings.embedded()):
        assert Timings.from_record(timings.to_record()) == timings
    assert Timings.remote() == Timings()


def test_timings_of_another_version():
    record = {**Timings.embedded().to_record(), "new_s": 1.0}
    del record["rank_s"]
    assert Timings.from_record(record) == Timings.embedded()


@pytest.mark.parametrize(
    "wrong",
    [
        {"beat_s": 0},
        {"beat_s": -1.0},
        {"beat_s": float("nan")},
        {"beat_s": float("inf")},
        {"beat_s": "15"},
        {"beat_s": True},
        {"looks_until_lost": 0},
        {"looks_until_lost": 1.5},
        {"ring_gap_s": -0.1},
        {"poll_min_s": 2.0, "poll_max_s": 1.0},
    ],
)
def test_wrong_timings(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Timings(**wrong)
    with pytest.raises(RecordInvalid, match=next(iter(wrong))):
        Timings.from_record({**Timings().to_record(), **wrong})


@given(
    strategies.none()
    | strategies.integers()
    | strategies.text()
    | strategies.dictionaries(
        strategies.sampled_from([field.name for field in dataclasses.fields(Timings)]),
        strategies.none() | strategies.text() | strategies.integers() | strategies.floats() | strategies.booleans(),
    )
)
def test_timings_of_any_record_are_right_or_refused(record):
    try:
        timings = Timings.from_record(record)
    except RecordInvalid:
        return
    assert all(value >= 0 for value in timings.to_record().values())
