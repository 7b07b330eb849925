"""The events that are kept while no thread takes them, as when a slot waits for a store that does not answer."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.protocol import calls
from starburst_executor.protocol.options import DEFAULT
from starburst_executor.testing import FakeClock
from starburst_executor.worker.listener import Listener
from starburst_executor.worker.runner import process
from starburst_executor.worker.runner.handle import Died, Event, Finished, Job, Started
from starburst_executor.worker.runner.jobs import Jobs, each_event
from tests.support.runner_rig import Rig, is_running, number_of, value_of, wait_until

DIGEST = "0" * 32


class Heard:
    """A listener in its thread, and a slot that only counts how often it is woken."""

    def __init__(self, rig: Rig, task_timeout: float | None) -> None:
        self.runner = rig.spawn()
        self.n_news = 0
        self.listener = Listener(self.runner, SystemClock(), task_timeout=task_timeout, heard=self.hear)
        self.listener.start("runner-0")
        self._number = 0

    def hear(self) -> None:
        self.n_news += 1

    def send(self, function: Callable[..., Any], *arguments: tuple[Any, ...], options: bytes = b"") -> list[int]:
        first = self._number + 1
        jobs = Jobs(first, 0, first, 1, DIGEST, [calls.dump_call(args, {}) for args in arguments], options)
        self._number += len(arguments)
        self.listener.send([jobs], {DIGEST: calls.dump_function(function)})
        return [*jobs.numbers]

    def take(self, n: int) -> list[Event]:
        """The next `n` events."""
        events: list[Event] = []
        wait_until(lambda: events.extend(each_event(self.listener.take())) or len(events) >= n)  # type: ignore[func-returns-value]
        return events


@contextmanager
def heard(task_timeout: float | None = None) -> Iterator[Heard]:
    with Rig() as rig:
        one = Heard(rig, task_timeout)
        try:
            yield one
        finally:
            one.listener.stop()  # before its runner is closed: its thread would poll a closed runner without a pause


def test_outcomes_are_taken_in_while_nobody_asks_for_them() -> None:
    with heard() as one:
        one.send(lambda i: i, *((i,) for i in range(20)))
        wait_until(lambda: one.n_news)
        assert [value_of(event) for event in one.take(20) if isinstance(event, Finished)] == list(range(20))


@pytest.mark.parametrize("session_s", [None, 0.2])
def test_a_limit_in_a_jobs_options_is_that_of_this_job_alone(session_s: float | None) -> None:
    with heard(task_timeout=session_s) as one:
        (patient,) = one.send(time.sleep, (0.5,), options=DEFAULT.but(timeout=math.inf).encode())
        (late,) = one.send(time.sleep, (60,), options=DEFAULT.but(timeout=0.3).encode())
        ended, died = one.take(2)
        assert isinstance(ended, Finished)
        assert (ended.number, ended.ok) == (patient, True)
        assert isinstance(died, Died)
        assert (died.culprit, died.timed_out) == (late, late)


def test_tiny_tasks_wake_the_slot_by_the_batch_and_the_last_at_once() -> None:
    with heard() as one:
        for _ in range(3):
            one.send(lambda i: i, *((i,) for i in range(2000)))
            one.take(2000)
        assert one.n_news < 600


def test_what_has_ended_does_not_wait_for_a_long_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nor for a frame that wakes the agent."""
    monkeypatch.setattr(process, "_WAKE_S", math.inf)

    def run(i: int) -> int:
        if i == 0:
            (tmp_path / "started").touch()
            wait_until((tmp_path / "go").exists)
        if i == 20:
            time.sleep(600)
        return i

    with heard() as one:
        *_, long = one.send(run, *((i,) for i in range(21)))
        wait_until((tmp_path / "started").exists)
        time.sleep(0.1)  # by now the listener waits
        (tmp_path / "go").touch()
        ended = one.take(20)
        assert [value_of(event) for event in ended if isinstance(event, Finished)] == list(range(20))
        wait_until(lambda: number_of(one.runner) == long)
        assert 0 <= time.monotonic() - one.listener.started_at < 60
        one.listener.kill()
        (died,) = one.take(1)
        assert isinstance(died, Died)
        assert died.culprit == long


