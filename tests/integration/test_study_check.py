"""The demonstration of a regression check, `examples/ci_regression`, from end to end: a repository, its commits and its CI script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from starburst_executor import Study
from starburst_executor.cli import exits
from starburst_executor.store.open import open_store
from tests.sessions import kill_workers, wait_until
from tests.support.aws_rig import run
from tests.support.moto_server import ROOT


class Repository:
    """A copy of the demonstration as a repository of its own, with a `starburst` on its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        shutil.copytree(ROOT / "examples/ci_regression", self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        programs = folder / "programs"
        programs.mkdir()
        program = programs / "starburst"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m starburst_executor.cli "$@"\n')
        program.chmod(0o755)
        self.store = f"sqlite://{folder}/sessions"
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "STARBURST_STORE": self.store,
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        self.summary = folder / "summary.md"
        self.run("git", "init", "--quiet")
        self.commit("begin")

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            words, cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *words: str, status: int = 0) -> str:
        process = self.start(*words)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == status, (words, process.returncode, said)
        return said

    def commit(self, message: str) -> str:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=n", "-c", "user.email=e", "commit", "--quiet", "--message", message)
        return self.run("git", "rev-parse", "--short", "HEAD").strip()

    def edit(self, file: str, before: str, after: str) -> None:
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    if shutil.which("git") is None:
        pytest.skip("the demonstration is a git repository, and git is not installed")
    return Repository(tmp_path)


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_a_regression_of_3_percent_fails_and_noise_passes_also_after_a_cancelled_job(
    repository: Repository, tmp_path: Path
) -> None:
    # No baseline yet: the check says how to make one.
    said = repository.run("./ci.sh", status=2)
    assert "there is no baseline baseline.json: `--update-baseline` writes it" in said
    first = repository.run("git", "rev-parse", "--short", "HEAD").strip()
    repository.run("starburst", "study", "check", f"bench-{first}", "--baseline", "baseline.json", "--update-baseline")
    baseline = json.loads((repository.folder / "baseline.json").read_text())
    assert [len(case["metrics"]["seconds"]) for case in baseline["cases"]] == [20, 20]

    # Another commit with the same speed: the noise of new measurements passes. Its first job is cancelled.
    repository.edit("bench.py", '"""What', '"""Measures what')
    commit = repository.commit("words")
    job = repository.start("./ci.sh")
    with closing(open_store(repository.store)) as store:
        wait_until(lambda: store.list(f"studies/bench-{commit}/") and _has_session(repository, commit))
    os.killpg(job.pid, signal.SIGKILL)
    job.communicate(timeout=60)
    said = repository.run("./ci.sh")
    assert f"check of study bench-{commit}, stage sizes, against baseline.json passes" in said
    assert "✅ Check of study" in repository.summary.read_text()

    # Three percent slower.
    repository.edit("bench.py", "COST = 1.0 ", "COST = 1.03 ")
    commit = repository.commit("slower")
    said = repository.run("./ci.sh", status=1)
    assert said.count("regression seconds of size=") == 2
    assert "<failure" in (repository.folder / "check.xml").read_text()
    assert "❌ regression | seconds (min) | size=1000" in repository.summary.read_text()

    # On purpose: the baseline follows, and the script passes.
    words = ["study", "check", f"bench-{commit}", "--baseline", "baseline.json", "--tolerance", "seconds=2%"]
    repository.run("starburst", *words, "--update-baseline")
    repository.run("starburst", *words)
    # Against another study instead of a file; and what the command refuses.
    found = json.loads(
        repository.run("starburst", *words[:3], "--baseline", f"bench-{first}", *words[5:], "--json", status=1)
    )
    assert (found["ok"], len(found["comparisons"])) == (False, 2)
    assert "no metric 'second'" in repository.run(
        "starburst", *words[:6], "second=2%", "--direction", "second=min", status=2
    )
    assert "names a study" in repository.run("starburst", *words[:3], "--baseline", "x", "--update-baseline", status=2)
    repository.run("starburst", "study", "check", "bench-none", *words[3:], status=3)
    for name in Study.names(repository.store):
        with closing(Study.resume(name, store=repository.store)) as study:
            study.delete()
    kill_workers(f"{tmp_path}/")


MODULE = "def measure(trial):\n    trial.save(str(COST).encode(), name='log')\n    return {'seconds': trial.params['size'] / 1000 * COST}\n\nCOST = "


def test_the_commands_compare_two_runs_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = f"sqlite://{tmp_path}/sessions"
    file = "study: x\nworkers: 2\nstages:\n  - name: s\n    run: %s.py:measure\n    metrics: {seconds: min}\n    cases: [{size: 10}, {size: 20}]\n    trials: 4\n"
    for name, cost in (("fast", "1.0"), ("slow", "1.03")):
        (tmp_path / f"{name}.py").write_text(f"{MODULE}{cost}\n")
        (tmp_path / f"{name}.yaml").write_text(file % name)
        assert run("study", "run", f"{name}.yaml", "--name", f"bench-{name}", "--store", store).exit_code == 0
    words = ["study", "check", "bench-slow", "--store", store, "--tolerance", "seconds=2%"]
    assert run(*words, "--baseline", "bench-fast").exit_code == exits.NO
    assert run(*words[:5], "--baseline", "bench-fast", "--tolerance", "seconds=4%").exit_code == exits.DONE
    said = run(*words, "--baseline", "base.json")
    assert (said.exit_code, "`--update-baseline` writes it" in said.output) == (exits.USAGE, True)
    assert (
        run("study", "check", "bench-fast", "--store", store, "--baseline", "base.json", "--update-baseline").exit_code
        == 0
    )
    # What the baseline was measured on stays, whatever is cleaned up; the other study's artefacts go.
    for name, kept in (("bench-fast", 1), ("bench-slow", 0)):
        cleaned = run("study", "cleanup", name, "--keep", "none", "--store", store, "--json")
        assert json.loads(cleaned.stdout)["kept"] == kept
    more = ["--baseline", "base.json", "--junit", "check.xml", "--summary", "summary.md", "--json"]
    found = run(*words, *more)
    assert found.exit_code == exits.NO
    assert [one["verdict"] for one in json.loads(found.output)["comparisons"]] == ["regression"] * 2
    assert "<failure" in (tmp_path / "check.xml").read_text()
    assert "❌ regression" in (tmp_path / "summary.md").read_text()
    said = run("study", "compare", "bench-fast", "bench-slow", "--store", store)
    assert said.exit_code == 0
    assert "code: " in said.output
    assert "(+3.00 % of the mean)" in said.output
    for name in ("fast", "slow"):
        with closing(Study.resume(f"bench-{name}", store=store)) as study:
            study.delete()
    kill_workers(f"{tmp_path}/")


def _has_session(repository: Repository, commit: str) -> bool:
    with closing(open_store(repository.store)) as store:
        return bool(store.list("sessions/")) and any(
            key.key.endswith("/record") for key in store.list(f"studies/bench-{commit}/")
        )
