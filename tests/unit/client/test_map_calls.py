"""`map`: what it sends and when, what has a future, and what its iterator yields, with the test in the place of the workers."""

from __future__ import annotations

import gc
import os
import threading
from array import array
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from starburst_executor.client import plain_calls
from starburst_executor.client.cached import Caches
from starburst_executor.client.ends import Ends
from starburst_executor.client.future import THREAD_PREFIX, StarburstFuture
from starburst_executor.client.map_rows import MapRow
from starburst_executor.client.mapping import map_calls
from starburst_executor.client.ordered_results import OrderedResults
from starburst_executor.client.submitter import Submitter
from starburst_executor.client.task_options import NO_OPTIONS
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ExecutorBroken, StarburstError
from starburst_executor.protocol.outcomes import dump_error, dump_value
from starburst_executor.protocol.spans import blocks, transitions
from starburst_executor.protocol.spans.record import OutcomeBlock, State, Status
from starburst_executor.session.statuses import ListedStatus
from tests.sessions import wait_until
from tests.support.engine_rig import PATIENCE_S, Client


class Mapping:
    """One client whose maps the test works for."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.made: list[StarburstFuture[Any]] = []
        make = client.engine._new_future

        def counted(ordinal: int, index: int) -> StarburstFuture[Any]:
            self.made.append(make(ordinal, index))
            return self.made[-1]

        client.sending._new_future = counted

    def map(self, *iterables: Any, fn: Callable[..., Any] = pow, owner: object = None, **how: Any) -> Iterator[Any]:
        settings = {
            "timeout": None, "chunksize": 1, "buffersize": None, "progress": False, "ordered": True, "return_exceptions": False,
        }  # fmt: skip
        return map_calls(
            *(owner or self, self.client.engine, fn, iterables, NO_OPTIONS), **{**settings, **how}, caches=Caches()
        )

    def n_pending(self) -> int:
        """Return how many tasks are stored and pending, once all are stored."""
        assert self.client.sending.flush(PATIENCE_S)
        return self.states().count(State.PENDING)

    def states(self) -> list[State]:
        return [
            state for group in self.client.rig.another().statuses.all() for state in self.client.rig.states(group.key)
        ]

    def work(self, at_most: int = 2048, keys: Collection[str] | None = None) -> None:
        """Run tasks that are stored and pending, or those of these objects, with blocks of outcomes as workers write them."""
        rig = self.client.rig
        assert self.client.sending.flush(PATIENCE_S)
        for group in rig.another().statuses.all():
            if group.size_class.has_pending and (keys is None or group.key in keys):
                rig.write(group.key, partial(self._worked, group, at_most))
        self.client.engine.parts.collector.news.set()

    def _worked(self, group: ListedStatus, at_most: int, current: Status) -> Status:
        """Claim and complete in one step, so that no watcher finds a claim of a worker that does not beat."""
        rig, claim = self.client.rig, f"w.{group.etag}"
        current, _ = transitions.claim(current, claim, at_most=at_most, now=0.0, max_losses=3, alone=True)
        found = []
        for positions in blocks.cut((position, 0, 100) for position in current.under(claim)):
            mark = (1, 1, claim)
            outcomes = [outcome_of(rig.call(group.ref, position)[0]) for position in positions]
            bodies = [body for body, _ in outcomes]
            parts = blocks.sealed_outcomes(rig.sealer, 0, current.first + positions[0], mark, bodies)
            failed = tuple(i for i, (_, is_failed) in enumerate(outcomes) if is_failed)
            seconds = array("f", [0.01] * len(bodies)).tobytes()
            found.append(OutcomeBlock(positions[0], len(bodies), *mark, b"".join(parts), failed, seconds=seconds))
        return transitions.commit(current, claim, found, 1.0)[0]


def outcome_of(args: tuple[Any, ...]) -> tuple[bytes, bool]:
    try:
        return dump_value(pow(*args)), False
    except Exception as error:
        return dump_error(error), True


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    client = Client()
    yield Mapping(client)
    client.close()


def test_plain_values_come_back_in_order_without_a_future(mapping: Mapping) -> None:
    results = mapping.map(range(1000), [2] * 1000)
    mapping.work()
    assert list(results) == [i * i for i in range(1000)]
    assert mapping.made == []


def test_results_come_while_others_are_missing(mapping: Mapping) -> None:
    results = mapping.map(range(40), [2] * 40)
    mapping.work(at_most=3)
    assert [next(results) for _ in range(2)] == [0, 1]
    with ThreadPoolExecutor(1) as thread:
        third = thread.submit(lambda: [next(results) for _ in range(20)])
        mapping.work()
        assert third.result(PATIENCE_S) == [i * i for i in range(2, 22)]
    assert mapping.made == []


def test_an_error_comes_at_its_place_and_cancels_the_rest(mapping: Mapping) -> None:
    results = mapping.map(["1", 2, 3], [2, 2, 2])
    mapping.work(at_most=1)
    with pytest.raises(TypeError):
        next(results)
    wait_until(lambda: mapping.states() == [State.FAILED, State.CANCELLED, State.CANCELLED])
    assert list(results) == []


def test_errors_are_results_if_that_was_asked(mapping: Mapping) -> None:
    results = mapping.map([2, "1", 3, None], [2] * 4, return_exceptions=True)
    mapping.work()
    assert [value if isinstance(value, int) else type(value) for value in results] == [4, TypeError, 9, TypeError]


def test_calls_with_other_arguments_have_futures_and_keep_their_place(mapping: Mapping) -> None:
    items = [2, threading.Lock(), [3], 4, 5]
    results = mapping.map(items, [2] * 5, return_exceptions=True)
    mapping.work()
    assert [value if isinstance(value, int) else type(value) for value in results] == [4, TypeError, TypeError, 16, 25]
    assert len(mapping.made) == 2


def test_an_iterable_that_waits_for_a_result_gets_it(mapping: Mapping) -> None:
    """Nothing that it has yielded waits for its next item."""
    is_sent = threading.Event()

    def items() -> Iterator[int]:
        yield 3
        assert is_sent.wait(PATIENCE_S)
        yield 4

    with ThreadPoolExecutor(1) as thread:
        results = thread.submit(lambda: list(mapping.map(items(), [2, 2])))
        wait_until(lambda: mapping.states() == [State.PENDING])
        is_sent.set()
        wait_until(lambda: len(mapping.states()) == 2)
        mapping.work()
        assert results.result(PATIENCE_S) == [9, 16]


@pytest.mark.parametrize(("buffersize", "n_taken", "n_more"), [(1, 1, 1), (4, 3, 3), (64, 4, 4), (64, 3, 0)])
def test_a_buffer_is_refilled_by_shares_of_it(mapping: Mapping, buffersize: int, n_taken: int, n_more: int) -> None:
    pulled: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            pulled.append(i)
            yield i

    results = mapping.map(items(), [2] * 1000, buffersize=buffersize)
    assert len(pulled) == buffersize
    for i in range(n_taken):
        with ThreadPoolExecutor(1) as thread:
            value = thread.submit(next, results)
            while not value.done():
                mapping.work()
            assert value.result() == i * i
    assert len(pulled) == buffersize + n_more
    assert mapping.made == []


def test_a_buffer_that_is_empty_is_refilled_before_its_share_is_free(mapping: Mapping) -> None:
    results = mapping.map(range(35), [2] * 35, buffersize=32)
    with ThreadPoolExecutor(1) as thread:
        values = thread.submit(list, results)
        while not values.done():
            mapping.work()
        assert values.result() == [i * i for i in range(35)]


def test_a_result_that_takes_too_long(mapping: Mapping) -> None:
    results = mapping.map([2, 3], [2, 2], timeout=0.001)
    with pytest.raises(TimeoutError):
        next(results)
    wait_until(lambda: not mapping.client.engine.parts.futures.are_undone())
    assert set(mapping.states()) <= {State.CANCELLED}  # none if they were cancelled before they were sent


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("ends", ["closed", "collected"])
def test_what_an_iterator_has_not_taken_is_cancelled_with_it(mapping: Mapping, ends: str, ordered: bool) -> None:
    results = mapping.map(range(20), [2] * 20, ordered=ordered)
    mapping.work(at_most=5)
    assert next(results) == 0
    if ends == "closed":
        results.close()  # type: ignore[attr-defined]
    else:
        del results
        gc.collect()
    wait_until(lambda: mapping.states().count(State.CANCELLED) == 20 - mapping.states().count(State.COMPLETED))
    assert mapping.client.engine.parts.futures.unfinished() == []


def test_tasks_that_are_cancelled_by_others_say_so_at_their_place(mapping: Mapping) -> None:
    results = mapping.map(range(4), [2] * 4, return_exceptions=True)
    mapping.work(at_most=1)
    assert next(results) == 0
    engine = mapping.client.engine
    wait_until(lambda: engine.parts.collector.n_waiting == 3)
    unfinished = engine.parts.futures.unfinished()
    engine.cancel(unfinished[:2])
    mapping.work()
    assert [value if isinstance(value, int) else type(value) for value in results] == [
        CancelledError,
        CancelledError,
        9,
    ]
    assert [future.cancelled() for future in unfinished] == [True, True, False]
    assert mapping.made == unfinished


def test_an_iterator_that_waits_hears_that_its_task_was_cancelled(mapping: Mapping) -> None:
    results = mapping.map(range(4), [2] * 4)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, results)
        wait_until(lambda: results.gi_frame is None or results.gi_running)  # type: ignore[attr-defined]
        mapping.client.engine.cancel(mapping.client.engine.parts.futures.unfinished())
        assert isinstance(first.exception(PATIENCE_S), CancelledError)


@pytest.mark.parametrize("ordered", [True, False])
def test_tasks_that_run_as_their_workers_are_stopped_fail_and_others_are_cancelled(
    mapping: Mapping, ordered: bool
) -> None:
    results = mapping.map(range(4), [2] * 4, ordered=ordered, return_exceptions=True)
    assert mapping.n_pending() == 4
    rig = mapping.client.rig
    for group in rig.another().statuses.all():
        rig.claim(group.key, "w.1", at_most=2)
    mapping.client.engine.parts.collector.news.set()
    wait_until(lambda: bool(mapping.client.engine.parts.collector.claims()))
    mapping.client.engine.ending.stop_workers()
    assert [type(error) for error in results] == [ExecutorBroken, ExecutorBroken, CancelledError, CancelledError]


def test_a_future_is_there_before_others_see_that_it_stands_for_its_task() -> None:
    row = MapRow(0, OrderedResults(SystemClock(), wants_errors=False), lambda i: StarburstFuture(None, 0, i))
    row.grow(0, 1)
    open_meanwhile: list[bool] = []

    class Futures(dict[int, StarburstFuture[Any]]):
        def __setitem__(self, i: int, future: StarburstFuture[Any]) -> None:
            open_meanwhile.append(row.is_open(i))
            super().__setitem__(i, future)

    row._futures = Futures()
    assert row.future(0) is row.future(0) is not None
    assert open_meanwhile == [True]


def test_an_iterator_that_the_garbage_collector_closes_takes_no_lock(
    mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its futures: a thread that completes one may wait for the lock of the iterator's source, under which the collector may run."""
    threads: list[str] = []
    close = Ends.close

    def closed(self: Ends[Any]) -> None:
        threads.append(threading.current_thread().name)
        close(self)

    monkeypatch.setattr(Ends, "close", closed)
    results = mapping.map(map(Fraction, range(20)), [2] * 20, ordered=False)
    mapping.work(at_most=5)
    assert next(results) is not None
    del results
    gc.collect()
    wait_until(lambda: bool(threads))
    assert threads == [f"{THREAD_PREFIX}cancel"]


