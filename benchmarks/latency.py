"""Measures the time of one task from submit to result: warm, after a rest, and cold; in the embedded store and at S3's latency.

    python benchmarks/latency.py [--quick] [--out FOLDER]

One no-op at a time, each after the result of the one before. "Begins" is the task's own clock as it begins to run,
read by the client on the same machine, so it is when a worker has claimed it and loaded the function; "running" is when
`future.running()` turned true in the client, which is a poll of the store later. After a rest the workers poll the
bell at their longest interval. Cold is from before the executor is made: session, worker processes, first result.
`ProcessPoolExecutor` is measured in the same run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments, n_requests
from benchmarks.s3_endpoint.process import running
from starburst_executor import StarburstExecutor

WORKERS = 2
REST_S = 12.0  # after that the pause between two polls has its maximum


def no_op() -> None:
    return None


def clock() -> float:
    return time.time()


def nap() -> None:
    time.sleep(0.5)


def round_trips(executor: Executor, n_trips: int, rest_s: float = 0.0) -> list[float]:
    """Return the milliseconds from submit to result of each call."""
    took = []
    for _ in range(n_trips):
        time.sleep(rest_s)
        began = time.perf_counter()
        executor.submit(no_op).result()
        took.append(1000 * (time.perf_counter() - began))
    return took


def begins(executor: Executor, n_trips: int) -> list[float]:
    """Return the milliseconds from submit until the task begins."""
    took = []
    for _ in range(n_trips):
        began = time.time()
        took.append(1000 * (executor.submit(clock).result() - began))
    return took


def seen_running(executor: Executor, n_trips: int) -> list[float]:
    """Return the milliseconds from submit until the client knows that a worker has the task."""
    took = []
    for _ in range(n_trips):
        began = time.perf_counter()
        future = executor.submit(nap)
        while not (future.running() or future.done()):
            time.sleep(0.001)
        took.append(1000 * (time.perf_counter() - began))
        future.result()
    return took


def cold(make: Callable[[], Executor], n_times: int) -> list[float]:
    """Return the seconds from before the executor is made to its first result."""
    took = []
    for _ in range(n_times):
        began = time.perf_counter()
        with make() as executor:
            executor.submit(no_op).result()
            took.append(time.perf_counter() - began)
    return took


def starburst(where: str, store: str, budget: str, n_trips: int, n_cold: int, n_rests: int) -> list[Row]:
    def make() -> StarburstExecutor:
        return StarburstExecutor(workers=WORKERS, store=store)

    rows = []
    chosen: dict[str, Any] = {"store": where, "workers": WORKERS}
    with make() as executor:
        executor.submit(no_op).result()
        before = n_requests(executor._engine.opened.store.requests.snapshot())  # noqa: SLF001 - the client's share
        rows.append(Row(f"{where}: round trip", "ms", round_trips(executor, n_trips), budget=budget))
        asked = n_requests(executor._engine.opened.store.requests.snapshot()) - before  # noqa: SLF001
        rows[0].note = f"{asked / n_trips:.1f} requests a trip by the client"
        rows.append(Row(f"{where}: submit until it begins", "ms", begins(executor, n_trips)))
        rows.append(Row(f"{where}: submit until seen running", "ms", seen_running(executor, max(3, n_trips // 10))))
        if n_rests:
            note = f"each after {REST_S:g} s without work"
            rows.append(
                Row(f"{where}: round trip after a rest", "ms", round_trips(executor, n_rests, REST_S), note=note)
            )
    rows.append(Row(f"{where}: cold, to the first result", "s", cold(make, n_cold)))
    for row in rows:
        row.conditions = chosen
    return rows


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    n_embedded, n_remote, n_cold, n_rests = (50, 10, 1, 0) if run.quick else (500, 100, 5, 5)
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite://{folder}/sessions"
        rows = starburst("embedded", store, "≤ 5", n_embedded, n_cold, n_rests)
    with running("aws") as endpoint:
        rows += starburst("S3 latency", endpoint.store("latency"), "≤ 450", n_remote, n_cold, n_rests)
    with ProcessPoolExecutor(WORKERS) as executor:
        executor.submit(no_op).result()
        rows.append(Row("ProcessPoolExecutor: round trip", "ms", round_trips(executor, n_embedded)))
    rows.append(Row("ProcessPoolExecutor: cold", "s", cold(lambda: ProcessPoolExecutor(WORKERS), n_cold)))
    run.table(f"{WORKERS} local workers, one task at a time", rows)


if __name__ == "__main__":
    main()
