"""Measures the time and the requests of a sweep over many short tasks, on fifty workers whose store has S3's latency.

    python benchmarks/sweep.py [--quick] [--out FOLDER] [--only NAME …] [--trace FILE]

Fifty worker processes with one slot each, on the store at `s3_endpoint`, which has Amazon's latencies. They have run
tasks before the timing begins; a separate table shows the time until then. All tasks go through plain `map`,
or a `submit` loop, one call each: nothing is batched by hand.

Each repetition has its own function, which no worker has measured before, as in a user's first sweep.

Tasks sleep. Fifty busy ones do not fit on two cores, and what is measured is not their work but what lies between it.
Useful time is the sum of what the tasks slept over workers times wall time, submitting and collecting included.

The endpoint counts the requests of the client, of workers and of beats. At the end they are compared with the counts
that executor and workers report, which lack the requests after the last report.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Cpu, Row, Run, arguments, cost_usd, cpu_seconds, n_requests
from benchmarks.s3_endpoint.process import Running, running
from starburst_executor import StarburstExecutor
from starburst_executor.launch.local.launcher import Local

WORKERS = 50


def one_point(name: str) -> Callable[[int], int]:
    """Return a function whose tasks are shorter than a request."""

    def square(x: int) -> int:
        return x * x

    square.__qualname__ = name
    return square


def nap(name: str) -> Callable[[float], float]:
    """Return a function whose tasks sleep for their argument, and so need no core."""

    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    sleep.__qualname__ = name
    return sleep


def lognormal(n_tasks: int) -> list[float]:
    """Return durations as in real sweeps: half of them below 0.55 s, one in a hundred above 3.5 s."""
    draw = random.Random(1)
    return [draw.lognormvariate(-0.6, 0.8) for _ in range(n_tasks)]


def ideal_s(naps: list[float], workers: int) -> float:
    """Return the shortest time for these tasks in order, if each free worker begins the next one at once."""
    free_at = [0.0] * workers
    for seconds in naps:
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return max(free_at)


@dataclass(frozen=True)
class Load:
    """A workload and its budgets.

    Attributes:
        naps: How long each task sleeps; empty for `n_points` tasks that do not.
        loops: Submits one by one instead of by `map`.
    """

    name: str
    naps: list[float]
    n_points: int = 0
    loops: bool = False
    most_s: float | None = None
    most_requests: float | None = None
    least_useful: float | None = None

    @property
    def n_tasks(self) -> int:
        return len(self.naps) or self.n_points

    def calls(self, name: str) -> tuple[Callable[[Any], Any], list[Any]]:
        return (nap(name), list(self.naps)) if self.naps else (one_point(name), list(range(self.n_points)))


def loads(*, quick: bool) -> list[Load]:
    scale = 20 if quick else 1
    n_points = 10_000 // scale
    return [
        Load("points", [], n_points, most_s=5.0, most_requests=0.2),
        Load("points-submit", [], n_points, loops=True, most_s=5.0, most_requests=0.2),
        Load("1s-500", [1.0] * (500 // scale), most_requests=6.0),
        Load("1s-2000", [1.0] * (2000 // scale), least_useful=97.0),
        Load("0.1s-2000", [0.1] * (2000 // scale)),
        Load("lognormal-1000", lognormal(1000 // scale)),
    ]


@dataclass
class Measured:
    """The measurements of one repetition of a load."""

    seconds: float
    first_s: float
    requests: dict[str, int]
    cpu: Cpu
    cpu_store_s: float


@contextmanager
def warm(endpoint: Running, workers: int, prefix: str) -> Iterator[tuple[StarburstExecutor, float, float]]:
    """Make an executor whose workers have all run tasks; also return the times to its first result and last first beat."""
    began = time.perf_counter()
    with StarburstExecutor(workers=workers, launcher=Local(agents=workers), store=endpoint.store(prefix)) as executor:
        executor.submit(one_point("first"), 1).result()
        first_s = time.perf_counter() - began
        while n_beating(executor) < workers:
            time.sleep(0.5)
        all_s = time.perf_counter() - began
        list(executor.map(nap("warm-up"), [0.2] * (4 * workers)))
        yield executor, first_s, all_s


def n_beating(executor: StarburstExecutor) -> int:
    session = executor._engine.session  # noqa: SLF001 - an attached executor has no public count of its workers
    return len(session.store.list(session.keys.workers))


def measure(endpoint: Running, executor: StarburstExecutor, load: Load, name: str) -> Measured:
    function, items = load.calls(name)
    before = endpoint.counts()
    with cpu_seconds(exclude=[endpoint.pid]) as cpu:
        began = time.perf_counter()
        results = each_result(executor, function, items, loops=load.loops)
        got = [next(results)]
        first_s = time.perf_counter() - began
        got.extend(results)
        seconds = time.perf_counter() - began
    after = endpoint.counts()
    if got != [function(x) if not load.naps else x for x in items]:
        raise SystemExit(f"wrong results: load={load.name}")
    counts = {kind: int(n - before.get(kind, 0)) for kind, n in after.items() if kind not in ("cpu_s", "connections")}
    return Measured(seconds, first_s, counts, cpu, after["cpu_s"] - before["cpu_s"])


def each_result(
    executor: StarburstExecutor, function: Callable[[Any], Any], items: list[Any], *, loops: bool
) -> Iterator[Any]:
    if not loops:
        yield from executor.map(function, items)
        return
    futures = [executor.submit(function, item) for item in items]
    for future in futures:
        yield future.result()


def rows_of(load: Load, all_measured: list[Measured], workers: int) -> list[Row]:
    ordered = sorted(all_measured, key=lambda one: one.seconds)
    middle = ordered[len(ordered) // 2]
    conditions = {"load": load.name, "n_tasks": load.n_tasks, "workers": workers, "task_s": sum(load.naps)}

    def row(name: str, unit: str, value: Callable[[Measured], float], budget: str = "", note: str = "") -> Row:
        return Row(
            f"{load.name}: {name}",
            unit,
            [value(one) for one in all_measured],
            requests=middle.requests,
            cpu_client_s=middle.cpu.client_s,
            cpu_workers_s=middle.cpu.workers_s,
            cpu_store_s=middle.cpu_store_s,
            conditions=conditions,
            budget=budget,
            note=note,
        )

    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(middle.requests.items()) if n and "bytes" not in kind)
    million_usd = cost_usd(middle.requests) / load.n_tasks * 1e6
    rows = [
        row("wall", "s", lambda one: one.seconds, _budget("≤", load.most_s), f"{load.n_tasks:,} tasks"),
        row("first result in order", "s", lambda one: one.first_s),
        row(
            "requests a task",
            "requests",
            lambda one: n_requests(one.requests) / load.n_tasks,
            _budget("≤", load.most_requests),
            f"${million_usd:.2f} for a million tasks; {kinds}",
        ),
    ]
    if load.naps:
        rows.append(
            row(
                "useful time",
                "%",
                lambda one: 100 * sum(load.naps) / (workers * one.seconds),
                _budget("≥", load.least_useful),
                f"with no time lost between tasks: {ideal_s(load.naps, workers):.1f} s, {100 * sum(load.naps) / workers / ideal_s(load.naps, workers):.0f} %",
            )
        )
    return rows


def _budget(sign: str, value: float | None) -> str:
    return "" if value is None else f"{sign} {value:g}"


def compared(executor: StarburstExecutor, endpoint: Running, before: dict[str, float], workers: int) -> Row:
    """Return the share of the requests counted by the endpoint that client and workers report after the end."""
    reported = executor.requests()
    now = endpoint.counts()
    counted = Counter({kind: int(n - before.get(kind, 0)) for kind, n in now.items()})
    share = 100 * n_requests(reported) / max(1, n_requests(counted))
    note = f"executor.requests() {n_requests(reported):,}, endpoint {n_requests(counted):,}, start and end included"
    return Row("requests reported of counted", "%", [share], conditions={"workers": workers}, note=note)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these loads alone")
    parser.add_argument("--workers", type=int, default=0, help=f"{WORKERS} by default, 8 if quick")
    parser.add_argument("--repeat", type=int, default=0, help="3 by default, 1 if quick")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write a line there for each request")
    options = parser.parse_args()
    sweep(Run(__file__, options), options)


def sweep(run: Run, options: argparse.Namespace) -> None:
    workers = options.workers or (8 if run.quick else WORKERS)
    n_repetitions = options.repeat or (1 if run.quick else 3)
    chosen = [load for load in loads(quick=run.quick) if not options.only or load.name in options.only]
    measured: dict[str, list[Measured]] = {load.name: [] for load in chosen}
    with running("aws", trace=options.trace) as endpoint:
        before = endpoint.counts()
        with warm(endpoint, workers, "sweep") as (executor, first_s, all_s):
            conditions = {"workers": workers}
            run.table(
                f"cold: {workers} agents, store at S3's latency",
                [
                    Row("executor made to first result", "s", [first_s], conditions=conditions),
                    Row("executor made to the last worker's first beat", "s", [all_s], conditions=conditions),
                ],
            )
            for number in range(n_repetitions):
                for load in chosen:
                    measured[load.name].append(measure(endpoint, executor, load, f"{load.name}-{number}"))
            rows = [row for load in chosen for row in rows_of(load, measured[load.name], workers)]
        rows.append(compared(executor, endpoint, before, workers))
        run.table(f"warm: {workers} agents with a slot each, store at S3's latency", rows)


if __name__ == "__main__":
    main()
