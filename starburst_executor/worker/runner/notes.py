"""Notes of tasks: what a running task reports of its progress, and the records that it logs, in a file that runner and agent share.

    task ── progress() ──► Notepad ──► the first page, in memory ──► NoteReader ──► the worker's next beat
    task ── logging ─────► Recorder ──► the rest, appended ─────────►     "     ──► the log object, with the task's outcome

Writing a note is a copy of some bytes, and wakes no one: a task may report a million times a second. A task that reports nothing costs
nothing. The agent reads notes only for its beats.

Guarantee: the agent never shows a note of another task, nor one that is half written: a note holds the number of its job and a CRC.
A task that starts again is another job, so its old note disappears.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import threading
import zlib
from typing import NamedTuple

from starburst_executor.protocol.records import NOTE_CHARS, one_line
from starburst_executor.worker.runner.capture import append_only, file_without_name, punch
from starburst_executor.worker.runner.recorder import HEAD

__all__ = ["Note", "NoteReader", "Notepad"]

_CHECK = struct.Struct("<I")  # CRC-32 of all bytes that follow, up to the end of the text
_FACTS = struct.Struct("<QddH")  # job, done, total or NaN, bytes of the text
_TEXT_BYTES = 4 * NOTE_CHARS  # UTF-8
_PAGE_BYTES = 4096
_RECORDS_START = (
    64 * 1024
)  # records are appended from here on; a multiple of every page size, so that holes spare the first page
_TIDY_BYTES = 1024 * 1024  # the least size of a hole
_TRIES = 3  # a note that the task writes at the same moment is read again


class Note(NamedTuple):
    """What a task has reported of itself: steps done, of how many, and a text; `total` is None if it did not say."""

    done: float
    total: float | None
    text: str


class NoteReader:
    """The agent's end. Any thread may call `read`.

    Attributes:
        fd: The file, for the runner.
    """

    def __init__(self) -> None:
        self.fd = file_without_name("runner-notes")
        os.ftruncate(self.fd, _RECORDS_START)
        append_only(self.fd)
        self._page = mmap.mmap(self.fd, _PAGE_BYTES)
        self._read_to = self._freed = _RECORDS_START  # used by the thread that calls `take`
        self._records: dict[int, list[bytes]] = {}  # read, of jobs that have not been taken
        self._lock = threading.Lock()  # guards: _page, against `close` while it is read

    def read(self, number: int) -> Note | None:
        """Return the note of a job; None if it has none."""
        for _ in range(_TRIES):
            with self._lock:
                if self.fd < 0:
                    return None
                body = self._page[:]
            (check,) = _CHECK.unpack_from(body)
            job, done, total, n_bytes = _FACTS.unpack_from(body, _CHECK.size)
            end = _CHECK.size + _FACTS.size + min(n_bytes, _TEXT_BYTES)
            if check == zlib.crc32(body[_CHECK.size : end]):
                text = body[_CHECK.size + _FACTS.size : end].decode("utf-8", "replace")
                return Note(done, None if math.isnan(total) else total, text) if job == number else None
        return None

    def take(self, number: int) -> bytes:
        """Return the records of a job that has ended, for `logged.decode_logged`. One thread calls it, with ascending numbers."""
        size = os.fstat(self.fd).st_size
        body = os.pread(self.fd, size - self._read_to, self._read_to) if size > self._read_to else b""
        at = 0
        while at + HEAD.size <= len(body):
            job, n_bytes = HEAD.unpack_from(body, at)
            if at + HEAD.size + n_bytes > len(body):
                break
            self._records.setdefault(job, []).append(body[at + HEAD.size : at + HEAD.size + n_bytes])
            at += HEAD.size + n_bytes
        self._read_to += at
        if self._read_to - self._freed > _TIDY_BYTES:
            end = self._read_to - self._read_to % _RECORDS_START
            if punch(self.fd, self._freed, end - self._freed):
                self._freed = end
        records = b"".join(self._records.pop(number, ()))
        for job in [job for job in self._records if job < number]:
            del self._records[job]
        return records

    def close(self) -> None:
        """Release it. A second call is harmless."""
        with self._lock:
            if self.fd >= 0:
                self._page.close()
                os.close(self.fd)
                self.fd = -1


class Notepad:
    """The runner's end, in the process of the task and in those that it forks. Thread-safe.

    Args:
        fd: The file.

    Attributes:
        number: The running job.
    """

    def __init__(self, fd: int) -> None:
        self.number = 0
        self._page = mmap.mmap(fd, _PAGE_BYTES)
        self._lock = threading.RLock()  # guards: _page, between threads of the task and its signal handlers
        # A thread of the parent may have held it at a fork.
        os.register_at_fork(after_in_child=self._new_lock)

    def write(self, done: float, total: float | None, text: str) -> None:
        """Replace the note of the running job."""
        line = one_line(text).encode("utf-8", "replace")[:_TEXT_BYTES]
        body = _FACTS.pack(self.number, done, math.nan if total is None else total, len(line)) + line
        with self._lock:
            self._page[: _CHECK.size + len(body)] = _CHECK.pack(zlib.crc32(body)) + body

    def _new_lock(self) -> None:
        self._lock = threading.RLock()
