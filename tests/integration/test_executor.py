"""`StarburstExecutor` end to end on both stores: what CPython's own suite does not ask."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, wait
from pathlib import Path

import pytest

from starburst_executor import (
    ConfigError,
    DetachedExecutor,
    ExecutorBroken,
    Local,
    PayloadError,
    RemoteTraceback,
    StarburstExecutor,
    TaskCrashed,
    TaskFailed,
    TaskTimeout,
    current_task,
)
from tests.sessions import descendants, is_alive, run_python, timings_for, wait_until, worker_pids
from tests.support.inside import engine_of, session_of, store_of


@pytest.fixture
def executor(store_url: str) -> Iterator[StarburstExecutor]:
    with StarburstExecutor(workers=2, store=store_url, timings=timings_for(store_url)) as made:
        yield made


class OddError(Exception):
    """Pickles and does not come back: its constructor wants more than its arguments."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(text)
        self.code = code


class FailsToUnpickle:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("this value cannot be rebuilt")


def raise_odd() -> None:
    raise OddError(3, text="odd one")


def test_lambdas_closures_and_keywords(executor: StarburstExecutor) -> None:
    base = 10

    def add(x: int, *, y: int = 0) -> int:
        return base + x + y

    assert executor.submit(add, 1, y=2).result() == 13
    assert list(executor.map(lambda x, y: x * y, [1, 2, 3], [4, 5, 6])) == [4, 10, 18]


def test_results_are_lazy_in_order_with_an_error_per_item(executor: StarburstExecutor) -> None:
    results = executor.map(lambda x: 10 // x, [5, 2, 0, 1], chunksize=4)
    assert next(results) == 2
    assert next(results) == 5
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "<lambda>" in str(caught.value.__cause__)


def test_results_from_nothing_to_many_megabytes(executor: StarburstExecutor) -> None:
    sizes = [0, 1, 100, 40_000, 200_000, 9_000_000]
    assert [len(value) for value in executor.map(bytes, sizes)] == sizes
    assert list(executor.map(len, [b"x" * size for size in sizes])) == sizes


def test_hundreds_of_middling_results(executor: StarburstExecutor) -> None:
    values = list(executor.map(lambda i: (i, bytes([i % 256]) * 5_000), range(300)))
    assert values == [(i, bytes([i % 256]) * 5_000) for i in range(300)]


def test_a_result_over_the_limit_fails_its_task_alone(store_url: str) -> None:
    with StarburstExecutor(
        workers=1, store=store_url, timings=timings_for(store_url), max_result_bytes=1000
    ) as executor:
        large, small = executor.submit(bytes, 5000), executor.submit(bytes, 5)
        with pytest.raises(PayloadError, match="max_result_bytes=1000"):
            large.result()
        assert small.result() == bytes(5)


def test_exceptions_that_do_not_survive_pickling_come_as_text(executor: StarburstExecutor) -> None:
    with pytest.raises(TaskFailed, match="odd one") as caught:
        executor.submit(raise_odd).result()
    assert caught.value.type_name.endswith("OddError")
    assert "raise_odd" in str(caught.value.__cause__)


def test_what_cannot_be_pickled_fails_on_its_future(executor: StarburstExecutor) -> None:
    lock = threading.Lock()
    argument = executor.submit(id, lock)
    function = executor.submit(lambda: lock)
    result = executor.submit(threading.Lock)
    for future in (argument, function, result):
        assert isinstance(future.exception(), TypeError)
    with pytest.raises(PayloadError, match="cannot be rebuilt"):
        executor.submit(FailsToUnpickle).result()
    assert executor.submit(pow, 2, 3).result() == 8


def test_exits_and_interrupts_of_a_task_are_its_own(executor: StarburstExecutor) -> None:
    with pytest.raises(SystemExit):
        executor.submit(sys.exit, 3).result()
    with pytest.raises(TaskCrashed, match="status 7"):
        executor.submit(os._exit, 7).result()
    with pytest.raises(TaskCrashed, match="SIGKILL"):
        executor.submit(lambda: os.kill(os.getpid(), signal.SIGKILL)).result()
    assert executor.submit(pow, 2, 3).result() == 8


def test_a_crash_costs_the_task_that_ran_and_no_other(executor: StarburstExecutor) -> None:
    def work(i: int) -> int:
        if i == 77:
            os._exit(1)
        return i

    futures = [executor.submit(work, i) for i in range(200)]
    assert [future.index for future in futures if future.exception() is not None] == [77]


def test_retries_run_a_failing_task_again(store_url: str, tmp_path: Path) -> None:
    marker = tmp_path / "tries"

    def flaky() -> int:
        with marker.open("a") as file:
            file.write("x")
        if marker.stat().st_size < 3:
            raise OSError("not yet")
        task = current_task()
        assert task is not None
        return task.index

    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url), retries=2) as executor:
        assert executor.submit(flaky).result() == 0
        assert marker.read_text() == "xxx"
        with pytest.raises(ZeroDivisionError):
            executor.submit(lambda: 1 / 0).result()


