"""Where code must not wait: in event loops, except those of notebooks; and what cancels without waiting."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from starburst_executor.client.cancelling import FuturesOfClient
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.loops import in_event_loop, in_notebook
from starburst_executor.client.threads import Threads


def test_an_event_loop_is_one_that_runs_in_this_thread() -> None:
    async def inside() -> tuple[bool, bool]:
        return in_event_loop(), await asyncio.to_thread(in_event_loop)

    assert asyncio.run(inside()) == (True, False)
    assert not in_event_loop()


def test_cells_of_a_notebook_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook()

    async def inside() -> bool:
        return in_event_loop()

    assert not asyncio.run(inside())
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda: elsewhere.append(asyncio.run(inside())))
    thread.start()
    thread.join()
    assert elsewhere == [True], "a loop of the user's own, in another thread"
    shell.config.clear()
    assert not in_notebook()
    assert asyncio.run(inside())


class Owner:
    """Records how it was asked to cancel."""

    has_left = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cancel(self, _: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        self.asked.append("waits")
        return 0

    def ask_to_cancel(self, _: StarburstFuture[Any], *, running: bool = False) -> None:
        self.asked.append("does not wait")

    def ask_again(self, _: StarburstFuture[Any]) -> None:
        raise AssertionError("it has not left")

    def reattacher(self) -> None:
        return None


def test_cancelling_waits_for_the_store_except_in_an_event_loop() -> None:
    owner = Owner()
    future: StarburstFuture[int] = StarburstFuture(owner)
    assert not future.cancel()

    async def inside() -> bool:
        return future.cancel()

    assert not asyncio.run(inside())
    future.complete(1, None)
    assert not asyncio.run(inside())
    assert owner.asked == ["waits", "does not wait"]


def test_many_that_are_cancelled_at_once_share_a_thread() -> None:
    class Slow(FuturesOfClient):
        def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
            cancelled.append(len(futures))
            threads.add(threading.current_thread())
            begun.set()
            assert may_go_on.wait(60)
            for future in futures:
                future.mark_cancelled()
            return len(futures)

    cancelled: list[int] = []
    threads: set[threading.Thread] = set()
    begun, may_go_on = threading.Event(), threading.Event()
    owner = Slow(None, None, Threads(lambda _: None), None, None)  # type: ignore[arg-type]  # not used here
    futures = [StarburstFuture[int](owner, 0, i) for i in range(1000)]
    owner.ask_to_cancel(futures[0])
    assert begun.wait(60)
    for future in futures[1:]:
        owner.ask_to_cancel(future)
    may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert all(future.cancelled() for future in futures)
    assert cancelled == [1, 999]
