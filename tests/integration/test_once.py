"""Submitting once, on both stores with real workers: a script that runs again, clients that are killed, gaps that they leave."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import DetachedExecutor, Limit, Timings, cached
from starburst_executor.protocol.records.once import ONCE
from tests.sessions import kill, run_python, timings_for, wait_until
from tests.support.inside import session_of


def patient_timings(store_url: str) -> Timings:
    """Short pauses, but no worker counts as lost on a busy machine: its tasks would run twice, as they may, and be counted twice."""
    return replace(timings_for(store_url), looks_until_lost=200)


@contextmanager
def named(store_url: str, **settings: object) -> Iterator[DetachedExecutor]:
    settings = {"name": "n", "workers": 2, "launcher": "none", "timings": patient_timings(store_url), **settings}
    executor = DetachedExecutor(store=store_url, **settings)  # type: ignore[arg-type]
    try:
        yield executor
    finally:
        executor.detach()


def stop(store_url: str) -> None:
    DetachedExecutor.reattach("n", store=store_url, launcher="none").cleanup(force=True)


def marked(folder: str, item: object) -> object:
    """Leave a line for each run of an item."""
    with (Path(folder) / "runs").open("a", encoding="utf-8") as file:
        file.write(f"{item}\n")
    return item


def runs_in(folder: Path) -> Counter[str]:
    file = folder / "runs"
    return Counter(file.read_text(encoding="utf-8").split()) if file.exists() else Counter()


def status_keys(executor: DetachedExecutor) -> list[str]:
    session = session_of(executor)
    submitters = session.manifest.refresh().submitters
    ordinal = [submitter.client_id for submitter in submitters].index(ONCE)
    return [listed.key for listed in session.statuses.all() if listed.ref.ordinal == ordinal]


def test_a_second_client_submits_only_what_is_new(store_url: str, tmp_path: Path) -> None:
    folder = str(tmp_path)
    calls = [(folder, n) for n in range(30)]
    with named(store_url, launcher="local") as first:
        futures = first.map_once(_marked_pair, calls[:20], key=lambda pair: pair[1])
        assert [future.result(60) for future in futures] == list(range(20))
        assert first.submit_once("alone", marked, folder, "x").result(60) == "x"
    with named(store_url) as second:
        futures = second.map_once(_marked_pair, [*reversed(calls), calls[3]], key=lambda pair: pair[1])
        assert [future.result(60) for future in futures] == [*range(29, -1, -1), 3]
        assert second.submit_once("alone", marked, folder, "x").result(60) == "x"
        assert runs_in(tmp_path) == Counter([*map(str, range(30)), "x"])
        with pytest.raises(ValueError, match=r"'alone'.*marked\(.*'x'\), and now .*marked\(.*'y'\)"):
            second.submit_once("alone", marked, folder, "y")
        with pytest.raises(ValueError, match="another call"):
            second.map_once(pow, [3], key=[3])
        with pytest.raises(ValueError, match="given twice"):
            second.map_once(abs, [-100, -101], key=lambda _: "same")
        assert len(second.futures) == 31
    stop(store_url)


def _marked_pair(pair: tuple[str, int]) -> object:
    return marked(*pair)


def _alone(folder: str, number: int) -> int:
    """Fail if another task with the limit runs at the same time."""
    lock = Path(folder) / "alone"
    lock.mkdir()
    lock.rmdir()
    return number


def test_priority_limit_and_resources_hold_although_another_client_creates_the_objects(
    store_url: str, tmp_path: Path
) -> None:
    items = [(str(tmp_path), n) for n in range(12)]
    with named(store_url, workers=4) as first:
        view = first.options(priority=-5, limit=Limit("api", 1), resources={"cpu": 1})
        view.map_once(_alone_pair, items)
        keys = status_keys(first)
        assert len(keys) > 1
        assert {key.partition("-p")[2] for key in keys} == {"-5-lapi-r1xcpu"}
        # As a client leaves them that dies after the entry.
        session_of(first).store.delete(keys)
    with named(store_url, launcher="local") as second:
        futures = second.map_once(_alone_pair, items)  # without the options: known tasks keep theirs
        assert [future.result(60) for future in futures] == list(range(12))
        assert status_keys(second) == keys
    stop(store_url)


def _alone_pair(pair: tuple[str, int]) -> int:
    return _alone(*pair)


SIZES = [10, 2_000, 100_000]


def _length(item: tuple[str, int, bytes]) -> int:
    marked(item[0], item[1])
    return len(item[2])


@pytest.mark.parametrize("seed", range(3))
def test_whatever_status_objects_are_missing_the_next_client_creates_them(
    store_url: str, tmp_path: Path, seed: int
) -> None:
    lots = random.Random(seed)
    items = [(str(tmp_path), n, bytes([n % 256]) * lots.choice(SIZES)) for n in range(40)]
    with named(store_url, workers=4) as first:
        first.map_once(_length, items[:30])
        # As a client leaves them that dies after the entry: of what it writes at the same time, any part may have landed.
        keys = status_keys(first)
        assert len(keys) > 4
        missing = lots.sample(keys, lots.randrange(1, len(keys) + 1))
        session_of(first).store.delete(missing)
    with named(store_url, launcher="local") as second:
        lots.shuffle(items)
        # It may have only some of the calls of an object that is missing.
        half = second.map_once(_length, items[:20])
        futures = second.map_once(_length, items)
        assert futures[:20] == half
        assert [future.result(60) for future in futures] == [len(item[2]) for item in items]
        assert len(second.futures) == 40
    assert runs_in(tmp_path) == Counter({str(n): 1 for n in range(40)})
    stop(store_url)


def test_lambdas_with_other_code_are_other_functions_unless_keys_name_the_calls(store_url: str) -> None:
    with named(store_url) as ex:
        ex.map_once(lambda x: x + 1, [1, 2])
        ex.map_once(lambda x: x * 2, [1, 2])
        ex.map_once(lambda y: y + 1, [1, 2], key=str)
        ex.map_once(lambda y: y * 3, [1, 2], key=str)
        assert len(ex.futures) == 6
        ex.map_once(lambda x: x * 2, [1, 2])
        assert len(ex.futures) == 6
    stop(store_url)


def test_a_cached_function_is_the_function_itself(store_url: str) -> None:
    def documented(text: str) -> Callable[..., object]:
        def square(x: int) -> int:
            return x * x

        square.__doc__ = text
        return square

    with named(store_url) as ex:
        ex.map_once(documented("Once."), [1, 2])
        ex.map_once(cached(documented("Twice.")), [1, 2])
        assert len(ex.futures) == 2
    stop(store_url)


def test_two_clients_at_once_submit_nothing_twice(store_url: str, tmp_path: Path) -> None:
    items = [(str(tmp_path), n) for n in range(60)]
    with named(store_url, launcher="local") as one, named(store_url) as other:
        results: list[list[object]] = []
        errors: list[BaseException] = []
        gate = threading.Barrier(2)

        def work(executor: DetachedExecutor, order: int) -> None:
            try:
                gate.wait()
                for first in range(0, 60, 15)[::order]:
                    futures = executor.map_once(_marked_pair, items[first : first + 20])
                    results.append([future.result(60) for future in futures])
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=args) for args in ((one, 1), (other, -1))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(results) == 8
        assert len(one.futures) == 60
    assert runs_in(tmp_path) == Counter({str(n): 1 for n in range(60)})
    stop(store_url)


def test_failed_and_cancelled_tasks_run_again_only_on_request(store_url: str, tmp_path: Path) -> None:
    def fails(n: int) -> int:
        raise ValueError(n)

    def mended(n: int) -> int:
        return -n

    mended.__qualname__ = fails.__qualname__
    with named(store_url) as first:
        waiting = first.map_once(fails, range(4))
        assert all(future.cancel() for future in waiting[:2])
    with named(store_url, launcher="local") as second:
        futures = second.map_once(fails, range(4))
        assert wait_until(lambda: [future.cancelled() for future in futures[:2]] == [True, True])
        assert [type(future.exception(60)) for future in futures[2:]] == [ValueError] * 2
        again = second.map_once(mended, range(4), retry_failed=True)
        assert [future.result(60) for future in again] == [0, -1, -2, -3]
        assert [future.task_id for future in again[2:]] == [future.task_id for future in futures[2:]]
        assert second.map_once(mended, range(4)) == again
    stop(store_url)


# A script that its user starts again and again.
SCRIPT = """
import sys
sys.path[:0] = [sys.argv[4]]
from starburst_executor import DetachedExecutor, Timings
from tests.integration.test_once import _length, patient_timings
store, folder, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
with DetachedExecutor(name="n", store=store, workers=2, timings=patient_timings(store)) as ex:
    print("attached", flush=True)
    for first in range(0, n, 50):
        items = [(folder, i, bytes([i % 256]) * (2_000 if i % 7 == 0 else 10)) for i in range(first, min(n, first + 50))]
        futures = ex.map_once(_length, items)
        print("submitted", first, flush=True)
    futures = ex.map_once(_length, [(folder, i, bytes([i % 256]) * (2_000 if i % 7 == 0 else 10)) for i in range(n)])
    print("result", sum(future.result() for future in futures), flush=True)
