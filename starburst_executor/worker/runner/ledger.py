"""The ledger: memory that a runner shares with its agent, for outcomes and for the start of the running task.

    runner: LedgerWriter ── start, record, caught_term ──► memory ◄── take, started, n_terms ── Ledger: agent
                 ▲                                           │
                 └────────────── bytes taken ◄───────────────┘

Guarantee: a record is taken only if it is complete: at the next record's place are the number of the oldest open job and the
right CRC. Neither the order in which a processor makes writes visible nor a crash between two of them matters. User code can
write to this memory, so nothing in it is trusted: reading it raises nothing and copies at most `RECORD_BYTES` at a time.

The layout, and what a crash at each step leaves: `docs/design/0003-runners.md`.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Iterable
from typing import TypeAlias
from zlib import crc32

from starburst_executor.worker.runner.capture import file_without_name

__all__ = ["RECORD_BYTES", "Ledger", "LedgerWriter", "Record"]

# A bigger outcome is sent as a frame: copying it twice costs more than a system call.
RECORD_BYTES = 16 * 1024
_SIZE = 256 * 1024
_RING = 64  # where the ring begins
_RING_BYTES = _SIZE - _RING

# The fields before the ring, by their index in units of eight bytes.
_TAKEN, _NUMBER, _STARTED_AT, _TERMS = range(4)
_CELL = struct.Struct("=Q")
_START = struct.Struct("=Qd")

_OPENING = struct.Struct("=IHHQ")  # CRC of all that follows, then the first fields of `_FACTS`
_CRC = struct.Struct("=I")
_FACTS = struct.Struct("=HHQdQQ")  # length of the outcome, flags, number, seconds, lengths of the output files
_RECORD_BYTES = _CRC.size + _FACTS.size  # without the outcome
_OK, _LOADED, _GO_ON_AT_START = 1, 2, 4


# One outcome: number, ok, loaded, outcome, seconds as in `jobs.Finished`, and the lengths of the output files at the job's end. A plain
# tuple, because each task pays for it.
Record: TypeAlias = tuple[int, bool, bool, bytes, float, tuple[int, int]]


class Ledger:
    """The agent's end. Not thread-safe.

    Attributes:
        fd: The file of the memory, until `close_file`.
    """

    def __init__(self) -> None:
        self.fd = _new_file()
        self._memory = mmap.mmap(self.fd, _SIZE)
        self._at = _RING
        self._n_taken = 0

    def take(self, numbers: Iterable[int]) -> list[Record]:
        """Take and return the records that are there.

        Args:
            numbers: The open jobs in the order in which they run.
        """
        taken: list[Record] = []
        for number in numbers:
            record = self._next(number)
            if record is None:
                break
            taken.append(record)
        if taken:
            _CELL.pack_into(self._memory, _TAKEN, self._n_taken)
        return taken

    def started(self) -> tuple[int, float]:
        """Return the job that started last and the time of its start, by `Clock.monotonic`; either may be anything."""
        number, at = _START.unpack_from(self._memory, _NUMBER * _CELL.size)
        return number, at

    def n_terms(self) -> int:
        """Return how often the runner has caught SIGTERM."""
        (n_terms,) = _CELL.unpack_from(self._memory, _TERMS * _CELL.size)
        return int(n_terms)

    def close_file(self) -> None:
        """Close the file, once the runner has it; the memory stays. A second call is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Release the memory. A second call is harmless."""
        self.close_file()
        self._memory.close()

    def _next(self, number: int) -> Record | None:
        memory, at = self._memory, self._at
        while True:
            if _SIZE - at < _RECORD_BYTES:
                self._go_to_start()
                at = self._at
            crc, length, flags, found = _OPENING.unpack_from(memory, at)
            end = at + _RECORD_BYTES + length
            if found != number or length > RECORD_BYTES or end > _SIZE:
                return None
            body = memory[at + _CRC.size : end]  # copied before it is checked
            if crc32(body) != crc:
                return None
            _, flags, found, seconds, stdout_end, stderr_end = _FACTS.unpack_from(body)
            if flags & _GO_ON_AT_START and at != _RING:
                self._go_to_start()
                at = self._at
                continue
            if found != number or not 0.0 <= seconds < math.inf:
                return None
            self._n_taken += end - at
            self._at = end
            ends = (stdout_end, stderr_end)
            return number, flags & _OK != 0, flags & _LOADED != 0, body[_FACTS.size :], seconds, ends

    def _go_to_start(self) -> None:
        self._n_taken += _SIZE - self._at
        self._at = _RING


class LedgerWriter:
    """The runner's end. Only the process that the nursery forked may use it, not a child of a task."""

    def __init__(self, fd: int) -> None:
        """Args: fd: The file of the memory, which is closed."""
        self._memory = mmap.mmap(fd, _SIZE)
        os.close(fd)
        view = memoryview(self._memory)
        self._cells, self._times = view[:_RING].cast("Q"), view[:_RING].cast("d")
        self._at = _RING
        self._n_written = 0
        self._room = _RING_BYTES  # at least as much is free

    def start(self, number: int, at: float) -> None:
        """Write that a job starts now."""
        self._cells[_NUMBER] = number
        self._times[_STARTED_AT] = at

    def caught_term(self) -> None:
        """Count a SIGTERM. A signal handler may call this at any moment."""
        self._cells[_TERMS] += 1

    def record(
        self, number: int, outcome: bytes, seconds: float, ends: tuple[int, int], *, ok: bool, loaded: bool
    ) -> int:
        """Write an outcome; return the bytes that it takes, or 0 if there is no room for it.

        Args:
            outcome: At most `RECORD_BYTES`.
            ends: The lengths of the output files.
        """
        n_bytes = _RECORD_BYTES + len(outcome)
        at = self._at
        wraps = at + n_bytes > _SIZE
        gap = _SIZE - at if wraps else 0
        if n_bytes + gap > self._room:
            n_used = self._n_written - self._cells[_TAKEN]
            self._room = _RING_BYTES - n_used if 0 <= n_used <= _RING_BYTES else 0
            if n_bytes + gap > self._room:
                return 0
        if wraps:
            if gap >= _RECORD_BYTES:
                body = _FACTS.pack(0, _GO_ON_AT_START, number, 0.0, 0, 0)
                self._memory[at : at + _RECORD_BYTES] = _CRC.pack(crc32(body)) + body
            at = _RING
        flags = (_OK if ok else 0) | (_LOADED if loaded else 0)
        body = _FACTS.pack(len(outcome), flags, number, seconds, *ends) + outcome
        self._at = end = at + n_bytes
        self._memory[at:end] = _CRC.pack(crc32(body)) + body
        self._n_written += n_bytes + gap
        self._room -= n_bytes + gap
        return n_bytes


def _new_file() -> int:
    fd = file_without_name("runner-ledger")
    if hasattr(os, "memfd_create"):
        os.ftruncate(fd, _SIZE)  # takes no memory before it is used
    else:
        os.write(fd, bytes(_SIZE))  # a full disk refuses it here, and not by a signal at its first use
    return fd
