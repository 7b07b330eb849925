"""The standard streams of a runner: on descriptors 0, 1 and 2 whatever a task does to them.

What a task puts in their place stays, as in any process pool. What it closes is open again for the next task.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

__all__ = ["Streams"]

_FDS = {"stdin": 0, "stdout": 1, "stderr": 2}


class Streams:
    """Standard input, output and error, for the life of a process.

    Args:
        stdout, stderr: Descriptors of the files that 1 and 2 are for, at numbers out of the way of user code.
    """

    def __init__(self, stdout: int, stderr: int) -> None:
        self._kept = {1: stdout, 2: stderr}
        self._mine: dict[str, TextIOWrapper] = {}
        for name in _FDS:
            self._open(name)
            setattr(sys, name, self._mine[name])

    def flush(self) -> None:
        """Write what the streams hold."""
        for name in ("stdout", "stderr"):
            with suppress(ValueError, OSError):  # closed, or 1 and 2 replaced, by user code
                self._mine[name].flush()

    def mend(self) -> None:
        """Open again what user code has closed."""
        for name, fd in _FDS.items():
            try:
                os.fstat(fd)
            except OSError:
                self._open_again(fd)
            if _is_closed(self._mine[name]):
                self._open(name)
            if _is_closed(getattr(sys, name, None)):
                setattr(sys, name, self._mine[name])

    def _open(self, name: str) -> None:
        if name == "stdin":
            mine = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
        else:
            # Line by line, so that text comes as it is written, also if the task crashes.
            mine = open(_FDS[name], "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        self._mine[name] = mine
        setattr(sys, f"__{name}__", mine)

    def _open_again(self, fd: int) -> None:
        if fd in self._kept:
            os.dup2(self._kept[fd], fd)
            return
        null = os.open(os.devnull, os.O_RDONLY)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


def _is_closed(stream: Any) -> bool:
    """Whether a stream cannot be used any more; also of what user code has put there."""
    try:
        return stream is not None and bool(stream.closed)
    except AttributeError:
        return False  # no file, but something with a `write` of its own
    except Exception:  # detached from its buffer, or worse
        return True
