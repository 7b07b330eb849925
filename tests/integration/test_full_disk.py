"""A disk that is really full under the embedded store: an error that says so within patience, and work that goes on.

Captured output needs no disk on Linux, where these tests run: a task's output is kept in memory (memfd) until its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor, StoreUnavailable
from starburst_executor.store import patience
from tests.sessions import EMBEDDED, kill_workers, wait_until
from tests.support.small_disk import grow, mounted

_DISK_BYTES = 4 << 20
_RESULT_BYTES = 300_000
_N_TASKS = 30  # nine megabytes of results
TIMINGS = replace(EMBEDDED, patience_s=0.5)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes; it grows by `free_space`."""
    with mounted(tmp_path / "disk", _DISK_BYTES) as folder:
        try:
            yield folder
        finally:
            kill_workers(f"{tmp_path}/")


def free_space(folder: Path) -> None:
    grow(folder, _DISK_BYTES * 16)


def large(value: int) -> bytes:
    return bytes([value]) * _RESULT_BYTES


def test_results_that_do_not_fit_end_in_an_error_and_go_on_once_there_is_space(small_disk: Path) -> None:
    executor = DetachedExecutor(workers=2, store=f"sqlite://{small_disk}/sessions", timings=TIMINGS)
    futures = [executor.submit(large, n) for n in range(_N_TASKS)]
    # The client's own beat fails: small writes find room for some seconds after large ones do not, and
    # its patience begins when they fail too.
    assert not wait(futures, 30).not_done
    failed = [future.exception() for future in futures if future.exception() is not None]
    assert failed
    for error in failed:
        assert isinstance(error, StoreUnavailable)
        assert "disk full" in str(error)
    executor.detach()
    free_space(small_disk)

    again = DetachedExecutor.reattach(executor.url)
    assert [future.result(60) for future in again.futures] == [large(n) for n in range(_N_TASKS)]
    again.cleanup(force=True)


def test_workers_that_wait_for_space_say_so_while_they_wait(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_QUIET_S", 1.0)  # of this process; workers say it after ten seconds
    executor = DetachedExecutor(workers=2, store=f"sqlite://{small_disk}/sessions", timings=EMBEDDED)
    futures = [executor.submit(large, n) for n in range(_N_TASKS)]
    # Who says it depends on which writes find no room: those of workers, or those of the client as well.
    wait_until(lambda: "disk full" in executor.status().trouble or "disk full" in caplog.text)
    free_space(small_disk)
    assert [future.result(60) for future in futures] == [large(n) for n in range(_N_TASKS)]
    executor.cleanup(force=True)


def test_calls_that_do_not_fit_end_in_an_error_and_what_was_acknowledged_goes_on(small_disk: Path) -> None:
    executor = DetachedExecutor(workers=1, store=f"sqlite://{small_disk}/sessions", timings=TIMINGS, launcher="none")
    first = executor.submit(len, b"fits")
    executor.flush()
    future = executor.submit(len, os.urandom(2 * _DISK_BYTES))
    error = future.exception(60)
    assert isinstance(error, StoreUnavailable)
    assert "disk full" in str(error)
    assert not first.done() or isinstance(first.exception(), StoreUnavailable)
    executor.detach()
    free_space(small_disk)

    again = DetachedExecutor.reattach(executor.url, launcher="local")
    assert again.future_of(first.ordinal, first.index).result(60) == 4
    again.cleanup(force=True)


def test_a_session_cannot_begin_on_a_full_disk(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(bytes(2 * _DISK_BYTES))
    with pytest.raises(StoreUnavailable, match="disk full, free some space"):
        StarburstExecutor(workers=1, store=f"sqlite://{small_disk}/sessions", timings=TIMINGS)
    filler.unlink()
    with StarburstExecutor(workers=1, store=f"sqlite://{small_disk}/sessions", timings=TIMINGS) as executor:
        assert executor.submit(pow, 2, 3).result(60) == 8
