"""The standard streams of a runner, on descriptors 0, 1 and 2.

A stream with which a task replaces one of them stays, as in any process pool. A stream that a task closes is opened again
for the next task.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

__all__ = ["Streams"]

_FDS = {"stdin": 0, "stdout": 1, "stderr": 2}


class Streams:
    """Standard input, output and error, for the life of a process.

    Args:
        stdout, stderr: Descriptors of the output files of 1 and 2, at high numbers that user code does not use.
    """

    def __init__(self, stdout: int, stderr: int) -> None:
        self._kept = {1: stdout, 2: stderr}
        self._mine: dict[str, TextIOWrapper] = {}
        self._poller = select.poll()  # one call shows whether any of the three descriptors is closed
        for fd in _FDS.values():
            self._poller.register(fd, 0)
        for name in _FDS:
            self._open(name)
            setattr(sys, name, self._mine[name])

    def flush(self) -> None:
        """Flush standard output and error."""
        try:
            self._mine["stdout"].flush()
            self._mine["stderr"].flush()
        except (ValueError, OSError):  # closed, or 1 and 2 replaced, by user code
            with suppress(ValueError, OSError):
                self._mine["stderr"].flush()

    def mend(self) -> None:
        """Open the streams and descriptors again that user code has closed."""
        mine = self._mine
        if self._are_as_made():
            return
        if any(mask & select.POLLNVAL for _, mask in self._poller.poll(0)):
            for fd in _FDS.values():
                try:
                    os.fstat(fd)
                except OSError:
                    self._open_again(fd)
        for name in _FDS:
            stream = mine[name]
            if _is_closed(stream):
                self._open(name)
            elif getattr(sys, name, None) is stream:
                continue
            if _is_closed(getattr(sys, name, None)):
                setattr(sys, name, mine[name])

    def _are_as_made(self) -> bool:
        """Return whether surely nothing has to be mended. Each task pays for this."""
        if self._poller.poll(0):
            return False
        stdin, stdout, stderr = self._mine.values()
        try:
            return (
                sys.stdin is stdin
                and sys.stdout is stdout
                and sys.stderr is stderr
                and not (stdin.closed or stdout.closed or stderr.closed)
            )
        except (AttributeError, ValueError):  # user code has deleted a stream of `sys`, or detached one from its buffer
            return False

    def _open(self, name: str) -> None:
        if name == "stdin":
            stream = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - never closed
        else:
            # Line-buffered, so that text reaches the file as it is written, even if the task crashes.
            stream = open(_FDS[name], "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        self._mine[name] = stream
        setattr(sys, f"__{name}__", stream)

    def _open_again(self, fd: int) -> None:
        if fd in self._kept:
            os.dup2(self._kept[fd], fd)
            return
        null = os.open(os.devnull, os.O_RDONLY)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)


def _is_closed(stream: Any) -> bool:
    """Return whether a stream can no longer be used; it may be user code's replacement."""
    try:
        return stream is not None and bool(stream.closed)
    except AttributeError:
        return False  # not a file, but an object with its own `write`
    except Exception:  # detached from its buffer, or another fault of the replacement
        return True
