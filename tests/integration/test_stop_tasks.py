"""Tasks that run are cancelled: their processes end, with what these started, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from starburst_executor import DetachedExecutor, StarburstExecutor
from starburst_executor.cli.main import starburst
from starburst_executor.client import cancelling
from starburst_executor.client.future import StarburstFuture
from tests.sessions import detached, is_alive, kill, timings_for, wait_until, worker_pids


def run_for_long(started: Path) -> None:
    """A task with a process of its own, in the background."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    part = started.with_suffix(".part")
    part.write_text(f"{os.getpid()} {child.pid}")
    part.rename(started)
    time.sleep(1000)


def processes_of(started: Path) -> list[int]:
    wait_until(started.exists)
    return [int(pid) for pid in started.read_text().split()]


def test_a_running_task_is_stopped_with_what_it_started_and_the_slot_goes_on(store_url: str, tmp_path: Path) -> None:
    timings = replace(timings_for(store_url), beat_s=60.0)
    with StarburstExecutor(store=store_url, workers=1, timings=timings) as executor:
        future = executor.submit(run_for_long, tmp_path / "a")
        after = executor.submit(pow, 2, 5)
        pids = processes_of(tmp_path / "a")
        wait_until(future.running)
        (agent,) = worker_pids(executor)
        assert not future.cancel()
        assert all(map(is_alive, pids))
        began = time.monotonic()
        assert future.cancel(running=True)
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(0)
        wait_until(lambda: not any(map(is_alive, pids)))
        # Not with the next beat: this machine's workers are nudged.
        assert time.monotonic() - began < timings.beat_s / 2
        assert after.result(60) == 32
        assert worker_pids(executor) == [agent]
        assert future.cancel(running=True), "a second call is harmless"


def test_all_tasks_are_stopped_from_another_process_by_the_command(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=2)
    files = [tmp_path / f"{i}" for i in range(5)]
    futures = [executor.submit(run_for_long, file) for file in files]
    # Any two of them: the order in which slots take different status objects is theirs.
    wait_until(lambda: sum(file.exists() for file in files) == 2)
    pids = [pid for file in files if file.exists() for pid in processes_of(file)]
    result = CliRunner().invoke(starburst, ["cancel", executor.url, "--running"], catch_exceptions=False)
    assert "5 tasks cancelled" in result.output
    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: all(future.cancelled() for future in futures))
    assert executor.submit(pow, 2, 3).result(60) == 8
    assert executor.cancel(running=True) == 0
    executor.cleanup(force=True)


def test_a_worker_that_is_not_nudged_stops_the_task_with_its_next_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine."""
    monkeypatch.setattr(cancelling, "nudge_workers", lambda *_: None)
    url = f"sqlite://{tmp_path}/sessions"
    timings = replace(timings_for(url), beat_s=0.5)
    executor = DetachedExecutor(store=url, workers=1, timings=timings)
    future = executor.submit(run_for_long, tmp_path / "a")
    pids = processes_of(tmp_path / "a")
    executor.detach()
    assert future.cancel(running=True), "a client that has left attaches again for it"
    wait_until(lambda: not any(map(is_alive, pids)))
    DetachedExecutor.reattach(executor.id, store=url).cleanup(force=True)


def test_a_task_of_a_worker_that_does_not_answer_is_cancelled_at_once_and_does_not_run_again(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    future = executor.submit(run_for_long, tmp_path / "a")
    pids = processes_of(tmp_path / "a")
    wait_until(future.running)
    (agent,) = worker_pids(executor)
    kill(agent, signal.SIGSTOP)
    try:
        assert future.cancel(running=True)
    finally:
        kill(agent, signal.SIGCONT)
    wait_until(lambda: not any(map(is_alive, pids)))
    other: StarburstFuture[int] = executor.submit(pow, 3, 2)
    assert other.result(60) == 9
    assert executor.status().cancelled == 1
    executor.cleanup(force=True)
