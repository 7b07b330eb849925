"""How many no-op tasks a second, beside `ProcessPoolExecutor` in the same run, and how many store requests a task.

    python benchmarks/throughput.py [--quick] [--out FOLDER]

Each repetition makes an executor, runs one task so that the workers are up, then times `map` over all tasks, not
batched by hand. The two take turns, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments, cpu_seconds, n_requests
from starburst_executor import StarburstExecutor

WORKERS = 2


def no_op(i: int) -> int:
    return i


def rate(executor: Executor, n_tasks: int, chunksize: int) -> float:
    """Tasks a second of one `map`, checked."""
    executor.submit(no_op, 0).result()
    started = time.perf_counter()
    n_right = sum(value == i for i, value in enumerate(executor.map(no_op, range(n_tasks), chunksize=chunksize)))
    seconds = time.perf_counter() - started
    if n_right != n_tasks:
        raise SystemExit(f"wrong results: right={n_right}, tasks={n_tasks}")
    return n_tasks / seconds


def starburst(n_tasks: int, row: Row) -> None:
    with tempfile.TemporaryDirectory() as folder, cpu_seconds() as cpu:
        with StarburstExecutor(workers=WORKERS, store=f"sqlite://{folder}/sessions") as executor:
            row.values.append(rate(executor, n_tasks, 1))
        row.requests = executor.requests()
    row.cpu_client_s, row.cpu_workers_s = cpu.client_s, cpu.workers_s
    row.note = f"{n_requests(row.requests) / n_tasks:.3f} requests a task, start and end of the session included"


def process_pool(n_tasks: int, chunksize: int, row: Row) -> None:
    with cpu_seconds() as cpu, ProcessPoolExecutor(WORKERS) as executor:
        row.values.append(rate(executor, n_tasks, chunksize))
    row.cpu_client_s, row.cpu_workers_s = cpu.client_s, cpu.workers_s


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    n_tasks, n_repetitions = (2_000, 1) if run.quick else (10_000, 5)
    chosen = {"n_tasks": n_tasks, "workers": WORKERS}
    ours = Row(f"StarburstExecutor, embedded store, {n_tasks:,} no-ops", "tasks/s", [], conditions=chosen)
    single = Row(f"ProcessPoolExecutor, chunksize 1, {n_tasks:,} no-ops", "tasks/s", [], conditions=chosen)
    chunked = Row(f"ProcessPoolExecutor, chunksize 64, {n_tasks:,} no-ops", "tasks/s", [], conditions=chosen)
    for _ in range(n_repetitions):
        starburst(n_tasks, ours)
        process_pool(n_tasks, 1, single)
        process_pool(n_tasks, 64, chunked)
    ratios = [a / b for a, b in zip(ours.values, single.values, strict=True)]
    against = Row("StarburstExecutor over ProcessPoolExecutor at chunksize 1", "times", ratios, budget="≥ 3")
    run.table(f"{WORKERS} local workers", [ours, single, chunked, against])


if __name__ == "__main__":
    main()
