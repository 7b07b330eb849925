"""A file system of a few megabytes, for tests of what happens when a disk is full, and a folder that cannot be written at another path.

Both need Linux and root: tests are skipped elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["grow", "mounted", "read_only"]


@contextmanager
def mounted(folder: Path, n_bytes: int) -> Iterator[Path]:
    """Mount a file system of that size on a new folder, or skip the test."""
    if sys.platform != "linux":
        pytest.skip("needs a small file system of its own: mounts one on Linux only")
    folder.mkdir()
    done = _mount("-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"needs to mount a small file system, as root: {done.stderr.splitlines()[0]}")
    try:
        yield folder
    finally:
        # Lazily: a worker that is ending may have a file open still.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def read_only(folder: Path, at: Path) -> Iterator[Path]:
    """Show a folder at a new path, where nothing can be written, or skip the test. At its own path it is as before."""
    if sys.platform != "linux":
        pytest.skip("needs a read-only mount: makes one on Linux only")
    at.mkdir()
    done = _mount("--bind", str(folder), str(at))
    if done.returncode:
        pytest.skip(f"needs to mount a folder, as root: {done.stderr.splitlines()[0]}")
    try:
        assert _mount("-o", "remount,bind,ro", str(at)).returncode == 0
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def grow(folder: Path, n_bytes: int) -> None:
    """Make it larger, as a user who deletes other files."""
    assert _mount("-o", f"remount,size={n_bytes}", str(folder)).returncode == 0


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(["mount"], 1, "", str(error))
