"""`starburst study`: run, killed, resumed, looked at, changed; each command as users type it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from starburst_executor.cli import exits
from starburst_executor.study.study import Study
from tests.sessions import store_url, wait_until
from tests.support.aws_rig import run
from tests.support.moto_server import ROOT

assert store_url

SCRIPT = """
import pathlib, time

def measure(trial):
    folder = pathlib.Path(__file__).parent
    with open(folder / "runs", "a") as file:
        file.write(trial.name + chr(10))
    while trial.stage == "first" and trial.index == 5 and not (folder / "go").exists():
        time.sleep(0.02)
    if trial.index == 3:
        raise ValueError("three")
    return {"score": trial.index}
"""
FILE = """
study: small
workers: 2
stages:
  - {name: first, run: "script.py:measure", trials: 6, select: {top: score, k: 2}}
  - {name: second, run: "script.py:measure", trials: 2, select: {top: score, k: 1}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "study.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_run(folder: Path) -> list[str]:
    runs = folder / "runs"
    return runs.read_text().split() if runs.exists() else []


def test_a_killed_study_goes_on_and_runs_no_finished_trial_again(folder: Path, store_url: str) -> None:
    words = ["study", "run", "study.yaml", "--store", store_url]
    driver = subprocess.Popen(
        [sys.executable, "-m", "starburst_executor.cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: len(set(names_run(folder))) == 6)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    shown = run("study", "status", "small", "--store", store_url)
    assert "open" in shown.output
    assert "first" in shown.output
    (folder / "go").touch()
    # By the file, and then by its name from elsewhere: already complete is no error.
    done = run(*words)
    assert done.exit_code == exits.DONE, done.stderr
    assert "5 completed, 1 failed; 2 survive" in done.output
    again = run("study", "run", "small", "--store", store_url)
    assert again.exit_code == exits.DONE
    # The sixth was running; every other one of the first stage ran once.
    assert sorted(names_run(folder)).count("first/0") == 1
    assert sorted(name for name in names_run(folder) if name.startswith("second")) == ["second/0", "second/1"]
    Study.resume("small", store=store_url).delete()


def test_looking_and_changing(folder: Path, tmp_path: Path) -> None:
    (folder / "go").touch()
    assert run("study", "list").exit_code == exits.DONE
    assert run("study", "run", "study.yaml").exit_code == exits.DONE

    assert run("study", "list", "--json").output.count('"small"') == 1
    shown = json.loads(run("study", "status", "study.yaml", "--json").output)
    assert (shown["format"], shown["state"], shown["stages"][0]["survivors"]) == (1, "complete", ["first/5", "first/4"])
    assert "small is complete: first 6/6 > 2, second 2/2 > 1" in run("study", "status", "small", "--watch").output
    events = [json.loads(line) for line in run("study", "events", "small").output.splitlines()]
    assert [one["trial"] for one in events if one["kind"] == "trial" and one["state"] == "failed"] == ["first/3"]
    assert run("study", "validate", "small").exit_code == exits.DONE
    assert run("study", "validate", "study.yaml").exit_code == exits.DONE
    assert json.loads(run("study", "replay", "small", "first/2").output) == {"score": 2}
    failed = run("study", "replay", "small", "first/3")
    assert failed.exit_code == exits.NO
    assert "three" in failed.stderr
    for named in ("first/99", "first/²", "first/x", "no/1"):
        assert run("study", "replay", "small", named).exit_code == exits.USAGE
        fetched = run("study", "fetch", "small", named)
        assert fetched.exit_code == exits.USAGE
        assert "first" in fetched.stderr

    changed = FILE.replace("k: 2", "k: 1")
    (folder / "study.yaml").write_text(changed)
    refused = run("study", "run", "study.yaml")
    assert refused.exit_code == exits.USAGE
    assert "first" in refused.stderr
    assert "--accept-changes" in refused.stderr
    (folder / "study.yaml").write_text(FILE)

    assert run("study", "fork", "small", "second", "other").exit_code == exits.DONE
    forked = run("study", "run", "other")
    assert forked.exit_code == exits.DONE
    assert "first is skipped" in forked.stderr
    assert run("study", "fork", "small", "nonsense", "third").exit_code == exits.USAGE
    assert run("study", "export", "small", "small.json").exit_code == exits.DONE
    assert json.loads((tmp_path / "small.json").read_text())["study"]["state"] == "complete"
    assert run("study", "import", "small.json").exit_code == exits.USAGE
    assert run("study", "import", "small.json", "--store", f"sqlite://{tmp_path}/elsewhere").exit_code == exits.DONE
    for words in (["approve", "small", "first"], ["abort", "small"]):
        assert run("study", *words).exit_code == exits.USAGE
    for name in ("small", "other"):
        Study.resume(name).delete()


def test_a_gate_and_an_abort(folder: Path) -> None:
    (folder / "go").touch()
    (folder / "study.yaml").write_text(FILE.replace("k: 2}", "k: 2}, gate: true"))
    waiting = run("study", "run", "study.yaml", "--no-wait")
    assert waiting.exit_code == exits.DONE
    assert "waiting" in run("study", "status", "small").output
    assert run("study", "abort", "small", "--reason", "no money").exit_code == exits.DONE
    aborted = run("study", "run", "study.yaml")
    assert aborted.exit_code == exits.NO
    assert "no money" in aborted.output
    # Approved while it is driven on.
    assert run("study", "run", "small", "--continue", "--no-wait").exit_code == exits.DONE
    assert run("study", "approve", "small", "first", "--by", "me", "--note", "fine").exit_code == exits.DONE
    assert run("study", "resume", "small").exit_code == exits.DONE
    assert "complete" in run("study", "status", "small").output
    Study.resume("small").delete()


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interruption_says_that_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, ends: BaseException
) -> None:
    def interrupted(self: Study, **_: object) -> None:
        raise ends

    monkeypatch.setattr(Study, "run", interrupted)
    result = run("study", "run", "study.yaml")
    assert result.exit_code
    assert "study small is stopped, at a consistent record; its submitted trials go on" in result.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status", "nonsense"], exits.NO_SESSION),
        (["run", "nonsense"], exits.NO_SESSION),
        (["run", "missing.yaml"], exits.USAGE),
        (["status", "missing.yaml"], exits.USAGE),
        (["run", "nonsense", "--workers", "2"], exits.USAGE),
        (["run", "study.yaml", "--detach", "--failed"], exits.USAGE),
        (["run", "study.yaml", "--restart", "nonsense"], exits.USAGE),
        (["init", "study.yaml"], exits.USAGE),
    ],
)
def test_mistakes_have_their_exit_status(folder: Path, words: list[str], code: int) -> None:
    result = run("study", *words)
    assert result.exit_code == code, result.output + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_example_and_the_schema(folder: Path) -> None:
    assert run("study", "init", "new.yaml").exit_code == exits.DONE
    assert run("study", "validate", "new.yaml").exit_code == exits.DONE
    assert "stages" in json.loads(run("study", "schema").output)["properties"]
