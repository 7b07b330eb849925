"""Outages of real length: a store that is away for a minute, leases of full length. Minutes long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, Local, Timings
from starburst_executor.protocol.spans.record import Entry
from tests.fault_proxy import Fault, FaultProxy, by_chance
from tests.sessions import is_alive, kill, kill_workers, wait_until, worker_pids
from tests.support.inside import session_of
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.stress
# Longer than a lease: four looks of fifteen seconds.
_AWAY_S = 75.0


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint_url) as proxy:
        s3_server.use(monkeypatch, at=proxy.url)
        yield proxy
        kill_workers(f"{tmp_path}/")


def work(folder: str, value: int) -> int:
    """Half a second of work that leaves a file for each start."""
    Path(folder, f"{value}.{time.monotonic_ns()}").touch()
    time.sleep(0.5)
    return value


def entries(executor: DetachedExecutor) -> list[Entry]:
    session = session_of(executor)
    return [e for group in session.statuses.all() for e in session.statuses.read(group.key).status.entries]


@pytest.mark.timeout(400)
def test_a_store_that_is_away_for_longer_than_four_looks(
    proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    """Default timings. No watcher that could not look judges a worker lost; no task runs twice; all processes continue by themselves."""
    folder = tmp_path / "starts"
    folder.mkdir()
    url = f"s3://{s3_server.bucket}{tmp_path}"
    executor = DetachedExecutor(workers=4, store=url, launcher=Local(agents=2), timings=Timings.remote())
    futures = [executor.submit(work, str(folder), n) for n in range(200)]
    wait_until(lambda: sum(future.done() for future in futures) >= 20)
    pids = worker_pids(executor)
    proxy.go_down()
    time.sleep(_AWAY_S)
    assert not all(future.done() for future in futures)
    proxy.come_back()
    back = time.monotonic()
    assert [future.result(200) for future in futures] == list(range(200))
    print(f"200 tasks were done {time.monotonic() - back:.0f} s after the store was back")
    assert [entry.losses for entry in entries(executor)] == [0] * 200
    assert all(map(is_alive, pids))
    assert len(list(folder.iterdir())) == 200
    executor.cleanup(force=True)


@pytest.mark.timeout(400)
def test_a_worker_that_dies_unseen_is_lost_after_a_lease_of_full_length(
    proxy: FaultProxy, s3_server: S3Server, tmp_path: Path
) -> None:
    """Default timings, and a launcher that is not asked: only missing beats tell."""
    folder = tmp_path / "starts"
    folder.mkdir()
    url = f"s3://{s3_server.bucket}{tmp_path}"
    executor = DetachedExecutor(workers=2, store=url, launcher=Local(agents=2), timings=Timings.remote())
    futures = [executor.submit(work, str(folder), n) for n in range(300)]
    wait_until(lambda: sum(future.done() for future in futures) >= 20)
    victim, _ = worker_pids(executor)
    executor.detach()
    kill(victim)
    died = time.monotonic()
    again = DetachedExecutor.reattach(executor.url, launcher="none")
    assert [future.result(300) for future in again.futures] == list(range(300))
    print(f"all done {time.monotonic() - died:.0f} s after a worker died unseen")
    assert max(entry.losses for entry in entries(again)) <= 1
    again.cleanup(force=True)
    kill_workers(f"{tmp_path}/")


@pytest.mark.timeout(400)
def test_bad_requests_and_two_outages(proxy: FaultProxy, s3_server: S3Server, tmp_path: Path) -> None:
    """A thousand tasks while a tenth of all requests fails in every way, and two outages on top."""
    folder = tmp_path / "starts"
    folder.mkdir()
    executor = DetachedExecutor(
        workers=4,
        store=f"s3://{s3_server.bucket}{tmp_path}",
        launcher=Local(agents=2),
        timings=Timings.remote(),
    )
    mixed = [fault for fault in Fault if fault not in (Fault.EXPIRED, Fault.DENIED)]
    proxy.plan = by_chance(4, 0.1, *mixed)
    futures = [executor.submit(pow, n, 2) for n in range(1000)] + [
        executor.submit(work, str(folder), n) for n in range(80)
    ]
    for _ in range(2):
        n_done = sum(future.done() for future in futures)
        wait_until(lambda n_done=n_done: sum(future.done() for future in futures) >= min(n_done + 20, len(futures)))
        proxy.go_down()
        time.sleep(10.0)
        proxy.come_back()
    assert [future.result(300) for future in futures] == [n**2 for n in range(1000)] + list(range(80))
    proxy.plan = lambda _: None
    print(f"faults done: { {fault.name: n for fault, n in proxy.counts.items() if fault} }")
    assert {entry.run for entry in entries(executor)} == {1}
    executor.cleanup(force=True)
