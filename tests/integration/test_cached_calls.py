"""Cached calls end to end on both stores: between sessions, after a client was killed, and the command that lists and clears caches."""

from __future__ import annotations

import json
from concurrent.futures import InvalidStateError
from pathlib import Path

import pytest
from click.testing import CliRunner

from starburst_executor import StarburstExecutor
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
