"""Short runs in which every kind of process is killed at random, at its start as well: each task has its right outcome.

    workers     the agents, and the nurseries and runners beneath them
    forkers     the process that forks local workers: idle, at work, and before it has answered for the first time
    clients     the one that collects; others that scale the session and are killed while they start workers, or leave
    stops       SIGSTOP to a worker, a nursery, a runner or a forker, for less or more than a lease; then SIGCONT
    outages     the store refuses every connection (S3), or is locked by another program (embedded), for seconds

`CHAOS_SEEDS=7,8` replays runs, `CHAOS_RUNS` says how many there are. A run prints its seed, its victims and the longest time
in which no task ended.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from starburst_executor import DetachedExecutor
from starburst_executor.client.counting import census
from starburst_executor.client.opening import attach
from starburst_executor.clock import SystemClock
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.store import SessionStore
from tests.fault_proxy import FaultProxy
from tests.sessions import descendants, forkers_of, kill, local_pids, run_python

_N_TASKS = 400
_N_VICTIMS = 14
_STUCK_S = 120.0
_LOST_S = 2.0  # four looks of these timings on S3; 1.2 s embedded
_SEEDS = os.environ.get("CHAOS_SEEDS", "")
SEEDS = [int(seed) for seed in _SEEDS.split(",")] if _SEEDS else range(int(os.environ.get("CHAOS_RUNS", "100")))

SUBMIT = """
import sys
from starburst_executor import DetachedExecutor, Local
from tests.sessions import timings_for
def work(i):
    import time
    time.sleep(0.02)
    return i * i
url, n_tasks = sys.argv[1], int(sys.argv[2])
# Killed by chance, not by the tasks: what is right by design after three losses, or a runner's death, is not looked for.
executor = DetachedExecutor(
    workers=4, store=url, launcher=Local(agents=2), timings=timings_for(url), retries=50, max_losses=50)
