"""SESSION: an id, a unique beginning of one, a URL, or `last`; what it says about others; and keys of other users' sessions."""

from __future__ import annotations

import json
import shlex
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.shell_completion import ShellComplete

from starburst_executor import DetachedExecutor
from starburst_executor.cli import exits, options
from starburst_executor.cli.main import starburst
from starburst_executor.errors import KeyNotFound
from tests.support.aws_rig import run


@pytest.fixture
def sessions() -> list[DetachedExecutor]:
    """Two sessions in the default store, oldest first."""
    made = [DetachedExecutor(launcher="none") for _ in range(2)]
    for executor in made:
        executor.detach()
    return made


def shown(*words: str) -> str:
    """The id of the session that these words name."""
    result = run("status", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return str(json.loads(result.stdout)["id"])


def test_a_session_is_named_by_id_url_unique_beginning_or_last(sessions: list[DetachedExecutor]) -> None:
    old, new = sessions
    n_shared = next(i for i in range(len(old.id)) if old.id[i] != new.id[i])
    assert shown(old.id) == shown(old.url) == shown(old.id[: n_shared + 1]) == old.id
    assert shown("last") == new.id
    store = old.url.rpartition("/")[0]
    assert shown("last", "--store", store) == new.id


def test_the_last_of_several_within_a_second_is_the_one_that_was_created_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starburst_home: Path
) -> None:
    store = f"sqlite://{tmp_path}/shared"
    second = tmp_path / "second"
    second.mkdir(mode=0o700)
    for _ in range(8):
        with DetachedExecutor(launcher="none", store=store) as newest:
            pass
        # By what this machine knows of sessions, and by the user's key alone.
        assert shown("last") == newest.id
        shutil.copy(starburst_home / "key", second / "key")
        with monkeypatch.context() as patch:
            patch.setenv("STARBURST_HOME", str(second))
            assert shown("last", "--store", store) == newest.id


def test_a_beginning_of_several_is_refused_with_their_ids(sessions: list[DetachedExecutor]) -> None:
    result = run("status", sessions[0].id[:8])
    assert result.exit_code == exits.USAGE
    assert all(executor.id in result.stderr for executor in sessions)
    assert result.stderr.count("\n") == 1


def test_an_unknown_session_suggests_the_nearest_and_the_command_that_lists(sessions: list[DetachedExecutor]) -> None:
    typo = sessions[0].id[:-1] + ("0" if sessions[0].id[-1] != "0" else "1")
    result = run("status", typo)
    assert result.exit_code == exits.NO_SESSION
    assert f"did you mean {sessions[0].id}" in result.stderr or f"did you mean {sessions[1].id}" in result.stderr
    assert "`starburst sessions`" in result.stderr
    assert "list_sessions" not in result.stderr
    assert "did you mean last?" in run("status", "lst").stderr
    gone = run("status", sessions[0].url[:-8] + "ffffffff")
    assert gone.exit_code == exits.NO_SESSION
    assert "`starburst sessions --store sqlite://" in gone.stderr


def test_last_is_what_this_user_started_not_what_another_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starburst_home: Path
) -> None:
    store = f"sqlite://{tmp_path}/shared"
    with DetachedExecutor(launcher="none", store=store) as own:
        pass
    # The same user on another machine: the key file was copied, nothing else was.
    second = tmp_path / "second"
    second.mkdir(mode=0o700)
    shutil.copy(starburst_home / "key", second / "key")
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "other"))
    with DetachedExecutor(launcher="none", store=store):
        pass
    monkeypatch.setenv("STARBURST_HOME", str(second))
    assert shown("last", "--store", store) == own.id
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "third"))
    assert run("status", "last", "--store", store).exit_code == exits.NO_SESSION


def test_a_key_is_taken_in_once_and_opens_one_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite://{tmp_path}/shared"
    with DetachedExecutor(launcher="none", store=store) as executor:
        executor.submit(abs, -1)
    key = run("key", "export", executor.id).stdout
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path / "second"))
    # Counting needs no key; what needs one says where it comes from.
    assert shown(executor.url) == executor.id
    refused = run("cancel", executor.url)
    assert refused.exit_code == exits.STORE
    wrong = run("key", "import", executor.url, answer="0" * 64 + "\n")
    assert wrong.exit_code == exits.STORE
    assert "nothing was taken in" in wrong.stderr
    assert run("key", "import", executor.url, answer=key).exit_code == 0
    kept = tmp_path / "second" / "keys" / executor.id
    assert kept.stat().st_mode & 0o777 == 0o600
    # From now on its id is enough.
    assert run("cancel", executor.id).exit_code == 0
    assert run("key", "export", executor.id).stdout == key
    assert run("cleanup", executor.id, "--force", "--yes").exit_code == 0
    assert not kept.exists()


def test_shells_complete_commands_and_sessions(sessions: list[DetachedExecutor]) -> None:
    complete = ShellComplete(starburst, {}, "starburst", "_STARBURST_COMPLETE")
    assert "sessions" in [item.value for item in complete.get_completions([], "ses")]
    values = [item.value for item in complete.get_completions(["status"], "")]
    assert values == ["last", *sorted((executor.id for executor in sessions), reverse=True)]
    assert [item.value for item in complete.get_completions(["status"], sessions[0].id)] == [sessions[0].id]


