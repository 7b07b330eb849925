"""What a beat says of running tasks: their notes, and what their processes use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from starburst_executor import context
from starburst_executor.testing import FakeClock
from starburst_executor.worker.runner import usage
from starburst_executor.worker.runner.notes import Note, Notepad, NoteReader
from starburst_executor.worker.runner.usage import RunningNow, Usage
from tests.support.runner_rig import Rig, finished, wait_until

MB = 2**20


@contextmanager
def pad() -> Iterator[tuple[NoteReader, Notepad]]:
    reader = NoteReader()
    try:
        notepad = Notepad(os.dup(reader.fd))
        notepad.number = 7
        yield reader, notepad
    finally:
        reader.close()


# --- notes ------------------------------------------------------------------------------------------------------------


def test_a_note_belongs_to_its_job_alone() -> None:
    with pad() as (reader, notepad):
        assert reader.read(0) is None
        assert reader.read(7) is None
        notepad.write(3, 8, "third")
        assert reader.read(7) == Note(3.0, 8.0, "third")
        notepad.write(4, None, "")
        assert reader.read(7) == Note(4.0, None, "")
        notepad.number = 8
        assert reader.read(8) is None
        assert reader.read(6) is None
    reader.close()
    assert reader.read(7) is None


def test_a_note_is_one_bounded_line() -> None:
    with pad() as (reader, notepad):
        notepad.write(1, None, "\ud800\x1b\n" + "€" * 10_000)
        note = reader.read(7)
        assert note is not None
        assert note.text == "   " + "€" * 196 + "…"


def test_half_a_note_is_not_shown() -> None:
    with pad() as (reader, notepad):
        notepad.write(1, 2, "whole")
        notepad._page[31:33] = b"zz"
        assert reader.read(7) is None


def test_a_task_reports_and_its_note_disappears_with_it(tmp_path: Path) -> None:
    def report(path: str) -> int:
        from starburst_executor import current_task

        task = current_task()
        assert task is not None
        for step in range(1000):
            task.progress(step, 1000, f"step {step}")
        # A child that was forked reports for its task.
        if os.fork() == 0:
            task.progress(1000, 1000, "from a child")
            os._exit(0)
        os.wait()
        while not os.path.exists(path):
            os.sched_yield()
        return task.attempt

    def forget() -> None:
        """Report nothing."""

    with Rig() as rig:
        runner = rig.spawn()
        may_end = tmp_path / "may-end"
        first, second = *rig.send(runner, report, (str(may_end),)), *rig.send(runner, forget, ())
        wait_until(lambda: runner.note(first) == Note(1000.0, 1000.0, "from a child"))
        assert runner.note(second) is None
        may_end.touch()
        finished(runner, 2)
        assert runner.note(second) is None


def test_a_context_that_outlives_its_task_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[float, float | None, str]] = []
    monkeypatch.setattr(context, "_write_note", lambda *note: written.append(note))
    context.enter("s", 0, 1, 1)
    task = context.current_task()
    assert task is not None
    task.progress(1, 2)
    task.progress(1)
    for amount in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="progress must be numbers"):
            task.progress(amount)
    context.enter("s", 0, 2, 1)
    task.progress(2, 2)
    context.leave()
    task.progress(2, 2)
    assert written == [(1.0, 2.0, ""), (1.0, None, "")]


# --- processors and memory --------------------------------------------------------------------------------------------


def test_what_a_task_and_its_children_use_is_measured() -> None:
    script = (
        "import os, subprocess, sys\nos.setsid()\nb = b'x' * (30 * 2**20)\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        clock = FakeClock()
        measured = Usage(clock)
        now = [RunningNow("0-0", 2.0, process.pid, Note(1.0, 4.0, "reads")), RunningNow("0-1", 1.0, -1, None)]
        (first, unknown) = measured.records(now, 100.0)
        assert (first.task, first.since, first.done, first.total, first.text) == ("0-0", 98.0, 1.0, 4.0, "reads")
        assert first.cpu is None, "of one beat alone no rate is known"
        assert first.memory_bytes is not None
        assert first.memory_bytes > 30 * MB
        assert (unknown.cpu, unknown.memory_bytes, unknown.done) == (None, None, None)
        clock.advance(10.0)
        assert measured.records(now, 110.0)[0].cpu == pytest.approx(0.0, abs=0.2)
        process.communicate()


def test_processors_are_counted_from_one_beat_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    consumed = {5: (1.0, MB)}
    monkeypatch.setattr(
        usage, "consumed_by_group", lambda wanted: {pid: usage.Consumed(*consumed[pid]) for pid in wanted}
    )
    clock = FakeClock()
    measured = Usage(clock)
    now = [RunningNow("0-0", 2.0, 5, None)]
    measured.records(now, 100.0)
    clock.advance(10.0)
    consumed[5] = (16.0, 2 * MB)
    assert measured.records(now, 110.0)[0][2:4] == (1.5, 2 * MB)
    clock.advance(10.0)
    consumed[5] = (3.0, MB)  # a child that had used more has gone
    assert measured.records(now, 120.0)[0].cpu == 0.0


def test_what_ps_prints_is_read() -> None:
    lines = ["  17   2048     0:01.50", " 17 1024 01:00:00", " 18 4 2-00:00:10", "nonsense", " 19 x 0:00"]
    assert list(usage.parsed_ps(lines)) == [(17, 1.5, 2 * MB), (17, 3600.0, MB), (18, 172810.0, 4096)]


@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps here")
def test_ps_agrees_with_proc() -> None:
    (mine,) = {group: used for group, used in _summed(usage._of_ps()).items() if group == os.getpgid(0)}.values()
    assert mine > MB


def _summed(lines: Iterator[tuple[int, float, int]]) -> dict[int, int]:
    memory: dict[int, int] = {}
    for group, _, n_bytes in lines:
        memory[group] = memory.get(group, 0) + n_bytes
    return memory
