"""Real runners for tests: a nursery, jobs from plain functions, and waits for conditions instead of sleeps."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from starburst_executor.protocol import calls, outcomes
from starburst_executor.worker.runner.handle import Died, Event, Finished, Job, Runner
from starburst_executor.worker.runner.jobs import Jobs, each_event
from starburst_executor.worker.runner.spawn import Nursery

PATIENCE_S = 30.0
_SMALL_BYTES = 512


class Rig:
    """A nursery and its runners, which end with the `with` block."""

    def __init__(self, **options: Any) -> None:
        self.nursery = Nursery.start(session_id="a-session", **{"sys_path": [], **options})
        self._numbers = itertools.count(1)
        self._runners: list[Runner] = []

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for runner in self._runners:
            runner.close()
        self.nursery.close()

    def spawn(self, initializer: Callable[[], object] | None = None, **options: Any) -> Runner:
        body = calls.dump_function(initializer) if initializer is not None else None
        self._runners.append(self.nursery.spawn(initializer=body, **options))
        return self._runners[-1]

    def send(self, runner: Runner, function: Callable[..., Any], *arguments: tuple[Any, ...]) -> list[int]:
        """One job per tuple of arguments, in one message; their numbers."""
        return self.send_body(runner, calls.dump_function(function), *arguments)

    def send_body(self, runner: Runner, body: bytes, *arguments: tuple[Any, ...]) -> list[int]:
        digest = hashlib.sha256(body).hexdigest()
        dumped = [calls.dump_call(args, {}) for args in arguments]
        numbers = list(islice(self._numbers, len(dumped)))
        jobs: list[Job | Jobs] = [Job(number, 0, i, 1, digest, dumped[i]) for i, number in enumerate(numbers)]
        if max(map(len, dumped)) < _SMALL_BYTES:  # as a slot sends them
            jobs = [Jobs(numbers[0], 0, 0, 1, digest, dumped)]
        runner.send(jobs, {digest: body})
        return numbers

    def run(self, runner: Runner, function: Callable[..., Any], *args: Any) -> Any:
        """One job's value, or its exception raised."""
        self.send(runner, function, args)
        return value_of(*finished(runner, 1))


def events(runner: Runner, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Poll until what has come is enough, or the runner died."""
    received: list[Event] = []
    deadline = time.monotonic() + PATIENCE_S
    while not enough(received) and not any(isinstance(event, Died) for event in received):
        assert time.monotonic() < deadline, f"only {received!r:.500} after {PATIENCE_S} s"
        received += each_event(runner.poll(1.0))
    return received


def finished(runner: Runner, n: int) -> list[Finished]:
    """The next `n` outcomes; nothing else may come."""
    received = events(runner, lambda received: len(received) >= n)
    assert all(isinstance(event, Finished) for event in received), received
    return [event for event in received if isinstance(event, Finished)]


def death(runner: Runner) -> tuple[list[Event], Died]:
    """What came before the death, and the death."""
    *before, died = events(runner, lambda _seen: False)
    assert isinstance(died, Died)
    return before, died


def number_of(runner: Runner) -> int | None:
    """The job that runs, as far as outcomes have been polled."""
    started = runner.started(0.0)
    return started and started.number


def value_of(event: Finished) -> Any:
    value, error = outcomes.load_outcome(event.outcome)
    assert event.ok is (error is None)
    if error is not None:
        raise error
    return value


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {PATIENCE_S} s"
        time.sleep(0.002)


def is_running(pid: int) -> bool:
    """A zombie does not run: it may have no parent that waits for it."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.strip()[:1] not in ("", "Z")
