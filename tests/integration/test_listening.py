"""Whatever must react does so at once and within its bound, whatever the store does: signals, deaths, clocks, output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, ExecutorBroken, StarburstExecutor, TaskCrashed, TaskTimeout
from starburst_executor.protocol.spans.record import Entry
from tests.fault_proxy import Asked, Fault, FaultProxy
from tests.sessions import (
    REMOTE,
    descendants,
    detached,
    is_alive,
    kill,
    kill_workers,
    run_python,
    wait_until,
    worker_pids,
)
from tests.support.inside import session_of
from tests.support.moto_server import ROOT
from tests.support.s3_server import S3Server


def join_worker(
    executor: StarburstExecutor, slots: int = 1, *options: str, stderr: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A separate worker, as a user on another machine would start it."""
    command = [sys.executable, "-m", "starburst_executor.worker", executor.url, "--slots", str(slots), *options]
    environment = {**os.environ, "STARBURST_KEY": executor.key.hex(), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=stderr)


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


# --- while what is shown is not read ----------------------------------------------------------------------------------


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end to write to of a pipe that is full and never read, as a stopped client or a paused terminal leaves it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


PRINTING_CLIENT = """
import os, sys, time
from starburst_executor import StarburstExecutor
def talk(path):
    print("to be shown", flush=True)
    print("this too", file=sys.stderr, flush=True)
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.05)
executor = StarburstExecutor(workers=1, store=sys.argv[1], task_timeout=3.0)
future = executor.submit(talk, sys.argv[2])
name = type(future.exception(60)).__name__
with open(sys.argv[2] + ".end", "w") as file:
    file.write(f"{name} {executor.output(future)}")
executor.shutdown()
"""


def test_a_task_is_stopped_at_its_timeout_while_its_output_is_not_read(tmp_path: Path, full_pipe: int) -> None:
    file, end = tmp_path / "ticks", tmp_path / "ticks.end"
    command = [sys.executable, "-c", PRINTING_CLIENT, f"sqlite://{tmp_path}/sessions", str(file)]
    client = subprocess.Popen(command, cwd=ROOT, stdout=full_pipe, stderr=full_pipe)
    try:
        wait_until(file.exists)
        wait_until(lambda: not ticks_on(file), 3.0 + SLACK_S)
        pids = descendants(client.pid)
        wait_until(lambda: end.exists() and end.read_text())
        assert end.read_text() == "TaskTimeout ('to be shown\\n', 'this too\\n')"
        assert client.wait(SLACK_S) == 0
    finally:
        client.kill()
        client.wait()
    wait_until(lambda: not any(map(is_alive, pids)), SLACK_S)


def test_a_worker_whose_log_is_not_read_works_and_leaves(tmp_path: Path, full_pipe: int) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1, launcher="none")
    worker = join_worker(executor, 1, "--log-level", "info", stderr=full_pipe)
    assert executor.submit(abs, -1).result(60) == 1
    kill(worker.pid, signal.SIGTERM)
    assert worker.wait(SLACK_S) == 0  # its last words are one of the lines that it logs
    executor.cleanup(force=True)


# --- while the store is away ------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint_url) as proxy:
        s3_server.use(monkeypatch, at=proxy.url)
        yield proxy
        kill_workers(f"{tmp_path}/")


@pytest.fixture
def url(s3_server: S3Server, tmp_path: Path) -> str:
    return f"s3://{s3_server.bucket}{tmp_path}"


class Outage:
    """A store that is away, in one of two ways: it refuses connections, or takes requests and never answers."""

    def __init__(self, proxy: FaultProxy, how: str) -> None:
        self._proxy = proxy
        self._how = how
        self._over = threading.Event()

    def begin(self) -> None:
        if self._how == "refuses":
            self._proxy.go_down()
        else:
            self._proxy.plan = self._hang

    def _hang(self, _: Asked) -> None:
        self._over.wait()

    def end(self) -> None:
        self._over.set()
        self._proxy.plan = lambda _: None
        self._proxy.come_back()


@pytest.fixture(params=["refuses", "hangs"])
def outage(proxy: FaultProxy, request: pytest.FixtureRequest) -> Iterator[Outage]:
    outage = Outage(proxy, request.param)
    yield outage
    outage.end()


