"""Executors and futures in coroutines, on both stores with real workers: nothing blocks the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import pytest

from starburst_executor import DetachedExecutor, StarburstExecutor
from starburst_executor.client.loops import in_event_loop
from starburst_executor.store.tries import Tries
from tests.sessions import detached, timings_for, wait_until

PATIENCE_S = 60.0


def square(x: int) -> int:
    if x == 13:
        raise ValueError(x)
    return x * x


def wait_for_file(path: str) -> str:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return path


@pytest.fixture(autouse=True)
def no_request_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the test if a request was made in a thread with a running event loop: it would block the loop."""
    made: list[str] = []
    ask = Tries._try

    def checked(self: Tries, *arguments: Any) -> Any:
        if in_event_loop():
            made.append(threading.current_thread().name)
        return ask(self, *arguments)

    monkeypatch.setattr(Tries, "_try", checked)
    yield
    assert made == []


async def all_ways(executor: StarburstExecutor, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    # Submitted and awaited, before and after they are done.
    futures = [executor.submit(square, x) for x in range(5)]
    assert await asyncio.gather(*futures) == [0, 1, 4, 9, 16]
    assert await futures[2] == 4
    assert await asyncio.wrap_future(executor.submit(square, 5)) == 25
    assert await loop.run_in_executor(executor, square, 6) == 36
    with pytest.raises(ValueError, match="13"):
        await executor.submit(square, 13)
    # In order, whatever the number that is on its way.
    queued = await asyncio.gather(*(executor.submit_async(square, x) for x in range(30)))
    assert [future.index for future in queued] == list(range(8, 38))
    assert {future async for future in executor.as_completed_async(queued)} == set(queued)
    assert queued[7].result() == 49
    # One task occupies the worker, so that the others wait.
    may_end = folder / "may-end"
    running = executor.submit(wait_for_file, str(may_end))
    while not running.running():
        await asyncio.sleep(0.01)
    pending, kept, other = (executor.submit(wait_for_file, str(may_end)) for _ in range(3))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(kept), 0.01)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pending, 0.01)
    assert not other.cancel() or other.cancelled()
    while not (pending.cancelled() and other.cancelled()):
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await pending
    assert not running.cancel(), "a worker has claimed it"
    ends = executor.as_completed_async([kept, pending], timeout=0.5)
    assert await anext(ends) is pending
    with pytest.raises(FutureTimeoutError, match=r"1 \(of 2\) futures unfinished"):
        await anext(ends)
    may_end.touch()
    assert await kept == await running == str(may_end)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, PATIENCE_S))


def test_an_attached_executor_in_coroutines(store_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        executor = await asyncio.to_thread(
            StarburstExecutor, workers=1, store=store_url, timings=timings_for(store_url)
        )
        async with executor:
            await all_ways(executor, tmp_path)
            with pytest.raises(TypeError, match="does not keep its futures"):
                executor.as_completed_async()
        with pytest.raises(RuntimeError, match="after shutdown"):
            await executor.submit_async(square, 1)

    run(main())


def test_a_session_that_was_left_is_awaited_again(store_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        first = await asyncio.to_thread(detached, store_url, workers=1)
        async with first:
            await first.submit_async(square, 2)
        executor = await asyncio.to_thread(DetachedExecutor.reattach, first.id)
        with pytest.raises(RuntimeError, match="submit_async"):
            executor.submit(square, 3)
        third = await executor.submit_async(square, 3)
        fourth = executor.submit(square, 4)
        values = [await future async for future in executor.as_completed_async()]
        assert sorted(values) == [4, 9, 16]
        assert (third.task_id, fourth.task_id) == ("1-0", "1-1")
        # After it has left, a future that is awaited attaches again.
        fifth = await executor.submit_async(wait_for_file, str(tmp_path / "may-end"))
        await asyncio.to_thread(executor.detach)
        (tmp_path / "may-end").touch()
        assert await fifth == str(tmp_path / "may-end")
        await asyncio.to_thread(executor.cleanup, force=True)

    run(main())


def test_a_coroutine_that_is_cancelled_while_it_submits_cancels_its_task(tmp_path: Path) -> None:
    class Slow:
        """Takes as long to pickle as the test wants."""

        def __reduce__(self) -> tuple[type[int], tuple[int]]:
            begun.set()
            assert may_go_on.wait(PATIENCE_S)
            return int, (7,)

    begun, may_go_on = threading.Event(), threading.Event()

    async def main() -> None:
        executor = await asyncio.to_thread(
            DetachedExecutor, workers=1, store=f"sqlite://{tmp_path}/sessions", launcher="none"
        )
        waits = asyncio.ensure_future(executor.submit_async(square, Slow()))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        may_go_on.set()
        await executor.submit_async(square, 8)
        # If it was cancelled before anything was sent, the store never has it.
        expected = ([True, False], [False])
        await asyncio.to_thread(wait_until, lambda: [future.cancelled() for future in executor.futures] in expected)
        await asyncio.to_thread(executor.cleanup, force=True)

    run(main())
