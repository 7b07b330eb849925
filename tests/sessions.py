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
from typing import TypeVar

import msgpack
import psutil
import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor, Timings
from starburst_executor.client.handles import handle_of
from starburst_executor.launch.local.processes import started_at
from starburst_executor.session.store import SessionStore
from tests.support.inside import session_of
from tests.support.moto_server import ROOT
from tests.support.s3_server import S3Server

# A worker is lost after a second and a half instead of a minute. Everything else about the protocol is as in use.
EMBEDDED = replace(Timings.embedded(), beat_s=0.3, look_s=0.3, rank_s=1.0, grace_s=5.0, retry_first_s=0.05)
REMOTE = replace(Timings.remote(), beat_s=0.5, look_s=0.5, rank_s=1.0, grace_s=5.0, poll_max_s=0.2, bell_max_s=0.3)


T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 60.0, *, every_s: float = 0.01) -> T:
    """Wait for a condition, not for a time; what it says when it has come true. Fail when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not (said := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {timeout_s:g} s: {condition}")
        time.sleep(every_s)
    return said


@pytest.fixture(autouse=True)
def no_code_of_tests(starburst_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No snapshot holds the tests: those are hundreds of files, which each worker on S3 would unpack, and workers here have them on their path.

    Snapshots are tested with modules made for that: `test_own_code.py`.
    """
    monkeypatch.setenv("STARBURST_CODE_EXCLUDE", "tests benchmarks conftest.py test_*.py")


@pytest.fixture(params=["sqlite", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each store in turn, for this process and those that it starts."""
    yield from store_of(request, tmp_path, monkeypatch)


def store_of(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The store that a fixture's parameter names, `sqlite` or `s3`: its URL, which holds the test's whole folder.

    Workers that are left end with the fixture.
    """
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path}/sessions"
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        server.use(monkeypatch)
        yield f"s3://{server.bucket}{tmp_path}"
    kill_workers(f"{tmp_path}/")


def kill_workers(marker: str) -> None:
    """Kill the workers whose session's URL holds `marker`: those of a test that failed before it had cleaned up.

    A folder of tests must be whole in it: the tests that run beside this one may have folders of the same last name.
    """
    # Again until there is none: one that is being forked has its parent's command line, and is seen at the next look.
    deadline = time.monotonic() + _NURSERY_S

    def are_gone() -> bool:
        pids = list(_workers(marker))
        for pid in pids:
            if time.monotonic() > deadline or not _is_nursery(pid):
                kill(pid)
        return not pids

    wait_until(are_gone)


# A nursery ends by itself once its agent is gone, and tidies up before.
_NURSERY_S = 20.0


def _is_nursery(pid: int) -> bool:
    """Whether it neither leads a session of processes, as agents, runners and fork servers do, nor is a test's child."""
    with suppress(ProcessLookupError, psutil.Error):
        return os.getsid(pid) != pid and psutil.Process(pid).ppid() != os.getpid()
    return False


def _workers(marker: str) -> Iterator[int]:
    """Process ids of all workers and fork servers with this in their command line, of which `ps` may cut the end."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "starburst_executor.worker" in command and marker in command and is_alive(process.pid):
                yield process.pid


def timings_for(store_url: str) -> Timings:
    return EMBEDDED if store_url.startswith("sqlite") else REMOTE


@pytest.fixture
def short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process begin sessions with the timings of tests: what they learn with their beats they learn at once."""
    for name, timings in (("embedded", EMBEDDED), ("remote", REMOTE)):
        monkeypatch.setattr(Timings, name, lambda timings=timings: timings)


def worker_pids(executor: StarburstExecutor) -> list[int]:
    """Process ids of an executor's local workers that live; none that it is about to start is missing.

    A worker may have ended a task before its client has written down where it is.
    """
    session = session_of(executor)
    wait_until(lambda: all(launch.settled for launch in session.manifest.refresh().launches))
    return local_pids(session)


def local_pids(session: SessionStore) -> list[int]:
    """Process ids of a session's local workers that live, from the handles in its manifest."""
    return [pid for pid, started in _local(session) if started_at(pid) == started]


def launched_pids(executor: StarburstExecutor) -> list[int]:
    """As `worker_pids`, and of those that have ended too: one that leaves soon may have left by the time of a look."""
    worker_pids(executor)
    return [pid for pid, _ in _local(session_of(executor))]


def _local(session: SessionStore) -> list[tuple[int, str]]:
    """Process id and start time of each local worker whose handle is in the manifest."""
    handles = [
        handle for launch in session.manifest.refresh().launches if (handle := handle_of(session.sealer, launch))
    ]
    processes = [process for handle in handles for process in msgpack.unpackb(bytes.fromhex(handle))]
    return [(pid, started) for _, _, pid, started, *_ in processes]


def agent_pids(url: str) -> list[int]:
    """Process ids of all agents on this machine of a session, also of clients that died before they wrote any down."""
    leaders = set()
    for pid in _workers(url):
        with suppress(ProcessLookupError):
            # An agent leads a session of processes that its nursery is in; fork servers and runners lead empty ones.
            if os.getsid(pid) != pid:
                leaders.add(os.getsid(pid))
    return sorted(leaders)


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
