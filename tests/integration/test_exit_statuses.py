"""The table of exit statuses in `docs/reference/command.md`, row by row: each command is brought into each status that applies to it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import click
import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.cli import entry, exits
from starburst_executor.cli.main import COMMANDS, starburst
from starburst_executor.errors import (
    AccessDenied,
    BudgetExceeded,
    ConfigError,
    KeyNotFound,
    LaunchError,
    QuotaExceeded,
    SessionNotFound,
    StoreUnavailable,
)
from starburst_executor.protocol.failures import TOO_MANY_FAILURES
from starburst_executor.protocol.records import SessionState
from tests.sessions import detached, kill_workers, short_timings
from tests.support.inside import session_of

# Of a plugin of Apprise, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr':DeprecationWarning")
assert short_timings
NOT_THERE = "20200101-000000-00000000"


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A session in each state that a command may find, by name; and files that commands take."""
    folder = tmp_path_factory.mktemp("statuses")
    (folder / "script.py").write_text("def f(x):\n    if x == 3:\n        raise ValueError(x)\n    return x\n")
    (folder / "slow.py").write_text("import time\ndef f(x):\n    time.sleep(0.02)\n    raise ValueError(x)\n")
    (folder / "leaves.py").write_text("import sys\ndef f(x):\n    return x\nsys.exit()\n")
    (folder / "bad.yaml").write_text("stages: 3\n")
    (folder / "a-file").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARBURST_HOME", str(folder / "home"))
        store = f"sqlite://{folder}/sessions"
        found = {"store": store, "folder": str(folder)}
        for name, calls in (("done", (4.0, 9.0)), ("failed", (4.0, 0.0))):
            executor = detached(store, workers=1)
            wait([executor.submit(pow, x, -1) for x in calls])
            executor.detach()
            found[name] = executor.url
        ends = {
            "limit": {"state": SessionState.BROKEN, "error": TOO_MANY_FAILURES},
            "hopeless": {"state": SessionState.BROKEN},
            "expired": {"state": SessionState.EXPIRED},
            "waiting": {},
        }
        for name, changes in ends.items():
            executor = DetachedExecutor(workers=1, launcher="none", store=store)
            executor.submit(abs, -1)
            executor.flush()
            session_of(executor).manifest.change(
                lambda manifest, changes=changes: replace(manifest, **changes) if changes else None
            )
            executor.detach()
            found[name] = executor.url
        yield found
        kill_workers(f"{folder}/")


@pytest.fixture
def home(sessions: dict[str, str], monkeypatch: pytest.MonkeyPatch, short_timings: None) -> str:
    """The home with the sessions' keys."""
    monkeypatch.setenv("STARBURST_HOME", f"{sessions['folder']}/home")
    monkeypatch.chdir(sessions["folder"])
    return sessions["folder"]


