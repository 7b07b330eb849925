"""The fixtures that users' tests get from the plugin, in a run of pytest of their own; and the executor behind them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from starburst_executor import current_task
from starburst_executor.testing import InlineExecutor
from tests.support.left_behind import MARKS

_TESTS = """
import threading, pytest

def total(executor, items):
    return sum(executor.map(abs, items))

def test_total(starburst):
    assert total(starburst, [-1, 2]) == 3
    assert starburst.n_submitted == 2

def test_what_cannot_be_pickled_is_found(starburst):
    with pytest.raises(TypeError, match="lock"):
        starburst.submit(print, threading.Lock()).result()

def test_home(starburst_home):
    from starburst_executor import StarburstExecutor
    with StarburstExecutor(1) as executor:
        assert executor.submit(abs, -1).result() == 1
    assert (starburst_home / "key").exists()
"""


def test_users_have_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(_TESTS)
    environment = {name: value for name, value in os.environ.items() if name not in MARKS}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_mine.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_loads_nothing_of_the_library() -> None:
    code = "import sys; import starburst_executor.pytest_plugin; print([n for n in sys.modules if n.startswith('starburst')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(eval(done.stdout)) == [
        "starburst_executor",
        "starburst_executor.pytest_plugin",
        "starburst_executor.version",
    ]


def test_it_runs_at_once_and_in_order() -> None:
    seen: list[int] = []
    with InlineExecutor() as executor:
        for x in range(3):
            assert executor.submit(pow, x, 2).done()
            seen.append(x)
        assert list(executor.map(pow, [1, 2, 3], [2, 2, 2])) == [1, 4, 9]
        assert list(executor.map(pow, [1, 2, 3], [2, 2, 2], buffersize=1)) == [1, 4, 9]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_tasks_see_copies() -> None:
    given = [1]

    def add(items: list[int]) -> list[int]:
        items.append(2)
        given.append(3)
        return items

    with InlineExecutor() as executor:
        assert executor.submit(add, given).result() == [1, 2]
    assert given == [1]


def test_errors_come_as_from_a_worker() -> None:
    with InlineExecutor() as executor:
        error = executor.submit(divmod, 1, 0).exception()
        assert isinstance(error, ZeroDivisionError)
        assert "RemoteTraceback" in type(error.__cause__).__name__
        assert "cannot pickle" in str(executor.submit(threading.Lock).exception())


def test_a_task_knows_itself_also_after_one_that_it_submits() -> None:
    def inner() -> str:
        task = current_task()
        return "" if task is None else task.task_id

    def outer() -> tuple[str, str, str]:
        before = inner()
        with InlineExecutor() as executor:
            inside = executor.submit(inner).result()
        return before, inside, inner()

    with InlineExecutor() as executor:
        executor.submit(abs, 1)
        assert executor.submit(outer).result() == ("0-1", "0-0", "0-1")
    assert current_task() is None
