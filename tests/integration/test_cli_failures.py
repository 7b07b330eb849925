"""The command on real sessions with real workers, on both stores: what failed is looked into, mended, run again and read."""

from __future__ import annotations

import csv
import json
import pickle
import re
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import ConfigError, DependencyFailed, DetachedExecutor
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
    assert "it failed with ValueError: no threes: 3" in run("explain", url, "0-3").stdout
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


def fail(*args: object, **kwargs: object) -> None:
    raise ValueError(args, kwargs)


def one(x: int) -> None: ...


def three(x: int, y: int, z: int) -> None: ...


def other_keyword(x: int, y: int, *, offset: int = 0) -> None: ...


def add(x: int, y: int, *, scale: int = 0) -> int:
    return x + y + scale


@pytest.mark.parametrize(
    ("unfit", "why"),
    [
        (one, "one(x) cannot be called with the arguments of task 0-1: too many positional arguments"),
        (three, "three(x, y, z) cannot be called with the arguments of task 0-1: missing a required argument: 'z'"),
        (
            other_keyword,
            "other_keyword(x, y, *, offset=0) cannot be .* task 0-2: got an unexpected keyword argument 'scale'",
        ),
    ],
)
def test_a_function_that_does_not_accept_the_stored_arguments_is_refused_before_any_retry(
    tmp_path: Path, unfit: Callable[..., object], why: str
) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    done = executor.submit(add, 1, 2)
    futures = [executor.submit(fail, 1, 2), executor.submit(fail, 3, 4, scale=5)]
    assert done.result() == 3
    assert all(future.exception() for future in futures)
    why = (
        f"{__name__}.{why}; nothing was retried: arguments=".replace("(", r"\(")
        .replace(")", r"\)")
        .replace("*,", r"\*,")
    )
    with pytest.raises(ConfigError, match=why):
        executor.retry_failed(unfit)
    target = f"{__file__}:{unfit.__name__}"
    refused = run("retry", executor.url, "--failed", "--with", target)
    assert refused.exit_code == exits.USAGE
    assert re.search(why.partition(r"\(")[2], refused.stderr), refused.stderr
    assert [row["run"] for row in lines("joblog", executor.url, "--json")] == [1, 1, 1]
    # Whatever cannot be read passes: a worker decides.
    assert [future.task_id for future in executor.retry_failed(max, tasks=["0-1"])] == ["0-1"]
    executor.collect(wait=True)
    assert [future.result() for future in executor.retry_failed(add)] == [12]
    executor.cleanup(force=True)


def test_a_wrapper_is_asked_and_not_what_it_wraps(tmp_path: Path) -> None:
    @wraps(add)
    def ten_added(x: int) -> int:
        return add(x, 10)

    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    assert executor.submit(fail, 1).exception()
    (again,) = executor.retry_failed(ten_added)
    assert again.result() == 11
    executor.cleanup(force=True)


def test_inputs_that_are_given_again_with_an_unfit_function_are_not_submitted(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    (future,) = executor.map_once(make_mended(None), [1], key=str)
    assert future.exception()
    with pytest.raises(
        ConfigError, match="cannot be called with the arguments of task 1-0: missing a required argument: 'y'"
    ):
        executor.map_once(make_mended(add), [1, 2], key=str, retry_failed=True)
    assert executor.status().total == 1
    (again,) = executor.map_once(make_mended(abs), [1], key=str, retry_failed=True)
    assert again.result() == 1
    executor.cleanup(force=True)


def make_mended(function: object) -> Any:
    """Three functions of one name, as a script has them that is mended twice."""
    if function is None:

        def mended(x: int) -> None:
            raise ValueError(x)
    elif function is abs:

        def mended(x: int) -> int:  # type: ignore[misc]
            return x
    else:

        def mended(x: int, y: int) -> int:  # type: ignore[misc]
            return x + y

    return mended


def test_big_arguments_are_compared_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    assert executor.submit(fail, b"b" * 200_000, 2).exception()
    with pytest.raises(ConfigError, match=r"task 0-0: too many positional arguments; .* arguments=\(b'bbb"):
        executor.retry_failed(one)
    monkeypatch.setattr("starburst_executor.client.replacement._CHECKED_BYTES", 100_000)
    (again,) = executor.retry_failed(one)
    assert isinstance(again.exception(), TypeError)
    executor.cleanup(force=True)


def test_what_failed_because_of_another_task_keeps_its_function(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    first = executor.submit(fail, -3)
    second = executor.submit(add, first, 1)
    assert isinstance(second.exception(), DependencyFailed)
    again = {future.task_id: future for future in executor.retry_failed(abs)}
    assert (again[first.task_id].result(), again[second.task_id].result()) == (3, 4)
    executor.cleanup(force=True)


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
