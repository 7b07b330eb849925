"""The command on real sessions with real workers, on both stores: what failed is looked into, mended, run again and read."""

from __future__ import annotations

import csv
import json
import pickle
from functools import partial
from pathlib import Path

import pytest

from starburst_executor import ConfigError, DetachedExecutor
from starburst_executor.cli import exits
from tests.sessions import detached, kill_workers, store_url, wait_until
from tests.support.aws_rig import run

assert store_url

SCRIPT = """
import helper

def measure(x, *, scale=1):
    print("measuring", x)
    if x % 3 == 0:
        raise ValueError(f"no threes: {x}")
    if x == 4:
        raise KeyError("four")
    return {"x": x, "scaled": helper.times(x, scale)}

if __name__ == "__main__":
    raise SystemExit("not to be run")
"""
MENDED = SCRIPT.replace("if x % 3 == 0:", "if x == 99:").replace("if x == 4:", "if x == 98:")


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a script and a module beside it."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "helper.py").write_text("def times(a, b):\n    return a * b\n")
    path = folder / "measure.py"
    path.write_text(SCRIPT)
    monkeypatch.chdir(folder)
    return path


def lines(*words: str) -> list[dict[str, object]]:
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def ended(url: str) -> bool:
    (status,) = lines("status", url, "--json")
    return bool(status["ended"] == status["total"])


def test_failures_are_looked_into_mended_and_run_again_in_place(store_url: str, script: Path) -> None:
    from starburst_executor.cli.targets import load_target

    with detached(store_url, workers=1) as executor:
        measure = load_target("measure.py:measure")
        # One argument is too big to be stored with its task.
        for x in range(5):
            (executor.options(retries=1) if x == 4 else executor).submit(measure, x, scale=2)
        executor.submit(measure, 6, scale="s" * 200_000)
    url = executor.url
    wait_until(lambda: ended(url))
    assert run("wait", url).exit_code == exits.NO
    (status,) = lines("status", url, "--json")
    assert status["failures"] == {"ValueError": 3, "KeyError": 1}

    first, second = lines("errors", url, "--json")
    assert (first["n_tasks"], first["type_name"], first["tasks"]) == (3, "builtins.ValueError", ["0-0", "0-3", "0-5"])
    assert "measure.py:7 in measure" in str(first["place"])
    assert 'raise ValueError(f"no threes: {x}")' in str(first["traceback"])
    assert str(first["inputs"]).startswith("['0, scale=2', '3, scale=2', \"6, scale='sss")
    assert second["type_name"] == "builtins.KeyError"
    (tried,) = second["attempts"][0]
    assert (tried["attempt"], tried["error"].partition(":")[0]) == (1, "KeyError")
    assert first["attempts"] == [[], [], []]
    shown = run("errors", url).stdout
    assert "4, scale=2" in shown
    assert f"attempt 1 on {tried['worker']} until " in shown
    assert "failed" in run("explain", url, "0-3").stdout
    assert "all tasks have ended" in run("explain", url).stdout

    outcomes = lines("results", url)
    assert [one["state"] for one in outcomes] == ["failed", "completed", "completed", "failed", "failed", "failed"]
    assert outcomes[1] == {"format": 1, "task": "0-1", "index": 1, "state": "completed", "value": {"x": 1, "scaled": 2}}
    assert [one["index"] for one in lines("results", url, "--failed", "--index", "0:4")] == [0, 3]

    script.write_text(MENDED)
    retried = run("retry", url, "--failed", "--with", "measure.py:measure")
    assert (retried.exit_code, "4 tasks run again" in retried.stdout) == (0, True), retried.stderr
    wait_until(lambda: ended(url))
    assert run("wait", url).exit_code == exits.DONE
    assert [one["value"]["x"] for one in lines("results", url)] == [0, 1, 2, 3, 4, 6]  # type: ignore[index]
    rows = [line.split("\t") for line in run("joblog", url).stdout.splitlines()]
    assert rows[0][:4] == ["Seq", "Host", "Starttime", "JobRuntime"]
    assert [row[6] for row in rows[1:]] == ["0"] * 6
    # Who ran again has an attempt more, and no other.
    assert [one["run"] for one in lines("joblog", url, "--json")] == [2, 1, 1, 2, 2, 2]

    folder = script.parent
    assert run("results", url, "--out", "out.csv", "--index", "0:5").exit_code == 0
    with (folder / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert (table[1]["task"], table[1]["x"], table[1]["scaled"], table[1]["error"]) == ("0-1", "1", "2", "")
    assert run("results", url, "--out", "out.pkl", "--index", "5").exit_code == 0
    with (folder / "out.pkl").open("rb") as binary:
        assert pickle.load(binary)["value"] == {"x": 6, "scaled": "s" * 1_200_000}
    (folder / "each").mkdir()
    assert run("results", url, "--out", "each", "--index", ":2").exit_code == 0
    assert sorted(path.name for path in (folder / "each").iterdir()) == ["0-0.json", "0-1.json"]
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []
    kill_workers(executor.id)
    assert run("cleanup", url, "--force", "--yes").exit_code == 0
    assert run("status", url).exit_code == exits.NO_SESSION


def test_chosen_tasks_run_again_and_unfit_functions_are_refused(tmp_path: Path) -> None:
    def fail(a: int, b: int) -> None:
        raise ValueError(a, b)

    ex = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    futures = [ex.submit(partial(fail, i), 10) for i in range(3)]
    assert all(future.exception() for future in futures)
    with pytest.raises(ConfigError, match="pass the function inside the partial"):
        ex.retry_failed(partial(pow, 2))
    with pytest.raises(ConfigError, match="not a task's id"):
        ex.retry_failed(pow, tasks=["two"])
    (future,) = ex.retry_failed(pow, tasks=["0-2", "0-77"])
    assert future.result() == 2**10
    assert future.task_id == "0-2"
    closures = [ex.submit(closure, 1) for closure in map(make_closure, range(6))]
    assert all(future.exception() for future in closures)
    with pytest.raises(ConfigError, match="made anew for each call"):
        ex.retry_failed(pow, tasks=[closures[-1].task_id])
    ex.cleanup(force=True)


def make_closure(i: int):
    return lambda x: {}[i + x]


def test_a_session_whose_workers_are_gone_says_so(tmp_path: Path) -> None:
    with DetachedExecutor(launcher="none", store=f"sqlite://{tmp_path}/sessions") as executor:
        executor.submit(abs, -1)
    said = run("explain", executor.url).stdout
    assert f"starburst worker {executor.url}" in said
    assert "waits for a worker" in run("explain", executor.url, "0-0").stdout
    assert run("explain", executor.url, "0-9").exit_code == exits.USAGE
    timed_out = run("wait", executor.url, "--timeout", "0s")
    assert timed_out.exit_code == exits.TIMED_OUT
    assert f"starburst wait {executor.id}" in timed_out.stderr
