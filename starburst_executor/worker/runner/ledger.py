"""The ledger: memory that a runner shares with its agent, for outcomes and for the start of the running task.

    runner: LedgerWriter ── start, record, caught_term ──► memory ◄── take, started, n_terms ── Ledger: agent
                 ▲                                           │
                 └───────── bytes taken, recalled ◄──────────┘

Guarantee: a record is taken only if it is complete: at the next record's place are the number of the oldest open job and the
right CRC. Neither the order in which a processor makes writes visible nor a crash between two of them matters. User code can
write to this memory, so nothing in it is trusted: reading it raises nothing and copies at most 32 KB at a time.

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
from starburst_executor.worker.runner.jobs import Completed

__all__ = ["RECORD_BYTES", "Ledger", "LedgerWriter", "Record"]

# A bigger outcome is sent as a frame: copying it twice costs more than a system call.
RECORD_BYTES = 16 * 1024
_SIZE = 256 * 1024
_RING = 64  # where the ring begins
_RING_BYTES = _SIZE - _RING

# The fields before the ring, by their index in units of eight bytes.
_TAKEN, _NUMBER, _STARTED_AT, _TERMS, _RECALLED = range(5)
_CELL = struct.Struct("=Q")
_START = struct.Struct("=Qd")

_CRC = struct.Struct("=I")  # of all that follows, up to the end of the outcome
_FACTS = struct.Struct("=HHQd")  # length of the outcome, flags, number, seconds
_HEAD = struct.Struct("=IHHQd")  # both
_HEAD_BYTES = _HEAD.size
_ENDS = struct.Struct("=QQ")  # lengths of the output files, before the outcome, if they have changed
_CRC_BYTES = _CRC.size  # records begin at a multiple of it
_COPY_BYTES = 2 * RECORD_BYTES  # at least a whole record
_OK, _LOADED, _GO_ON_AT_START, _WROTE = 1, 2, 4, 8
_PLAIN = _OK | _LOADED  # most records: the task has returned, and has written nothing


# One outcome: number, ok, loaded, outcome, seconds as in `jobs.Finished`, and the lengths of the output files at the job's end; None if
# they are those that the runner has reported last. A plain tuple, because each task that is not plain pays for it.
Record: TypeAlias = tuple[int, bool, bool, bytes, float, tuple[int, int] | None]


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
        self._recalled = 0
        self._copy, self._copied_at = b"", _RING  # bytes of the memory, and where they were

    def take(self, jobs: Iterable[range]) -> list[Completed | Record]:
        """Take and return the records that are there, plain ones of neighbours together.

        Args:
            jobs: The numbers of the open jobs, in the order in which they run.
        """
        taken: list[Completed | Record] = []
        self._copy_from(self._at)
        for numbers in jobs:
            run = Completed(numbers.start, [], [])
            while (number := run.number + run.n) < numbers.stop:
                if self._take_plain(run, numbers.stop):
                    continue
                record = self._next(number)
                if record is None:
                    break
                _, ok, loaded, outcome, seconds, ends = record
                if ok and loaded and ends is None:
                    run.outcomes.append(outcome)
                    run.seconds.append(seconds)
                    continue
                if run.n:
                    taken.append(run)
                taken.append(record)
                run = Completed(number + 1, [], [])
            if run.n:
                taken.append(run)
            if number < numbers.stop:
                break
        self._copy = b""
        if taken:
            _CELL.pack_into(self._memory, _TAKEN, self._n_taken)
        return taken

    def started(self) -> tuple[int, float]:
        """Return the job that started last and the time of its start, by `Clock.monotonic`; either may be anything."""
        number, at = _START.unpack_from(self._memory, _NUMBER * _CELL.size)
        return number, at

    def recall(self, last: int) -> None:
        """Have the runner ask for a ruling before it starts a job up to this one. What was recalled before stays so."""
        self._recalled = max(self._recalled, last)
        _CELL.pack_into(self._memory, _RECALLED * _CELL.size, self._recalled)

    def is_recall_intact(self) -> bool:
        """Whether the runner can read what was recalled last: user code may have overwritten it."""
        (last,) = _CELL.unpack_from(self._memory, _RECALLED * _CELL.size)
        return bool(last == self._recalled)

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

    def _take_plain(self, run: Completed, stop: int) -> bool:
        """Add the records that follow in the copy, as far as they are plain ones of the next jobs; return whether there were any.

        One loop without calls of its own: each task pays for it.
        """
        copy, start = self._copy, self._at - self._copied_at
        place, last, number = start, len(copy) - _HEAD_BYTES, run.number + run.n
        unpack, outcomes, durations = _HEAD.unpack_from, run.outcomes, run.seconds
        while number < stop and place <= last:
            crc, length, flags, found, seconds = unpack(copy, place)
            begin = place + _HEAD_BYTES
            end = begin + length
            if found != number or flags != _PLAIN or length > RECORD_BYTES or end > len(copy):
                break
            if crc32(copy[place + _CRC_BYTES : end]) != crc or not 0.0 <= seconds < math.inf:
                break
            outcomes.append(copy[begin:end])
            durations.append(seconds)
            number += 1
            place = end + -end % _CRC_BYTES
        self._n_taken += place - start
        self._at += place - start
        return place > start

    def _next(self, number: int) -> Record | None:
        # Where there is no record yet nothing changes: the runner has not gone on at the start before it says so, or writes there.
        at, n_skipped = self._at, 0
        while True:
            place = at - self._copied_at
            if place + _HEAD_BYTES > len(self._copy):
                if _SIZE - at < _HEAD_BYTES:
                    at, n_skipped = _RING, n_skipped + _SIZE - at
                self._copy_from(at)
                place = 0
            copy = self._copy
            crc, length, flags, found, seconds = _HEAD.unpack_from(copy, place)
            begin = place + _HEAD_BYTES + (_ENDS.size if flags & _WROTE else 0)
            end = begin + length
            if found != number or length > RECORD_BYTES or at + end - place > _SIZE:
                return None
            if end > len(copy):
                self._copy_from(at)
                continue
            if crc32(copy[place + _CRC_BYTES : end]) != crc:
                return None
            if flags & _GO_ON_AT_START and at != _RING:
                at, n_skipped = _RING, n_skipped + _SIZE - at
                self._copy_from(at)
                continue
            if not 0.0 <= seconds < math.inf:
                return None
            n_bytes = end - place + -end % _CRC_BYTES
            self._n_taken += n_skipped + n_bytes
            self._at = at + n_bytes
            ends: tuple[int, int] | None = None
            if flags & _WROTE:
                ends = _ENDS.unpack_from(copy, begin - _ENDS.size)
            return number, flags & _OK != 0, flags & _LOADED != 0, copy[begin:end], seconds, ends

    def _copy_from(self, at: int) -> None:
        """Copy records before they are checked: user code can write to the memory. Many small ones are copied together."""
        self._copy, self._copied_at = self._memory[at : at + _COPY_BYTES], at


class LedgerWriter:
    """The runner's end. Only the process that the nursery forked may use it, not a child of a task."""

    def __init__(self, fd: int) -> None:
        """Args: fd: The file of the memory, which is closed."""
        self._memory = mmap.mmap(fd, _SIZE)
        os.close(fd)
        view = memoryview(self._memory)
        self._cells, self._times = view[:_RING].cast("Q"), view[:_RING].cast("d")
        self._crcs = view.cast("I")
        self._at = _RING
        self._n_written = 0
        self._room = _RING_BYTES  # at least as much is free

    def start(self, number: int, at: float) -> bool:
        """Write that a job starts now; return whether it may: if it was recalled, the agent must rule first."""
        cells = self._cells
        self._times[_STARTED_AT] = at
        cells[_NUMBER] = number
        # Looked at after the number is written, since the agent does it in the other order (`recall.py`).
        return cells[_RECALLED] < number

    def caught_term(self) -> None:
        """Count a SIGTERM. A signal handler may call this at any moment."""
        self._cells[_TERMS] += 1

    def record(
        self, number: int, outcome: bytes, seconds: float, ok: bool, loaded: bool, ends: tuple[int, int] | None = None
    ) -> int:
        """Write an outcome; return the bytes that it takes, or 0 if there is no room for it. Each task pays for this.

        Args:
            outcome: At most `RECORD_BYTES`.
            ends: The lengths of the output files; None if they are those that were reported last.
        """
        flags = (_OK if ok else 0) | (_LOADED if loaded else 0)
        if ends is None:
            body = _FACTS.pack(len(outcome), flags, number, seconds) + outcome
        else:
            body = _FACTS.pack(len(outcome), flags | _WROTE, number, seconds) + _ENDS.pack(*ends) + outcome
        n_bytes = _CRC_BYTES + len(body)
        n_used = n_bytes + -n_bytes % _CRC_BYTES
        at = self._at
        if n_used > self._room or at + n_used > _SIZE:
            at = self._place(number, n_used)
            if not at:
                return 0
        # Whichever of the two is seen first, the record is there only when both are.
        self._memory[at + _CRC_BYTES : at + n_bytes] = body
        self._crcs[at // _CRC_BYTES] = crc32(body)
        self._at = at + n_used
        self._n_written += n_used
        self._room -= n_used
        return n_used

    def _place(self, number: int, n_bytes: int) -> int:
        """Return where a record of this size goes, which may be at the start of the ring; 0 if there is no room for it."""
        at = self._at
        wraps = at + n_bytes > _SIZE
        gap = _SIZE - at if wraps else 0
        if n_bytes + gap > self._room:
            n_used = self._n_written - self._cells[_TAKEN]
            self._room = _RING_BYTES - n_used if 0 <= n_used <= _RING_BYTES else 0
            if n_bytes + gap > self._room:
                return 0
        if gap >= _HEAD_BYTES:
            body = _FACTS.pack(0, _GO_ON_AT_START, number, 0.0)
            self._memory[at + _CRC_BYTES : at + _HEAD_BYTES] = body
            self._crcs[at // _CRC_BYTES] = crc32(body)
        if wraps:
            at = _RING
            self._n_written += gap
            self._room -= gap
        return at


def _new_file() -> int:
    fd = file_without_name("runner-ledger")
    if hasattr(os, "memfd_create"):
        os.ftruncate(fd, _SIZE)  # takes no memory before it is used
    else:
        os.write(fd, bytes(_SIZE))  # a full disk refuses it here, and not by a signal at its first use
    return fd
