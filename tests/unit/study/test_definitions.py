"""Stages that are stored with their functions: loaded again, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.errors import KeyNotFound, RecordInvalid, VersionMismatch
from starburst_executor.study import definitions
from starburst_executor.study.definitions import dump_stages, load_stages, sealer_of
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.stage import Stage
from starburst_executor.testing import MemoryStore

KEYS, SEALER = StudyKeys("mine"), sealer_of("mine", b"k" * 32)


def trial(_: Any) -> dict[str, float]:
    return {"score": 1.0}


@pytest.fixture
def store(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(request.node.name)


def test_stages_come_back_and_are_stored_once(store: MemoryStore) -> None:
    stages = [
        Stage("first", trial, 3, options={"retries": 2, "backoff": 1}),
        Stage("second", command="tool {x}", trials=2),
    ]
    digest = dump_stages(stages, {"workers": 2}, store, KEYS, SEALER, SystemClock())
    assert dump_stages(stages, {"workers": 2}, store, KEYS, SEALER, SystemClock()) == digest
    (first, second), settings = load_stages(digest, store, KEYS, SEALER)
    assert settings == {"workers": 2}
    assert (first.name, first.options, second.command) == ("first", stages[0].options, "tool {x}")
    assert first.run is not None
    assert first.run(None) == {"score": 1.0}


def test_what_cannot_be_loaded_says_why(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = dump_stages([Stage("only", trial, 1)], {}, store, KEYS, SEALER, SystemClock())
    with pytest.raises(KeyNotFound, match="sealed with another key, or have been changed"):
        load_stages(digest, store, KEYS, sealer_of("mine", b"j" * 32))
    with pytest.raises(RecordInvalid, match="the stages of study mine are missing"):
        load_stages("0" * 64, store, KEYS, SEALER)
    monkeypatch.setattr(definitions, "__version__", "99.0")
    with pytest.raises(
        VersionMismatch, match=r"another version of starburst_executor: stored=.*, here=99\.0; run the program"
    ):
        load_stages(digest, store, KEYS, SEALER)
    monkeypatch.setattr(definitions, "_python", lambda: "2.7")
    with pytest.raises(VersionMismatch, match=r"another Python: stored=3\.\d+, here=2\.7"):
        load_stages(digest, store, KEYS, SEALER)
