"""Tasks that wait for other tasks, end to end on both stores, also with no client attached and while workers are killed."""

from __future__ import annotations

import os
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from starburst_executor import DependencyFailed, DetachedExecutor, Local, StarburstExecutor
from tests.sessions import descendants, kill, timings_for, wait_until, worker_pids
from tests.support.inside import session_of

N = 20


def add(a: int, b: int = 0, *more: int) -> int:
    return a + b + sum(more)


def kind(value: object) -> str:
    return type(value).__name__


def hold(go: str, value: int) -> int:
    Path(f"{go}.{value}").write_text(str(os.getpid()))
    wait_until(Path(go).exists)
    return value


def read(path: str) -> int:
    return int(Path(path).read_text())


def test_results_go_from_task_to_task(store_url: str) -> None:
    with StarburstExecutor(workers=2, store=store_url, timings=timings_for(store_url)) as executor:
        first = executor.submit(add, 1, 2)
        chain = first
        for _ in range(4):
            chain = executor.submit(add, chain, 1)
        assert executor.submit(add, first, chain, chain, first).result(60) == 3 + 7 + 7 + 3
        assert executor.submit(add, 1, b=chain).result(60) == 8
        # All were submitted at once, and wait for each other.
        ends = executor.map(add, range(N), [executor.submit(add, i) for i in range(N)])
        assert list(ends) == [2 * i for i in range(N)]
        assert executor.submit(kind, executor.submit(bytes, 200_000)).result(60) == "bytes"


def test_a_future_inside_of_an_argument_is_refused_with_what_to_do(store_url: str) -> None:
    with DetachedExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        error = executor.submit(len, [executor.submit(add, 1, 2)]).exception(60)
        executor.cleanup(force=True)
    assert isinstance(error, RuntimeError)
    assert "pass the future as an argument itself" in str(error)
    assert "instead of a future of another session its result" in str(error)


def test_an_error_is_passed_on_and_a_retry_of_its_task_runs_those_that_wait_for_it(
    store_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "number"
    with DetachedExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        first = executor.submit(read, str(path))
        waiting = executor.submit(add, executor.submit(add, first, 1), 1)
        error = waiting.exception(60)
        assert isinstance(error, DependencyFailed)
        assert f"task={first.task_id}" in str(error.__cause__)
        assert isinstance(error.__cause__, DependencyFailed)
        assert isinstance(error.__cause__.__cause__, FileNotFoundError)
        cancelled = executor.submit(hold, str(tmp_path / "go"), 1)
        wait_until((tmp_path / "go.1").exists)
        unclaimed = executor.submit(hold, str(tmp_path / "go"), 2)
        after = executor.submit(add, unclaimed)
        executor.flush()
        assert unclaimed.cancel()
        (tmp_path / "go").touch()
        assert isinstance(after.exception(60), DependencyFailed)
        assert "cancelled" in str(after.exception())
        assert cancelled.result(60) == 1
        path.write_text("40")
        again = {future.task_id: future for future in executor.retry_failed(tasks=[first.task_id])}
        assert len(again) == 3
        assert again[waiting.task_id].result(60) == 42
        # A future inside of another object is not waited for: it stays a future, and a worker does not attach to its session.
        assert isinstance(executor.submit(kind, [first]).exception(60), RuntimeError)
        blocked = executor.submit(add, executor.submit(hold, str(tmp_path / "never"), 3))
        wait_until((tmp_path / "never.3").exists)
        executor.flush()
        assert executor.status().pending == 1
        assert blocked.cancel()
        with pytest.raises(CancelledError):
            blocked.result()
        executor.cleanup(force=True)


def test_what_waits_for_a_lost_workers_task_runs_with_no_client_attached(store_url: str, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = DetachedExecutor(
        workers=2, store=store_url, timings=timings_for(store_url), launcher=Local(agents=2), keep=True
    )
    with executor:
        first = executor.submit(hold, str(go), 1)
        second = executor.submit(add, first, 1)
        third = executor.submit(add, second, first)
        runner = int(wait_until(lambda: (tmp_path / "go.1").exists() and (tmp_path / "go.1").read_text()))
        executor.flush()
        agents = worker_pids(executor)
        key, url = executor.key, executor.url
    (lost,) = [agent for agent in agents if runner in descendants(agent)]
    (tmp_path / "go.1").unlink()
    kill(lost)
    # The other worker takes the task back, and runs all three.
    wait_until((tmp_path / "go.1").exists)
    go.touch()
    with DetachedExecutor.reattach(url, key=key) as again:
        session = session_of(again)
        wait_until(lambda: all(line.size_class.has_ended for line in session.statuses.all()))
        results = {future.task_id: future.result(60) for future in again.futures}
        assert results == {first.task_id: 1, second.task_id: 2, third.task_id: 3}
        again.cleanup(force=True)
