"""A folder of an embedded store with more than one session in it: nothing of others is deleted, or in the way."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor
from starburst_executor.clock import SystemClock
from tests.sessions import EMBEDDED, kill_workers, run_python, wait_until
from tests.support.inside import engine_of

EIGHT_DAYS_S = 8 * 86_400.0


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/sessions"


def work(store: str) -> None:
    """Another client comes, does something, tidies up and goes."""
    with StarburstExecutor(workers=1, store=store, timings=EMBEDDED) as executor:
        assert executor.submit(abs, -1).result(60) == 1
        wait_until(lambda: engine_of(executor).has_tidied)


def made_eight_days_ago(monkeypatch: pytest.MonkeyPatch, make: Callable[[], StarburstExecutor]) -> StarburstExecutor:
    with monkeypatch.context() as patched:
        patched.setattr(SystemClock, "now", lambda _: time.time() - EIGHT_DAYS_S)
        return make()


def date_back(file: Path) -> None:
    with closing(sqlite3.connect(file, timeout=20)) as raw, raw:
        raw.execute("UPDATE objects SET modified_at = ?", (time.time() - EIGHT_DAYS_S,))


def test_an_executor_that_waits_for_its_first_submit_for_days_keeps_its_session(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = made_eight_days_ago(monkeypatch, lambda: StarburstExecutor(workers=1, store=store, timings=EMBEDDED))
    work(store)
    assert waiting.submit(abs, -2).result(60) == 2
    waiting.shutdown()


def test_what_is_kept_is_kept(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = made_eight_days_ago(
        monkeypatch, lambda: StarburstExecutor(workers=1, store=store, keep=True, timings=EMBEDDED)
    )
    assert kept.submit(abs, -1).result(60) == 1
    kept.shutdown()
    (file,) = (tmp_path / "sessions").glob("*.db")
    date_back(file)
    work(store)
    assert file.exists()


def test_what_a_killed_client_left_is_swept(store: str, tmp_path: Path) -> None:
    program = run_python(
        "import sys, time\n"
        "from starburst_executor import StarburstExecutor\n"
        "from starburst_executor.clock import SystemClock\n"
        f"SystemClock.now = lambda _: time.time() - {EIGHT_DAYS_S}\n"
        "executor = StarburstExecutor(workers=1, store=sys.argv[1], launcher='none')\n"
        "executor.submit(abs, -1)\n"
        "executor._engine.flush()\n"
        "print('stored', flush=True)\n"
        "time.sleep(600)\n",
        store,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "stored\n"
    (file,) = (tmp_path / "sessions").glob("*.db")
    work(store)
    assert file.exists()
    program.kill()
    program.communicate()
    date_back(file)
    work(store)
    assert not file.exists()


@pytest.mark.parametrize("how", ["torn", "newer", "folder", "another program's", "empty"])
def test_what_is_no_session_is_in_nobodys_way(store: str, tmp_path: Path, how: str) -> None:
    file = tmp_path / "sessions" / "20200101-000000-deadbeef.db"
    file.parent.mkdir()
    if how == "torn":
        file.write_bytes(b"what a full disk has left of a database " * 100)
    elif how == "folder":
        file.mkdir()
    elif how == "empty":
        file.touch()
    else:
        with closing(sqlite3.connect(file)) as raw, raw:
            raw.execute("CREATE TABLE objects (name TEXT)")
            raw.execute(f"PRAGMA user_version = {2 if how == 'newer' else 1}")
    executor = DetachedExecutor(workers=1, store=store, timings=EMBEDDED)
    assert executor.submit(abs, -1).result(60) == 1
    wait_until(lambda: engine_of(executor).has_tidied)
    assert [summary.id for summary in DetachedExecutor.list_sessions(store=store)] == [executor.id]
    assert file.exists()
    executor.cleanup(force=True)
    kill_workers(f"{tmp_path}/")
