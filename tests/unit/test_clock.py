"""Backoff, and the clock that everything else is tested with."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from starburst_executor.clock import Backoff, Clock, SystemClock
from starburst_executor.testing import FakeClock


def test_a_wait_passes_at_once_and_time_with_it() -> None:
    clock: Clock = FakeClock(start_at=100.0)
    assert clock.wait(threading.Event(), 3600.0) is False
    assert clock.monotonic() == 3600.0
    assert clock.now() == 3700.0


def test_a_wait_for_what_has_happened_takes_no_time() -> None:
    clock, event = FakeClock(), threading.Event()
    event.set()
    assert clock.wait(event, 60.0) is True
    assert clock.monotonic() == 0.0


def test_a_negative_wait_takes_no_time() -> None:
    clock = FakeClock()
    clock.wait(threading.Event(), -5.0)
    assert clock.monotonic() == 0.0
    with pytest.raises(ValueError):
        clock.advance(-1.0)


def test_the_shortest_wait_lets_some_time_pass() -> None:
    clock = FakeClock()
    clock.advance(1e6)
    clock.wait(threading.Event(), 1e-15)
    assert clock.monotonic() > 1e6


def test_chance_follows_from_the_seed() -> None:
    def draws(seed: int) -> list[object]:
        clock = FakeClock(seed)
        return [clock.random(), clock.new_id(), clock.random(), clock.new_id(4)]

    assert draws(1) == draws(1) != draws(2)
    clock = FakeClock(3)
    numbers = [clock.random() for _ in range(2000)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert 0.45 < sum(numbers) / len(numbers) < 0.55
    ids = {clock.new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(each) for each in ids} == {16}


def test_ids_are_never_the_same_in_threads_and_in_the_child_of_a_fork() -> None:
    clock = SystemClock()
    made = [clock.new_id()]  # more are ready now
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writing, "".join(clock.new_id() for _ in range(100)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    theirs = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    with ThreadPoolExecutor(4) as pool:
        for ids in pool.map(lambda _: [clock.new_id() for _ in range(500)], range(4)):
            made += ids
    made += [theirs[i : i + 16] for i in range(0, len(theirs), 16)]
    assert len(made) == len(set(made)) == 2101
    assert {len(each) for each in made} == {16}


def test_a_held_wait_ends_when_time_has_come_and_not_before() -> None:
    clock, ended = FakeClock(held=True), threading.Event()

    def wait() -> None:
        clock.wait(threading.Event(), 10.0)
        ended.set()

    thread = threading.Thread(target=wait)
    thread.start()
    clock.wait_waiting()
    clock.advance(9.0)
    assert not ended.wait(0.02)
    clock.advance(1.0)
    thread.join(10.0)
    assert ended.is_set()


def test_a_held_wait_ends_when_its_event_is_set() -> None:
    clock, event, answers = FakeClock(held=True), threading.Event(), []
    thread = threading.Thread(target=lambda: answers.append(clock.wait(event, 10.0)))
    thread.start()
    clock.wait_waiting()
    event.set()
    thread.join(10.0)
    assert answers == [True]
    assert clock.monotonic() == 0.0


@pytest.mark.parametrize("how", ["its time has come", "its event is set"])
def test_a_held_wait_that_is_over_counts_no_more(how: str) -> None:
    """Even while its thread has had no time to return: else a test would advance twice for one look of the thread."""
    clock, gate = FakeClock(held=True), threading.Event()

    class Late(threading.Event):
        """An event whose waiter is not given the processor."""

        def wait(self, timeout: float | None = None) -> bool:
            gate.wait(30.0)
            return super().wait(timeout)

    event = Late()
    thread = threading.Thread(target=clock.wait, args=(event, 10.0))
    thread.start()
    clock.wait_waiting(1, 30.0)
    clock.advance(9.0)
    clock.wait_waiting(1, 0.0)
    if how == "its event is set":
        event.set()
    else:
        clock.advance(1.0)
    with pytest.raises(TimeoutError, match="expected=1, found=0"):
        clock.wait_waiting(1, 0.0)
    gate.set()
    thread.join(30.0)
    assert not thread.is_alive()


def test_waiting_for_nobody_says_so() -> None:
    with pytest.raises(TimeoutError, match="expected=1, found=0"):
        FakeClock(held=True).wait_waiting(timeout_s=0.0)


def test_backoff_doubles_up_to_its_bound_with_jitter_of_half() -> None:
    backoff = Backoff(FakeClock(), 1.0, 5.0)
    for longest in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert longest / 2 <= backoff.next_s() <= longest
    backoff.reset()
    assert backoff.next_s() <= 1.0


def test_the_system_clock_is_a_clock() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    assert clock.wait(threading.Event(), 0.0) is False
    assert clock.monotonic() >= before
    assert clock.now() > 1_600_000_000
    assert len(clock.new_id(4)) == 8
    assert clock.new_id() != clock.new_id()
    assert 0.0 <= clock.random() < 1.0
