"""What the executor of a running task does when its iterators, its task or its `with` block end, with the test in the place of the session."""

from __future__ import annotations

import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, cast

import pytest

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.nested import _results, _Use
from starburst_executor.context import Access, TaskContext
from starburst_executor.errors import StoreUnavailable
from tests.sessions import wait_until


class Guest:
    """The client of the process."""

    def __init__(self) -> None:
        self.cancelled: list[StarburstFuture[Any]] = []
        self.cancels_soon: list[StarburstFuture[Any]] = []
        self.waiting: list[StarburstFuture[Any]] = []

    def cancel_all(self, futures: list[StarburstFuture[Any]]) -> None:
        self.cancelled += futures

    def cancel_soon(self, futures: list[StarburstFuture[Any]]) -> None:
        self.cancels_soon += futures

    def forget(self, error: BaseException) -> None:
        for future in self.waiting:
            future.complete(None, error)


class Rig:
    def __init__(self) -> None:
        self.guest, self.n_resumed = Guest(), 0
        access = Access("sqlite:///unused/s", b"k" * 32, lambda: True, self._resume, lambda: "")
        self.use = _Use(TaskContext("a-session", "0-0", 0, 1), access, cast("Any", self.guest))

    def _resume(self) -> None:
        self.n_resumed += 1

    def futures(self, n: int) -> list[StarburstFuture[Any]]:
        self.guest.waiting += (made := [StarburstFuture(None, 1, i) for i in range(n)])
        return made


def test_a_result_that_takes_too_long_is_cancelled_with_those_behind_it() -> None:
    rig = Rig()
    futures = rig.futures(3)
    futures[0].complete(0, None)
    results = _results(rig.use, list(futures), until=rig.use.now())
    assert next(results) == 0
    with pytest.raises(FutureTimeoutError):
        next(results)
    assert set(rig.guest.cancelled) == set(futures[1:])
    assert list(results) == []


def test_an_iterator_that_is_closed_asks_nothing_of_the_store_in_that_thread() -> None:
    """The garbage collector may close it in any thread, which may hold the lock of the client's collector."""
    rig = Rig()
    futures = rig.futures(3)
    futures[0].complete(0, None)
    results = _results(rig.use, list(futures), until=None)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert rig.guest.cancelled == []
    assert set(rig.guest.cancels_soon) == set(futures[1:])
    futures[1].complete(1, None)
    rig.use.end()
    assert rig.guest.cancelled == [futures[2]], "the other thread may not have done so yet"


def test_a_task_keeps_its_outcome_if_what_it_has_dropped_cannot_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    def refused(_: object) -> None:
        raise StoreUnavailable("not now")

    monkeypatch.setattr(rig.guest, "cancel_all", refused)
    [future] = futures = rig.futures(1)
    rig.use.drop(futures)
    rig.use.end()
    assert isinstance(future.exception(0), RuntimeError)


def test_a_thread_that_shuts_down_after_the_end_of_the_task_sends_nothing() -> None:
    """The process sends the outcome meanwhile, and the place is the next task's."""
    rig = Rig()
    [future] = rig.use._submitted = rig.futures(1)
    thread = threading.Thread(target=lambda: rig.use.shut_down(wait=True, cancel=False))
    thread.start()
    wait_until(future.is_asked_for)
    rig.use.end()
    thread.join()
    assert rig.n_resumed == 0


def test_a_place_is_taken_back_each_time_it_was_lent() -> None:
    rig = Rig()
    for n in (1, 2):
        rig.use.shut_down(wait=True, cancel=False)
        rig.use.shut_down(wait=True, cancel=False)
        assert rig.n_resumed == n
        rig.use.lent_again()