def test_a_client_that_fails_ends_the_iteration_with_its_error(mapping: Mapping) -> None:
    results = mapping.map(range(4), [2] * 4)
    assert mapping.client.sending.flush(PATIENCE_S)
    mapping.client.engine._fail(StarburstError("no more"))
    with pytest.raises(StarburstError, match="no more"):
        next(results)
    with pytest.raises((StarburstError, ExecutorBroken)):
        mapping.map(range(4), [2] * 4)


@pytest.mark.parametrize("ordered", [True, False])
def test_in_the_child_of_a_fork_an_iterator_says_so_instead_of_waiting(mapping: Mapping, ordered: bool) -> None:
    results = mapping.map(range(4), [2] * 4, ordered=ordered)
    child = os.fork()
    if not child:
        try:
            next(results)
        except ExecutorBroken:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_an_iterator_has_not_taken_counts_as_waiting(mapping: Mapping) -> None:
    """So that a session ends only once every result is here."""
    results = mapping.map(range(100), [2] * 100)
    assert mapping.n_pending() == 100
    wait_until(lambda: mapping.client.engine.parts.collector.n_waiting == 100)
    assert mapping.client.engine.parts.futures.are_undone()
    mapping.work()
    mapping.client.engine.ending.wait_done()
    assert mapping.client.engine.parts.collector.n_waiting == 0
    assert list(results) == [i * i for i in range(100)]