"""


def _run_and_kill(store_url: str, folder: Path, n: int, *, rounds: int, kill_s: Callable[[], float]) -> None:
    root = str(Path(__file__).parents[2])
    for _ in range(rounds):
        program = run_python(SCRIPT, store_url, str(folder), str(n), root)
        with closing(program.stdout) as lines:
            assert lines is not None
            assert lines.readline() == "attached\n"
            with_timer = threading.Timer(kill_s(), kill, (program.pid, signal.SIGKILL))
            with_timer.start()
            for _line in lines:
                pass
            with_timer.cancel()
            with_timer.join()
            program.wait()
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT, store_url, str(folder), str(n), root],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    ).stdout
    assert f"result {sum(2_000 if i % 7 == 0 else 10 for i in range(n))}\n" in said


def _check_each_once(store_url: str, folder: Path, n: int) -> None:
    executor = DetachedExecutor.reattach("n", store=store_url, launcher="none")
    try:
        assert len(executor.futures) == n
        assert wait_until(lambda: executor.status().completed) == n
        assert set(runs_in(folder)) == set(map(str, range(n)))
        assert [future.result(60) for future in executor.futures if future.run > 1] == []
    finally:
        executor.cleanup(force=True)


def test_a_script_that_is_killed_and_run_again_does_each_item_once(store_url: str, tmp_path: Path) -> None:
    lots = random.Random(7)
    _run_and_kill(store_url, tmp_path, 120, rounds=2, kill_s=lambda: lots.uniform(0.0, 0.6))
    assert runs_in(tmp_path) == Counter({str(n): 1 for n in range(120)})
    _check_each_once(store_url, tmp_path, 120)


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_a_script_that_is_killed_twenty_times_does_each_item_once(store_url: str, tmp_path: Path) -> None:
    lots = random.Random(20)
    _run_and_kill(store_url, tmp_path, 1_000, rounds=20, kill_s=lambda: lots.uniform(0.0, 2.0))
    assert runs_in(tmp_path) == Counter({str(n): 1 for n in range(1_000)})
    _check_each_once(store_url, tmp_path, 1_000)
