"""A whole session over an S3 that loses answers, resets, throttles, cuts and lies still: every task has its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import AccessDenied, DetachedExecutor, ExecutorBroken, StarburstExecutor, StoreUnavailable
from starburst_executor.protocol.spans.record import Entry
from tests.fault_proxy import Asked, Fault, FaultProxy, by_chance, in_turn, is_write
from tests.sessions import REMOTE, detached, is_alive, kill_workers, wait_until, worker_pids
from tests.support.inside import session_of, store_of
from tests.support.s3_server import S3Server


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(s3_server.endpoint_url) as proxy:
        s3_server.use(monkeypatch, at=proxy.url)
        yield proxy
        kill_workers(f"{tmp_path}/")


@pytest.fixture
def url(s3_server: S3Server, tmp_path: Path) -> str:
    return f"s3://{s3_server.bucket}{tmp_path}"


def entries(executor: StarburstExecutor) -> list[Entry]:
    session = session_of(executor)
    return [e for group in session.statuses.all() for e in session.statuses.read(group.key).status.entries]


def is_read(asked: Asked) -> bool:
    return not is_write(asked)


def is_listing(asked: Asked) -> bool:
    return "list-type=2" in asked.path and "status" in asked.path


def touch(folder: str, value: int) -> int:
    """Leave one file for each start."""
    Path(folder, f"{value}.{time.monotonic_ns()}").touch()
    return value


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault.ANSWER_LOST, Fault.ERROR_AFTER, Fault.LATE, Fault.CUT, Fault.SLOW_DOWN, Fault.CONFLICT),
        *(Fault.EMPTY, Fault.PAGE),
    ],
    ids=lambda fault: fault.name.lower(),
)
def test_a_fault_in_every_fourth_request_costs_time_and_nothing_else(
    proxy: FaultProxy, url: str, tmp_path: Path, fault: Fault
) -> None:
    executor = detached(url, workers=2)
    of: Callable[[Asked], bool] = is_write if fault in (Fault.LATE, Fault.CONFLICT) else lambda _: True
    if fault is Fault.PAGE:  # to a write it says an ETag: who believes that of a gateway has lost
        of = is_read
    proxy.plan = by_chance(1, 1 / 4, fault, of=of)
    folder = tmp_path / "starts"
    folder.mkdir()
    futures = [executor.submit(touch, str(folder), i) for i in range(16)]
    assert [future.result(60) for future in futures] == list(range(16))
    proxy.plan = lambda _: None
    assert proxy.counts[fault] >= 3
    found = entries(executor)
    assert [(entry.run, entry.losses, entry.failures) for entry in found] == [(1, 0, 0)] * 16
    # No worker was lost, so nothing ran twice.
    assert len(list(folder.iterdir())) == 16
    executor.cleanup(force=True)


@pytest.mark.parametrize("fault", [Fault.EMPTY, Fault.PAGE])
def test_one_listing_that_is_none_fails_no_future(proxy: FaultProxy, url: str, fault: Fault) -> None:
    """Read as an empty one it says that every task is gone. More than twelve objects are listed instead of read."""
    executor = detached(url, workers=1, launcher="none")
    futures = []
    for i in range(14):
        futures.append(executor.submit(pow, i, 2))
        executor.flush()
    proxy.plan = in_turn(fault, fault, fault, of=is_listing)
    wait_until(lambda: proxy.counts[fault] >= 3)
    proxy.plan = lambda _: None
    n_before = proxy.counts[None]
    wait_until(lambda: proxy.counts[None] >= n_before + 10)  # listed again
    assert not any(future.done() for future in futures)
    executor.cleanup(force=True)


@pytest.mark.parametrize("transport", ["obstore", "boto3"])
def test_every_kind_of_fault_at_once(proxy: FaultProxy, url: str, transport: str) -> None:
    mixed = [fault for fault in Fault if fault not in (Fault.EXPIRED, Fault.DENIED, Fault.PAGE)]
    executor = detached(f"{url}?transport=boto3" if transport == "boto3" else url, workers=2)
    proxy.plan = by_chance(2, 0.2, *mixed)
    futures = [executor.submit(bytes, 10_000 * (i % 4) + i) for i in range(60)]
    assert [len(future.result(60)) for future in futures] == [10_000 * (i % 4) + i for i in range(60)]
    proxy.plan = lambda _: None
    assert {entry.run for entry in entries(executor)} == {1}
    executor.cleanup(force=True)


def test_a_session_begins_and_ends_over_a_bad_line(proxy: FaultProxy, url: str) -> None:
    proxy.plan = by_chance(3, 0.15, Fault.ANSWER_LOST, Fault.ERROR_AFTER, Fault.SLOW_DOWN, Fault.REFUSED)
    with StarburstExecutor(workers=1, store=url, timings=REMOTE) as executor:
        assert list(executor.map(pow, range(10), [2] * 10)) == [i**2 for i in range(10)]
        store, folder = store_of(executor), session_of(executor).keys.folder
    proxy.plan = lambda _: None
    assert store.list(folder) == []


def test_an_outage_in_mid_run_costs_time_and_nothing_else(proxy: FaultProxy, url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def wait_for_word(i: int) -> int:
        while not go.exists():
            time.sleep(0.01)
        return i

    executor = detached(url, workers=2)
    futures = [executor.submit(wait_for_word, i) for i in range(4)]
    # Any two of them: on a busy machine they are sent in several objects, whose order is left to chance.
    wait_until(lambda: sum(future.running() for future in futures) == 2)
    pids = worker_pids(executor)
    proxy.go_down()
    go.touch()
    n_before = proxy.counts[Fault.REFUSED]
    # Longer than four looks: no worker can count as lost while no watcher can look.
    wait_until(lambda: proxy.counts[Fault.REFUSED] >= n_before + 10)
    assert not any(future.done() for future in futures)
    proxy.come_back()
    assert [future.result(60) for future in futures] == [0, 1, 2, 3]
    assert all(map(is_alive, pids))
    assert [entry.losses for entry in entries(executor)] == [0, 0, 0, 0]
    executor.cleanup(force=True)


def test_credentials_that_expire_are_named_on_every_future(proxy: FaultProxy, url: str) -> None:
    executor = detached(url, workers=1)
    futures = [executor.submit(time.sleep, 600) for _ in range(3)]
    wait_until(lambda: any(future.running() for future in futures))
    pids = worker_pids(executor)
    proxy.plan = lambda _: Fault.EXPIRED
    for future in futures:
        with pytest.raises(AccessDenied, match="credentials have expired: log in again"):
            future.result(30)
    with pytest.raises(AccessDenied, match="expired"):
        executor.submit(pow, 2, 3)
    wait_until(lambda: not any(map(is_alive, pids)))
    executor.detach()
    # Acknowledged tasks are still in the store, for a user who logs in again.
    proxy.plan = lambda _: None
    again = DetachedExecutor.reattach(executor.url)
    assert again.status().total == 3
    again.cleanup(force=True)


def test_rights_that_a_worker_lacks_are_named(proxy: FaultProxy, url: str) -> None:
    def is_outcome(asked: Asked) -> bool:
        return is_write(asked) and "/outcomes/" in asked.path

    workers = set()

    def plan(asked: Asked) -> Fault | None:
        if is_write(asked) and "/workers/" in asked.path:
            workers.add(asked.path.rpartition("/")[2])
        return Fault.DENIED if is_outcome(asked) else None

    executor = detached(url, workers=1)
    proxy.plan = plan
    futures = [executor.submit(bytes, 500_000) for _ in range(6)]
    for future in futures:
        with pytest.raises(ExecutorBroken, match=r"(?s)no worker could do any work: .*s3:PutObject.*3 in a row"):
            future.result(60)
    assert len(workers) == 3
    executor.cleanup(force=True)


def test_workers_that_cannot_read_functions_end_the_session_and_blame_no_task(proxy: FaultProxy, url: str) -> None:
    workers = set()

    def plan(asked: Asked) -> Fault | None:
        if is_write(asked) and "/workers/" in asked.path:
            workers.add(asked.path.rpartition("/")[2])
        return Fault.DENIED if not is_write(asked) and "/functions/" in asked.path else None

    proxy.plan = plan
    with StarburstExecutor(workers=1, store=url, timings=REMOTE) as executor:
        futures = [executor.submit(abs, i) for i in range(8)]
        assert {type(future.exception(60)) for future in futures} == {ExecutorBroken}
        assert "s3:GetObject" in str(futures[0].exception())
    assert len(workers) == 3


def test_a_big_result_over_a_line_that_cuts_it(proxy: FaultProxy, url: str) -> None:
    executor = detached(url, workers=1)
    proxy.plan = in_turn(Fault.CUT, Fault.ANSWER_LOST, Fault.CUT, of=lambda asked: "/outcomes/" in asked.path)
    assert executor.submit(bytes, 30_000_000).result(60) == bytes(30_000_000)
    assert proxy.counts[Fault.CUT] >= 1
    executor.cleanup(force=True)


def test_patience_ends_in_an_error_that_names_the_store(proxy: FaultProxy, url: str) -> None:
    executor = DetachedExecutor(workers=1, store=url, timings=replace(REMOTE, patience_s=0.2), launcher="none")
    future = executor.submit(pow, 2, 3)
    executor.flush()
    proxy.plan = lambda _: Fault.SLOW_DOWN
    with pytest.raises(StoreUnavailable, match=r"no clear answer from s3://.*SlowDown"):
        future.result(30)
    executor.detach()
    proxy.plan = lambda _: None
    again = DetachedExecutor.reattach(executor.url, launcher="local")
    assert again.futures[0].result(60) == 8
    again.cleanup(force=True)
