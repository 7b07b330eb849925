"""A disk that is really full under the embedded store: an error that says so within patience, and work that goes on.

Captured output needs no disk on Linux, where these tests run: a task's output is kept in memory (memfd) until its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor, StoreUnavailable
from tests.sessions import EMBEDDED, kill_workers

_DISK_BYTES = 4 << 20
_RESULT_BYTES = 300_000
_N_TASKS = 30  # nine megabytes of results
TIMINGS = replace(EMBEDDED, patience_s=2.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes; it grows by `free_space`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux":
        pytest.skip("needs a small file system of its own: mounts one on Linux only")
    done = _mount("-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder))
    if done.returncode:
        pytest.skip(f"needs to mount a small file system, as root: {done.stderr.splitlines()[0]}")
    try:
        yield folder
    finally:
        kill_workers(f"/{tmp_path.name}/")
        # Lazily: a worker that is ending may have a file open still.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(["mount"], 1, "", str(error))


def free_space(folder: Path) -> None:
    """Free space, as a user who deletes other files."""
    assert _mount("-o", f"remount,size={_DISK_BYTES * 16}", str(folder)).returncode == 0


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
