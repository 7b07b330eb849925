"""A store that is wrong from the start, or goes away: an error that names it, within seconds, and work that goes on."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from starburst_executor import (
    AccessDenied,
    ConfigError,
    DetachedExecutor,
    SessionNotFound,
    StarburstExecutor,
    StoreError,
    StoreUnavailable,
)
from tests.sessions import REMOTE, detached, kill, kill_workers, wait_until
from tests.support.moto_server import ROOT, MotoServer


@pytest.fixture
def s3(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    return moto_server


@dataclass
class OwnStore:
    """A server that the test may stop, and a store on it."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnStore]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.moto_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    server = MotoServer(json.loads(process.stdout.readline()))
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield OwnStore(process, f"s3://{server.bucket}{tmp_path}")
    process.kill()
    process.communicate()
    kill_workers(f"{tmp_path}/")


def test_a_missing_bucket_is_named_at_once(s3: MotoServer) -> None:
    with pytest.raises(AccessDenied, match="no-such-bucket"):
        StarburstExecutor(store="s3://no-such-bucket/x")


def test_an_endpoint_where_nobody_answers_is_named(s3: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        StarburstExecutor(store="s3://bucket/x", timings=replace(REMOTE, patience_s=1.0))


def test_missing_credentials_are_named(s3: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessDenied, match="credentials"):
        StarburstExecutor(store=f"s3://{s3.bucket}/x")


def test_a_server_that_ignores_conditions_is_refused(s3: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoints["lawless"])
    with pytest.raises(ConfigError, match="must be refused"):
        StarburstExecutor(store=f"s3://{s3.bucket}/x")


@pytest.mark.parametrize("dialect", ["odd", "rude"])
def test_servers_with_ways_of_their_own_do(s3: MotoServer, monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoints[dialect])
    with StarburstExecutor(workers=4, store=f"s3://{s3.bucket}/{dialect}", timings=REMOTE) as executor:
        assert list(executor.map(pow, range(300), [2] * 300)) == [i**2 for i in range(300)]


def test_a_store_that_is_away_for_a_while_costs_time_and_nothing_else(own: OwnStore, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def wait_for_word(i: int) -> int:
        while not go.exists():
            time.sleep(0.01)
        return i

    executor = detached(own.url, workers=2)
    futures = [executor.submit(wait_for_word, i) for i in range(6)]
    # Any two: the slots of a worker take different status objects where they can.
    wait_until(lambda: sum(future.running() for future in futures) == 2)
    kill(own.process.pid, signal.SIGSTOP)
    go.touch()
    with pytest.raises(FutureTimeoutError):
        futures[0].result(3)
    kill(own.process.pid, signal.SIGCONT)
    assert [future.result(90) for future in futures] == [0, 1, 2, 3, 4, 5]
    executor.cleanup(force=True)


def test_a_store_that_is_gone_ends_in_an_error_on_the_futures(
    own: OwnStore,
) -> None:
    executor = DetachedExecutor(workers=1, store=own.url, timings=replace(REMOTE, patience_s=2.0))
    future = executor.submit(time.sleep, 600)
    wait_until(future.running)
    own.process.kill()
    error = future.exception(60)
    assert isinstance(error, StoreUnavailable)
    assert own.url in str(error)
    with pytest.raises(StoreUnavailable):
        executor.submit(time.sleep, 0)
    executor.detach()


def test_an_embedded_file_that_is_removed_in_mid_run(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=1)
    future = executor.submit(time.sleep, 600)
    wait_until(future.running)
    for path in (tmp_path / "sessions").glob(f"*{executor.id}*"):
        path.unlink()
    assert isinstance(future.exception(60), (SessionNotFound, StoreError))
    executor.detach()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "readonly"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):
        pytest.skip("whoever runs this may write everywhere")
    with pytest.raises(AccessDenied, match="readonly"):
        StarburstExecutor(store=f"sqlite://{folder}/sessions")
