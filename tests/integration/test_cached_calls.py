"""Cached calls end to end on both stores: between sessions, after a client was killed, and the command that lists and clears caches."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from starburst_executor import DetachedExecutor, StarburstExecutor, cached
from starburst_executor.cli.main import starburst
from starburst_executor.session.cache import cache_sizes
from starburst_executor.store.open import open_store
from tests.sessions import kill, run_python, wait_until

# The tasks after the second wait for a file. It prints the results, then which calls were run by a task.
SCRIPT = """
import sys, time
from pathlib import Path
from starburst_executor import StarburstExecutor, cached

store, folder, go = sys.argv[1:]

@cached("squares")
def square(x, offset=OFFSET):
    Path(folder, f"ran-{x}").touch()
    while x > 1 and not Path(go).exists():
        time.sleep(0.01)
    return x * x + offset

if __name__ == "__main__":
    with StarburstExecutor(workers=2, store=store) as ex:
        futures = [ex.submit(square, x) for x in range(2)]
        print([future.result() for future in futures], flush=True)
        print(list(ex.map(square, range(4))), flush=True)
"""


def ran(folder: Path) -> list[str]:
    """The calls that tasks have run since the last look."""
    found = sorted(folder.glob("ran-*"))
    for path in found:
        path.unlink()
    return [path.name for path in found]


def test_results_outlive_the_session_and_a_client_that_is_killed(store_url: str, tmp_path: Path) -> None:
    go, code = tmp_path / "go", SCRIPT.replace("OFFSET", "0")
    first = run_python(code, store_url, str(tmp_path), str(go))
    assert first.stdout is not None
    assert first.stdout.readline() == "[0, 1]\n"
    wait_until(lambda: sum(size.n_entries for size in cache_sizes(open_store(store_url))) == 2)
    wait_until(lambda: (tmp_path / "ran-2").exists() and (tmp_path / "ran-3").exists())
    kill(first.pid)
    first.communicate()
    assert ran(tmp_path) == ["ran-0", "ran-1", "ran-2", "ran-3"]
    go.touch()
    for calls in (["ran-2", "ran-3"], []):
        again = run_python(code, store_url, str(tmp_path), str(go))
        assert again.communicate()[0] == "[0, 1]\n[0, 1, 4, 9]\n"
        assert ran(tmp_path) == calls
    changed = run_python(SCRIPT.replace("OFFSET", "1"), store_url, str(tmp_path), str(go))
    assert changed.communicate()[0] == "[1, 2]\n[1, 2, 5, 10]\n"
    assert len(ran(tmp_path)) == 4
    listed = CliRunner().invoke(starburst, ["cache", "ls", "--store", store_url, "--json"])
    assert json.loads(listed.output)["n_entries"] == 8
    kept = CliRunner().invoke(starburst, ["cache", "clear", "squares", "--store", store_url, "--older-than", "1d"])
    assert kept.output == "deleted 0 entries of squares\n"
    cleared = CliRunner().invoke(starburst, ["cache", "clear", "squares", "--store", store_url])
    assert cleared.output == "deleted 8 entries of squares\n"


class Meter:
    def __init__(self, scale: int) -> None:
        self.scale = scale

    @cached("meters")
    def read(self, x: int) -> int:
        return self.scale * x

    @classmethod
    @cached("meters")
    def kind(cls, x: int) -> str:
        return cls.__name__ * x

    @staticmethod
    @cached("meters")
    def add(x: int, y: int) -> int:
        return x + y


def test_methods_and_partials_of_cached_functions_are_cached(store_url: str) -> None:
    def functions() -> list[Callable[..., object]]:
        return [
            Meter(2).read,
            Meter(3).read,
            Meter.kind,
            Meter.add,
            functools.partial(Meter.add, y=5),
            functools.partial(Meter(4).read),
        ]

    args = [(3,), (3,), (2,), (1, 2), (1,), (3,)]
    assert [function(*of) for function, of in zip(functions(), args, strict=True)] == [6, 9, "MeterMeter", 3, 6, 12]
    for is_kept in (False, True):
        with StarburstExecutor(workers=1, store=store_url) as ex:
            futures = [ex.submit(function, *of) for function, of in zip(functions(), args, strict=True)]
            assert [future.result() for future in futures] == [6, 9, "MeterMeter", 3, 6, 12]
            assert [bool(future.task_id) for future in futures] == [not is_kept] * 6


def power(x: Any, exponent: int) -> Any:
    return x**exponent


def test_the_future_of_a_cached_call_can_be_an_argument_whether_the_result_was_kept_or_not(store_url: str) -> None:
    for is_kept in (False, True):
        with DetachedExecutor(workers=1, store=store_url, name="n") as ex:
            kept = ex.submit(Meter.add, 1, 2)
            assert bool(kept.task_id) is not is_kept
            assert ex.submit(power, kept, 2).result() == 9
            assert list(ex.options(label="x").map(power, [kept], [3])) == [27]
            assert ex.submit_once(f"key {is_kept}", power, kept, 4).result() == 81
            if is_kept:
                with pytest.raises(TypeError, match="was in a cache has no task"):
                    pickle.dumps(kept)
    DetachedExecutor.reattach("n", store=store_url, launcher="none").cleanup(force=True)


def test_the_output_of_a_call_without_a_task_is_not_that_of_another_one() -> None:
    with StarburstExecutor(workers=1) as executor:
        view = executor.options(cache="squares")
        assert view.submit(print, "first").result() is None
        assert executor.submit(pow, 2, 3).result() == 8
    with StarburstExecutor(workers=1) as executor:
        other = executor.submit(print, "other")
        hit = executor.options(cache="squares").submit(print, "first")
        assert (other.result(), hit.result()) == (None, None)
        assert executor.output(other) == ("other\n", "")
        with pytest.raises(InvalidStateError, match="in a cache"):
            executor.output(hit)
    with StarburstExecutor(workers=1) as executor, pytest.raises(InvalidStateError, match="but in"):
        executor.output(other)
