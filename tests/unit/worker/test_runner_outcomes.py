"""The way of outcomes from a runner to its agent: in memory and in frames, whatever tasks do to the one or the other."""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from starburst_executor.worker.runner import process, wire
from starburst_executor.worker.runner.handle import Completed, Finished, Runner
from starburst_executor.worker.runner.lifeline import Lifeline
from tests.support.runner_rig import Rig, death, finished, is_running, value_of, wait_until


def test_a_slice_crosses_in_one_frame_and_outcomes_need_few(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: Counter[int] = Counter()
    heard: Counter[int] = Counter()
    add, on_frame = wire.Outbox.add, Runner._on_frame

    def noted(outbox: wire.Outbox, head: Any, *args: Any, **options: Any) -> None:
        sent[head[0]] += 1
        add(outbox, head, *args, **options)

    def counted(runner: Runner, frame: wire.Frame) -> None:
        heard[frame.head[0]] += 1
        on_frame(runner, frame)

    monkeypatch.setattr(wire.Outbox, "add", noted)
    monkeypatch.setattr(Runner, "_on_frame", counted)
    with Rig() as rig:
        runner = rig.spawn()
        for _ in range(4):
            rig.send(runner, abs, *((-i,) for i in range(500)))
            assert [value_of(event) for event in finished(runner, 500)] == list(range(500))
        assert sent == {wire.SETUP: 1, wire.FUNCTION: 1, wire.JOBS: 4}
        assert heard[wire.OUTCOME] == 0
        assert heard[wire.WAKE] < 500


def test_jobs_that_end_together_come_in_runs_without_gaps(tmp_path: Path) -> None:
    def wait_for_go(name: str) -> None:
        (tmp_path / "started").touch()
        wait_until((tmp_path / name).exists)

    with Rig() as rig:
        runner = rig.spawn()
        running, *others = rig.send(runner, wait_for_go, ("go",), ("no",), ("no",))
        wait_until((tmp_path / "started").exists)
        assert runner.retract() == others
        later = rig.send(runner, abs, *((-i,) for i in range(5)))
        (tmp_path / "go").touch()
        # Nothing is taken before all have ended, so that the ledger has all of them.
        wait_until(lambda: runner._ledger.started()[0] == later[-1])
        runs: list[Completed] = []
        wait_until(lambda: runs.extend(cast("list[Completed]", runner.poll(0.1))) or sum(run.n for run in runs) == 6)
        numbers = [[end.number for end in run.each()] for run in runs]
        assert list(itertools.chain(*numbers)) == [running, *later]
        assert all(run == [*range(run[0], run[0] + len(run))] for run in numbers)


def test_a_runner_that_has_nothing_more_to_do_wakes_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_WAKE_S", math.inf)
    woken_for: list[int] = []
    on_frame = Runner._on_frame

    def noted(runner: Runner, frame: wire.Frame) -> None:
        if frame.head[0] == wire.WAKE:
            woken_for.append(frame.head[1])
        on_frame(runner, frame)

    monkeypatch.setattr(Runner, "_on_frame", noted)
    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, abs, (-1,), (-2,))
        finished(runner, 2)
        wait_until(lambda: runner.poll(0.01) or numbers[-1] in woken_for)


def _fate(i: int, how: str, folder: str) -> int:
    if i == 150:
        Path(folder, "dying").touch()
        if how == "exit":
            os._exit(1)
        if how == "segfault":
            ctypes.string_at(0)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    return i


@pytest.mark.parametrize("how", ["exit", "segfault", "SIGKILL"])
def test_what_has_ended_outlives_a_crash_though_nobody_looked(how: str, tmp_path: Path) -> None:
    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, _fate, *((i, how, str(tmp_path)) for i in range(300)))
        wait_until((tmp_path / "dying").exists)
        wait_until(lambda: not is_running(runner.pid))
        before, died = death(runner)
        assert [event.number for event in before if isinstance(event, Finished)] == numbers[:150]
        assert died.culprit == numbers[150]
        assert runner.retract() == numbers[151:]


def test_what_ends_while_the_agent_hears_of_the_death_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(i: int) -> int:
        wait_until((tmp_path / "go").exists)
        if i == 10:
            os._exit(1)
        return i

    monkeypatch.setattr(process, "_WAKE_S", math.inf)  # no frame names what has ended
    end = Lifeline.end

    def end_late(lifeline: Lifeline) -> str | None:
        (tmp_path / "go").touch()
        reasons: list[str | None] = []
        wait_until(lambda: reasons.append(end(lifeline)) or reasons[-1])  # type: ignore[func-returns-value]
        return reasons[-1]

    with Rig() as rig:
        runner = rig.spawn()
        wait_until(lambda: runner.poll(0.01) or runner.is_ready)
        numbers = rig.send(runner, run, *((i,) for i in range(12)))
        monkeypatch.setattr(Lifeline, "end", end_late)
        before, died = death(runner)
        assert [event.number for event in before if isinstance(event, Finished)] == numbers[:10]
        assert died.culprit == numbers[10]


