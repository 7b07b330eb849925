"""How outcomes are written: JSON lines, tables, pickles, one file or one for each task."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starburst_executor.cli.writers import as_json, format_for, write_all
from starburst_executor.client.reading import Task
from starburst_executor.client.results import Outcome
from starburst_executor.errors import ConfigError, PayloadError
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.attempts import Attempt
from starburst_executor.protocol.spans.record import State


@dataclasses.dataclass
class Point:
    x: int
    at: dt.date


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


def outcome(index: int, value: Any = None, error: BaseException | None = None) -> Outcome:
    state = State.COMPLETED if error is None else State.FAILED
    body = outcomes.dump_value(value) if error is None else outcomes.dump_error(error)
    return Outcome(Task(0, index, state, 1, 1, 0, 0, 0, "w.1", 1.0, 0.1), memoryview(body))


def test_values_become_what_json_has() -> None:
    values = {
        "list": [1, (2, {3})],
        "array": np.arange(3),
        "number": np.float64(0.5),
        "nothing": float("nan"),
        "bytes": b"x",
        "point": Point(1, dt.date(2026, 4, 1)),
        "odd": Odd(),
        7: True,
    }
    assert json.loads(as_json(outcome(3, values))) == {
        "format": 1,
        "task": "0-3",
        "index": 3,
        "state": "completed",
        "value": {
            "list": [1, [2, [3]]],
            "array": [0, 1, 2],
            "number": 0.5,
            "nothing": None,
            "bytes": "eA==",
            "point": {"x": 1, "at": "2026-04-01"},
            "odd": "<odd>",
            "7": True,
        },
    }


def test_what_has_no_value_has_an_error() -> None:
    failed = json.loads(as_json(outcome(1, error=ValueError("é"))))
    assert (failed["state"], failed["error"]["type"], failed["error"]["message"]) == (
        "failed",
        "builtins.ValueError",
        "é",
    )
    lost = json.loads(as_json(outcome(1)._replace(body=None, problem=PayloadError("gone"))))
    assert lost["error"]["message"] == "gone"
    cancelled = outcome(1)._replace(body=None, task=outcome(1).task._replace(state=State.CANCELLED))
    assert json.loads(as_json(cancelled))["error"]["type"] == "concurrent.futures.CancelledError"


def test_attempts_before_the_last_are_written_where_there_are_some(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    tried = outcome(1, 5)._replace(attempts=(Attempt(1, "ValueError: \udc80 <no>", "w", 2.5),), label="a")
    write_all(iter([outcome(0, 4), tried]), path, "jsonl")
    first, second = map(json.loads, path.read_text("utf-8").splitlines())
    assert "attempts" not in first
    assert second["attempts"] == [{"attempt": 1, "error": "ValueError: \\udc80 <no>", "worker": "w", "at": 2.5}]
    assert (second["label"], second["value"]) == ("a", 5)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_has_the_columns_of_the_first_value(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    found = [outcome(0, error=ValueError("no")), outcome(1, {"a": 1, "b": [2]}), outcome(2, {"b": 3, "c": "new"})]
    write_all(iter(found), path, format_for(path, None))
    first, second, third = rows(path)
    assert list(first) == ["task", "index", "state", "a", "b", "error", "more"]
    assert (first["a"], first["error"]) == ("", "builtins.ValueError: no")
    assert (second["a"], second["b"], second["error"]) == ("1", "[2]", "")
    assert (third["a"], third["b"], json.loads(third["more"])) == ("", "3", {"c": "new"})
    write_all(iter([outcome(0, 5), outcome(1, "x,y")]), path, "csv")
    assert [row["value"] for row in rows(path)] == ["5", "x,y"]
    assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]


def test_a_file_is_there_only_once_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.pkl"

    def broken() -> Any:
        yield outcome(0, 1)
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        write_all(broken(), path, "pickle")
    assert list(tmp_path.iterdir()) == []
    write_all(iter([outcome(0, 1), outcome(1, error=KeyError("k"))]), path, format_for(path, None))
    with path.open("rb") as file:
        first, second = pickle.load(file), pickle.load(file)
    assert (first["value"], first["error"]) == (1, None)
    assert isinstance(second["error"], KeyError)
    with pytest.raises(ConfigError, match="results cannot be written: No such file"):
        write_all(iter([]), tmp_path / "nowhere" / "out.csv", "csv")
    with pytest.raises(ConfigError, match="a folder gets a file for each task, as jsonl or pickle"):
        write_all(iter([]), tmp_path, "csv")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install pyarrow"):
        write_all(iter([outcome(0, 1)]), tmp_path / "out.parquet", format_for(tmp_path / "out.parquet", None))


def test_names_that_are_no_unicode_are_written_as_text(tmp_path: Path) -> None:
    found = [outcome(0, {"file\udcff": ["é\udcff"]}), outcome(1, error=ValueError("\udcff"))]
    for name in ("out.jsonl", "out.csv"):
        write_all(iter(found), tmp_path / name, format_for(tmp_path / name, None))
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").splitlines())
    assert first["value"] == {r"file\udcff": [r"é\udcff"]}
    assert second["error"]["type"] == "builtins.ValueError"
    assert rows(tmp_path / "out.csv")[0][r"file\udcff"] == r'["é\\udcff"]'
    assert b"\r" not in (tmp_path / "out.csv").read_bytes()
    assert json.loads(as_json(outcome(0, "é"), "ascii"))["value"] == "é"
    assert as_json(outcome(0, "é"), "ascii").isascii()