def test_a_task_is_stopped_at_its_deadline_while_nobody_asks() -> None:
    def first_fast(i: int) -> None:
        if i:
            time.sleep(600)

    with heard(task_timeout=0.5) as one:
        began = time.monotonic()
        _, slow, rest = one.send(first_fast, (0,), (1,), (2,))
        wait_until(lambda: not is_running(one.runner.pid))
        assert 0.4 < time.monotonic() - began < 20
        finished, died = one.take(2)
        assert isinstance(finished, Finished)
        assert isinstance(died, Died)
        assert (died.culprit, died.timed_out) == (slow, slow)
        assert one.listener.retract() == [rest]
        assert one.listener.has_ended


class Torn:
    """A runner whose memory shows the number of one job with the start of another at the first look."""

    is_ready = True

    def __init__(self) -> None:
        self.looks = [Started(2, -100.0), Started(2, 0.0)]
        self.n_kills = 0

    def send(self, jobs: Any, functions: Any) -> None: ...

    def started(self, since: float) -> Started | None:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def poll(self, timeout_s: float) -> list[Event]:
        return []

    def kill(self) -> None:
        self.n_kills += 1


def test_a_deadline_acts_only_if_two_looks_agree() -> None:
    clock, runner = FakeClock(), Torn()
    listener = Listener(runner, clock, task_timeout=10.0, heard=lambda: None)  # type: ignore[arg-type]  # as a runner
    listener.send([Job(2, 0, 0, 1, DIGEST, b"")], {})
    runner.looks.insert(0, Started(2, -100.0))  # for the wait before
    listener.listen(0.0)
    assert runner.n_kills == 0
    clock.advance(10.0)
    listener.listen(0.0)
    assert runner.n_kills == 1
    listener.listen(0.0)
    assert runner.n_kills == 1


def test_each_task_has_the_time_for_itself() -> None:
    with heard(task_timeout=1.0) as one:
        one.send(lambda: time.sleep(0.04), *[()] * 30)
        assert all(isinstance(event, Finished) for event in one.take(30))


def test_output_is_bounded_while_nobody_asks() -> None:
    def chatter() -> int:
        line = b"x" * 999_999 + b"\n"
        peak = 0
        for _ in range(200):
            os.write(1, line)
            time.sleep(0.01)
            peak = max(peak, os.fstat(1).st_blocks * 512)
        return peak

    with heard() as one:
        one.send(chatter, ())
        (event,) = one.take(1)
        assert isinstance(event, Finished)
        assert value_of(event) < 100_000_000
        assert b"bytes omitted" in event.stdout


def test_any_thread_may_kill_what_runs(tmp_path: Path) -> None:
    def run() -> None:
        (tmp_path / "started").touch()
        time.sleep(600)

    with heard() as one:
        (number,) = one.send(run, ())
        wait_until((tmp_path / "started").exists)
        one.listener.kill()
        (died,) = one.take(1)
        assert died == Died("killed by the worker", number)


def test_a_runner_that_is_retired_has_ended_when_another_takes_its_place() -> None:
    with heard() as one:
        one.send(os.getpid, ())
        one.take(1)
        one.listener.stop()
        wait_until(lambda: not is_running(one.runner.pid))


def test_a_listener_that_fails_costs_the_task_that_ran(monkeypatch: Any) -> None:
    with heard() as one:
        running, rest = one.send(time.sleep, (600,), (600,))
        monkeypatch.setattr(one.runner, "poll", lambda _: 1 / 0)
        one.runner.wake()
        (died,) = one.take(1)
        assert isinstance(died, Died)
        assert died.culprit == running
        assert rest in one.listener.retract()
        wait_until(lambda: not is_running(one.runner.pid))