def test_big_outcomes_between_small_ones_keep_their_place() -> None:
    chance = random.Random(5)
    sizes = [chance.choice([0, 1, 50, 9_000, 16_000, 16_381, 16_384, 17_000, 300_000]) for _ in range(400)]

    def make(i: int, size: int) -> tuple[int, bytes]:
        print("about", i)
        return i, bytes([i % 256]) * size

    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, make, *enumerate(sizes))
        ended = finished(runner, 400)
        assert [event.number for event in ended] == numbers
        for i, event in enumerate(ended):
            assert value_of(event) == (i, bytes([i % 256]) * sizes[i])
            assert event.stdout == f"about {i}\n".encode()


def test_a_runner_waits_when_nobody_takes_its_outcomes(tmp_path: Path) -> None:
    def make(i: int) -> bytes:
        if i in (20, 1999):
            (tmp_path / str(i)).touch()
        return bytes([i % 256]) * 10_000

    with Rig() as rig:
        runner = rig.spawn()
        rig.send(runner, make, *((i,) for i in range(2000)))
        wait_until((tmp_path / "20").exists)
        time.sleep(0.05)  # whatever it does meanwhile: 20 MB fit neither into the memory nor into the socket
        assert not (tmp_path / "1999").exists()
        for i, event in enumerate(finished(runner, 2000)):
            assert value_of(event) == bytes([i % 256]) * 10_000


@pytest.mark.parametrize("how", ["os.fork", "libc"])
def test_a_child_that_goes_on_and_comes_back_later_records_nothing(how: str, tmp_path: Path) -> None:
    if how == "libc" and sys.platform != "linux":
        pytest.skip("a fork behind Python's back is not safe here")

    def fork() -> int:
        pid: int = os.fork() if how == "os.fork" else ctypes.CDLL(None).fork()
        if pid == 0:
            while not (tmp_path / "go").exists():
                time.sleep(0.01)
            return -1
        return pid

    with Rig() as rig:
        runner = rig.spawn()
        child = rig.run(runner, fork)
        rig.send(runner, abs, *((-i,) for i in range(50)))
        assert [value_of(event) for event in finished(runner, 50)] == list(range(50))
        assert is_running(child)
        (tmp_path / "go").touch()
        wait_until(lambda: not is_running(child))
        rig.send(runner, abs, *((-i,) for i in range(50)))
        assert [value_of(event) for event in finished(runner, 50)] == list(range(50))


# --- user code that writes where it should not ------------------------------------------------------------------------


def _memory() -> Any:
    """The ledger, found as a stray pointer may find it."""
    (writer,) = (each for each in gc.get_objects() if type(each).__name__ == "LedgerWriter")
    return writer._memory


@pytest.mark.parametrize("how", ["zeros", "noise", "one byte"])
def test_outcomes_that_were_overwritten_end_the_runner_and_nothing_waits(how: str, tmp_path: Path) -> None:
    def run(i: int) -> int:
        if i == 100:
            memory, size = _memory(), 256 * 1024
            if how == "zeros":
                memory[:] = bytes(size)
            elif how == "noise":
                memory[:] = random.Random(1).randbytes(size)
            else:
                memory[64 + 50 * 44 + 20] ^= 1
        # After noise the runner may wait for the agent, which has to look.
        if i == (100 if how == "noise" else 199):
            (tmp_path / "done").touch()
        return i

    with Rig() as rig:
        runner = rig.spawn()
        numbers = rig.send(runner, run, *((i,) for i in range(200)))
        wait_until((tmp_path / "done").exists)
        before, died = death(runner)
        ended = [event for event in before if isinstance(event, Finished)]
        assert [event.number for event in ended] == numbers[: len(ended)]
        assert [value_of(event) for event in ended] == list(range(len(ended)))
        assert len(ended) < 100
        assert died.culprit == numbers[len(ended)]
        assert "wrote over memory" in died.reason
        assert runner.retract() == numbers[len(ended) + 1 :]
        assert rig.run(rig.spawn(), abs, -1) == 1


def test_a_start_that_was_overwritten_counts_as_unknown(tmp_path: Path) -> None:
    def run(number: int, at: bytes) -> None:
        memory = _memory()
        memory[8:24] = number.to_bytes(8, sys.byteorder) + at
        (tmp_path / str(number)).touch()
        wait_until(lambda: (tmp_path / "go").exists())

    nan, later = b"\xff" * 8, bytes(6) + b"\xf0\x7f"  # not a number; infinite
    with Rig() as rig:
        runner = rig.spawn()
        for number, (wrong, at) in enumerate(itertools.product([1, 2, 3], [nan, later]), start=1):
            (tmp_path / "go").unlink(missing_ok=True)
            (running,) = rig.send(runner, run, (wrong, at))
            wait_until((tmp_path / str(wrong)).exists)
            assert running == number
            assert runner.started(5.0) == (running, 5.0)
            (tmp_path / "go").touch()
            finished(runner, 1)
            assert runner.started(5.0) is None
            (tmp_path / str(wrong)).unlink()
