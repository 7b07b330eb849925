"""`Ends` hears of each future once, in order, whatever kind of future it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from starburst_executor.client.ends import Ends
from starburst_executor.client.future import StarburstFuture

KINDS: list[Callable[[], Future[Any]]] = [Future, StarburstFuture]


@pytest.mark.parametrize("make", KINDS)
def test_ends_are_heard_once_and_in_order(make: Callable[[], Future[Any]]) -> None:
    done, first, failed, cancelled = (make() for _ in range(4))
    done.set_result(0)
    heard: list[int] = []
    ends = Ends([done, first, failed, cancelled, first], lambda: heard.append(1))
    assert ends.take() == [done]
    assert ends.n_left == 3
    failed.set_exception(ValueError())
    assert cancelled.cancel()
    cancelled.set_running_or_notify_cancel()
    first.set_result(1)
    assert ends.take() == [failed, cancelled, first]
    assert ends.take(0.0) == []
    assert ends.n_left == 0
    assert len(heard) == 4


@pytest.mark.parametrize("make", KINDS)
def test_a_thread_waits_for_the_next_end(make: Callable[[], Future[Any]]) -> None:
    future = make()
    ends = Ends([future])
    timer = threading.Timer(0.05, lambda: future.set_result(1))
    timer.start()
    assert ends.take(60.0) == [future]
    timer.join()


def test_a_future_is_let_go_when_nobody_waits_any_more() -> None:
    future: StarburstFuture[int] = StarburstFuture()
    ends = Ends([future])
    assert future.is_asked_for()
    ends.close()
    assert not future.is_asked_for()
    future.complete(1, None)
    assert ends.take() == []


def test_a_task_that_was_cancelled_in_the_store_is_heard_of() -> None:
    future: StarburstFuture[int] = StarburstFuture()
    ends = Ends([future])
    future.mark_running()
    future.mark_cancelled()
    assert ends.take() == [future]
