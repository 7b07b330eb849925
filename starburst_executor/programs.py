"""Runs a program as a task: its exit status, its output and its files are the outcome. Workers import this module by its name."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_program"]

# Of each stream that is part of the outcome; all of it is in the task's log.
_MOST_CHARACTERS = 100_000


def run_program(words: Sequence[str], outputs: Sequence[str] = ()) -> dict[str, Any]:
    """Run a program to its end.

    Args:
        words: The program and its arguments; no shell reads them.
        outputs: Patterns of files that it writes. It then runs in an empty folder of its own, and these files become part of the
            outcome.
    Returns:
        `exit_status`, the ends of `stdout` and `stderr`, and `outputs`: the contents of files by their names.
    Raises:
        subprocess.CalledProcessError: its exit status is not 0; FileNotFoundError: there is no such program.
    """
    if not outputs:
        return _run(words, None, ())
    with tempfile.TemporaryDirectory(prefix="starburst-") as folder:
        return _run(words, Path(folder), outputs)


def _run(words: Sequence[str], folder: Path | None, outputs: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(
        list(words), cwd=folder, capture_output=True, check=False, stdin=subprocess.DEVNULL, text=True, errors="replace"
    )
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    stdout, stderr = done.stdout[-_MOST_CHARACTERS:], done.stderr[-_MOST_CHARACTERS:]
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, list(words), stdout, stderr)
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in outputs
        for path in sorted((folder or Path()).glob(pattern))
        if folder is not None and path.is_file()
    }
    return {"exit_status": 0, "stdout": stdout, "stderr": stderr, "outputs": files}
