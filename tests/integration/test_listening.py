"""Whatever must react does so at once and within its bound, whatever the store does: signals, deaths, clocks, output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from starburst_executor import StarburstExecutor, TaskCrashed, TaskTimeout
from starburst_executor.protocol.status import Entry
from tests.sessions import descendants, detached, is_alive, kill, wait_until, worker_pids
from tests.support.moto_server import ROOT


def join_worker(executor: StarburstExecutor, slots: int = 1) -> subprocess.Popen[bytes]:
    """A worker of its own, as somebody on another machine would start it."""
    command = [sys.executable, "-m", "starburst_executor.worker", executor.url, "--slots", str(slots)]
    environment = {**os.environ, "STARBURST_KEY": executor.key.hex(), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def test_sigterm_to_every_process_of_a_worker_drains_it(tmp_path: Path) -> None:
    """As Slurm and systemd send it. What runs has the grace time; then it would run on another worker."""

    def wait_for_word() -> str:
        (tmp_path / "started").touch()
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        return "done"

    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1, launcher="none")
    worker = join_worker(executor)
    future = executor.submit(wait_for_word)
    wait_until((tmp_path / "started").exists)
    everybody = [worker.pid, *descendants(worker.pid)]
    assert len(everybody) == 3
    for pid in reversed(everybody):
        kill(pid, signal.SIGTERM)
    # For longer than a runner waits for its worker to be asked to leave.
    until = time.monotonic() + 2
    while time.monotonic() < until:
        assert all(map(is_alive, everybody))
        threading.Event().wait(0.05)
    (tmp_path / "go").touch()
    assert future.result(60) == "done"
    assert worker.wait(60) == 0
    assert not any(map(is_alive, everybody))
    executor.cleanup(force=True)


def test_a_task_that_ends_itself_at_its_timeout_costs_no_worker(tmp_path: Path) -> None:
    def dies(seconds: float) -> None:
        time.sleep(seconds)
        os._exit(3)

    executor = detached(f"sqlite://{tmp_path}/sessions", workers=4, task_timeout=0.1)
    futures = [executor.submit(dies, 0.098 + 0.0002 * i) for i in range(40)]
    assert {type(future.exception(60)) for future in futures} <= {TaskCrashed, TaskTimeout}
    assert len(worker_pids(executor)) == 1
    assert all(entry.losses == 0 for entry in entries(executor))
    executor.cleanup(force=True)


def entries(executor: StarburstExecutor) -> list[Entry]:
    session = executor._engine.session
    return [entry for group in session.all_groups() for entry in session.read(group.key).status.entries]  # type: ignore[union-attr]
