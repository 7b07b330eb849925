"""The `starburst` command: its exit statuses, what it prints where, and what works without its extra."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import click
import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.cli import entry
from starburst_executor.cli.commands.status import look_pauses, looking
from starburst_executor.cli.main import COMMANDS, starburst
from starburst_executor.cli.render import Progress, printable, show_table
from starburst_executor.client.finding import visit
from starburst_executor.clock import SystemClock
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
        (["staus", "last"], "no such command: 'staus', did you mean status? `starburst --help` shows"),
        (["nonsense"], "No such command 'nonsense'; `starburst --help` shows"),
        (["extend", "last", "soon"], "write seconds, or 30m, 12h, 7d"),
        (["key", "export", "--nonsense"], "`starburst key export --help` shows"),
        (["run", "--arg"], "requires an argument; `starburst run --help` shows"),
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


def test_an_interrupt_while_modules_are_loaded_is_no_traceback(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("starburst_executor.cli._run", interrupt)
    assert entry(["sessions"]) == 130
    assert capsys.readouterr().err == "\nstarburst: interrupted\n"


def test_files_are_completed_where_a_file_is_named():
    def completed(*words):
        variables = {
            "_STARBURST_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        return shell("starburst", **variables).stdout

    commands = [["run"], *(["run", option] for option in ("--lines", "--csv", "--jsonl", "--files", "--out"))]
    for words in (*commands, ["retry", "last", "--with"], ["results", "last", "--out"]):
        assert completed("starburst", *words, "sa") == "file,sa\n"


def test_a_terminal_has_room_for_what_it_echoes_beside_the_progress(session, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    stream.isatty = lambda: True
    with Progress() as progress, visit(session.url, SystemClock()) as visited:
        status = dataclasses.replace(looking(visited).look(), hosts=(("host" * 30, 1),))
        progress.show(status)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()
    assert max(map(len, lines)) == 58


@pytest.mark.parametrize("terminal", ["dumb", "xterm"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(session, monkeypatch, terminal):
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    stream.isatty = lambda: True
    with Progress() as progress, visit(session.url, SystemClock()) as visited:
        progress.show(looking(visited).look())
        shown = stream.getvalue()
    assert "0 of 3 ended" in shown
    assert ("UTC" in shown) == (terminal == "dumb")


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


def test_a_group_without_a_command_shows_its_help(capsys):
    for words in ([], ["key"], ["config"]):
        entry(words)
        said = "".join(capsys.readouterr())
        assert said.startswith("Usage: starburst")
        assert "shows what it takes" not in said


def test_an_input_that_ends_before_an_answer_is_no_interrupt(session, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert entry(["cleanup", session.id]) == 1
    assert "starburst: the input ended before an answer; where --yes exists, it needs none" in capsys.readouterr().err


def shell(line, **variables):
    """What a shell makes of the command."""
    script = f"set -o pipefail; {line.replace('starburst', f'{sys.executable} -m starburst_executor.cli')}"
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **variables}
    )


@pytest.mark.parametrize("words", ["version", "--help", "config show"])
def test_output_that_cannot_be_written_is_no_fault_of_ours(words):
    # The pipe has no reader: the other end is closed before the command starts.
    assert shell(f"(sleep 0.001; exec starburst {words}) 2>&1 | true").returncode in (0, 141)
    gone = shell(f"exec 3> >(true); wait $!; starburst {words} >&3")
    assert (gone.returncode, gone.stderr) == (141, "")
    closed = shell(f"starburst {words} >&- 2>&-")
    assert closed.returncode == 0
    if Path("/dev/full").exists():  # not on macOS
        full = shell(f"starburst {words} >/dev/full")
        assert (full.returncode, full.stderr) == (
            2,
            "starburst: the output cannot be written: No space left on device\n",
        )


def test_standard_input_that_is_closed_is_empty():
    done = shell("starburst run math:sqrt --lines - <&-")
    assert (done.returncode, done.stderr) == (2, "starburst: no inputs: nothing to run\n")


def test_tables_that_are_too_wide_for_the_terminal_are_lists(monkeypatch, capsys):
    monkeypatch.setattr("starburst_executor.cli.render.is_terminal", lambda: True)
    rows = [["20260401-083000-1f2e3d4c", "open", 3], ["20260401-083000-1f2e3d4d", "broken", 1200]]
    shown = {}
    for width in (80, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        show_table(["session", "state", "completed"], rows, right=("completed",))
        shown[width] = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert shown[80][0] == "session                   state   completed"
    assert shown[40] == [
        *["session    20260401-083000-1f2e3d4c", "state      open", "completed  3", ""],
        *["session    20260401-083000-1f2e3d4d", "state      broken", "completed  1,200"],
    ]


def test_a_url_that_names_no_session_is_answered_with_the_nearest(session):
    url = f"{session.url[:-1]}{'0' if session.url[-1] != '0' else '1'}"
    result = run("status", url)
    assert result.exit_code == 3
    assert f"did you mean {session.id}? `starburst sessions --store" in result.stderr
    assert "list_sessions" not in result.stderr


def test_text_of_tasks_is_one_line_that_changes_no_terminal():
    assert printable("it's\tü\n\x1b[31mred\x07\udcff") == r"it's	ü\n\x1b[31mred\x07\udcff".replace(r"\t", "\t")


def test_a_session_that_is_left_is_told_in_json():
    found = json.loads(run("run", "math:sqrt", "--range", "2", "--launcher", "none", "--detach", "--json").stdout)
    assert (found["format"], found["name"], found["url"].endswith(found["id"])) == (1, "", True)


# What they do is said in a sentence; what they show is a key, a page or a file.
WITHOUT_JSON = """cache clear; cancel; cleanup; config set; dashboard; extend; image build; image context; key export; key import; retry; scale; shell;
study abort; study approve; study delete; study events; study export; study fork; study import; study init; study replay; study schema; teardown"""


def leaves(command, name=""):
    if not isinstance(command, click.Group):
        return [(name, command)]
    context = click.Context(command)
    return [
        leaf
        for inner in command.list_commands(context)
        for leaf in leaves(command.get_command(context, inner), f"{name} {inner}".strip())
    ]


def test_every_command_that_shows_data_has_json():
    lacking = [
        name for name, command in leaves(starburst) if all("--json" not in param.opts for param in command.params)
    ]
    assert sorted(lacking) == [name.strip() for name in WITHOUT_JSON.replace("\n", " ").split(";")]


def test_a_small_session_is_seen_to_be_over_at_once_and_a_long_one_is_looked_at_every_two_seconds() -> None:
    assert list(islice(look_pauses(), 6)) == [0.125, 0.25, 0.5, 1.0, 2.0, 2.0]