print(executor.url, flush=True)
futures = [executor.submit(work, i) for i in range(n_tasks)]
executor.flush()
print("flushed", flush=True)
for future in executor.as_completed(): future.result()
"""
COLLECT = """
import sys
from starburst_executor import DetachedExecutor
executor = DetachedExecutor.reattach(sys.argv[1])
for future in executor.as_completed(): future.result()
"""
# A short script: it has more workers started and leaves.
SCALE = """
import sys
from starburst_executor import DetachedExecutor
executor = DetachedExecutor.reattach(sys.argv[1])
executor.futures
executor.scale(int(sys.argv[2]))
executor.detach()
"""


@pytest.fixture
def proxy(
    store_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy | None]:
    """What stands between S3 and all processes of a run, and can be away; None for the embedded store."""
    if store_url.startswith("sqlite"):
        yield None
        return
    with FaultProxy(request.getfixturevalue("s3_server").endpoint_url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


def send(pid: int, signal_number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal_number)


class Chaos:
    """One session and the clients that come and go."""

    def __init__(self, store_url: str, seed: int, proxy: FaultProxy | None) -> None:
        self.lots = random.Random(seed)
        self.proxy = proxy
        self.timers: list[threading.Timer] = []
        self.victims = Counter[str]()
        self.client = run_python(SUBMIT, store_url, str(_N_TASKS))
        self.others: list[subprocess.Popen[str]] = []
        assert self.client.stdout is not None
        self.url = self.client.stdout.readline().strip()
        assert self.client.stdout.readline() == "flushed\n"
        self.session: SessionStore = attach(self.url, SystemClock()).session

    def strike(self) -> None:
        """Kill one process, or have a client begin something and kill that."""
        kind = self.lots.choice(
            (
                "worker",
                "worker",
                "beneath",
                "forker",
                "forker at start",
                "client",
                "scaler",
                "leaver",
                "stop",
                "stop",
                "outage",
            )
        )
        pids: list[int] = []
        if kind in ("stop", "outage"):
            self.victims[kind] += self.stop_one() if kind == "stop" else self.take_the_store_away()
            return
        if kind == "worker":
            pids = local_pids(self.session)
        elif kind == "beneath":
            pids = [pid for worker in local_pids(self.session) for pid in descendants(worker)]
        elif kind == "forker":
            pids = forkers_of(self.client.pid)
        elif kind == "client":
            pids = [self.client.pid]
        elif kind == "forker at start":
            # With no worker there, the next client starts some: its forker is killed before it has loaded anything.
            self.replace_client()
            for worker in local_pids(self.session):
                kill(worker)
            pids = self.wait_for_forker(self.client)
        else:
            for worker in local_pids(self.session):
                kill(worker)
            self.others.append(run_python(SCALE, self.url, str(self.lots.choice((2, 4, 6)))))
            pids = [self.others[-1].pid] if kind == "scaler" else []
            if pids:
                time.sleep(self.lots.random() * 1.5)  # any moment of its life will do
        for pid in self.lots.sample(pids, min(1, len(pids))):
            kill(pid)
        if pids or kind == "leaver":
            self.victims[kind] += 1
        if kind == "client":
            self.replace_client()

    def stop_one(self) -> bool:
        """SIGSTOP to some process of the workers, and SIGCONT after less or more than a lease; whether there was one."""
        workers = local_pids(self.session)
        pids = workers + [pid for worker in workers for pid in descendants(worker)] + forkers_of(self.client.pid)
        for pid in self.lots.sample(pids, min(1, len(pids))):
            send(pid, signal.SIGSTOP)
            self.after(self.lots.uniform(0.1, 2 * _LOST_S), lambda pid=pid: send(pid, signal.SIGCONT))
        return bool(pids)

    def take_the_store_away(self) -> bool:
        """For less or more than a lease. True."""
        away_s = self.lots.uniform(0.1, 2 * _LOST_S)
        if self.proxy is not None:
            self.proxy.go_down()
            self.after(away_s, self.proxy.come_back)
            return True
        path = Path(unquote(urlsplit(self.url).path) + ".db")
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")  # every other writer waits
            time.sleep(away_s)
            file.execute("ROLLBACK")
        return True

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        self.timers.append(threading.Timer(seconds, do))
        self.timers[-1].start()

    def replace_client(self) -> None:
        kill(self.client.pid)
        self.client.communicate()
        self.client = run_python(COLLECT, self.url)

    def wait_for_forker(self, client: subprocess.Popen[str]) -> list[int]:
        """The client's forker, at the moment when it is there; none if the client needs none, or others started some."""
        until = time.monotonic() + 10.0
        while time.monotonic() < until and client.poll() is None and not local_pids(self.session):
            if pids := forkers_of(client.pid):
                return pids
        return []

    def n_ended(self) -> int:
        return sum(n for state, n in census(self.session).items() if state >= State.COMPLETED)

    def wait_for_progress(self, n_ended: int, n_more: int) -> tuple[int, float]:
        """Wait until `n_more` more tasks have ended, or all; return the number, and the longest time without one."""
        last, last_at, longest_s = n_ended, time.monotonic(), 0.0
        while last < min(n_ended + n_more, _N_TASKS):
            if self.client.poll() is not None:
                assert self.client.returncode in (0, -signal.SIGKILL)
                self.replace_client()
            now = self.n_ended()
            silent_s = time.monotonic() - last_at
            longest_s = max(longest_s, silent_s)
            assert silent_s < _STUCK_S, f"nothing ends: ended={last}, manifest={self.session.manifest.refresh()}"
            if now > last:
                last, last_at = now, time.monotonic()
            time.sleep(0.02)
        return last, longest_s

    def end(self) -> None:
        for timer in self.timers:
            timer.join()
        for process in (self.client, *self.others):
            kill(process.pid)
            process.communicate()


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_task_has_its_outcome_whoever_is_killed(store_url: str, seed: int, proxy: FaultProxy | None) -> None:
    run(store_url, seed, proxy)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_one_such_run(store_url: str) -> None:
    """The same in short, with each run of the tests; its seed is printed."""
    run(store_url, random.SystemRandom().randrange(10**6), None, n_victims=4)


def run(store_url: str, seed: int, proxy: FaultProxy | None, n_victims: int = _N_VICTIMS) -> None:
    began = time.monotonic()
    print(f"CHAOS_SEEDS={seed}", flush=True)
    chaos = Chaos(store_url, seed, proxy)
    try:
        n_ended, longest_s = 0, 0.0
        while n_ended < _N_TASKS:
            if sum(chaos.victims.values()) < n_victims:
                chaos.strike()
            n_more = chaos.lots.randrange(5, 2 * _N_TASKS // n_victims)
            n_ended, silent_s = chaos.wait_for_progress(n_ended, n_more)
            longest_s = max(longest_s, silent_s)
    finally:
        chaos.end()
    executor = DetachedExecutor.reattach(chaos.url)
    outcomes = executor.collect(wait=True, timeout=60)
    assert [(outcome.index, outcome.value) for outcome in outcomes] == [(i, i * i) for i in range(_N_TASKS)]
    executor.cleanup(force=True)
    print(
        f"seed {seed}: {dict(chaos.victims)}; longest time without an outcome {longest_s:.1f} s, "
        f"in all {time.monotonic() - began:.0f} s",
        flush=True,
    )
