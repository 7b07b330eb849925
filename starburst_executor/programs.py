"""Runs a program as a task: its exit status, its output and its files are the outcome. Workers import this module by its name."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PROGRAM_FAILED", "ProgramFailed", "run_program"]

# Of each stream that is part of the outcome; all of it is in the task's log.
_MOST_CHARACTERS = 100_000


_SHOWN_CHARACTERS = 300


class ProgramFailed(subprocess.CalledProcessError):
    """A program's exit status is not 0. The message has the last line that the program wrote to standard error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.returncode, self.cmd, self.stdout, self.stderr)

    def __str__(self) -> str:
        how = f"signal {-self.returncode}" if self.returncode < 0 else f"exit status {self.returncode}"
        lines = (self.stderr or "").strip().splitlines()
        said = f": {lines[-1].strip()[:_SHOWN_CHARACTERS]}" if lines else ""
        return f"{shlex.join(self.cmd)[:_SHOWN_CHARACTERS]}: {how}{said}"


PROGRAM_FAILED = f"{ProgramFailed.__module__}.{ProgramFailed.__qualname__}"


def run_program(words: Sequence[str], outputs: Sequence[str] = ()) -> dict[str, Any]:
    """Run a program to its end.

    Args:
        words: The program and its arguments; no shell reads them.
        outputs: Patterns of files that it writes. It then runs in an empty folder of its own, and these files become part of the
            outcome.
    Returns:
        `exit_status`, the ends of `stdout` and `stderr`, and `outputs`: the contents of files by their names.
    Raises:
        ProgramFailed: its exit status is not 0; FileNotFoundError: there is no such program.
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
        raise ProgramFailed(done.returncode, list(words), stdout, stderr)
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for pattern in outputs
        for path in sorted((folder or Path()).glob(pattern))
        if folder is not None and path.is_file()
    }
    return {"exit_status": 0, "stdout": stdout, "stderr": stderr, "outputs": files}
