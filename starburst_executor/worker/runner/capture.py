"""Capture of a runner's output: its standard output and error are files that the agent reads.

With each outcome the runner reports the lengths of its two files; the bytes since the last report belong to that task.
Neither side truncates the files while tasks run, so these offsets stay valid and no lock is needed. The agent returns the
bytes that it has read to the system, as a hole in the file. A task that prints endlessly takes at most about `_LIMIT_BYTES`:
the agent keeps the first part in memory, the last part stays in the file, and the rest is dropped and counted.

Guarantee: a crash loses no output: the file outlives the process.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import sys
import tempfile
from contextlib import suppress

from starburst_executor.worker.runner import crash
from starburst_executor.worker.runner.screen import Screen

__all__ = ["CapturedStream", "append_only", "file_without_name", "punch"]

_LIMIT_BYTES = 16 * 1024 * 1024
_TIDY_BYTES = 1024 * 1024  # the least size of a hole: one system call per task would cost too much
_BLOCK_BYTES = 64 * 1024  # a multiple of every page and block size; holes begin and end at such a multiple
_SHOW_BYTES = 1024 * 1024
_PARTIAL_LINE_BYTES = 64 * 1024
_REPORT_BYTES = 256 * 1024  # a crash report is shorter: it has at most 100 threads of 100 frames


class CapturedStream:
    """One output file of one runner, on the agent's side. Not thread-safe.

    Attributes:
        fd: The file, open for appending, to which the runner writes.
    """

    def __init__(self, *, keep_bytes: int, screen: Screen | None = None, start: int = 0) -> None:
        """
        Args:
            keep_bytes: The most bytes to keep of one task's text; a longer text loses its middle.
            screen: The screen that also shows the text as it arrives.
            start: The offset at which text begins, behind a hole.
        """
        self.fd = _append_only_file()
        os.ftruncate(self.fd, start)
        self._keep_bytes = keep_bytes
        self._limit_bytes = max(_LIMIT_BYTES, 2 * keep_bytes)
        self._screen = screen
        self._start = start  # the offset at which the running task's text begins
        self._shown = start  # the offset up to which it has been shown
        self._freed = start  # the offset up to which the file is a hole
        self._head = b""  # the first part of the running task's text, if it is in the hole

    def watch(self) -> None:
        """Show new text, and drop the middle of a text that became too long. Call it regularly."""
        size = os.fstat(self.fd).st_size
        self._show(size, whole_lines=True)
        if size - self._freed > self._limit_bytes:
            if self._freed <= self._start:
                self._head = self._read(self._start, self._start + self._keep_bytes // 2)
            self._free(size - self._tail_bytes)

    def take(self, end: int | None = None) -> bytes:
        """Return the text from the last `take` up to `end`, or up to now: at most `keep_bytes`, plus a line that names the omission."""
        if end == self._start:
            return b""
        size = os.fstat(self.fd).st_size
        end = size if end is None else min(end, size)  # user code can write to where the runner's lengths are
        if end == self._start:
            return b""
        self._show(end, whole_lines=False)
        text = self._text(self._start, end)
        if end < self._start:  # user code truncated the file, for example by opening /dev/stdout
            self._shown, self._freed = min(self._shown, end), min(self._freed, end)
        self._start, self._head = end, b""
        if end - self._freed > _TIDY_BYTES:
            self._free(end)
        return text

    def mend(self) -> None:
        """After a crash, remove frames that are of no use to the user from its report. Call it before the last `take`."""
        size = os.fstat(self.fd).st_size
        start = max(self._start, self._shown, size - _REPORT_BYTES)
        text = self._read(start, size)
        mended = crash.users_frames(text)
        if mended != text:
            os.ftruncate(self.fd, start)
            os.write(self.fd, mended)

    def close(self) -> None:
        """Close the file. A second call is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def _tail_bytes(self) -> int:
        return self._keep_bytes - self._keep_bytes // 2

    def _text(self, start: int, end: int) -> bytes:
        if self._freed <= start and end - start <= self._keep_bytes:
            return self._read(start, end)
        head = self._head
        if self._freed <= start:
            head = self._read(start, start + self._keep_bytes // 2)
        head = head[: max(0, end - start)]
        tail_start = min(end, max(end - self._tail_bytes, self._freed, start + len(head)))
        omitted = tail_start - start - len(head)
        line = f"\n… {omitted:,} bytes omitted …\n".encode() if omitted > 0 else b""
        return head + line + self._read(tail_start, end)

    def _read(self, start: int, end: int) -> bytes:
        return os.pread(self.fd, max(0, end - start), start)

    def _free(self, end: int) -> None:
        end -= end % _BLOCK_BYTES
        if end > self._freed and punch(self.fd, self._freed, end - self._freed):
            self._freed = end

    def _show(self, end: int, *, whole_lines: bool) -> None:
        while self._screen is not None and self._shown < end:
            text = self._read(self._shown, min(end, self._shown + _SHOW_BYTES))
            if whole_lines:
                # A crash report is shown after the process has ended and `mend` has edited it.
                text = _whole_lines(text.partition(crash.OPENING)[0])
            if not text:
                return
            self._shown += len(text)
            self._screen.write(text)


def _whole_lines(text: bytes) -> bytes:
    """Return the text up to its last line end, so that runners do not mix lines; a long unfinished line is returned whole."""
    end = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
    return text if end == 0 and len(text) >= _PARTIAL_LINE_BYTES else text[:end]


def file_without_name(purpose: str) -> int:
    """Make a file without a name: in memory if the system supports it (with holes), otherwise on the disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(purpose)
    with tempfile.TemporaryFile() as file:
        return fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, 3)


def _append_only_file() -> int:
    fd = file_without_name("runner-output")
    append_only(fd)
    return fd


def append_only(fd: int) -> None:
    """Have every write to a file append, whichever process makes it."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


def punch(fd: int, start: int, length: int) -> bool:
    """Return these bytes of a file to the system without moving the others; False if the system cannot do that."""
    with suppress(OSError):
        if sys.platform == "darwin":
            f_punchhole = 99  # <sys/fcntl.h>; its argument is struct fpunchhole: flags, reserved, offset, length
            fcntl.fcntl(fd, f_punchhole, struct.pack("=IIqq", 0, 0, start, length))
            return True
        keep_size_punch_hole = 0x01 | 0x02  # <linux/falloc.h>
        libc = ctypes.CDLL(None)
        return bool(libc.fallocate(fd, keep_size_punch_hole, ctypes.c_longlong(start), ctypes.c_longlong(length)) == 0)
    return False
