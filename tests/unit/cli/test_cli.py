"""The `starburst` command: its exit statuses, what it prints where, and what works without its extra."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.cli import entry
from starburst_executor.cli.main import COMMANDS
from starburst_executor.protocol.records import SessionState
from tests.support.aws_rig import run
from tests.support.inside import session_of


@pytest.fixture
def session():
    """A detached session in the default store, with three tasks that no worker runs."""
    with DetachedExecutor(launcher="none") as executor:
        executor.map(abs, range(3))
    return executor


def test_every_command_can_be_loaded_and_says_what_it_does():
    for name in COMMANDS:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: starburst {name}")
    assert all(name in run("--help").stdout for name in [*COMMANDS, "starburst worker"])


def test_exit_statuses(capsys):
    assert entry(["--version"]) == 0
    assert entry(["no-such-command"]) == 2
    assert entry(["status", "20260101-000000-0a1b2c3d"]) == 3
    assert capsys.readouterr().err.splitlines()[-1].startswith("starburst: no such session: '20260101-000000-0a1b2c3d'")


def test_an_answer_that_is_no_is_an_exit_status(monkeypatch, session):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert entry(["cleanup", session.id]) == 1
    assert entry(["cleanup", session.id, "--yes"]) == 0


def test_the_worker_needs_no_click():
    program = "import sys; sys.modules['click'] = None; from starburst_executor.cli import entry; sys.exit(entry(sys.argv[1:]))"
    worker = subprocess.run(
        [sys.executable, "-c", program, "worker", "nonsense"], capture_output=True, text=True, check=False, timeout=60
    )
    assert worker.returncode == 3
    assert "not a session's URL: 'nonsense'" in worker.stderr
    other = subprocess.run(
        [sys.executable, "-c", program, "sessions"], capture_output=True, text=True, check=False, timeout=60
    )
    assert other.returncode == 2
    assert "pip install 'starburst-executor[cli]'" in other.stderr
    assert other.stderr.count("\n") == 1


def test_sessions_are_listed(session):
    assert session.id in run("sessions").stdout
    found = json.loads(run("sessions", "--json").stdout)
    assert (found["format"], found["id"], found["n_tasks"], found["state"]) == (1, session.id, 3, "open")
    counted = json.loads(run("sessions", "--json", "--counts").stdout)
    assert (counted["pending"], counted["completed"]) == (3, 0)
    assert run("sessions", "--state", "broken").stdout == ""
    assert run("sessions", "--older-than", "1h").stdout == ""
    assert session.id in run("sessions", "--newer-than", "1h", "--state", "open").stdout
    assert run("sessions", "--older-than", "soon").exit_code == 2


def test_no_sessions_is_said_on_standard_error():
    result = run("sessions")
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(r"no sessions in sqlite:///.*; pass --store to search another store\n", result.stderr)


def test_status_counts_and_starts_nothing(session):
    assert "0 of 3 ended" in run("status", session.id).stdout
    found = json.loads(run("status", session.url, "--json").stdout)
    assert (found["total"], found["pending"], found["workers"]) == (3, 3, 0)


def test_cleanup_asks_and_then_ends(session):
    refused = run("cleanup", session.id, answer="n\n")
    assert refused.exit_code == 1
    assert "end it?" in refused.stderr
    assert json.loads(run("status", session.id, "--json").stdout)["state"] == "open"
    assert run("cleanup", session.id, answer="y\n").stdout == f"session {session.id}: ended\n"
    assert json.loads(run("status", session.id, "--json").stdout)["cancelled"] == 3
    assert run("cleanup", session.id, "--force", "--yes").stdout == f"session {session.id}: deleted\n"
    assert run("sessions").stdout == ""


def test_usage_errors_are_one_sentence_with_the_way_on(capsys):
    for words, says in (
        (["status"], "Missing argument 'SESSION'; `starburst status --help` shows what it takes"),
        (["status", "last", "--wach"], "`starburst status --help` shows"),
        (["staus", "last"], "no such command: 'staus', did you mean status?; `starburst --help` shows"),
        (["nonsense"], "No such command 'nonsense'; `starburst --help` shows"),
        (["extend", "last", "soon"], "write seconds, or 30m, 12h, 7d"),
    ):
        assert entry(words) == 2
        error = capsys.readouterr().err
        assert error.startswith("starburst: ")
        assert (says in error, error.count("\n")) == (True, 1), error


def test_a_session_is_changed_from_outside(session):
    assert run("extend", session.id, "2h").stdout == (
        f"session {session.id}: has no absolute_timeout and never expires\n"
    )
    with DetachedExecutor(launcher="none", absolute_timeout=60) as ex:
        pass
    assert f"session {ex.id}: expires " in run("extend", ex.id, "2h").stdout
    found = json.loads(run("status", ex.id, "--json").stdout)
    assert found["deadline_at"] > found["created_at"] + 7200
    assert run("scale", session.id, "7").stdout == f"session {session.id}: 7 tasks at once\n"
    assert run("scale", session.id, "0").exit_code == 2
    assert run("cancel", session.id).stdout == f"session {session.id}: 3 tasks cancelled\n"
    assert json.loads(run("status", session.id, "--json").stdout)["cancelled"] == 3
    assert "no workers" in run("top", session.id).stderr
    assert run("wait", session.id).exit_code == 1


def test_a_session_that_is_over_is_not_changed_and_says_why(session):
    assert run("cleanup", session.id, "--yes").exit_code == 0
    for words in (["retry", session.id], ["scale", session.id, "3"], ["extend", session.id, "1h"]):
        result = run(*words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert f"session {session.id} is terminated (cleaned up)" in result.stderr


@pytest.mark.parametrize(("reason", "error", "code"), [("no worker", "", 6), ("spent", "BudgetExceeded", 7)])
def test_waiting_for_a_session_that_cannot_go_on_tells_why_by_its_exit_status(session, reason, error, code):
    attached = DetachedExecutor.reattach(session.url, launcher="none")
    session_of(attached).manifest.change(lambda now: None if now.state.is_over else broken(now, reason, error))
    attached.detach()
    assert run("wait", session.id).exit_code == code


def broken(manifest, reason, error):
    return dataclasses.replace(manifest, state=SessionState.BROKEN, reason=reason, error=error)


def test_a_session_whose_time_is_over_is_not_waited_for(monkeypatch):
    with DetachedExecutor(launcher="none", absolute_timeout=1) as ex:
        ex.submit(abs, -1)
    # No worker and no client is there to end it.
    assert run("wait", ex.id, "--timeout", "1m").exit_code == 7
    assert "expired (absolute_timeout passed)" in run("status", ex.id).stdout
    assert "the session is expired" in run("explain", ex.id).stdout
    assert run("extend", ex.id, "1h").exit_code == 7


def test_sessions_are_chosen_by_state_and_age_and_cleaned_up_together(session):
    with DetachedExecutor(launcher="none") as other:
        pass
    assert run("cleanup").exit_code == 2
    assert run("cleanup", session.id, "--state", "open").exit_code == 2
    assert "no such sessions" in run("cleanup", "--older-than", "7d", "--yes").stderr
    refused = run("cleanup", "--state", "open", answer="n\n")
    assert (refused.exit_code, "end these 2 sessions?" in refused.stderr) == (1, True)
    assert run("cleanup", other.id, "--yes").exit_code == 0
    done = run("cleanup", "--state", "terminated", "--force", "--yes")
    assert done.stdout == f"session {other.id}: deleted\n"
    assert session.id in run("sessions").stdout


def test_key_export_prints_the_key_alone(session):
    assert run("key", "export", session.id).stdout == f"{session.key.hex()}\n"
    assert run("key", "export", session.url).stdout == f"{session.key.hex()}\n"
    unknown = run("key", "export", "20260101-000000-0a1b2c3d")
    assert unknown.exit_code == 3
    assert "no such session" in unknown.stderr


def test_a_fault_of_ours_is_one_sentence_and_a_traceback_on_request(monkeypatch):
    def fault(_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(DetachedExecutor, "list_sessions", fault)
    result = run("sessions")
    assert (result.exit_code, result.stderr.count("\n")) == (70, 1)
    assert "a fault of starburst itself: ZeroDivisionError: by nothing" in result.stderr
    assert "Traceback" in run("sessions", "--debug").stderr


def test_interrupted(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(DetachedExecutor, "list_sessions", interrupt)
    assert entry(["sessions"]) == 130
    assert "starburst: interrupted" in capsys.readouterr().err


def test_sessions_of_the_stack_are_listed_too_once_there_is_one(session, monkeypatch, tmp_path):
    from starburst_executor import config
    from starburst_executor.aws.stack import outputs

    elsewhere = f"sqlite://{tmp_path}/elsewhere"
    with DetachedExecutor(workers=1, launcher="none", store=elsewhere) as ex:
        ex.submit(abs, -1)
    monkeypatch.setattr(outputs, "stores_of", lambda _: [elsewhere])
    assert ex.id not in run("sessions").stdout
    config.remember_aws(config.AwsSettings(stack="starburst", region="eu-west-1"))
    said = run("sessions").stdout
    assert ex.id in said
    assert session.id in said
    assert ex.id not in run("sessions", "--store", f"sqlite://{tmp_path}/none").stdout