def test_task_timeout_stops_the_task_and_its_children(store_url: str, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    marker.touch()  # on a busy machine a second may be over before it has started anything

    def stall() -> None:
        child = subprocess.Popen(["sleep", "600"])
        marker.write_text(str(child.pid))
        child.wait()

    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url), task_timeout=1.0) as executor:
        with pytest.raises(TaskTimeout, match="task_timeout=1 s"):
            executor.submit(stall).result()
        wait_until(lambda: not (pid := marker.read_text()) or not is_alive(int(pid)))
        assert executor.submit(pow, 2, 3).result() == 8


def test_a_failing_initializer_breaks_the_executor_with_its_reason(store_url: str) -> None:
    def fail() -> None:
        raise RuntimeError("no licence found")

    with StarburstExecutor(workers=2, store=store_url, timings=timings_for(store_url), initializer=fail) as executor:
        futures = [executor.submit(pow, 2, i) for i in range(5)]
        for future in futures:
            with pytest.raises(ExecutorBroken, match="no licence found") as caught:
                future.result()
            assert isinstance(caught.value, BrokenExecutor)


def test_an_initializer_runs_once_in_each_process(executor: StarburstExecutor, store_url: str) -> None:
    def prepare(value: int) -> None:
        import builtins

        builtins.prepared = [*getattr(builtins, "prepared", []), value]  # type: ignore[attr-defined]

    def prepared() -> list[int]:
        import builtins

        return builtins.prepared  # type: ignore[attr-defined,no-any-return]

    with StarburstExecutor(2, None, prepare, (42,), store=store_url, timings=timings_for(store_url)) as other:
        assert all(other.submit(prepared).result() == [42] for _ in range(10))
    with pytest.raises(AttributeError):
        executor.submit(prepared).result()


def test_what_an_initializer_leaves_in_main_is_seen_by_the_tasks(store_url: str) -> None:
    code = textwrap.dedent(
        f"""
            from starburst_executor import StarburstExecutor
            model, cache, threshold = None, {{}}, 1
            def prepare(value):
                global model
                model = value
                cache["key"] = 2 * value
            def use(): return model, cache
            def limit(): return threshold
            with StarburstExecutor(1, initializer=prepare, initargs=(7,), store={store_url!r}) as executor:
                print(executor.submit(use).result(), *executor.map(lambda function: function(), [use]))
                print(executor.submit(limit).result())
                threshold = 2
                print(executor.submit(limit).result())
        """
    )
    assert run_python(code).communicate(timeout=100)[0].splitlines() == [
        "(7, {'key': 14}) (7, {'key': 14})",
        "1",
        "2",
    ]


def test_attempts_are_counted_for_the_task(store_url: str) -> None:
    def attempts() -> int:
        task = current_task()
        assert task is not None
        if task.attempt < 3:
            raise OSError(task.attempt)
        return task.attempt

    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url), retries=5) as executor:
        assert executor.submit(attempts).result() == 3


