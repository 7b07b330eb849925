"""`starburst config` and `version`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from starburst_executor.cli import exits
from tests.support.aws_rig import run


def origins() -> dict[str, tuple[object, str]]:
    rows = [json.loads(line) for line in run("config", "show", "--json").stdout.splitlines()]
    return {row["name"]: (row["value"], row["origin"]) for row in rows}


def test_each_setting_is_shown_with_its_origin(monkeypatch: pytest.MonkeyPatch, starburst_home: Path) -> None:
    path = starburst_home / "config.toml"
    path.write_text('# mine\nretries = 2\n\n[aws]\nstack = "ours"\n')
    monkeypatch.setenv("STARBURST_WORKERS", "3")
    found = origins()
    assert found["retries"] == (2, str(path))
    assert found["workers"] == (3, "STARBURST_WORKERS")
    assert found["launcher"] == ("local", "default")
    assert found["store"] == (f"sqlite://{starburst_home}/sessions", "default")
    assert run("config", "set", "task_timeout", "90").exit_code == 0
    assert run("config", "set", "retries", "default").exit_code == 0
    assert run("config", "set", "store", "s3://bucket/team").exit_code == 0
    found = origins()
    assert (found["task_timeout"][0], found["retries"], found["store"][0]) == (90.0, (0, "default"), "s3://bucket/team")
    # What was there stays there, and a value never slips into a table.
    text = path.read_text()
    assert text.startswith("# mine\n")
    assert text.index("task_timeout") < text.index("[aws]")


def test_a_setting_that_cannot_be_is_refused_and_not_written(starburst_home: Path) -> None:
    for words in (("worker", "3"), ("workers", "many"), ("workers", "0"), ("store", "nonsense")):
        result = run("config", "set", *words)
        assert (result.exit_code, result.stderr.count("\n")) == (exits.USAGE, 1)
    assert not (starburst_home / "config.toml").exists()


def test_the_version_names_the_formats() -> None:
    found = json.loads(run("version", "--json").stdout)
    assert found.keys() == {"format", "version", "python", "executable", "records", "status_objects"}
    assert run("version").stdout.startswith("version ")
