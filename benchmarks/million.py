"""Measures a million no-op tasks on two local workers with the embedded store: seconds, and the client's memory.

    python benchmarks/million.py [--quick] [--out FOLDER]

Once with all tasks submitted and every future held, once through `map(buffersize=10_000)`, which holds only
the calls in progress. Each runs in its own process, which reports its peak memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments, cpu_seconds, n_requests
from benchmarks.peers.tasks import no_op
from starburst_executor import StarburstExecutor

BUFFER = 10_000


def all_held(executor: Executor, n_tasks: int) -> int:
    futures = [executor.submit(no_op, i) for i in range(n_tasks)]
    return sum(future.result() == i for i, future in enumerate(futures))


def buffered(executor: Executor, n_tasks: int) -> int:
    results = executor.map(no_op, range(n_tasks), buffersize=BUFFER)  # type: ignore[call-arg]  # this library has it on every version
    return sum(value == i for i, value in enumerate(results))


WAYS: dict[str, tuple[str, Callable[[Executor, int], int], str]] = {
    "held": ("submitted in a loop, all futures held", all_held, "≤ 2,000"),
    "buffered": (f"map(buffersize={BUFFER:,})", buffered, "≤ 300"),
}


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(way: str, n_tasks: int) -> dict[str, Any]:
    """Measure one of the two ways in this process."""
    with tempfile.TemporaryDirectory() as folder, cpu_seconds() as cpu:
        with StarburstExecutor(workers=2, store=f"sqlite://{folder}/sessions") as executor:
            executor.submit(no_op, 0).result()
            before_mb = peak_mb()
            started = time.perf_counter()
            n_right = WAYS[way][1](executor, n_tasks)
            seconds = time.perf_counter() - started
        requests = executor.requests()
    if n_right != n_tasks:
        raise SystemExit(f"wrong results: right={n_right}, tasks={n_tasks}")
    return {
        "seconds": seconds, "peak_mb": peak_mb(), "before_mb": before_mb, "requests": requests,
        "client_s": cpu.client_s, "workers_s": cpu.workers_s,
    }  # fmt: skip


def in_child(way: str, n_tasks: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--way", way, "--tasks", str(n_tasks)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(way: str, n_tasks: int, found: dict[str, Any]) -> list[Row]:
    words, _, most_mb = WAYS[way]
    conditions = {"way": way, "n_tasks": n_tasks, "workers": 2}
    # The budget of seconds is for a million tasks, that of memory for a million or fewer.
    took = Row(f"{n_tasks:,} no-op tasks, {words}", "s", [found["seconds"]], conditions=conditions)
    took.budget = "≤ 120" if n_tasks == 1_000_000 else ""
    took.requests, took.cpu_client_s, took.cpu_workers_s = found["requests"], found["client_s"], found["workers_s"]
    took.note = (
        f"{n_tasks / found['seconds']:,.0f} tasks/s, {n_requests(found['requests']) / n_tasks:.3f} requests a task"
    )
    memory = Row(f"the client's memory at its peak, {words}", "MB", [found["peak_mb"]], conditions=conditions)
    memory.budget = most_mb
    memory.note = f"{(found['peak_mb'] - found['before_mb']) * 1e6 / n_tasks:,.0f} bytes a task"
    return [took, memory]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--way", choices=[*WAYS], help="measure this one here, print JSON")
    parser.add_argument("--tasks", type=int)
    options = parser.parse_args()
    n_tasks = options.tasks or (30_000 if options.quick else 1_000_000)
    if options.way:
        print(json.dumps(measure(options.way, n_tasks)))
        return
    run = Run(__file__, options)
    for way, (words, _, _) in WAYS.items():
        run.table(f"{n_tasks:,} tasks, {words}", rows(way, n_tasks, in_child(way, n_tasks)))


if __name__ == "__main__":
    main()
