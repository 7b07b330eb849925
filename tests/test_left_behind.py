"""A test that leaves a process or a file behind fails, by name; so does a run, and what was left is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sessions import is_alive
from tests.support.moto_server import ROOT

_HEAD = """
import os, subprocess, sys, tempfile, time
from pathlib import Path
import pytest

def leave(**options):
    # Far from its parents, with a long command line.
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', *['x' * 99] * 99], start_new_session=True, stdout=subprocess.DEVNULL).pid)"
    pid = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, **options).stdout
    with open(os.environ["PIDS"], "a") as file:
        file.write(pid)

"""
_TESTS = {
    "clean": "def test_it(tmp_path):\n    (tmp_path / 'kept-by-pytest').touch()\n",
    "process": "def test_it():\n    leave()\n\ndef test_other():\n    pass\n",
    "process_of_fixture": (
        "@pytest.fixture\ndef place():\n    leave()\n\ndef test_it(place):\n    pass\n\ndef test_other():\n    pass\n"
    ),
    "file": "def test_it():\n    tempfile.mkdtemp(prefix='left-')\n\ndef test_other():\n    pass\n",
    "file_of_a_process": (
        "def test_it():\n"
        "    code = 'import tempfile; tempfile.mkdtemp(prefix=\\'left-\\')'\n"
        "    subprocess.run([sys.executable, '-c', code], check=True)\n"
    ),
    # The standard library's own, which a process leaves that is killed while it looks for a temporary folder.
    "probe": (
        "def test_it():\n"
        "    code = 'import os, tempfile; os.unlink = lambda path: os.kill(os.getpid(), 9); tempfile.gettempdir()'\n"
        "    assert subprocess.run([sys.executable, '-c', code]).returncode == -9\n"
        "    assert len(os.listdir(os.environ['TMPDIR'])) == 1\n"
    ),
    "process_of_shared_fixture": (
        "@pytest.fixture(scope='module')\ndef place():\n    leave()\n\n"
        "def test_it(request):\n    request.getfixturevalue('place')\n"
    ),
    "process_that_ends_soon": (
        "def test_it():\n    subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE).stdin.close()\n"
    ),
    "failed": "def test_it():\n    leave()\n    assert False, 'of itself'\n",
}


class Run:
    """What became of a run of pytest over one of these files."""

    def __init__(self, kind: str, folder: Path, *options: str) -> None:
        (folder / "conftest.py").write_text(
            "from tests.support.left_behind import LeftBehind\n"
            "def pytest_configure(config):\n"
            "    config.pluginmanager.register(LeftBehind(config))\n",
            encoding="utf-8",
        )
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "test_some.py").write_text(_HEAD + _TESTS[kind], encoding="utf-8")
        pids, temporary = folder / "pids", folder / "temporary"
        temporary.mkdir()
        pids.touch()
        patience_s = "60" if kind == "process_that_ends_soon" else "0.5"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "TESTS"))}
        environment |= {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "PIDS": str(pids)}
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # half of such a run is importing those of others
        plugins = ["-p", "no:cacheprovider", *(("-p", "xdist") if "-n" in options else ())]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "-W", "ignore", *options, "test_some.py"],
            cwd=folder, env={**environment, "TESTS_PATIENCE_S": patience_s}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.output = done.stdout + done.stderr
        self.status = done.returncode
        self.living = [pid for pid in map(int, pids.read_text().split()) if is_alive(pid)]
        self.kept = list(temporary.iterdir())


@pytest.mark.parametrize("kind", ["process", "process_of_fixture", "file", "file_of_a_process"])
def test_what_a_test_leaves_fails_that_test(kind: str, tmp_path: Path) -> None:
    run = Run(kind, tmp_path, *(("-n", "1") if kind == "process" else ()))
    assert run.status == pytest.ExitCode.TESTS_FAILED, run.output
    assert "ERROR test_some.py::test_it" in run.output
    assert "ERROR test_some.py::test_other" not in run.output
    assert "test_some.py::test_it has left behind" in run.output
    assert "left-" in run.output or "time.sleep(600)" in run.output
    assert run.living == []


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["alone", "led"])
def test_what_a_shared_fixture_leaves_fails_the_run_and_names_the_test(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    run = Run("process_of_shared_fixture", tmp_path, *options)
    assert run.status == pytest.ExitCode.TESTS_FAILED, run.output
    assert "1 passed" in run.output
    assert "of test_some.py::test_it (shared)" in run.output
    assert run.living == []


@pytest.mark.parametrize("kind", ["clean", "process_that_ends_soon", "probe"])
def test_a_run_that_leaves_nothing_passes(kind: str, tmp_path: Path) -> None:
    run = Run(kind, tmp_path, *(("-n", "1") if kind == "clean" else ()))
    assert run.status == pytest.ExitCode.OK, run.output
    assert run.kept == []


def test_a_test_that_failed_is_reported_once_and_its_files_are_kept(tmp_path: Path) -> None:
    run = Run("failed", tmp_path)
    assert "1 failed" in run.output
    assert "error" not in run.output.lower().replace("assertionerror", "")
    assert run.living == []
    [kept] = run.kept
    assert str(kept) in run.output
