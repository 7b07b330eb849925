"""The folder for code is removed with its worker, by another where the worker was killed, and never while it lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from starburst_executor.worker.code_root import CodeRoot, new_name, remove
from tests.sessions import kill
from tests.support.moto_server import ROOT

A_WORKER = """
import sys
from starburst_executor.worker.code_root import CodeRoot, new_name
root = CodeRoot(new_name())
(root.path / "module").mkdir()
(root.path / "module" / "a.py").touch()
print(root.path, flush=True)
sys.stdin.read()
root.close()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, of this process and of those that it starts."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def a_worker() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", A_WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def make_old(root: Path) -> None:
    os.utime(root, (0, 0))


def test_it_is_of_its_owner_alone_and_goes_at_the_end(folder: Path) -> None:
    root = CodeRoot(new_name())
    assert root.path.parent == folder
    assert root.path.stat().st_mode & 0o777 == 0o700
    root.close()
    assert not list(folder.iterdir())


def test_what_a_killed_worker_left_is_swept_by_the_next_one(folder: Path) -> None:
    process, left = a_worker()
    make_old(left)
    living = CodeRoot(new_name())
    assert left.exists(), "its worker lives"
    kill(process.pid, signal.SIGKILL)
    process.communicate()
    another = CodeRoot(new_name())
    assert sorted(folder.iterdir()) == sorted([living.path, another.path])
    living.close()
    another.close()


def test_one_that_is_being_made_is_left_alone(folder: Path) -> None:
    (folder / new_name()).mkdir()
    CodeRoot(new_name()).close()
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_folder_is_left_alone(folder: Path, kind: str) -> None:
    elsewhere, place = folder / "elsewhere", folder / new_name()
    elsewhere.mkdir()
    (elsewhere / "a.py").touch()
    if kind == "file":
        place.touch()
    else:
        place.symlink_to(elsewhere)
    os.utime(place, (0, 0), follow_symlinks=False)
    CodeRoot(new_name()).close()
    assert place.exists()
    assert (elsewhere / "a.py").exists()


def test_removing_by_name_needs_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove(new_name())
    root = CodeRoot(new_name())
    remove(root.path.name)
    assert not list(folder.iterdir())
    root.close()