def test_cancel_takes_what_no_worker_has(executor: StarburstExecutor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    blockers = [executor.submit(_wait_for_file, str(go)) for _ in range(2)]
    wait_until(lambda: all(blocker.running() for blocker in blockers))
    waiting = [executor.submit(pow, 2, i) for i in range(20)]
    assert waiting[3].cancel()
    assert waiting[3].cancelled()
    with pytest.raises(CancelledError):
        waiting[3].result()
    assert not blockers[0].cancel()
    go.touch()
    done, not_done = wait(waiting)
    assert not not_done
    assert [future.index for future in done if future.cancelled()] == [waiting[3].index]


def test_executors_inside_tasks(executor: StarburstExecutor) -> None:
    def outer(n: int) -> int:
        from starburst_executor import StarburstExecutor

        with StarburstExecutor(workers=2) as inner:
            return sum(inner.map(pow, range(n), [2] * n))

    assert executor.submit(outer, 5).result() == 30


def test_modules_beside_the_script_environment_and_folder(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            f"""
            import os, beside
            from starburst_executor import StarburstExecutor
            class Point:
                def __init__(self, x): self.x = x
            def shift(point): return Point(point.x + 1)
            with StarburstExecutor(workers=2, store={store_url!r}) as executor:
                print(list(executor.map(beside.double, [1, 2, 3])))
                print(type(executor.submit(shift, Point(1)).result()) is Point)
                print(executor.submit(os.getcwd).result() == os.getcwd())
                print(list(executor.map(os.getenv, ["MARK", "STARBURST_KEY"])))
            """
        )
    )
    environment = {
        **os.environ,
        "MARK": "seen",
        "STARBURST_KEY": "ab" * 32,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True, text=True, cwd="/", env=environment, timeout=100, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[2, 4, 6]", "True", "True", "['seen', None]"]
    assert done.stderr == ""


def test_prints_show_up_in_the_client_and_are_captured(store_url: str) -> None:
    code = textwrap.dedent(
        f"""
        import sys
        from starburst_executor import StarburstExecutor
        def speak(i):
            print("out", i)
            print("err", i, file=sys.stderr)
        with StarburstExecutor(workers=1, store={store_url!r}) as executor:
            futures = [executor.submit(speak, i) for i in range(3)]
            for future in futures: future.result()
            print([executor.output(future) for future in futures])
        """
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    captured = [(f"out {i}\n", f"err {i}\n") for i in range(3)]
    assert sorted(done.stdout.splitlines()) == sorted([str(captured), "out 0", "out 1", "out 2"])
    assert sorted(done.stderr.splitlines()) == ["err 0", "err 1", "err 2"]


def test_nothing_is_left_behind_when_garbage_collected(store_url: str, tmp_path: Path) -> None:
    executor = StarburstExecutor(workers=2, store=store_url, timings=timings_for(store_url))
    futures = [executor.submit(pow, 2, i) for i in range(5)]
    future = futures[-1]
    future.result()
    pids = worker_pids(executor)
    engine = weakref.ref(engine_of(executor))
    assert pids
    del executor
    gc.collect()
    wait_until(lambda: not any(map(is_alive, pids)))
    wait_until(lambda: DetachedExecutor.list_sessions(store_url) == [])
    del futures, future
    wait_until(lambda: gc.collect() >= 0 and engine() is None)


def test_an_interpreter_that_ends_waits_for_its_tasks(store_url: str, tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        from starburst_executor import StarburstExecutor
        from pathlib import Path
        executor = StarburstExecutor(workers=2, store={store_url!r})
        for i in range(4):
            executor.submit(Path({str(tmp_path)!r}, str(i)).touch)
        """
    )
    subprocess.run([sys.executable, "-c", code], timeout=100, check=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit()) == ["0", "1", "2", "3"]


def test_workers_end_when_their_client_is_killed(store_url: str) -> None:
    code = textwrap.dedent(
        """
        import os, sys, time
        from starburst_executor import StarburstExecutor
        executor = StarburstExecutor(workers=2, store=sys.argv[1])
        futures = [executor.submit(time.sleep, 600) for _ in range(2)]
        while not all(future.running() for future in futures): time.sleep(0.01)
        print(executor.url, flush=True)
        sys.stdin.read()
        """
    )
    client = run_python(code, store_url)
    assert client.stdout is not None
    client.stdout.readline()
    # An agent, its nursery, two runners; a task is claimed a moment before its runner is there.
    wait_until(lambda: len(descendants(client.pid)) >= 4)
    beneath = descendants(client.pid)
    client.kill()
    client.wait()
    client.stdout.close()
    wait_until(lambda: not any(map(is_alive, beneath)))


def test_a_fork_of_the_users_program_does_no_harm(executor: StarburstExecutor) -> None:
    assert executor.submit(pow, 2, 3).result() == 8
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    def child() -> None:
        try:
            executor.submit(pow, 2, 3)
        except BaseException as error:
            queue.put((type(error).__name__, str(error)))

    process = context.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0
    name, text = queue.get()
    assert name == "ExecutorBroken"
    assert "another process" in text
    assert executor.submit(pow, 2, 4).result() == 16


def test_several_agents_and_two_executors_at_once(store_url: str) -> None:
    timings = timings_for(store_url)
    with (
        StarburstExecutor(workers=4, store=store_url, launcher=Local(agents=2), timings=timings) as one,
        StarburstExecutor(workers=1, store=store_url, timings=timings) as two,
    ):
        first, second = one.map(pow, range(50), [2] * 50), two.map(pow, range(50), [3] * 50)
        assert list(first) == [i**2 for i in range(50)]
        assert list(second) == [i**3 for i in range(50)]
        assert one._max_workers == 4
        assert len(worker_pids(one)) == 2


def test_max_tasks_per_child(store_url: str) -> None:
    with StarburstExecutor(
        workers=1, store=store_url, timings=timings_for(store_url), max_tasks_per_child=3
    ) as executor:
        pids = list(executor.map(lambda _: os.getpid(), range(9)))
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]


def test_leaving_deletes_every_object_and_keep_keeps_them(store_url: str) -> None:
    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        executor.submit(pow, 2, 3).result()
        store, folder = store_of(executor), session_of(executor).keys.folder
    assert store.list(folder) == []
    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url), keep=True) as executor:
        executor.submit(pow, 2, 3).result()
        store, folder = store_of(executor), session_of(executor).keys.folder
    assert len(store.list(folder)) >= 4


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="retries=-1"):
        StarburstExecutor(retries=-1)
    with pytest.raises(ConfigError, match="launcher='moon'"):
        StarburstExecutor(launcher="moon")
    with pytest.raises(ConfigError, match="ftp://x"):
        StarburstExecutor(store="ftp://x")


def _wait_for_file(path: str) -> None:
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


INTERRUPTED = """
import sys, time
from pathlib import Path
from starburst_executor import StarburstExecutor
_, store, folder, seconds, style = sys.argv
def work(i):
    Path(folder, str(i)).touch()
    time.sleep(float(seconds))
def all_tasks(executor):
    futures = [executor.submit(work, i) for i in range(100)]
    while sum(future.running() or future.done() for future in futures) < 2: time.sleep(0.01)
    try:
        print("running", flush=True)
        for future in futures: future.result()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
if style == "with":
    with StarburstExecutor(workers=2, store=store) as executor: all_tasks(executor)
else:
    executor = StarburstExecutor(workers=2, store=store)
    all_tasks(executor)
"""


@pytest.mark.parametrize("style", ["with", "without"])
def test_one_interrupt_cancels_what_has_not_begun(store_url: str, tmp_path: Path, style: str) -> None:
    folder = tmp_path / "ran"
    folder.mkdir()
    client = run_python(INTERRUPTED, store_url, str(folder), "1.0", style)
    assert client.stdout is not None
    assert client.stdout.readline() == "running\n"
    beneath = descendants(client.pid)
    client.send_signal(signal.SIGINT)
    assert client.wait(60) in (1, -signal.SIGINT, 130)
    client.stdout.close()
    assert len(list(folder.iterdir())) <= 50  # what had been claimed, of 100
    wait_until(lambda: not any(map(is_alive, beneath)))
    assert DetachedExecutor.list_sessions(store_url) == []


@pytest.mark.parametrize("style", ["with", "without"])
def test_a_second_interrupt_stops_at_once(store_url: str, tmp_path: Path, style: str) -> None:
    folder = tmp_path / "ran"
    folder.mkdir()
    client = run_python(INTERRUPTED, store_url, str(folder), "600", style)
    assert client.stdout is not None
    assert client.stdout.readline() == "running\n"
    beneath = descendants(client.pid)
    client.send_signal(signal.SIGINT)
    assert client.stdout.readline() == "interrupted\n"  # or two signals may come as one
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(1.0)
    client.send_signal(signal.SIGINT)
    assert client.wait(60) in (1, -signal.SIGINT, 130)
    client.stdout.close()
    wait_until(lambda: not any(map(is_alive, beneath)))
    assert DetachedExecutor.list_sessions(store_url) == []
