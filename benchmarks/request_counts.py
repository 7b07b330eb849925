"""Counts the store requests per task, and the dollars for a million tasks, by the number of tasks and of workers.

    python benchmarks/request_counts.py [--quick] [--out FOLDER]

From 100 to 100,000 tasks and from 1 to 200 workers with a slot each; the requests per task may grow with neither. The client and the
agents are the real ones, but time is simulated (`_far.py`), so two hundred workers fit into one process and no figure
depends on the machine; the seconds assume unlimited processors. The last rows run real processes on
the endpoint with the same latencies, beside the same load in simulated time: the counts should agree.

Counted are all requests from the first submit to the last result: of the client, of workers, and of beats. Prices are Amazon's
for S3 Standard: $0.005 for 1,000 PUTs or LISTs, $0.0004 for 1,000 GETs.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._far import play
from benchmarks._rows import Row, Run, arguments, cost_usd, n_requests
from benchmarks.s3_endpoint.process import running
from benchmarks.sweep import Load, measure, warm

# The duration of a task in seconds.
_POINT, _SHORT, _LONG = 20e-6, 0.1, 1.0
_NAMES = {_POINT: "points", _SHORT: "0.1 s", _LONG: "1 s"}
_SEEDS = (1, 2, 3)


def row_of(task_s: float, n_tasks: int, workers: int) -> Row:
    """Run one load in simulated time, once for each seed."""
    played = [play([task_s] * n_tasks, workers, seed=seed) for seed in _SEEDS]
    per_task = [n_requests(each.requests) / n_tasks for each in played]
    middle = min(played, key=lambda each: abs(n_requests(each.requests) / n_tasks - statistics.median(per_task)))
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(middle.requests.items()) if n)
    return Row(
        f"{_NAMES[task_s]:6} × {n_tasks:>7,} on {workers:>3}",
        "requests/task",
        per_task,
        requests=dict(middle.requests),
        conditions={
            "task_s": task_s,
            "n_tasks": n_tasks,
            "workers": workers,
            "simulated": True,
            "seconds": middle.seconds,
            "useful": n_tasks * task_s / workers / middle.seconds,
            "million_usd": cost_usd(middle.requests) / n_tasks * 1e6,
        },
        note=f"${cost_usd(middle.requests) / n_tasks * 1e6:.2f} a million; {middle.seconds:,.1f} s simulated; {kinds}",
    )


def by_tasks(task_s: float, most: int) -> list[Row]:
    return [row_of(task_s, n_tasks, 50) for n_tasks in (100, 1_000, 10_000, 100_000) if n_tasks <= most]


def by_workers(task_s: float, n_tasks: int, most: int) -> list[Row]:
    return [row_of(task_s, n_tasks, workers) for workers in (1, 4, 16, 50, 200) if workers <= most]


def against_processes(n_tasks: int, workers: int) -> list[Row]:
    """Run the same load with real processes and in simulated time."""
    with running("aws") as endpoint, warm(endpoint, workers, "counts") as (executor, _, _):
        load = Load("points", [], n_tasks)
        measured = [measure(endpoint, executor, load, f"points-{number}") for number in range(3)]
    real = Row(
        f"points × {n_tasks:>7,} on {workers:>3}, real processes",
        "requests/task",
        [n_requests(each.requests) / n_tasks for each in measured],
        requests=measured[0].requests,
        conditions={"task_s": _POINT, "n_tasks": n_tasks, "workers": workers, "simulated": False},
    )
    return [real, row_of(_POINT, n_tasks, workers)]


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    most_tasks, most_long, most_workers = (1_000, 100, 16) if run.quick else (100_000, 10_000, 200)
    run.table("by number of tasks, 50 workers", [*by_tasks(_POINT, most_tasks), *by_tasks(_LONG, most_long)])
    n_long = most_long // 5
    rows = [*by_workers(_POINT, most_tasks // 10, most_workers), *by_workers(_SHORT, n_long, most_workers)]
    run.table("by number of workers", [*rows, *by_workers(_LONG, n_long, most_workers)])
    run.table("simulated time against real processes", against_processes(most_tasks // 100, 4))


if __name__ == "__main__":
    main()
