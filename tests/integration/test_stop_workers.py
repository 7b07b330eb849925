"""`terminate_workers` and `kill_workers`: as those of `ProcessPoolExecutor` in Python 3.14, on every version."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor
from tests.sessions import detached, is_alive, wait_until, worker_pids
from tests.support.inside import parts_of, store_of

SQLITE = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
METHODS = pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])


def stay(file: str) -> None:
    """A task that does not listen to SIGTERM, and does not end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(file).with_suffix(".new").write_text(str(os.getpid()))
    Path(file).with_suffix(".new").rename(file)
    time.sleep(600)


@METHODS
def test_what_runs_fails_and_what_waits_is_cancelled(store_url: str, tmp_path: Path, method: str) -> None:
    with StarburstExecutor(workers=1, store=store_url) as executor:
        done = executor.submit(abs, -1)
        assert done.result(60) == 1
        runs = executor.submit(stay, str(tmp_path / "began"))
        wait_until(lambda: (tmp_path / "began").exists() and runs.running())
        waiting = [executor.submit(abs, 1) for _ in range(3)]
        runner = int((tmp_path / "began").read_text())
        getattr(executor, method)()
        with pytest.raises(BrokenProcessPool, match=method):
            runs.result(0)
        # A worker may have had some of them in hand, as the processes of a pool may.
        assert all(future.cancelled() or isinstance(future.exception(0), BrokenProcessPool) for future in waiting)
        assert done.result() == 1
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(abs, 1)
        wait_until(lambda: not is_alive(runner))
        getattr(executor, method)()
    assert parts_of(executor).state.ended.is_set()
    assert store_of(executor).requests.snapshot()["delete"] > 0


@SQLITE
@METHODS
def test_without_workers_and_after_the_end_it_is_harmless(store_url: str, method: str) -> None:
    with StarburstExecutor(workers=1, store=store_url) as executor:
        getattr(executor, method)()
    getattr(executor, method)()
    with StarburstExecutor(workers=1, store=store_url, initializer=sys.exit) as broken:
        assert isinstance(broken.submit(abs, 1).exception(60), BrokenProcessPool)
        getattr(broken, method)()


@SQLITE
@METHODS
def test_a_callback_may_wait_for_the_end(store_url: str, tmp_path: Path, method: str) -> None:
    with StarburstExecutor(workers=1, store=store_url) as executor:
        runs = executor.submit(stay, str(tmp_path / "began"))
        wait_until(lambda: (tmp_path / "began").exists())
        called: list[Future[None]] = []

        def end(future: Future[None]) -> None:
            executor.shutdown()
            called.append(future)

        runs.add_done_callback(end)
        getattr(executor, method)()
        assert called == [runs]


@SQLITE
def test_a_detached_session_ends_and_keeps_what_has_ended(store_url: str, tmp_path: Path) -> None:
    executor = detached(store_url, workers=1)
    assert executor.submit(pow, 2, 5).result(60) == 32
    runs = executor.submit(stay, str(tmp_path / "began"))
    wait_until(lambda: (tmp_path / "began").exists())
    [worker] = worker_pids(executor)
    executor.terminate_workers()
    assert runs.done()
    assert not is_alive(worker)
    executor.shutdown()
    again = DetachedExecutor.reattach(executor.url)
    first, second = again.futures
    assert first.result(60) == 32
    assert second.cancelled()
    again.cleanup(force=True)