def test_a_session_with_a_name_is_called_by_it(sessions: list[DetachedExecutor], tmp_path: Path) -> None:
    named = DetachedExecutor(launcher="none", name="nightly")
    named.detach()
    elsewhere = DetachedExecutor(launcher="none", name="weekly", store=f"sqlite://{tmp_path}/other")
    elsewhere.detach()
    assert shown("nightly") == named.id
    assert shown("weekly") == elsewhere.id
    store = named.url.rpartition("/")[0]
    assert run("status", "weekly", "--store", store).exit_code == exits.NO_SESSION
    assert "did you mean nightly?" in run("status", "nihgtly").stderr
    assert f"session {named.id}, nightly: open" in run("status", "nightly").stdout
    (line,) = run("sessions", "--name", "night*", "--json").stdout.splitlines()
    assert (json.loads(line)["id"], json.loads(line)["name"]) == (named.id, "nightly")
    assert run("sessions").stdout.count("nightly") == 1
    complete = ShellComplete(starburst, {}, "starburst", "_STARBURST_COMPLETE")
    assert [item.value for item in complete.get_completions(["status"], "n")] == ["nightly"]
    assert run("cleanup", "nightly", "--force", "--yes").exit_code == exits.DONE
    assert run("status", "nightly").exit_code == exits.NO_SESSION
    assert sessions


@pytest.mark.parametrize("name", ["DONE", "NO", "USAGE", "NO_SESSION", "STORE", "TIMED_OUT", "NO_WORKERS", "LIMIT"])
def test_every_exit_status_is_in_the_reference(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/command.md").read_text(encoding="utf-8")
    assert f"\n| {getattr(exits, name)} | " in page


def test_the_most_special_class_of_an_error_decides() -> None:
    from starburst_executor import errors

    expected = {
        errors.SessionNotFound: 3,
        errors.KeyNotFound: 4,
        errors.AccessDenied: 4,
        errors.StoreUnavailable: 4,
        errors.VersionMismatch: 4,
        errors.ConfigError: 2,
        errors.LaunchError: 6,
        errors.NoCapacity: 6,
        errors.QuotaExceeded: 7,
        errors.BudgetExceeded: 7,
        errors.SessionExpired: 7,
        errors.TaskTimeout: 5,
        TimeoutError: 5,
        ZeroDivisionError: 70,
    }
    assert {kind: exits.code_of(kind("")) for kind in expected} == expected
    assert exits.code_of(errors.LaunchError(""), in_account=True) == 4


def test_a_command_that_is_printed_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "s3://bucket/team/20260401-083000-1f2e3d4c?endpoint_url=http://127.0.0.1:9000&region=eu-west-1"
    session = SimpleNamespace(sealer=SimpleNamespace(has_key=False), session_id="20260401-083000-1f2e3d4c")
    monkeypatch.setattr(options, "visit", lambda *_: nullcontext(SimpleNamespace(session=session, url=url)))
    with pytest.raises(KeyNotFound) as caught, options.opened(url, None, needs_key=True):
        pass
    printed = str(caught.value).split("`")[3]
    assert shlex.split(printed) == ["starburst", "key", "import", url]
    assert "&" not in printed.replace(shlex.quote(url), "")


@pytest.mark.parametrize(
    "words",
    [
        ["sessions"],
        ["sessions", "--json"],
        ["cleanup", "--older-than", "1s", "--yes"],
        ["cache", "ls"],
        ["cache", "clear", "squares"],
        ["study", "list"],
    ],
)
def test_a_store_of_which_nothing_can_be_read_is_an_error_and_not_an_empty_list(
    sessions: list[DetachedExecutor], tmp_path: Path, words: list[str]
) -> None:
    store, folder = sessions[0].url.rpartition("/")[0], tmp_path / "copied"
    DetachedExecutor(
        launcher="none", store=store, name="nightly"
    ).detach()  # names are in the store's own file, as are caches
    shutil.copytree(store.removeprefix("sqlite://"), folder)
    # As where it may not be written, also for root.
    (folder / "_lock").unlink()
    (folder / "_lock").symlink_to("_lock")
    result = run(*words, "--store", f"sqlite://{folder}")
    assert result.exit_code == exits.STORE
    assert result.stdout == ""
    assert "cannot use the embedded store" in result.stderr
    assert "no s" not in result.stderr


def test_a_file_that_is_no_session_is_no_error_and_some_that_cannot_be_read_hide_no_others(
    sessions: list[DetachedExecutor], tmp_path: Path
) -> None:
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "photos.db").write_text("not a database")
    result = run("sessions", "--store", f"sqlite://{folder}")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no sessions" in result.stderr
    shutil.copytree(sessions[0].url.rpartition("/")[0].removeprefix("sqlite://"), folder, dirs_exist_ok=True)
    result = run("sessions", "--store", f"sqlite://{folder}")
    assert result.exit_code == 0
    assert all(executor.id in result.stdout for executor in sessions)
