"""How many no-op tasks a second, beside `ProcessPoolExecutor` in the same run, and how many store requests a task.

    python benchmarks/throughput.py [--quick]

Each repetition makes an executor, runs one task so that the workers are up, then times `map` over all tasks, not
batched by hand. The two take turns, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import KINDS, Row, cpu_seconds, show
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
    with tempfile.TemporaryDirectory() as folder, cpu_seconds() as used:
        with StarburstExecutor(workers=WORKERS, store=f"sqlite://{folder}/sessions") as executor:
            row.values.append(rate(executor, n_tasks, 1))
        row.requests = executor.requests()
    row.cpu_client_s, row.cpu_children_s = used
    n_requests = sum(row.requests.get(kind, 0) for kind in KINDS)
    row.note = f"{n_requests / n_tasks:.3f} requests a task, start and end of the session included"


def process_pool(n_tasks: int, chunksize: int, row: Row) -> None:
    with cpu_seconds() as used, ProcessPoolExecutor(WORKERS) as executor:
        row.values.append(rate(executor, n_tasks, chunksize))
    row.cpu_client_s, row.cpu_children_s = used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repetition of 2,000 tasks instead of five of 10,000")
    quick = parser.parse_args().quick
    n_tasks, n_repetitions = (2_000, 1) if quick else (10_000, 5)
    ours = Row(f"StarburstExecutor, embedded store, {n_tasks:,} no-ops", "tasks/s", [])
    single = Row(f"ProcessPoolExecutor, chunksize 1, {n_tasks:,} no-ops", "tasks/s", [])
    chunked = Row(f"ProcessPoolExecutor, chunksize 64, {n_tasks:,} no-ops", "tasks/s", [])
    for _ in range(n_repetitions):
        starburst(n_tasks, ours)
        process_pool(n_tasks, 1, single)
        process_pool(n_tasks, 64, chunked)
    ratios = [a / b for a, b in zip(ours.values, single.values, strict=True)]
    against = Row("StarburstExecutor over ProcessPoolExecutor at chunksize 1", "times", ratios)
    show(f"{WORKERS} local workers", [ours, single, chunked, against])


if __name__ == "__main__":
    main()
