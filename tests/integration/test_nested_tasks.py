"""Tasks that submit tasks to their own session, on both stores with real workers: without a deadlock, and each child once."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from starburst_executor import DependencyFailed, DetachedExecutor, StarburstExecutor, current_task
from starburst_executor.client.future import StarburstFuture
from starburst_executor.context import TaskExecutor
from tests.sessions import kill, timings_for, wait_until, worker_pids


def executor_here() -> TaskExecutor:
    task = current_task()
    assert task is not None
    return task.executor()


def marked(folder: str, value: int) -> int:
    with (Path(folder) / "runs").open("a", encoding="utf-8") as file:
        file.write(f"{value}\n")
    return value


def runs_in(folder: Path) -> Counter[str]:
    return Counter((folder / "runs").read_text(encoding="utf-8").split())


def add(*values: int) -> int:
    return sum(values)


def fibonacci(n: int) -> int:
    if n <= 1:
        return n
    with executor_here() as executor:
        return sum(executor.map(fibonacci, [n - 1, n - 2]))


def test_a_task_waits_for_its_own_tasks_on_a_worker_with_one_slot(store_url: str) -> None:
    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        assert executor.submit(fibonacci, 3 if store_url.startswith("sqlite:") else 2).result(60) in (1, 2)
        assert executor.submit(add, 1, 2).result(60) == 3


def unfinished_sum(folder: str, numbers: list[int]) -> StarburstFuture[int]:
    """Return the future of a sum, for which this task does not wait."""
    executor = executor_here()
    labelled = executor.options(label="part", priority=1)
    parts = [labelled.submit(marked, folder, number) for number in numbers]
    return executor.submit(add, *parts)  # type: ignore[return-value]


def test_a_returned_future_is_the_clients_and_waits_for_other_tasks(store_url: str, tmp_path: Path) -> None:
    with StarburstExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        future = executor.submit(unfinished_sum, str(tmp_path), [1, 2, 3]).result(60)
        assert future.result(60) == 6
        assert runs_in(tmp_path) == Counter("123")


def parent(folder: str, go: str) -> list[int]:
    """Submit children, and be killed; in the next attempt, submit the same in another order."""
    with executor_here() as executor:
        numbers = range(8) if not Path(go).exists() else range(11, -1, -1)
        futures = [executor.options(label=f"child {n % 4}").submit(marked, folder, n % 10) for n in numbers]
        if not Path(go).exists():
            wait_until(lambda: all(future.done() for future in futures))
            Path(go).write_text(str(os.getpid()), encoding="utf-8")
            threading.Event().wait()
        return [future.result() for future in futures]


def test_the_children_of_a_killed_attempt_are_those_of_the_next_one(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = DetachedExecutor(workers=1, store=store_url, timings=timings_for(store_url))
    future = executor.submit(parent, str(tmp_path), str(go))
    wait_until(go.exists)
    for pid in worker_pids(executor):
        kill(pid)
    assert future.result(60) == [1, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    # 0 and 1 were asked for once more than before, 8 and 9 for the first time.
    assert runs_in(tmp_path) == Counter("0123456789") + Counter("01")
    executor.detach()
    again = DetachedExecutor.reattach(executor.id, store=store_url)
    assert len(list(again.as_completed(60))) == 1 + 12
    assert again.status(by="label")["child 1"].completed == 4
    again.cleanup(force=True)


def fails_once(folder: str) -> int:
    if marked(folder, 1) and runs_in(Path(folder))["1"] == 1:
        raise ValueError("once")
    return 7


def waits_for_a_failing_one(folder: str) -> int:
    with executor_here() as executor:
        good, bad = executor.submit(marked, folder, 2), executor.submit(fails_once, folder)
        return int(bad.result()) + int(good.result())


def test_what_has_failed_runs_again_with_a_retry_and_nothing_else(tmp_path: Path) -> None:
    with DetachedExecutor(workers=1, store=f"sqlite://{tmp_path}/store", timings=timings_for("sqlite:")) as executor:
        future = executor.options(retries=1).submit(waits_for_a_failing_one, str(tmp_path))
        assert future.result(60) == 9
        assert runs_in(tmp_path) == Counter({"1": 2, "2": 1})
        executor.cleanup(force=True)


def asks_from_a_thread() -> str:
    task, texts = current_task(), list[str]()
    assert task is not None

    def ask() -> None:
        try:
            task.executor()
        except RuntimeError as error:
            texts.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    with task.executor() as executor:
        used = threading.Thread(target=lambda: texts.append(str(executor.submit(add, 1, 1).result())))
        used.start()
        used.join()
    try:
        executor.submit(add, 1)
    except RuntimeError as error:
        texts.append(str(error))
    with task.executor() as executor:  # again
        texts.append(str(executor.submit(add, 1, 1).result()))
    return "|".join(texts)


def test_an_executor_is_asked_for_by_the_tasks_thread_and_used_by_any(tmp_path: Path) -> None:
    with StarburstExecutor(workers=1, store=f"sqlite://{tmp_path}/store", timings=timings_for("sqlite:")) as executor:
        first, *others = executor.submit(asks_from_a_thread).result(60).split("|")
        assert "in the thread that runs it" in first
        assert others == ["2", "cannot schedule new futures after shutdown of a task's executor", "2"]


def fails_upstream(folder: str) -> str:
    with executor_here() as executor:
        error = executor.submit(add, executor.submit(fails_once, folder)).exception()
    return type(error).__name__


def test_children_fail_by_dependency(tmp_path: Path) -> None:
    with StarburstExecutor(workers=1, store=f"sqlite://{tmp_path}/store", timings=timings_for("sqlite:")) as executor:
        assert executor.submit(fails_upstream, str(tmp_path)).result(60) == DependencyFailed.__name__


def test_outside_of_a_worker_there_is_no_such_executor() -> None:
    from starburst_executor import context

    context.enter("a-session", 0, 1, 1)
    try:
        with pytest.raises(RuntimeError, match="in its client's process"):
            executor_here()
    finally:
        context.leave()
