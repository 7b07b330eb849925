"""What is out of range is refused by name before anything starts; odd machines are met with a way out."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from starburst_executor import (
    AccessDenied,
    ConfigError,
    DetachedExecutor,
    ExecutorBroken,
    Local,
    SessionNotFound,
    StarburstExecutor,
    StoreError,
    Timings,
    VersionMismatch,
)
from tests.sessions import EMBEDDED, REMOTE, descendants, detached, is_alive, kill, run_python, wait_until, worker_pids
from tests.support.inside import session_of
from tests.support.moto_server import ROOT, MotoServer

SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
RUN_WORKER = "import sys; from starburst_executor.worker.__main__ import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": -1}, "workers=-1"),
        ({"workers": 10_001}, "workers=10001"),
        ({"max_workers": 0}, "max_workers=0"),
        ({"max_workers": 10_001}, "workers=10001"),
        ({"workers": 2, "max_workers": 3}, "workers=2 and max_workers=3"),
        ({"workers": 10_000}, "workers=10000.* at most 1024 on this machine.*launcher='none'"),
        ({"workers": 2049, "launcher": Local(agents=2)}, "workers=2049.* at most 2048"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 101}, "retries=101"),
        ({"task_timeout": 0}, "task_timeout=0"),
        ({"task_timeout": -3.0}, "task_timeout=-3"),
        ({"task_timeout": float("nan")}, "task_timeout=nan"),
        ({"task_timeout": float("inf")}, "task_timeout=inf"),
        ({"absolute_timeout": 0.5}, "absolute_timeout=0.5"),
        ({"max_tasks_per_child": 0}, "max_tasks_per_child=0"),
        ({"max_result_bytes": 0}, "max_result_bytes=0"),
        ({"launcher": "fargate?"}, "cannot reach a store on this machine"),
        ({"store": "not a url"}, "not a url"),
        ({"store": "s3://"}, "s3://"),
        ({"store": "s3://user:secret@bucket/x"}, "without credentials"),
        ({"store": "sqlite://relative/folder"}, "three slashes"),
        ({"key": "abc"}, "key"),
        ({"key": b"abc"}, "32 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-",
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any], named: str, tmp_path: Path) -> None:
    arguments.setdefault("store", f"sqlite://{tmp_path}/sessions")
    for make in (StarburstExecutor, DetachedExecutor):
        with pytest.raises(ConfigError, match=named):
            make(**arguments)
    assert not list(tmp_path.glob("sessions/*.db"))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Local(agents=0), "agents=0"),
        (lambda: Local(agents=257), "agents=257"),
        (lambda: Timings(beat_s=0), "beat_s=0"),
        (lambda: Timings(looks_until_lost=0), "looks_until_lost=0"),
        (lambda: Timings(poll_min_s=2, poll_max_s=1), "poll_min_s=2"),
        (lambda: DetachedExecutor.reattach("an-id", launcher="moon"), "launcher='moon'"),
    ],
)
def test_values_out_of_range_are_named_elsewhere(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make()


@pytest.mark.parametrize(
    ("name", "text"),
    [("WORKERS", "0"), ("WORKERS", "many"), ("RETRIES", "-1"), ("KEEP", "perhaps"), ("TASK_TIMEOUT", "soon")],
)
def test_variables_out_of_range_are_named(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"STARBURST_{name}", text)
    with pytest.raises(ConfigError, match=f"{name.lower()}=.*from STARBURST_{name}"):
        StarburstExecutor()


@SQLITE
def test_calls_out_of_range_leave_the_session_as_it_was(store_url: str) -> None:
    executor = detached(store_url, workers=1, absolute_timeout=600)
    before = session_of(executor).manifest.refresh()
    for call, named in (
        (lambda: executor.scale(0), "workers=0"),
        (lambda: executor.scale(10_001), "workers=10001"),
        (lambda: executor.scale(10_000), "at most 1024 on this machine"),
        (lambda: executor.extend(0), "seconds=0"),
        (lambda: executor.extend(float("nan")), "seconds=nan"),
    ):
        with pytest.raises(ConfigError, match=named):
            call()
    assert session_of(executor).manifest.refresh() == before
    assert executor.submit(pow, 2, 3).result(60) == 8
    executor.cleanup(force=True)


@SQLITE
def test_a_thousand_slots_start_only_what_is_used(store_url: str) -> None:
    executor = StarburstExecutor(workers=1000, store=store_url, timings=EMBEDDED)
    assert list(executor.map(pow, range(3), [2] * 3)) == [0, 1, 4]
    [agent] = worker_pids(executor)
    assert len(descendants(agent)) < 20
    executor.shutdown()


# --- odd machines -----------------------------------------------------------------------------------------------------

HOMELESS = """
    import os, pwd, sys
    if sys.argv[1] == "nobody":
        os.environ.pop("HOME", None)
        def unknown(_): raise KeyError("no such user")
        pwd.getpwuid = unknown
    from starburst_executor import ConfigError, DetachedExecutor, StarburstExecutor
    with StarburstExecutor(workers=1) as executor:
        print(executor.submit(pow, 2, 3).result(60))
    try:
        DetachedExecutor(workers=1)
    except ConfigError as error:
        print(error)
    with DetachedExecutor(workers=1, store=sys.argv[2], key="5a" * 32) as executor:
        print(executor.submit(pow, 2, 4).result(60))
    DetachedExecutor.reattach(executor.url, key="5a" * 32).cleanup(force=True)
