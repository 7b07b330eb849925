"""A client that has left comes back for the futures that are asked for, and leaves again."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from starburst_executor.client import returning
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.returning import Returning
from starburst_executor.client.watched import Place
from starburst_executor.errors import ExecutorBroken, SessionNotFound, StarburstError
from starburst_executor.protocol.keys import StatusRef
from starburst_executor.testing import FakeClock

PATIENCE_S = 20.0


class Visitor:
    """A client that has come back: knows which places it watches."""

    def __init__(self) -> None:
        self.watched: list[Place] = []
        self.cancelled: list[StarburstFuture[Any]] = []
        self.found: list[StarburstFuture[Any]] = []
        self.n_stored = 8  # tasks
        self.failed = False
        self.left = threading.Event()
        self.has_watched = threading.Event()

    def watch(self, place: Place) -> None:
        self.watched.append(place)
        self.has_watched.set()

    def find(self, futures: list[StarburstFuture[Any]]) -> list[StarburstFuture[Any]]:
        self.found += [future for future in futures if future.index < self.n_stored]
        return [future for future in futures if future.index >= self.n_stored]

    def cancel(self, futures: list[StarburstFuture[Any]], *, running: bool = False) -> int:
        self.cancelled += futures
        return len(futures)

    def has_failed(self) -> bool:
        return self.failed

    def leave(self) -> None:
        self.left.set()


class Left:
    """A client with six tasks in two status objects that has left."""

    has_left = True

    def __init__(self) -> None:
        self.clock = FakeClock(held=True)
        self.visitors: list[Visitor] = []
        self.error: BaseException | None = None
        self.may_attach = threading.Event()
        self.may_attach.set()
        self.futures: list[StarburstFuture[int]] = [StarburstFuture(self, 0, i) for i in range(6)]
        places = [
            Place(f"key-{first}", StatusRef(0, first, 3, 0), {i: [self.futures[first + i]] for i in range(3)})
            for first in (0, 3)
        ]
        self.returning = Returning(self._attach, self._named, places, "a-session", self.clock)
        self.ask_again = self.returning.ask
        self.cancel = self.returning.cancel

    def reattacher(self) -> None:
        return None

    def _attach(self) -> Visitor:
        assert self.may_attach.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        self.visitors.append(Visitor())
        return self.visitors[-1]

    @staticmethod
    def _named(error: BaseException) -> StarburstError:
        return error if isinstance(error, StarburstError) else ExecutorBroken(str(error))

    def visitor(self, number: int = 1) -> Visitor:
        """The first, or another one, once it has something to watch."""
        until = time.monotonic() + PATIENCE_S
        while len(self.visitors) < number:
            assert time.monotonic() < until
        assert self.visitors[number - 1].has_watched.wait(PATIENCE_S)
        return self.visitors[number - 1]

    def lingers(self, seconds: float) -> None:
        """Let time pass while a visit lasts, in steps each of which its thread sees."""
        for _ in range(int(seconds / returning._LOOK_S)):
            self.clock.wait_waiting(1, PATIENCE_S)
            self.clock.advance(returning._LOOK_S)


@pytest.fixture
def left() -> Iterator[Left]:
    left = Left()
    yield left
    for future in left.futures:
        future.complete(0, None)
    for visitor in left.visitors:
        visitor.failed = True
        while not visitor.left.wait(0.01):
            left.clock.advance(1.0)


def keys(visitor: Visitor) -> list[str]:
    return [place.key for place in visitor.watched]


def test_nothing_is_done_until_a_future_is_asked_for(left: Left) -> None:
    assert left.visitors == []
    assert not left.futures[4].done()
    assert keys(left.visitor()) == ["key-3"]


def test_futures_of_one_object_are_watched_once_and_together(left: Left) -> None:
    for _ in range(3):
        assert not any(future.done() for future in left.futures[:3])
    visitor = left.visitor()
    assert keys(visitor) == ["key-0"]
    assert not left.futures[5].running()
    while len(visitor.watched) < 2:
        visitor.left.wait(0.001)
    assert keys(visitor) == ["key-0", "key-3"]
    assert len(left.visitors) == 1


def test_it_leaves_when_nothing_is_asked_for_any_more_and_comes_back(left: Left) -> None:
    left.futures[0].done()
    first = left.visitor()
    left.lingers(returning._LINGER_S / 2)
    left.futures[0].done()
    left.lingers(returning._LINGER_S - 1)
    assert not first.left.is_set()
    left.clock.advance(2.0)
    assert first.left.wait(PATIENCE_S)
    left.futures[0].done()
    assert keys(left.visitor(2)) == ["key-0"]


def test_it_stays_while_a_thread_waits(left: Left) -> None:
    thread = threading.Thread(target=left.futures[0].result)
    thread.start()
    visitor = left.visitor()
    left.lingers(5 * returning._LINGER_S)
    assert not visitor.left.is_set()
    left.futures[0].complete(1, None)
    thread.join(PATIENCE_S)
    # The visit's last look was just before that, or comes just after.
    until = time.monotonic() + PATIENCE_S
    while not visitor.left.wait(0.01):
        assert time.monotonic() < until
        left.clock.advance(returning._LOOK_S)


@pytest.mark.parametrize(
    "error", [SessionNotFound("it was deleted"), RuntimeError("no credentials"), SystemExit("odd")]
)
def test_what_keeps_it_away_is_on_the_futures_that_were_asked_for_alone(left: Left, error: BaseException) -> None:
    left.error = error
    told = left.futures[0].exception(PATIENCE_S)
    assert isinstance(told, SessionNotFound if isinstance(error, SessionNotFound) else ExecutorBroken)
    left.error = None
    assert not left.futures[1].done()
    assert keys(left.visitor()) == ["key-0"]


def test_when_it_fails_there_another_visit_is_made_for_who_asks_later(left: Left) -> None:
    left.futures[0].done()
    first = left.visitor()
    first.failed = True
    left.futures[4].done()
    assert first.left.wait(PATIENCE_S)
    left.futures[4].done()
    left.futures[1].done()
    while len(left.visitors) < 2:
        left.futures[1].done()
    assert set(keys(left.visitor(2))) <= {"key-0", "key-3"}


def test_cancelling_attaches_first(left: Left) -> None:
    assert left.cancel(left.futures[1:3]) == 2
    (visitor,) = left.visitors
    assert visitor.cancelled == left.futures[1:3]
    assert keys(visitor) == ["key-0"]


def test_cancelling_where_it_cannot_attach_says_so_on_the_future(left: Left) -> None:
    left.error = SessionNotFound("it was deleted")
    assert not left.futures[0].cancel()
    assert isinstance(left.futures[0].exception(0), SessionNotFound)


def test_one_that_was_never_acknowledged_says_so(left: Left) -> None:
    lost: StarburstFuture[Any] = StarburstFuture(left, 0, 17)
    assert isinstance(lost.exception(PATIENCE_S), ExecutorBroken)


def test_where_no_thread_can_be_started_the_caller_hears_at_once(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        for ask in (left.futures[0].result, left.futures[0].done, left.futures[0].cancel):
            with pytest.raises(RuntimeError, match=r"DetachedExecutor\.reattach\('a-session'\)"):
                ask()
    assert not left.futures[0].done()
    assert keys(left.visitor()) == ["key-0"]


def test_futures_that_the_program_has_dropped_are_not_brought_along(left: Left) -> None:
    asked = left.futures[4]
    del left.futures[5], left.futures[3]
    gc.collect()
    assert not asked.done()
    (place,) = left.visitor().watched
    assert place.futures == {1: [asked]}


def test_a_future_made_anew_is_watched_where_its_task_is(left: Left) -> None:
    anew: StarburstFuture[int] = StarburstFuture(left, 0, 4)
    assert not anew.done()
    (place,) = left.visitor().watched
    assert any(anew is future for future in place.futures[1])
    anew.complete(0, None)


def test_a_future_of_an_object_that_had_ended_is_found(left: Left) -> None:
    anew: StarburstFuture[int] = StarburstFuture(left, 0, 7)
    lost: StarburstFuture[int] = StarburstFuture(left, 0, 9)
    for future in (left.futures[0], anew, lost):
        assert not future.done()
    visitor = left.visitor()
    assert isinstance(lost.exception(PATIENCE_S), ExecutorBroken)
    assert anew in visitor.found
    anew.complete(0, None)


def test_a_visit_that_lasts_holds_nothing_that_is_done(left: Left) -> None:
    assert not left.futures[0].done()
    left.visitor()
    done = weakref.ref(left.futures[1])
    left.futures[1].complete(0, None)
    del left.futures[1]
    left.visitors[0].watched.clear()
    left.lingers(1.0)
    until = time.monotonic() + PATIENCE_S
    while done() is not None:  # the visit's thread takes its last step beside this one
        assert time.monotonic() < until
        gc.collect()
