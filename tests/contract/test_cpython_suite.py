"""CPython's own tests of its executors, run on ours, under each interpreter found that ships them.

They are found at run time, in the interpreter. What is replaced, adapted and left out, and why, is in
`tests/contract/cpython_suite/adapt.py`; each test that is left out is shown as skipped, with its reason. After each
test nothing may be left: no process, no thread, no file of the session, no error that nobody caught.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

from tests.contract.cpython_suite.adapt import CLASSES, LEFT_OUT
from tests.contract.cpython_suite.interpreters import Interpreter, NotReady, find_interpreters
from tests.support.left_behind import shared_by_tests
from tests.support.moto_server import ROOT

# They wait more than they compute.
_AT_ONCE = 4
_LIMIT_S = 240.0

INTERPRETERS = find_interpreters()
# The newest one always, the others with the stress tests.
EACH = [
    pytest.param(found, id=found.version, marks=[] if found is INTERPRETERS[-1] else pytest.mark.stress)
    for found in INTERPRETERS
]
# Its run tells of all that is left out.
_ANY_CLASS = "FutureTests"
pytestmark = pytest.mark.timeout(600)


class Run(NamedTuple):
    """What became of one class of tests under one interpreter.

    Attributes:
        end: How the run broke off; empty if it came to its end.
        left_out: Which of the names that are left out the interpreter's suite has.
    """

    rows: list[dict[str, Any]]
    output: str
    end: str
    left_out: list[str]


class Runs:
    """All the runs that are wanted, several at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(_AT_ONCE, "cpython-suite")
        self._ready: dict[Interpreter, Future[str]] = {}
        self._runs: dict[tuple[Interpreter, str], Future[Run]] = {}

    def start(self, interpreter: Interpreter, class_name: str) -> None:
        if (interpreter, class_name) in self._runs:
            return
        if interpreter not in self._ready:
            self._ready[interpreter] = self._pool.submit(interpreter.ready)
        # Queued behind what it waits for.
        self._runs[interpreter, class_name] = self._pool.submit(self._run, interpreter, class_name)

    def get(self, interpreter: Interpreter, class_name: str) -> Run:
        try:
            return self._runs[interpreter, class_name].result()
        except NotReady as error:
            pytest.skip(f"the dependencies cannot be installed for Python {interpreter.version}: {error}")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _run(self, interpreter: Interpreter, class_name: str) -> Run:
        python = self._ready[interpreter].result()
        folder = self._folder / f"{interpreter.version}-{class_name}"
        results, output = folder / "results", folder / "output"
        (folder / "home").mkdir(parents=True)
        results.touch()
        command = [python, "-X", "dev", "-W", "error::ResourceWarning", "-m", "tests.contract.cpython_suite.run"]
        # Whichever test happens to run now, others wait for this as well.
        environment = {**os.environ, **shared_by_tests(f"{class_name}, {interpreter.version}")}
        environment["STARBURST_HOME"] = str(folder / "home")
        with output.open("wb") as sink:
            end = _call([*command, class_name, str(results)], environment, sink)
        rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
        left_out = rows.pop()["left_out"] if rows and "left_out" in rows[-1] else []
        return Run(rows, output.read_text(encoding="utf-8", errors="replace"), end, left_out)


def _call(command: list[str], environment: dict[str, str], sink: IO[bytes]) -> str:
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    made = Runs(tmp_path_factory.mktemp("cpython_suite"))
    wanted = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    for params in wanted:
        if "interpreter" in params:
            made.start(params["interpreter"], params.get("class_name", _ANY_CLASS))
    yield made
    made.close()


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("interpreter", EACH)
def test_cpython_suite(runs: Runs, interpreter: Interpreter, class_name: str) -> None:
    run = runs.get(interpreter, class_name)
    print(_table(run))
    assert not run.end, f"{run.end}, after these tests:\n{_table(run)}\n{run.output[-8000:]}"
    assert run.rows
    bad = [row for row in run.rows if row["outcome"] not in ("passed", "skipped")]
    assert not bad, "\n\n".join(f"{row['test']}: {row['outcome']}: {row['words']}" for row in bad) + run.output[-4000:]


@pytest.mark.parametrize("name", LEFT_OUT)
@pytest.mark.parametrize("interpreter", EACH)
def test_left_out(runs: Runs, interpreter: Interpreter, name: str) -> None:
    has_it = name in runs.get(interpreter, _ANY_CLASS).left_out
    version = tuple(map(int, interpreter.version.split(".")))
    assert has_it or version < LEFT_OUT[name].since, f"{name}: no longer there, strike it out"
    pytest.skip(f"left out: {name}: {LEFT_OUT[name].reason}" if has_it else f"{name} came with a later version")


@pytest.mark.skipif(bool(INTERPRETERS), reason="found: " + ", ".join(found.version for found in INTERPRETERS))
def test_no_interpreter_is_found() -> None:
    pytest.skip("no interpreter on this machine ships CPython's executor tests (test.test_concurrent_futures)")


def _table(run: Run) -> str:
    return "\n".join(f"{row['seconds']:6.2f} s  {row['outcome']:<12} {row['test']}" for row in run.rows)