# Words, with names of sessions in braces, and the status. What changes a session comes last.
REAL = [
    ("sessions --store {store}", exits.DONE),
    ("sessions --store oops://x", exits.USAGE),
    ("sessions --store sqlite://{folder}/a-file", exits.STORE),
    ("sessions --older-than soon", exits.USAGE),
    ("status {done}", exits.DONE),
    ("status {failed} --watch", exits.DONE),
    ("status {expired} --json", exits.DONE),
    ("status {done} --bogus", exits.USAGE),
    ("wait {done}", exits.DONE),
    ("wait {failed}", exits.NO),
    ("wait {waiting} --timeout 0.1", exits.TIMED_OUT),
    ("wait {hopeless}", exits.NO_WORKERS),
    ("wait {limit}", exits.LIMIT),
    ("wait {expired}", exits.LIMIT),
    ("wait {done} --notify oops://x", exits.USAGE),
    ("attach {done}", exits.DONE),
    ("attach {failed}", exits.NO),
    ("attach {hopeless}", exits.NO_WORKERS),
    ("attach {limit}", exits.LIMIT),
    ("top {failed} --all", exits.DONE),
    ("top {waiting}", exits.DONE),
    ("explain {failed}", exits.DONE),
    ("explain {waiting} 0-0 --json", exits.DONE),
    ("explain {done} seventeen", exits.USAGE),
    ("results {failed}", exits.DONE),
    ("results {failed} --failed", exits.DONE),
    ("results {failed} --index seventeen", exits.USAGE),
    ("errors {done}", exits.DONE),
    ("errors {failed}", exits.DONE),
    ("joblog {failed}", exits.DONE),
    ("report {failed} --out {folder}/page.html", exits.DONE),
    ("report {failed} --out {folder}/page.doc", exits.USAGE),
    ("metrics {failed} --format prometheus", exits.DONE),
    ("metrics {failed} --format xml", exits.USAGE),
    ("logs {failed}", exits.DONE),
    ("logs {failed} --search (", exits.USAGE),
    ("logs {failed} --worker all", exits.USAGE),
    ("dashboard {done} --host 999.1.1.1", exits.USAGE),
    ("dashboard --notify json://localhost:1", exits.USAGE),
    ("key export {done}", exits.DONE),
    ("config show", exits.DONE),
    ("config set nonsense 3", exits.USAGE),
    ("version", exits.DONE),
    ("run script.py:f --range 4 --dry-run", exits.DONE),
    ("run script.py:absent --range 4", exits.USAGE),
    ("run script.py:f --range 0:3 --workers 1 --store {store}", exits.DONE),
    ("run script.py:f --range 0:4 --workers 1 --store {store}", exits.NO),
    ("run script.py:f --range 0:4 --workers 1 --store {store} --max-fails 1", exits.NO),
    ("run script.py:f --range 4 --format csv", exits.USAGE),
    ("run leaves.py:f --range 4", exits.USAGE),
    ("run slow.py:f --range 2000 --workers 1 --store {store} --max-fails 1", exits.LIMIT),
    ("study list --store {store}", exits.DONE),
    ("study status absent --store {store}", exits.NO_SESSION),
    ("study validate bad.yaml", exits.USAGE),
    ("study schema", exits.DONE),
    ("nonsense", exits.USAGE),
    ("retry {done} --failed", exits.DONE),
    ("retry {failed} --failed --task 0-1", exits.USAGE),
    ("retry {failed} --task 0-77", exits.USAGE),
    ("retry {failed} --task 0-0", exits.DONE),
    ("retry {limit} --failed", exits.USAGE),
    ("retry {expired} --failed", exits.LIMIT),
    ("extend {waiting} 1h", exits.DONE),
    ("extend {waiting} soon", exits.USAGE),
    ("extend {limit} 1h", exits.USAGE),
    ("extend {expired} 1h", exits.LIMIT),
    ("scale {waiting} 0", exits.USAGE),
    ("scale {expired} 2", exits.LIMIT),
    ("cancel {waiting}", exits.DONE),
    ("cleanup", exits.USAGE),
    ("cleanup --older-than 300d --store {store}", exits.DONE),
    ("cleanup {waiting} --yes", exits.DONE),
]


@pytest.mark.usefixtures("home")
def test_the_status_of_a_limit_is_told_in_words(sessions: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    words = f"run script.py:f --range 0:4 --workers 1 --store {sessions['store']} --max-fails 0"
    assert entry(words.split()) == exits.LIMIT
    assert "1 of 4 tasks failed, and max_failures=0 allows 0\n" in capsys.readouterr().err
    assert entry(["cleanup", "last", "--store", sessions["store"], "--force", "--yes"]) == exits.DONE


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("words", "status"), REAL, ids=[words for words, _ in REAL])
def test_what_a_user_does_has_the_status_of_the_table(words: str, status: int, sessions: dict[str, str]) -> None:
    assert entry([word.format(**sessions) for word in words.split()]) == status
    if words.startswith("run script.py") and "--workers" in words:
        # Its workers would wait for further tasks.
        assert entry(["cleanup", "last", "--store", sessions["store"], "--force", "--yes"]) == exits.DONE


