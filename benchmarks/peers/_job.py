"""The job for a peer, its answer, and the measurement of its rate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._rows import cpu_seconds

__all__ = ["Answer", "Caller", "Job", "Seat", "ask", "measure"]

ROOT = Path(__file__).parents[2]

Caller = Callable[[Callable[[int], int], Sequence[int]], Iterable[int]]

_FIRST = 16  # tasks of the first run, which makes the workers ready rather than measures
_GROWTH = 16  # most growth from one run to the next, since a short run may look faster than it is
_LONG_ENOUGH = 0.75  # of the time there is
_START_S = 60.0  # for workers to start, and for a first run that is slow
_END_S = 10.0


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        peer: The adapter's module.
        task: One of `tasks.TASKS`.
        how: `submit` in a loop, or `map`.
        n_tasks: The number of tasks, if they end in time.
        at_most_s: Fewer tasks are measured if `n_tasks` would take longer.
        options: For the adapter alone.
    """

    peer: str
    task: str
    how: str
    n_workers: int
    n_tasks: int
    at_most_s: float
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """The result of a job.

    Attributes:
        absent: Why nothing was measured; empty otherwise.
        n_tasks: Of the measured run.
        seconds: The duration of that run, from the first submit to the last result.
        requests: To the store, by kind, of the whole session; only where the library counts them.
        version: Of the library.
    """

    absent: str = ""
    n_tasks: int = 0
    seconds: float = 0.0
    cpu_client_s: float = 0.0
    cpu_workers_s: float = 0.0
    requests: dict[str, int] = field(default_factory=dict)
    n_all_tasks: int = 0
    version: str = ""

    @property
    def rate(self) -> float:
        """Tasks per second."""
        return self.n_tasks / self.seconds


@dataclass
class Seat:
    """A library with running workers.

    Attributes:
        call: Runs a function over items and returns the results in order.
        requests: To the store so far, if the library counts them; filled in at the end.
    """

    call: Caller
    requests: dict[str, int] = field(default_factory=dict)


def next_size(n_tasks: int, seconds: float, job: Job) -> int:
    """Return the number of tasks of the next run; the same number if this run is long enough to count."""
    if seconds > job.at_most_s * _LONG_ENOUGH:
        return n_tasks
    fit = int(n_tasks / max(seconds, 1e-6) * job.at_most_s)
    # At least twice as many: the fixed cost of a run must not be taken for the cost of tasks.
    return min(job.n_tasks, max(2 * n_tasks, min(fit, n_tasks * _GROWTH)))


def measure(seat: Seat, job: Job, function: Callable[[int], int], clock: Callable[[], float]) -> Answer:
    """Run more and more tasks; the last run counts. Raises: RuntimeError if results are wrong."""
    answer = Answer()
    n_tasks = min(_FIRST, job.n_tasks)
    _timed(seat, function, n_tasks, clock)  # functions are shipped, workers warmed up
    answer.n_all_tasks = n_tasks
    while True:
        with cpu_seconds() as cpu:
            seconds = _timed(seat, function, n_tasks, clock)
        answer.n_all_tasks += n_tasks
        wanted = next_size(n_tasks, seconds, job)
        if wanted == n_tasks:
            break
        n_tasks = wanted
    answer.n_tasks, answer.seconds = n_tasks, seconds
    answer.cpu_client_s, answer.cpu_workers_s = cpu.client_s, cpu.workers_s
    return answer


def _timed(seat: Seat, function: Callable[[int], int], n_tasks: int, clock: Callable[[], float]) -> float:
    items = range(n_tasks)
    started = clock()
    n_right = sum(value == i for i, value in zip(items, seat.call(function, items), strict=True))
    seconds = clock() - started
    if n_right != n_tasks:
        raise RuntimeError(f"wrong results: right={n_right}, tasks={n_tasks}")
    return seconds


def ask(job: Job) -> Answer:
    """Run a job in its own process group, which is killed at the end. A peer that fails is absent, with the reason."""
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
        answer_file = Path(folder, "answer.json")
        own = {"PYTHONPATH": str(ROOT), "TMPDIR": folder, "STARBURST_HOME": folder, "JOBLIB_TEMP_FOLDER": folder}
        command = [sys.executable, "-m", "benchmarks.peers", json.dumps(asdict(job)), str(answer_file)]
        with Path(folder, "words").open("w+b") as words:
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **own}, stdin=subprocess.DEVNULL,
                stdout=words, stderr=words, start_new_session=True,
            )  # fmt: skip
            _wait_answered(process, answer_file, time.monotonic() + _START_S + 4 * min(job.at_most_s, 600.0))
            if answer_file.exists():
                return Answer(**json.loads(answer_file.read_text(encoding="utf-8")))
            words.seek(0)
            last = words.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            return Answer(absent=f"failed: {(last or ['no answer'])[0][:120]}")


def _wait_answered(process: subprocess.Popen[bytes], answer_file: Path, deadline: float) -> None:
    """Wait for the answer or the end of the process, then kill its process group."""
    try:
        while process.poll() is None and not answer_file.exists() and time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S if answer_file.exists() else 0.0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
