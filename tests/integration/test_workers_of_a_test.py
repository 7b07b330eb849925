"""Cleaning up after a test spares the workers of one that runs beside it, in a folder of the same last name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.sessions import store_of, wait_until
from tests.support.s3_server import S3Server


@contextmanager
def worker_of(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that `ps` shows as a worker of a session in this store."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen([*sleeper, "starburst_executor.worker", f"{url}/a-session"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ["sqlite", "s3"])
def test_the_workers_of_another_test_live_on(
    kind: str, tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = SimpleNamespace(param=kind, getfixturevalue=lambda _: s3_server)
    folders = [tmp_path / place / "test_of_some_name0" for place in ("gw0", "gw1")]
    ours, theirs = (store_of(request, folder, monkeypatch) for folder in folders)  # type: ignore[arg-type]
    with ExitStack() as stack:
        left, beside = (stack.enter_context(worker_of(next(store))) for store in (ours, theirs))
        assert next(ours, None) is None
        wait_until(lambda: left.poll() is not None)
        assert beside.poll() is None
        assert next(theirs, None) is None
        wait_until(lambda: beside.poll() is not None)
