"""What only reads needs no home that can be written: nothing is created there, and what is there is read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, config
from starburst_executor.cli import exits
from starburst_executor.client import registry
from starburst_executor.errors import ConfigError, KeyNotFound
from starburst_executor.launch.local.handle import AgentRecord
from tests.support.aws_rig import run

URL = "the session's URL"
READING = {
    "version": exits.DONE,
    "--help": exits.DONE,
    "config show": exits.DONE,
    "config show --json": exits.DONE,
    "sessions": exits.DONE,
    "status unknown": exits.NO_SESSION,
    "explain unknown": exits.NO_SESSION,
    "results last": exits.NO_SESSION,
    "study list": exits.DONE,
    "cache ls": exits.DONE,
    f"status {URL}": exits.DONE,
    f"explain {URL}": exits.DONE,
    f"top {URL}": exits.DONE,
    f"joblog {URL}": exits.DONE,
    f"metrics {URL}": exits.DONE,
    f"results {URL}": exits.STORE,  # it needs the key
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> DetachedExecutor:
    """A session that was started with another home, in a store that both can use."""
    with DetachedExecutor(launcher="none", store=f"sqlite://{tmp_path}/store") as executor:
        executor.map(abs, range(3))
    return executor


@pytest.mark.parametrize("words", READING)
def test_what_only_reads_creates_no_home(
    words: str, elsewhere: DetachedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "absent" / "home"))
    result = run(*words.replace(URL, elsewhere.url).split())
    assert result.exit_code == READING[words], result.stderr
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    "words", [words for words in READING if URL in words or words in ("version", "--help", "config show")]
)
def test_what_only_reads_works_where_no_home_can_be(
    words: str, elsewhere: DetachedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "file" / "home"))
    result = run(*words.replace(URL, elsewhere.url).split())
    assert result.exit_code == READING[words], result.stderr


def test_the_sessions_of_a_configured_store_need_no_home(
    elsewhere: DetachedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("STARBURST_STORE", elsewhere.url.rpartition("/")[0])
    assert json.loads(run("sessions", "--json").stdout)["id"] == elsewhere.id
    assert run("status", elsewhere.id).exit_code == exits.DONE
    assert [found.id for found in DetachedExecutor.list_sessions()] == [elsewhere.id]


def test_a_setting_that_cannot_be_used_is_shown_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    home = tmp_path / "file" / "home"
    monkeypatch.setenv("STARBURST_HOME", str(home))
    rows = [json.loads(line) for line in run("config", "show", "--json").stdout.splitlines()]
    (store,) = [row for row in rows if row["name"] == "store"]
    assert store["value"] == f"sqlite://{home}/sessions"
    assert (
        store["origin"]
        == f"default, which cannot be used: the data folder cannot be made: Not a directory: folder={home}/sessions"
    )
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "absent"))
    assert config.explained()["store"] == (f"sqlite://{tmp_path}/absent/sessions", "default")


def test_what_was_noted_is_read_in_a_home_that_has_become_read_only(
    elsewhere: DetachedExecutor, starburst_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_a_log = AgentRecord("w", "m", 2, "", "/x/worker.log", 1)
    log = config.log_folder() / "worker.log"
    log.write_text("last words")
    # The system's own answer for a read-only file system; modes do not stop root.
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    assert config.registry_folder(to_write=True) is None
    assert config.price_file(to_write=True) is None
    assert config.price_file(to_write=False) == starburst_home / "prices.json"
    assert registry.known_url(elsewhere.id) == elsewhere.url
    assert run("status", elsewhere.id).exit_code == exits.DONE
    assert run("status", "last").exit_code == exits.DONE
    assert with_a_log.log_path == log
    assert "the data folder is read-only" in config.explained()["store"][1]


def test_a_home_that_this_user_cannot_enter_has_no_key(
    elsewhere: DetachedExecutor, starburst_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, *mode: str, **how: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as closed:
        closed.setattr("pathlib.Path.open", denied)
        with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
            config.find_session_key(elsewhere.id)
        closed.setattr("os.access", lambda path, mode: False)
        with pytest.raises(KeyNotFound):
            config.find_session_key(elsewhere.id)