"""


@pytest.mark.parametrize("home", ["/proc", "/dev/null", "nobody"])
def test_without_a_home_that_can_be_written(home: str, tmp_path: Path) -> None:
    """Attached sessions run in a temporary folder; a detached one says what to do."""
    if not Path(home).exists() and home != "nobody":
        pytest.skip(f"needs {home}")
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"HOME": home, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HOMELESS), home, f"sqlite://{tmp_path}/kept"],
        capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    attached, told, kept = done.stdout.splitlines()
    assert (attached, kept) == ("8", "16")
    assert "STARBURST_HOME" in told
    assert "a detached session needs a store that lasts" in told


@SQLITE
@pytest.mark.parametrize("days", [-1, 1])
def test_a_clients_clock_that_jumps_changes_nothing(store_url: str, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = detached(store_url, workers=1)
    assert executor.submit(pow, 2, 3).result(60) == 8
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)
    assert executor.submit(pow, 2, 4).result(60) == 16
    executor.scale(2)
    other = DetachedExecutor.reattach(executor.url)
    monkeypatch.setattr(time, "time", real)
    futures = [other.submit(pow, n, 2) for n in range(20)]
    assert [future.result(60) for future in futures] == [n**2 for n in range(20)]
    assert [entry.losses for entry in _entries(executor)] == [0] * 22
    other.detach()
    executor.cleanup(force=True)


def _entries(executor: StarburstExecutor) -> list[Any]:
    session = session_of(executor)
    return [e for group in session.statuses.all() for e in session.statuses.read(group.key).status.entries]


# --- versions ---------------------------------------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize("what", ["format", "python"])
def test_a_worker_that_does_not_fit_says_so_and_leaves_the_session_alone(store_url: str, what: str) -> None:
    executor = detached(store_url, workers=1, launcher="none")
    future = executor.submit(pow, 2, 3)
    executor.flush()
    session = session_of(executor)
    stored = session.store.get(session.keys.manifest)
    assert stored is not None
    here = f"{sys.version_info.major}.{sys.version_info.minor}".encode()
    was, becomes = {"format": (b"\xa6format\x03", b"\xa6format\x04"), "python": (here, b"2." + b"7" * (len(here) - 2))}[
        what
    ]
    assert stored.body.count(was) == 1
    session.store.put(session.keys.manifest, stored.body.replace(was, becomes))
    worker = subprocess.run(
        [sys.executable, "-c", RUN_WORKER, executor.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert worker.returncode == 3
    assert "VersionMismatch" in worker.stderr
    assert ("use the version" if what == "format" else "Python 2.7") in worker.stderr
    if what == "format":
        with pytest.raises(VersionMismatch):
            DetachedExecutor.reattach(executor.url)
        assert isinstance(future.exception(60), VersionMismatch)
    session.store.put(session.keys.manifest, stored.body)
    again = DetachedExecutor.reattach(executor.url, launcher="local")
    assert again.futures[0].result(60) == 8
    again.cleanup(force=True)


@SQLITE
def test_another_release_of_the_library_takes_part(store_url: str) -> None:
    executor = detached(store_url, workers=1, launcher="none")
    session_of(executor).manifest.change(
        lambda manifest: None if manifest.library == "99.0" else replace(manifest, library="99.0")
    )
    future = executor.submit(pow, 2, 3)
    executor.flush()
    worker = run_python(RUN_WORKER, executor.url)
    assert future.result(60) == 8
    worker.terminate()
    worker.communicate(timeout=60)
    executor.cleanup(force=True)


# --- sizes ------------------------------------------------------------------------------------------------------------


@SQLITE
@pytest.mark.parametrize("n_futures", [20_000, pytest.param(100_000, marks=pytest.mark.stress)])
def test_many_futures_cost_few_requests(store_url: str, n_futures: int) -> None:
    started = time.monotonic()
    with StarburstExecutor(workers=2, store=store_url) as executor:
        futures = [executor.submit(abs, -n) for n in range(n_futures)]
        assert sum(future.result() for future in futures) == sum(range(n_futures))
        requests = executor.requests()
    seconds = time.monotonic() - started
    n_requests = sum(n for kind, n in requests.items() if not kind.startswith("bytes") and not kind.endswith("_us"))
    # On a busy machine a loop of submits is slow beside the store: its objects are small, and there are up to 1,000 requests a second.
    assert n_requests < n_futures / 5 + 1_000 * seconds
    print(f"{n_futures:,} futures: {seconds:.1f} s, requests {requests}")


def test_a_bucket_that_is_deleted_in_mid_run_is_named(
    moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    client, bucket = boto3.client("s3"), "short-lived"
    client.create_bucket(Bucket=bucket)
    executor = DetachedExecutor(workers=1, store=f"s3://{bucket}/x", timings=REMOTE)
    future = executor.submit(time.sleep, 600)
    wait_until(future.running)
    [pid] = worker_pids(executor)
    for line in client.list_objects_v2(Bucket=bucket)["Contents"]:
        client.delete_object(Bucket=bucket, Key=line["Key"])
    client.delete_bucket(Bucket=bucket)
    client.close()
    error = future.exception(60)
    assert isinstance(error, (AccessDenied, SessionNotFound))
    assert bucket in str(error) or executor.id in str(error)
    with pytest.raises((StoreError, SessionNotFound, ExecutorBroken)):
        executor.submit(pow, 2, 3)
    executor.detach()
    wait_until(lambda: not is_alive(pid))


@SQLITE
@pytest.mark.parametrize("kind", [StarburstExecutor, DetachedExecutor])
def test_the_end_does_not_wait_for_a_worker_that_was_seen_dead(store_url: str, kind: type[StarburstExecutor]) -> None:
    """With a minute until a worker counts as lost, for which no client need wait."""
    executor = kind(workers=1, store=store_url)
    assert executor.submit(pow, 2, 3).result(60) == 8
    [pid] = worker_pids(executor)
    kill(pid)
    assert executor.submit(pow, 2, 4).result(60) == 16
    started = time.monotonic()
    if isinstance(executor, DetachedExecutor):
        executor.cleanup(force=True)
    else:
        executor.shutdown()
    assert time.monotonic() - started < 45
