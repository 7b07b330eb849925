"""The futures of a detached session: made when they are asked for, and held no longer than by the program."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from dataclasses import replace
from typing import Any

import pytest

from starburst_executor import config
from starburst_executor.client import tasks as tasks_module
from starburst_executor.client.engine import Engine
from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.opening import Opened
from starburst_executor.clock import SystemClock
from starburst_executor.config import SessionKey, Timings
from starburst_executor.session.store import SessionStore
from starburst_executor.store.patient import PatientStore
from tests.support.session_rig import KEY, SESSION, Rig

PATIENCE_S = 30.0


class Client:
    """A detached session of five objects with ten tasks each, and a client that has just attached."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.rig = Rig(clock=clock, timings=replace(Timings.embedded(), beat_s=0.2))
        self.keys = [self.rig.submit(10, first=first) for first in range(0, 50, 10)]
        store = PatientStore(self.rig.faulty, clock, patience_s=0.2)
        session = SessionStore(store, SESSION, self.rig.sealer, clock)
        session.manifest.refresh()
        settings = config.resolve(detached=True, store="sqlite:///unused", workers=4)
        self.engine = Engine(
            Opened(session, store, SessionKey(KEY)), None, clock, detached=True, ordinal=None, settings=settings
        )
        self.tasks = self.engine.tasks

    def end(self, value: object = 8) -> None:
        for key in self.keys:
            self.rig.end(key, value)

    def watched(self) -> int:
        return len(self.engine.parts.futures.unfinished())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(tasks_module, "_KEPT_BYTES", 10 * (tasks_module._FUTURE_BYTES + 2000))
    client = Client()
    yield client
    client.engine.leave()


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        gc.collect()
        time.sleep(0.01)


def n_alive() -> int:
    gc.collect()
    return sum(type(each) is StarburstFuture for each in gc.get_objects())


def test_outcomes_are_held_by_the_program_alone_up_to_a_bound(client: Client) -> None:
    before = n_alive()
    client.end(b"x" * 1000)
    client.engine.start()
    for future in as_completed(client.tasks.all(), PATIENCE_S):
        assert future.result() == b"x" * 1000
    del future
    wait_until(lambda: n_alive() - before <= 20)
    assert n_alive() > before, "the last ones stay, for whoever asks again"


def test_who_holds_a_future_gets_that_very_one(client: Client) -> None:
    client.end(b"x" * 1000)
    client.engine.start()
    held = client.tasks.all()
    for future in held:
        future.result(PATIENCE_S)
    assert all(one is other for one, other in zip(client.tasks.all(), held, strict=True))
    assert client.tasks.find(0, 7) is held[7]
    with client.rig.requests() as requests:
        assert [future.result(0) for future in client.tasks.all()] == [b"x" * 1000] * 50
    assert "get" not in requests


def test_what_was_dropped_is_made_anew_and_read_again(client: Client) -> None:
    client.end(b"x" * 1000)
    client.engine.start()
    gone = weakref.ref(client.tasks.all()[0])
    wait_until(lambda: client.watched() == 0 and gone() is None)
    futures = client.tasks.all()
    assert [(future.ordinal, future.index) for future in futures] == [(0, i) for i in range(50)]
    assert [future.result(PATIENCE_S) for future in futures] == [b"x" * 1000] * 50


def test_a_future_that_was_dropped_calls_its_callbacks(client: Client) -> None:
    called: list[object] = []
    for future in client.tasks.all():
        future.add_done_callback(lambda done: called.append(done.result()))
    del future
    gc.collect()
    client.engine.start()
    client.end()
    wait_until(lambda: len(called) == 50)


def test_the_future_of_one_task_reads_no_other_outcome(client: Client) -> None:
    client.engine.start()
    future = client.tasks.find(0, 17)
    assert future is not None
    assert client.watched() == 1
    client.end()
    assert future.result(PATIENCE_S) == 8
    assert client.tasks.find(0, 50) is None
    assert client.tasks.find(1, 0) is None


def test_a_client_that_has_left_tells_of_every_task_that_it_knew(client: Client, monkeypatch: Any) -> None:
    before = n_alive()  # futures of other tests in this process
    client.end(b"x" * 1000)
    client.engine.start()
    first = client.tasks.all()[0]
    wait_until(lambda: client.watched() == 0 and n_alive() < before + 40)
    client.engine.leave()
    left = client.tasks.known()
    assert [(future.ordinal, future.index) for future in left] == [(0, i) for i in range(50)]
    assert left[0] is first
    assert client.tasks.get(0, 49) is left[49]
    assert client.tasks.get(0, 50) is None
    asked: list[StarburstFuture[Any]] = []
    monkeypatch.setattr(client.engine.parts.futures.deputy, "ask", asked.append)
    fresh = [future for future in left if not future.done()]
    assert fresh
    assert asked == fresh
