"""Futures that several may complete, and that are completed once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pytest

from starburst_executor.client.future import THREAD_PREFIX, StarburstFuture, for_each


class Store:
    """Cancels with the given answer, as the engine would."""

    def __init__(self, *, grants: bool = True, reattach: Any = None) -> None:
        self.grants = grants
        self.reattach = reattach
        self.asked: list[StarburstFuture[Any]] = []
        self.asked_again: list[StarburstFuture[Any]] = []

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        self.asked += futures
        for future in futures:
            if self.grants:
                future.mark_cancelled()
        return len(futures)

    def reattacher(self) -> Any:
        return self.reattach

    has_left = False

    def ask_again(self, future: StarburstFuture[Any]) -> None:
        self.asked_again.append(future)


def future_of(store: Store | None = None) -> StarburstFuture[Any]:
    return StarburstFuture(store or Store(), 2, 17)


def test_a_future_knows_its_task() -> None:
    future = future_of()
    assert (future.index, future.task_id) == (17, "2-17")


def test_what_comes_second_changes_nothing() -> None:
    future = future_of()
    future.complete(1, None)
    future.complete(2, None)
    future.complete(None, ValueError("late"))
    future.mark_cancelled()
    future.mark_running()
    assert future.result(0) == 1


@pytest.mark.parametrize("runs", [False, True])
def test_a_cancelled_future_tells_all_who_wait_once(runs: bool) -> None:
    future, called = future_of(), []
    future.add_done_callback(called.append)
    if runs:
        future.mark_running()
        assert future.running()
    future.mark_cancelled()
    future.mark_cancelled()
    future.complete(1, None)
    assert called == [future]
    assert future.cancelled()
    assert wait([future], timeout=0).done == {future}
    with pytest.raises(CancelledError):
        future.result(0)


def test_cancel_asks_the_store_and_says_what_came_of_it() -> None:
    granted, refused, done = Store(), Store(grants=False), Store()
    assert future_of(granted).cancel()
    assert not future_of(refused).cancel()
    assert len(refused.asked) == 1
    ended = future_of(done)
    ended.complete(1, None)
    assert not ended.cancel()
    assert done.asked == []


@pytest.mark.parametrize("steps", [("complete", "complete"), ("complete", "cancel"), ("cancel", "cancel")])
def test_two_at_once_complete_it_once(steps: tuple[str, str]) -> None:
    """Whoever is second must not fail: it is the collector, and every other future waits for it."""
    for _ in range(200):
        future, errors, called, start = future_of(), [], [], threading.Barrier(2)
        future.add_done_callback(called.append)
        acts: dict[str, Callable[[], None]] = {
            "complete": lambda f=future: f.complete(1, None),  # type: ignore[misc]
            "cancel": future.mark_cancelled,
        }

        def act(step: str, acts=acts, errors=errors, start=start) -> None:  # type: ignore[no-untyped-def]
            start.wait(10.0)
            try:
                acts[step]()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=act, args=(step,)) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10.0)
        assert errors == []
        assert called == [future]
        assert future.done()


def test_only_futures_of_a_session_that_can_be_found_again_are_pickled() -> None:
    with pytest.raises(TypeError, match="only futures of a DetachedExecutor"):
        pickle.dumps(future_of())
    copy = pickle.loads(pickle.dumps(future_of(Store(reattach=(complex_of, ("url",))))))
    assert copy == ("url", 2, 17)


def complex_of(*arguments: Any) -> tuple[Any, ...]:
    return arguments


# --- made when it is needed -------------------------------------------------------------------------------------------


def test_it_has_all_that_a_plain_future_has() -> None:
    future = future_of()
    assert all(hasattr(future, name) for name in vars(Future()))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = future.nonsense  # type: ignore[attr-defined]


def test_a_future_that_nobody_watches_is_small() -> None:
    n_futures, store = 1000, Store()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    futures = [StarburstFuture(store, 0, i) for i in range(n_futures)]
    n_bytes = (tracemalloc.get_traced_memory()[0] - before) / n_futures
    tracemalloc.stop()
    assert len(futures) == n_futures
    # A plain one has 1,700.
    assert n_bytes < 300


@pytest.mark.parametrize("watch", ["result", "callback", "wait", "as_completed"])
def test_who_begins_to_watch_as_it_ends_misses_nothing(watch: str) -> None:
    store, n_futures = Store(), 300
    futures: list[StarburstFuture[int]] = [StarburstFuture(store, 0, i) for i in range(n_futures)]
    called: list[StarburstFuture[int]] = []
    completer = threading.Thread(target=lambda: [future.complete(future.index, None) for future in futures])
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        completer.start()
        for future in futures:
            if watch == "callback":
                future.add_done_callback(called.append)
            elif watch == "wait":
                assert wait([future], timeout=60).done
            elif watch == "as_completed":
                assert [*as_completed([future], timeout=60)] == [future]
            assert future.result(60) == future.index
        completer.join()
    finally:
        sys.setswitchinterval(old)
    assert len(called) == (n_futures if watch == "callback" else 0)


def test_of_two_that_complete_it_at_once_one_counts() -> None:
    futures: list[StarburstFuture[int]] = [future_of() for _ in range(300)]
    callers = [
        threading.Thread(target=lambda value=value: [future.complete(value, None) for future in futures])
        for value in (1, 2)
    ]
    seen: list[list[int]] = []
    for caller in callers:
        caller.start()
    seen = [[future.result(60), future.result(60)] for future in futures]
    for caller in callers:
        caller.join()
    assert [future.result() for future in futures] == [first for first, _ in seen] == [second for _, second in seen]


def test_a_fork_while_another_thread_completes_futures_blocks_nothing() -> None:
    futures: list[StarburstFuture[int]] = [future_of() for _ in range(20_000)]
    completer = threading.Thread(target=lambda: [future.complete(1, None) for future in futures])
    completer.start()
    for _ in range(5):
        if (pid := os.fork()) == 0:
            mine = future_of()
            mine.complete(1, None)
            mine.add_done_callback(lambda _: os._exit(0))
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    completer.join()


# --- callbacks that end threads ---------------------------------------------------------------------------------------


def leave(_: Future[Any]) -> None:
    sys.exit("a callback leaves")


def interrupt(_: Future[Any]) -> None:
    raise KeyboardInterrupt


def give_up(_: Future[Any]) -> None:
    raise GeneratorExit


@pytest.mark.parametrize("ends", [leave, interrupt, give_up])
@pytest.mark.parametrize("how", ["completed", "failed", "cancelled"])
def test_a_callback_ends_no_thread_of_the_client(ends: Callable[[Future[Any]], None], how: str) -> None:
    future, called, reached = future_of(), [], []
    future.add_done_callback(ends)
    future.add_done_callback(called.append)

    def collect() -> None:
        if how == "cancelled":
            future.mark_cancelled()
        else:
            future.complete(1, None if how == "completed" else ValueError("no"))
        reached.append(how)

    thread = threading.Thread(target=collect, name=f"{THREAD_PREFIX}collect")
    thread.start()
    thread.join(10.0)
    assert (called, reached) == ([future], [how])


def test_what_a_callback_raises_in_a_thread_of_the_users_is_raised_there_once_all_were_called() -> None:
    future, called = future_of(Store()), []
    future.add_done_callback(interrupt)
    future.add_done_callback(called.append)
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    assert future.cancelled()
    assert called == [future]


def test_several_are_completed_whatever_a_callback_of_one_raises() -> None:
    futures = [future_of() for _ in range(3)]
    futures[0].add_done_callback(leave)
    futures[1].add_done_callback(interrupt)
    with pytest.raises(SystemExit):
        for_each(futures, StarburstFuture.mark_cancelled)
    assert all(future.cancelled() for future in futures)


# --- of a client that has left ----------------------------------------------------------------------------------------


def as_completed_of(future: Future[Any]) -> None:
    with contextlib.suppress(TimeoutError, FutureTimeoutError):
        list(as_completed([future], timeout=0))


def result_of(future: Future[Any]) -> None:
    with contextlib.suppress(TimeoutError, FutureTimeoutError):
        future.result(0)


def exception_of(future: Future[Any]) -> None:
    with contextlib.suppress(TimeoutError, FutureTimeoutError):
        future.exception(0)


WAYS_TO_ASK: list[Callable[[Future[Any]], object]] = [
    result_of,
    exception_of,
    as_completed_of,
    lambda future: wait([future], timeout=0),
    lambda future: future.add_done_callback(lambda _: None),
    Future.done,
    Future.running,
    Future.cancelled,
    StarburstFuture.done,
    StarburstFuture.running,
    StarburstFuture.cancelled,
    lambda future: asyncio.run(first_of(future)),
]


async def first_of(future: Future[Any]) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.wrap_future(future), 0.001)


@pytest.mark.parametrize("was_watched", [False, True])
@pytest.mark.parametrize("ask", WAYS_TO_ASK)
def test_whatever_it_is_asked_its_owner_hears_of_it(ask: Callable[[Future[Any]], object], was_watched: bool) -> None:
    store = Store(grants=False)
    future = future_of(store)
    if was_watched:
        wait([future], timeout=0)
    store.has_left = True
    assert "state=pending" in repr(future)
    assert store.asked_again == []
    ask(future)
    assert set(store.asked_again) == {future}


@pytest.mark.parametrize("ask", WAYS_TO_ASK)
def test_one_that_is_done_asks_no_one(ask: Callable[[Future[Any]], object]) -> None:
    store = Store()
    future = future_of(store)
    store.has_left = True
    future.complete(1, None)
    ask(future)
    assert store.asked_again == []


def test_who_waits_at_the_moment_of_leaving_is_seen_or_asks() -> None:
    """The client sets `has_left` and looks who waits, at any moment of a caller's way into its wait."""
    for moment in range(40):
        store = Store()
        future = future_of(store)
        thread = threading.Thread(target=future.result)
        thread.start()
        for _ in range(moment * 20):
            pass
        store.has_left = True
        is_seen = future.is_asked_for()
        while not is_seen and not store.asked_again:
            assert thread.is_alive()
        future.complete(1, None)
        thread.join(10.0)


def test_waiters_and_callbacks_ask_for_it_until_it_is_done() -> None:
    future = future_of()
    assert not future.is_asked_for()
    result_of(future)
    assert not future.is_asked_for()
    future.add_done_callback(lambda _: None)
    assert future.is_asked_for()
    future.complete(1, None)
    assert not future.is_asked_for()
