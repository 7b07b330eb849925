"""What tests with real sessions share: short timings, both stores, and the processes that a session has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor, Timings
from starburst_executor.client.handles import handle_of
from starburst_executor.launch.local.processes import started_at
from starburst_executor.session.store import SessionStore
from tests.support.moto_server import ROOT, MotoServer

# A worker is lost after a second and a half instead of a minute. Everything else about the protocol is as in use.
EMBEDDED = replace(Timings.embedded(), beat_s=0.3, look_s=0.3, rank_s=1.0, grace_s=5.0, retry_first_s=0.05)
REMOTE = replace(Timings.remote(), beat_s=0.5, look_s=0.5, rank_s=1.0, grace_s=5.0, poll_max_s=0.2, bell_max_s=0.3)


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Wait for a condition, not for a time; fail when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {timeout_s:g} s: {condition}")
        time.sleep(0.01)


@pytest.fixture(params=["sqlite", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each store in turn, for this process and those that it starts."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/sessions"
    else:
        server: MotoServer = request.getfixturevalue("moto_server")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{server.bucket}/{tmp_path.name}"
    kill_workers(f"/{tmp_path.name}/")


def kill_workers(marker: str) -> None:
    """Kill the workers whose session's URL holds `marker`: those of a test that failed before it had cleaned up."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        pid, _, arguments = line.strip().partition(" ")
        if "starburst_executor.worker" in arguments and marker in arguments:
            kill(int(pid))


def timings_for(store_url: str) -> Timings:
    return EMBEDDED if store_url.startswith("sqlite") else REMOTE


def worker_pids(executor: StarburstExecutor) -> list[int]:
    """Process ids of an executor's local workers that live."""
    return local_pids(executor._engine.session)


def local_pids(session: SessionStore) -> list[int]:
    """Process ids of a session's local workers that live, from the handles in its manifest."""
    pids = []
    for launch in session.refresh().launches:
        if handle := handle_of(session.sealer, launch):
            for _, _, pid, started, *_ in msgpack.unpackb(bytes.fromhex(handle)):
                if started_at(pid) == started:
                    pids.append(pid)
    return pids


def is_alive(pid: int) -> bool:
    return bool(started_at(pid))


def descendants(pid: int) -> list[int]:
    """Every process beneath `pid`, from /proc or ps."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in (line.split() for line in listed.splitlines())}
    found, frontier = [], [pid]
    while frontier:
        children = [child for child, parent in parents.items() if parent in frontier]
        found += children
        frontier = children
    return found


def forkers_of(client: int) -> list[int]:
    """The processes beneath a client that fork its workers. Workers are beneath those, or have outlived them."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return [int(pid) for pid, parent, name in rows if int(parent) == client and "python" in name]


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def run_python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A program of its own process, with this checkout on its path; its output is to be read line by line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def detached(store_url: str, **settings: object) -> DetachedExecutor:
    return DetachedExecutor(store=store_url, timings=timings_for(store_url), **settings)  # type: ignore[arg-type]