# Commands that open a session.
OF_SESSIONS = """status wait attach top explain results errors joblog report metrics logs dashboard retry cancel
cleanup""".split()  # noqa: SIM905 - shorter than a list of strings
WITH_A_TIME = {"extend": "1h", "scale": "2"}
# Commands that need the session's key.
OF_KEYS = "attach results errors retry cancel extend scale cleanup".split()  # noqa: SIM905


def words_of(command: str, url: str) -> list[str]:
    return [command, url, *([WITH_A_TIME[command]] if command in WITH_A_TIME else [])]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", [*OF_SESSIONS, *WITH_A_TIME])
def test_a_session_that_is_not_there(
    command: str, sessions: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry(words_of(command, f"{sessions['store']}/{NOT_THERE}")) == exits.NO_SESSION
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", OF_KEYS)
def test_a_key_that_is_not_there(
    command: str,
    sessions: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STARBURST_HOME", str(tmp_path))
    assert entry(words_of(command, sessions["failed"])) == exits.STORE
    assert "key" in capsys.readouterr().err


# What a store, an account or a person may do to any command, at its first step.
CAUSES: list[tuple[BaseException, int]] = [
    (SessionNotFound("not there"), exits.NO_SESSION),
    (ConfigError("a setting"), exits.USAGE),
    (KeyNotFound("no key"), exits.STORE),
    (AccessDenied("refused"), exits.STORE),
    (StoreUnavailable("away"), exits.STORE),
    (TimeoutError("too late"), exits.TIMED_OUT),
    (LaunchError("no workers"), exits.NO_WORKERS),
    (QuotaExceeded("no room"), exits.LIMIT),
    (BudgetExceeded("too dear"), exits.LIMIT),
    (ZeroDivisionError("a bug"), exits.FAULT),
    (KeyboardInterrupt(), exits.INTERRUPTED),
]
# The least that each command must be given.
GIVEN = {
    **{name: ["20260401"] for name in (*OF_SESSIONS, "shell")},
    **{name: ["20260401", value] for name, value in WITH_A_TIME.items()},
    "run": ["math:sqrt", "--range", "4"],
    "cleanup": ["20260401"],
    "key export": ["20260401"],
    "key import": ["20260401"],
    "config set": ["workers", "3"],
    "cache clear": ["features"],
    "image build": ["script.py"],
    "image context": ["script.py", "folder"],
}
IN_ACCOUNT = {"setup", "doctor", "teardown", "quota", "image", "shell"}


def leaves(command: click.Command, name: str) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield name
        return
    context = click.Context(command)
    for inner in command.list_commands(context):
        found = command.get_command(context, inner)
        assert found is not None
        yield from leaves(found, f"{name} {inner}".strip())


@pytest.mark.parametrize(("cause", "status"), CAUSES, ids=[type(cause).__name__ for cause, _ in CAUSES])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_status_of_its_cause(
    name: str, cause: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise cause

    command = starburst.get_command(click.Context(starburst), name)
    assert command is not None
    for leaf in leaves(command, name):
        inner = command
        for part in leaf.split()[1:]:
            found = inner.get_command(click.Context(inner), part)  # type: ignore[attr-defined]  # a group
            assert found is not None
            inner = found
        monkeypatch.setattr(inner, "callback", fail)
        words = [*leaf.split(), *GIVEN.get(leaf, [])]
        if leaf.startswith("study"):
            for param in inner.params:
                if param.required:
                    words += [__file__] if isinstance(param, click.Argument) else [param.opts[0], __file__]
        assert entry(words) == status, leaf
        said = capsys.readouterr().err.removeprefix("\n")  # after a ^C
        assert said.startswith("starburst: ")
        assert said.count("\n") == 1


def test_in_an_account_what_could_not_be_done_is_not_a_worker_that_did_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise LaunchError("no such stack")

    monkeypatch.setattr("starburst_executor.aws.clients.Clients", fail)
    for words in ("setup", "doctor", "teardown", "quota", "image list"):
        assert entry(words.split()) == exits.STORE
    assert {words.split()[0] for words in ("setup", "doctor", "teardown", "quota", "image list", "shell")} == IN_ACCOUNT
