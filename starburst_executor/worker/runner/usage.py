"""What runs on this worker, for its beat: the tasks, and the processors and memory that their processes use.

On Linux the numbers come from `/proc`, elsewhere from one run of `ps`; both are read once a beat, for all slots together.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from starburst_executor.clock import Clock
from starburst_executor.protocol.records import Running
from starburst_executor.worker.runner.notes import Note

__all__ = ["Consumed", "RunningNow", "Usage"]

_PS_S = 5.0


class RunningNow(NamedTuple):
    """A running task: its id, for how many seconds it has run, the process group that runs it, and its note."""

    task: str
    seconds: float
    pid: int
    note: Note | None


class Consumed(NamedTuple):
    """What the processes of one group have consumed: seconds of processors since they began, and bytes of memory now."""

    cpu_s: float
    memory_bytes: int


class Usage:
    """Measures what running tasks use, between two beats. Only the keeper calls it, under its lock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: dict[int, tuple[float, float]] = {}  # by group: when, and seconds of processors

    def records(self, running: Sequence[RunningNow], at: float) -> list[Running]:
        """Return the running tasks as a beat has them. `at` is the beat's time."""
        consumed = consumed_by_group({task.pid for task in running if task.pid > 0})
        now, before = self._clock.monotonic(), self._before
        self._before = {pid: (now, used.cpu_s) for pid, used in consumed.items()}
        records = []
        for task in running:
            used, cpu = consumed.get(task.pid), None
            if used is not None and task.pid in before:
                since, cpu_s = before[task.pid]
                cpu = max(0.0, used.cpu_s - cpu_s) / (now - since) if now > since else None
            note = task.note
            records.append(
                Running(
                    task.task,
                    at - task.seconds,
                    cpu,
                    None if used is None else used.memory_bytes,
                    None if note is None else note.done,
                    None if note is None else note.total,
                    "" if note is None else note.text,
                )
            )
        return records


def consumed_by_group(wanted: set[int]) -> dict[int, Consumed]:
    """Return what these process groups have consumed; a group that cannot be read is missing."""
    consumed: dict[int, Consumed] = {}
    if not wanted:
        return consumed
    lines = _of_linux() if sys.platform == "linux" else _of_ps()
    for group, cpu_s, memory_bytes in lines:
        if group in wanted:
            others = consumed.get(group, Consumed(0.0, 0))
            consumed[group] = Consumed(others.cpu_s + cpu_s, others.memory_bytes + memory_bytes)
    return consumed


def _of_linux() -> Iterator[tuple[int, float, int]]:
    ticks, page_bytes = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            # The name of a program, in brackets, may contain brackets and blanks.
            fields = folder.joinpath("stat").read_bytes().rpartition(b")")[2].split()
            # From field 3 on: the session is field 6, times are 14 to 17 (with those of children that were waited for), the memory 24.
            yield int(fields[3]), sum(map(int, fields[11:15])) / ticks, int(fields[21]) * page_bytes


def _of_ps() -> Iterator[tuple[int, float, int]]:
    command = ["ps", "-A", "-o", "pgid=", "-o", "rss=", "-o", "time="]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_PS_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    yield from parsed_ps(listed.splitlines())


def parsed_ps(lines: Iterable[str]) -> Iterator[tuple[int, float, int]]:
    """Parse lines of group, kilobytes and time, which is `[[days-]hours:]minutes:seconds[.hundredths]`."""
    for line in lines:
        with suppress(ValueError):
            group, kilobytes, spent = line.split()
            days, _, rest = spent.rpartition("-")
            seconds = 0.0
            for part in rest.split(":"):
                seconds = seconds * 60 + float(part)
            yield int(group), seconds + int(days or 0) * 86_400, int(kilobytes) * 1024
