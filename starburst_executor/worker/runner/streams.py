"""The standard streams of a runner, on descriptors 0, 1 and 2.

A stream with which a task replaces one of them stays, as in any process pool. A stream that a task closes is opened again
for the next task.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

__all__ = ["Streams"]

_FDS = {"stdin": 0, "stdout": 1, "stderr": 2}


class _Output(TextIOWrapper):
    """Standard output or error. It tells when it is used: asking the system after each task costs more than a small task."""

    mode = "w"  # as `open` sets it
    on_use: Callable[[], None]

    def write(self, text: str, /) -> int:
        self.on_use()
        return super().write(text)

    def close(self) -> None:
        self.on_use()
        super().close()


class Streams:
    """Standard input, output and error, for the life of a process.

    Args:
        stdout, stderr: Descriptors of the output files of 1 and 2, at high numbers that user code does not use.
        on_use: Called when something is written to a stream or when it is closed, but not if the descriptor is used directly.

    Attributes:
        ends: The lengths of the output files when they were measured last.
    """

    def __init__(self, stdout: int, stderr: int, on_use: Callable[[], None]) -> None:
        self._on_use = on_use
        self._kept = {1: stdout, 2: stderr}
        self._mine: dict[str, TextIOWrapper] = {}
        self._own: tuple[TextIOWrapper, ...] = ()  # these
        self.ends = (-1, -1)
        self._poller = select.poll()  # one call shows whether any of the three descriptors is closed
        for fd in _FDS.values():
            self._poller.register(fd, 0)

    def install(self) -> None:
        """Open the streams, for `sys`."""
        for name in _FDS:
            self._open(name)
            setattr(sys, name, self._mine[name])

    def are_untouched(self) -> bool:
        """Flush standard output and error; return whether surely nothing was written since `measure` and nothing has to be mended.

        Most tasks pay for this. What is at 1 and 2 has the length of the output files, so it is one of them, since no other file begins as
        theirs do (`capture.py`), and it has not grown.
        """
        stdin, stdout, stderr = self._own
        try:
            stdout.flush()
            stderr.flush()
            stdout_end, stderr_end = self.ends
            lseek = os.lseek
            return (
                lseek(1, 0, os.SEEK_END) == stdout_end
                and lseek(2, 0, os.SEEK_END) == stderr_end
                and lseek(0, 0, os.SEEK_CUR) >= 0
                and sys.stdin is stdin
                and sys.stdout is stdout
                and sys.stderr is stderr
                and not stdin.closed
            )
        except (OSError, ValueError, AttributeError):  # closed, replaced by a pipe, detached, or deleted from `sys`
            return False

    def measure(self) -> tuple[int, int]:
        """Flush standard output and error; return the lengths of the output files."""
        self.flush()
        stdout, stderr = self._kept[1], self._kept[2]
        self.ends = os.lseek(stdout, 0, os.SEEK_END), os.lseek(stderr, 0, os.SEEK_END)
        return self.ends

    def flush(self) -> None:
        """Flush standard output and error."""
        try:
            self._mine["stdout"].flush()
            self._mine["stderr"].flush()
        except (ValueError, OSError):  # closed, or 1 and 2 replaced, by user code
            with suppress(ValueError, OSError):
                self._mine["stderr"].flush()

    def mend(self) -> None:
        """Open the streams and descriptors again that user code had closed when they were flushed."""
        mine = self._mine
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

    def _open(self, name: str) -> None:
        stream: TextIOWrapper
        if name == "stdin":
            stream = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - never closed
        else:
            file = open(_FDS[name], "wb", closefd=False)  # noqa: SIM115 - never closed
            # Line-buffered, so that text reaches the file as it is written, even if the task crashes.
            stream = _Output(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
            stream.on_use = self._on_use
        self._mine[name] = stream
        self._own = tuple(self._mine.values())
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