# What a bound may be late by on a machine that does other things too.
SLACK_S = 10.0
CLIENT = """
import sys, time
from starburst_executor import StarburstExecutor
def tick(path):
    while True:
        with open(path, "a") as file:
            file.write(".")
        time.sleep(0.05)
executor = StarburstExecutor(workers=2, store=sys.argv[1])
executor.submit(tick, sys.argv[2])
time.sleep(600)
"""


def ticking(path: Path) -> Callable[[], None]:
    def tick() -> None:
        while True:
            with path.open("a") as file:
                file.write(f"{time.monotonic()}\n")
            time.sleep(0.05)

    return tick


def ticks(path: Path) -> list[float]:
    """When a task has ticked, by the clock that all processes of this machine share."""
    return [float(line) for line in path.read_text().split()]


def ticks_on(path: Path) -> bool:
    size = path.stat().st_size
    threading.Event().wait(0.5)
    return path.stat().st_size > size


def test_local_workers_of_a_client_that_is_killed_in_an_outage_end_at_once(
    outage: Outage, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "ticks"
    client = run_python(CLIENT, url, str(file))
    wait_until(file.exists)
    pids = descendants(client.pid)
    assert len(pids) >= 3
    outage.begin()
    threading.Event().wait(1.0)  # some request is on its way
    client.kill()
    client.communicate()
    wait_until(lambda: not any(map(is_alive, pids)), SLACK_S)
    assert not ticks_on(file)


INTERRUPTED = """
import sys, time
from starburst_executor import StarburstExecutor
try:
    with StarburstExecutor(workers=1, store=sys.argv[1]) as executor:
        futures = [executor.submit(time.sleep, 600) for _ in range(3)]
        while not any(future.running() for future in futures): time.sleep(0.01)
        try:
            print("running", flush=True)
            futures[0].result()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
except KeyboardInterrupt:
    print("ended", flush=True)
"""


@pytest.mark.parametrize("how", ["refuses", "is busy"])
def test_a_second_interrupt_ends_a_client_in_an_outage(proxy: FaultProxy, url: str, how: str) -> None:
    client = run_python(INTERRUPTED, url)
    assert client.stdout is not None
    assert client.stdout.readline() == "running\n"
    beneath = descendants(client.pid)
    if how == "refuses":
        proxy.go_down()
    else:
        proxy.plan = lambda _: Fault.SLOW_DOWN
    client.send_signal(signal.SIGINT)
    assert client.stdout.readline() == "interrupted\n"
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(1.0)  # it waits for the store, to cancel what no worker has claimed
    asked_at = time.monotonic()
    client.send_signal(signal.SIGINT)
    assert client.stdout.readline() == "ended\n"
    assert client.wait(60) == 0
    assert time.monotonic() - asked_at < 6 + SLACK_S
    client.stdout.close()
    wait_until(lambda: not any(map(is_alive, beneath)))


def test_workers_that_are_killed_in_an_outage_do_not_keep_their_client(proxy: FaultProxy, url: str) -> None:
    executor = StarburstExecutor(workers=1, store=url)
    future = executor.submit(time.sleep, 600)
    wait_until(future.running)
    workers = worker_pids(executor)
    proxy.go_down()
    began_at = time.monotonic()
    executor.kill_workers()
    with pytest.raises(ExecutorBroken):
        future.result(0)
    executor.shutdown()
    assert time.monotonic() - began_at < 6 + SLACK_S
    wait_until(lambda: not any(map(is_alive, workers)))


def test_a_busy_worker_that_gets_sigterm_in_an_outage_is_gone_within_its_grace_time(
    outage: Outage, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "ticks"
    timings = replace(REMOTE, grace_s=3.0)
    executor = DetachedExecutor(workers=1, store=url, launcher="none", timings=timings)
    worker = join_worker(executor, slots=2)
    executor.submit(ticking(file))
    wait_until(file.exists)
    everybody = [worker.pid, *descendants(worker.pid)]
    outage.begin()
    threading.Event().wait(1.0)
    began = time.monotonic()
    kill(worker.pid, signal.SIGTERM)
    assert worker.wait(timings.grace_s + SLACK_S) == 0
    wait_until(lambda: not any(map(is_alive, everybody)), SLACK_S)
    # What runs has the grace time.
    assert ticks(file)[-1] - began > 2.0
    outage.end()
    executor.cleanup(force=True)


def test_an_idle_worker_that_gets_sigterm_in_an_outage_leaves_at_once(outage: Outage, url: str) -> None:
    executor = DetachedExecutor(workers=1, store=url, launcher="none", timings=replace(REMOTE, grace_s=60.0))
    worker = join_worker(executor)
    assert executor.submit(abs, -1).result(60) == 1
    outage.begin()
    threading.Event().wait(1.0)
    kill(worker.pid, signal.SIGTERM)
    assert worker.wait(SLACK_S + 5) == 0
    outage.end()
    executor.cleanup(force=True)


def test_a_worker_that_gets_sigterm_before_it_has_read_its_session_leaves_at_once(proxy: FaultProxy, url: str) -> None:
    executor = detached(url, workers=1, launcher="none")
    executor.detach()  # so that only the worker asks for anything
    asked, over = threading.Event(), threading.Event()

    def hang(request: Asked) -> None:
        if request.path.endswith("/manifest"):
            asked.set()
        over.wait()

    proxy.plan = hang
    worker = join_worker(executor)
    assert asked.wait(60)
    kill(worker.pid, signal.SIGTERM)
    assert worker.wait(SLACK_S) == 0
    over.set()


def test_a_task_is_stopped_at_its_timeout_in_an_outage(outage: Outage, url: str, tmp_path: Path) -> None:
    file = tmp_path / "ticks"
    executor = StarburstExecutor(workers=1, store=url, task_timeout=3.0, timings=REMOTE)
    for _ in range(4):
        executor.submit(time.sleep, 0.3).result(60)  # the next two are known to be short, so they are claimed together
    futures = [executor.submit(time.sleep, 0.3), executor.submit(ticking(file))]
    wait_until(file.exists)
    outage.begin()
    wait_until(lambda: not ticks_on(file), 3.0 + SLACK_S)
    first, *_, last = ticks(file)
    assert last - first > 2.0
    outage.end()
    assert futures[0].result(60) is None
    assert isinstance(futures[1].exception(60), TaskTimeout)
    executor.shutdown()


def test_output_is_bounded_in_an_outage(outage: Outage, url: str, tmp_path: Path) -> None:
    file = tmp_path / "peak"

    def chatter() -> None:
        line, peak = b"x" * 999_999 + b"\n", 0
        file.with_suffix(".begun").touch()
        for _ in range(150):
            os.write(1, line)
            time.sleep(0.02)
            peak = max(peak, os.fstat(1).st_blocks * 512)
        file.with_suffix(".new").write_text(str(peak))
        file.with_suffix(".new").rename(file)

    executor = detached(url, workers=1, launcher="none")
    worker = join_worker(executor)  # not the client's own: that one would show the output here
    for _ in range(4):
        executor.submit(time.sleep, 0.3).result(60)
    futures = [executor.submit(time.sleep, 0.3), executor.submit(chatter)]
    wait_until(file.with_suffix(".begun").exists)  # a task that is claimed may yet have to be read
    outage.begin()
    wait_until(file.exists)
    assert int(file.read_text()) < 64_000_000
    outage.end()
    assert [future.result(60) for future in futures] == [None, None]
    assert len(executor.output(futures[1])[0]) <= 1_100_000
    kill(worker.pid, signal.SIGTERM)
    worker.wait(60)
    executor.cleanup(force=True)


def test_what_was_committed_too_late_in_an_outage_runs_again_elsewhere(
    proxy: FaultProxy, url: str, tmp_path: Path
) -> None:
    """The tasks of a worker that had to leave in an outage become pending again: each has its result in the end."""

    def wait_for_gate(i: int) -> int:
        while not gate.exists():
            time.sleep(0.01)
        return i

    gate = tmp_path / "gate"
    executor = DetachedExecutor(workers=1, store=url, launcher="none", timings=replace(REMOTE, grace_s=1.0))
    first = join_worker(executor)
    executor.submit(abs, -1).result(60)
    futures = [executor.submit(wait_for_gate, i) for i in range(3)]
    wait_until(lambda: any(future.running() for future in futures))
    proxy.go_down()
    kill(first.pid, signal.SIGTERM)
    assert first.wait(SLACK_S) == 0
    proxy.come_back()
    gate.touch()
    second = join_worker(executor)
    assert [future.result(60) for future in futures] == [0, 1, 2]
    kill(second.pid, signal.SIGTERM)
    assert second.wait(60) == 0
    executor.cleanup(force=True)


def entries(executor: StarburstExecutor) -> list[Entry]:
    session = session_of(executor)
    return [entry for group in session.statuses.all() for entry in session.statuses.read(group.key).status.entries]