def test_a_submit_that_was_interrupted_leaves_later_calls_their_places(
    mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Submitter._note_queued
    monkeypatch.setattr(plain_calls, "_AT_ONCE", 10)
    calls = []

    def interrupted(self: Submitter, n: int, n_bytes: int) -> None:
        calls.append(n)
        if len(calls) == 3:
            raise KeyboardInterrupt
        note(self, n, n_bytes)

    monkeypatch.setattr(Submitter, "_note_queued", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mapping.map(range(100), [2] * 100)
    results = mapping.map(range(100, 200), [2] * 100)
    with ThreadPoolExecutor(1) as thread:
        values = thread.submit(list, results)
        while not values.done():
            mapping.work()
        assert values.result() == [i * i for i in range(100, 200)]


# --- in the order of the ends -----------------------------------------------------------------------------------------


def test_results_come_as_their_tasks_end_without_a_future(mapping: Mapping) -> None:
    results = mapping.map(range(300), [2] * 300, ordered=False)
    engine = mapping.client.engine
    wait_until(lambda: engine.parts.collector.n_waiting == 300)
    last = mapping.client.rig.another().statuses.all()[-1]
    mapping.work(keys=[last.key])
    first_results = [next(results) for _ in range(last.ref.n_tasks)]
    assert first_results == [i * i for i in range(300)][-last.ref.n_tasks :]
    mapping.work()
    assert sorted([*first_results, *results]) == [i * i for i in range(300)]
    assert mapping.made == []


def test_an_iterator_that_waits_gets_what_ends_first(mapping: Mapping) -> None:
    results = mapping.map(range(4), [2] * 4, ordered=False)
    with ThreadPoolExecutor(1) as thread:
        for i in range(4):
            value = thread.submit(next, results)
            wait_until(lambda: results.gi_running)  # type: ignore[attr-defined]
            mapping.work(at_most=1)
            assert value.result(PATIENCE_S) == i * i
    assert list(results) == []


@pytest.mark.parametrize("wants_errors", [False, True])
def test_errors_in_the_order_of_the_ends(mapping: Mapping, wants_errors: bool) -> None:
    items = [2, "1", 3, threading.Lock(), 4]
    results = mapping.map(items, [2] * 5, ordered=False, return_exceptions=wants_errors)
    mapping.work()
    wait_until(lambda: mapping.client.engine.parts.collector.n_waiting == 0)
    found: list[Any] = []
    if wants_errors:
        found += results
        assert {value if isinstance(value, int) else type(value) for value in found} == {4, 9, 16, TypeError}
    else:
        with pytest.raises(TypeError):
            found += iter(lambda: next(results), None)
    assert list(results) == []


def test_tasks_that_are_cancelled_by_others_end_too(mapping: Mapping) -> None:
    results = mapping.map(range(4), [2] * 4, ordered=False, return_exceptions=True)
    engine = mapping.client.engine
    wait_until(lambda: engine.parts.collector.n_waiting == 4)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(next, results)
        engine.cancel(engine.parts.futures.unfinished()[1:2])
        assert isinstance(first.result(PATIENCE_S), CancelledError)
    mapping.work()
    assert sorted(results) == [0, 4, 9]


def test_results_that_end_too_late(mapping: Mapping) -> None:
    results = mapping.map(range(3), [2] * 3, ordered=False, timeout=0.001)
    with pytest.raises(TimeoutError):
        next(results)
    wait_until(lambda: not mapping.client.engine.parts.futures.are_undone())
    assert set(mapping.states()) <= {State.CANCELLED}
