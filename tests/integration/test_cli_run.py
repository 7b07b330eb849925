"""`starburst run` and `attach` as processes of their own: watched, detached, interrupted, with programs, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.cli import exits
from tests.sessions import kill_workers, short_timings, store_url, wait_until
from tests.support.aws_rig import run
from tests.support.moto_server import ROOT

assert short_timings
assert store_url

SCRIPT = """
import pathlib, sys, time

def double(x: int, scale=2):
    return x * scale

def wait_for(path):
    print("waits for", path)
    while not pathlib.Path(path).exists():
        time.sleep(0.01)
    if path.endswith("bad"):
        raise ValueError(path)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_timings: None) -> Path:
    (tmp_path / "tool.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words: str) -> subprocess.Popen[str]:
    """The command as users start it in a pipe."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "starburst_executor.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_a_run_is_watched_to_its_end_and_its_results_are_a_file(folder: Path, store_url: str) -> None:
    (folder / "in.csv").write_text("x\n1\n2\n3\n")
    words = ["tool.py:double", "--csv", "in.csv", "--arg", "scale=10", "--store", store_url, "--workers", "1"]
    result = run("run", *words, "--out", "out.jsonl")
    assert result.exit_code == exits.DONE, result.stderr
    values = [json.loads(line)["value"] for line in (folder / "out.jsonl").read_text().splitlines()]
    assert values == [10, 20, 30]
    assert "3 tasks" in result.stderr
    assert "3 completed, 0 failed" in result.stderr
    assert run("status", "last", "--store", store_url, "--json").exit_code == exits.DONE


def test_an_interrupted_run_goes_on_and_attach_comes_back(folder: Path) -> None:
    store = f"sqlite://{folder}/sessions"
    running = start("run", "tool.py:wait_for", "--lines", "names", "--store", store, "--workers", "1")
    running.communicate(timeout=60)
    assert running.returncode == exits.USAGE  # there is no such file, and so no session
    assert run("sessions", "--store", store).stdout == ""
    (folder / "names").write_text("one\ntwo.bad\n")
    running = start("run", "tool.py:wait_for", "--lines", "names", "--store", store, "--workers", "1")
    wait_until(lambda: '"running": 1' in run("status", "last", "--store", store, "--json").stdout)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=60)
    assert running.returncode == exits.INTERRUPTED, stderr
    assert stdout == ""
    (line,) = [line for line in stderr.splitlines() if "come back with: starburst attach " in line]
    url = line.rpartition(" ")[2]
    assert json.loads(run("status", url, "--json").stdout)["running"] == 1
    # The worker dies while no client is there, and attaching starts another.
    kill_workers(url)
    (folder / "one").touch()
    (folder / "two.bad").touch()
    attached = run("attach", url)
    assert attached.exit_code == exits.NO, attached.stderr
    assert attached.stdout.splitlines() == ["0-0 completed None", "0-1 failed ValueError: two.bad"]
    again = run("attach", url, "--json")
    assert [json.loads(line)["state"] for line in again.stdout.splitlines()] == ["completed", "failed"]
    logs = run("logs", url, "--failed").stdout
    assert logs == "[0-1] waits for two.bad\n"
    run("cleanup", url, "--force", "--yes")


ODD = """
class Odd:
    def __repr__(self):
        raise RuntimeError("no repr")

def odd(x):
    if x:
        raise ValueError("two\\nlines \\x1b[31m")
    return Odd()
"""


@pytest.fixture
def not_ignored() -> Iterator[None]:
    """Also where the tests were started by `nohup`, which has SIGHUP ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("not_ignored")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_ended_before_it_has_workers_sees_to_them_first(folder: Path, number: signal.Signals) -> None:
    (folder / "names").write_text(f"{folder}/go\n" * 3)
    store = f"sqlite://{folder}/sessions"
    running = start("run", "tool.py:wait_for", "--lines", "names", "--store", store, "--workers", "1")
    assert running.stderr
    assert running.stderr.readline().endswith(": 3 tasks\n")
    running.send_signal(number)
    _, stderr = running.communicate()
    assert running.returncode == 128 + number, stderr
    assert "goes on; come back with: starburst attach" in stderr
    (folder / "go").touch()
    # No client is there: a worker is.
    assert run("wait", "last", "--store", store).exit_code == exits.DONE
    assert run("cleanup", "last", "--store", store, "--force", "--yes").exit_code == exits.DONE


def test_a_signal_that_is_ignored_stays_so(folder: Path) -> None:
    (folder / "names").write_text(f"{folder}/go\n")
    store = f"sqlite://{folder}/sessions"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as after `nohup`
    try:
        running = start("run", "tool.py:wait_for", "--lines", "names", "--store", store, "--workers", "1")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_until(lambda: '"running": 1' in run("status", "last", "--store", store, "--json").stdout)
    running.send_signal(signal.SIGHUP)
    (folder / "go").touch()
    _, stderr = running.communicate()
    assert running.returncode == exits.DONE, stderr
    assert run("cleanup", "last", "--store", store, "--force", "--yes").exit_code == exits.DONE


def test_values_and_messages_that_a_terminal_cannot_show_are_a_line_each(folder: Path) -> None:
    store = f"sqlite://{folder}/sessions"
    (folder / "odd.py").write_text(ODD)
    result = run("run", "odd.py:odd", "--range", "2", "--workers", "1", "--store", store, "--json")
    assert result.exit_code == exits.NO
    assert (json.loads(result.stdout)["completed"], json.loads(result.stdout)["failed"]) == (1, 1)
    assert run("attach", "last", "--store", store).stdout.splitlines() == [
        "0-0 completed, not shown: RuntimeError: no repr",
        r"0-1 failed ValueError: two\nlines \x1b[31m",
    ]
    assert r"message: two\nlines \x1b[31m" in run("errors", "last", "--store", store).stdout
    assert "1 task runs again" in run("retry", "last", "--store", store).stdout
    run("cleanup", "last", "--store", store, "--force", "--yes")


def test_programs_are_run_and_their_files_are_the_outcome(folder: Path) -> None:
    store = f"sqlite://{folder}/sessions"
    program = (
        "import sys; open(f'{sys.argv[1]}.txt', 'w').write('x' * int(sys.argv[1])); print(sys.argv); "
        "sys.exit('it was two' if sys.argv[1] == '2' else 0)"
    )
    words = ["--range", "1:3", "--store", store, "--workers", "1", "--outputs", "*.txt", "--out", "out.jsonl"]
    result = run("run", *words, "--", sys.executable, "-c", program, "{}")
    assert result.exit_code == exits.NO, result.stderr
    first, second = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert first["value"]["exit_status"] == 0
    assert first["value"]["outputs"] == {"1.txt": "eA=="}
    assert second["error"]["message"].endswith(" 2: exit status 1: it was two")
    assert {name: second["error"][name] for name in ("exit_status", "stdout", "stderr")} == {
        "exit_status": 1,
        "stdout": "['-c', '2']\n",
        "stderr": "it was two\n",
    }
    errors = run("errors", "last", "--store", store)
    assert "exit status 1: it was two" in errors.stdout
    assert re.fullmatch(
        r"fix the program where workers find it, and run only what failed: starburst retry \S+ --failed\n",
        errors.stderr,
    )
    assert "['-c', '2']" in run("logs", "last", "--store", store, "--task", "0-1").stdout
    run("cleanup", "last", "--store", store, "--force", "--yes")


def test_what_cannot_run_is_refused_before_a_session_starts(folder: Path) -> None:
    store = ("--store", f"sqlite://{folder}/sessions")
    (folder / "half.jsonl").write_text('{"x": 1}\nnope\n')
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "syntax.py").write_text("def f(:\n")
    (folder / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    for words, says in (
        (["tool.py:nothing"], "there are double, wait_for"),
        (["tool.py:double", "--range", "2", "--expires", "0"], "absolute_timeout=0.0 (from --expires): must be"),
        (["tool.py:double", "--range", "2", "--max-fails", "5x"], "max_failures='5x' (from --max-fails): must be"),
        (["tool.py:double", "--range", "2", "--label", "y"], "such column or argument; they have x\n"),
        (["--range", "2", "--outputs", "../*", "--", "true"], "--outputs: not a pattern of files in the program's"),
        (["tool.py:double", "--range", "2", "--out", "none/"], "there is no folder 'none/': make it first"),
        (["nowhere.py:f"], "the script cannot be read"),
        (["broken.py:f"], "ZeroDivisionError: division by zero (line 1 of"),
        (["syntax.py:f"], "syntax.py cannot be run: SyntaxError: invalid syntax (syntax.py, line 1)\n"),
        (["leaves.py:f"], "leaves.py cannot be run: SystemExit: 0 (line 2 of"),
        (["no_such_module:f"], "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'\n"),
        (["tool"], "write module:function or script.py:function"),
        ([], "name what to run"),
        (["tool.py:double", "--arg", "y=1"], "cannot be called with these inputs"),
        (["tool.py:double", "--jsonl", "half.jsonl"], "half.jsonl, line 2"),
        (["tool.py:double", "--range", "0:3", "--outputs", "x"], "--outputs is for programs"),
        (["tool.py:double", "--range", "0:0"], "nothing to run"),
    ):
        result = run("run", *words, *store)
        assert (result.exit_code, says in result.stderr) == (exits.USAGE, True), result.stderr
    assert run("sessions", *store).stdout == ""
    dry = ("run", "tool.py:double", "--range", "0:5000", "--workers", "3", "--dry-run", *store)
    assert "tasks      5,000" in run(*dry).stdout
    found = json.loads(run(*dry, "--json").stdout)
    assert (found["format"], found["tasks"], found["workers"], found["launcher"]) == (1, 5000, 3, "local")
    assert run(*dry, "--json", "--out", "-").exit_code == exits.USAGE
    assert run("sessions", *store).stdout == ""


NAMED = """
import pathlib

def length(x: str, scale: int = 1):
    with pathlib.Path("{folder}/runs").open("a") as file:
        file.write(x + "\\n")
    if x == "bad" and not pathlib.Path("{folder}/mended").exists():
        raise ValueError(x)
    return len(x) * scale
"""


def test_the_same_name_again_submits_only_what_is_new(folder: Path, store_url: str) -> None:
    (folder / "named.py").write_text(NAMED.format(folder=folder))
    (folder / "in").write_text("a\nbb\nbad\n")
    words = ["run", "named.py:length", "--lines", "in", "--name", "nightly", "--workers", "1", "--store", store_url]
    first = run(*words, "--retries", "1", "--max-fails", "50%")
    assert first.exit_code == exits.NO, first.stderr
    assert "nightly: 3 inputs, 3 of them new" in first.stderr
    (folder / "in").write_text("ccc\na\nbad\nbb\n")
    # The function is mended, its signature stays.
    (folder / "mended").touch()
    again = run(*words)
    assert again.exit_code == exits.NO, again.stderr
    assert "nightly: 4 inputs, 1 of them new\n" in again.stderr
    assert sorted((folder / "runs").read_text().split()) == ["a", "bad", "bad", "bb", "ccc"]
    retried = run(*words, "--retry-failed")
    assert retried.exit_code == exits.DONE, retried.stderr
    assert "nightly: 4 inputs, 0 of them new; 1 task runs again\n" in retried.stderr
    counted = run(*words, "--retry-failed", "--json")
    assert "nightly: 4 inputs, 0 of them new; 0 tasks run again\n" in counted.stderr
    assert {"inputs": 4, "new": 0, "retried": 0, "completed": 4}.items() <= json.loads(counted.stdout).items()
    results = run("results", "nightly", "--store", store_url).stdout
    assert sorted(json.loads(line)["value"] for line in results.splitlines()) == [1, 2, 3, 3]
    (folder / "named.py").write_text(NAMED.format(folder=folder).replace("scale: int = 1", "scale"))
    refused = run(*words, "--arg", "scale=2")
    assert refused.exit_code == exits.USAGE
    assert "runs __main__.length(x, scale=1), and now it is __main__.length(x, scale)" in refused.stderr
    assert "`starburst cleanup nightly --force`" in refused.stderr
    assert run("cleanup", "nightly", "--force", "--yes", "--store", store_url).exit_code == exits.DONE


def test_what_was_cancelled_counts_as_run_again_and_not_as_new(folder: Path) -> None:
    words = [
        "run",
        "tool.py:double",
        "--name",
        "nightly",
        "--store",
        f"sqlite://{folder}/sessions",
        "--detach",
        "--json",
    ]
    with DetachedExecutor(name="nightly", launcher="none", store=f"sqlite://{folder}/sessions") as executor:
        begun = run(*words, "--range", "0:3", "--launcher", "none")
        assert {"inputs": 3, "new": 3, "retried": 0}.items() <= json.loads(begun.stdout).items()
        assert executor.cancel() == 3
    again = run(*words, "--range", "0:5", "--launcher", "none", "--retry-failed")
    assert {"inputs": 5, "new": 2, "retried": 3}.items() <= json.loads(again.stdout).items()


def test_inputs_that_cannot_be_read_begin_no_session_under_a_name(folder: Path) -> None:
    store = f"sqlite://{folder}/sessions"
    (folder / "in.csv").write_text("x\n1\nthree\n")
    words = ["run", "tool.py:double", "--csv", "in.csv", "--name", "nightly", "--store", store]
    assert run(*words).exit_code == exits.USAGE
    assert run("sessions", "--store", store).stdout == ""
    assert run("run", "tool.py:double", "--range", "0:1", "--retry-failed", "--store", store).exit_code == exits.USAGE


def test_a_run_ends_with_a_status_of_its_own_when_too_many_tasks_fail(folder: Path) -> None:
    store = f"sqlite://{folder}/sessions"
    (folder / "names").write_text("".join(f"{n}.bad\n" for n in range(8)) + "never\n")
    for n in range(8):
        (folder / f"{n}.bad").touch()
    # One slot may wait for ever, whenever it comes to that; the other one meets failures.
    words = ["tool.py:wait_for", "--lines", "names", "--store", store, "--workers", "2", "--max-fails", "3"]
    result = run("run", *words)
    assert result.exit_code == exits.LIMIT, result.stderr
    assert "max_failures=3 allows 3" in result.stderr
    kill_workers(f"{folder}/")
