"""Measures the requests per second of a fleet, by kind, and its throughput beyond the limits of S3.

    python benchmarks/scale.py [--quick] [--out FOLDER] [--workers W …]

Whole fleets in virtual time (`_fleet.py`): the product's own client and agents on a simulated S3 with Amazon's latencies,
all keys in one partition. Amazon documents 3,500 writes and 5,500 reads a second for a partition that has not been split
yet. Fleets at a twenty-fifth of these limits show the effect: 80 to 400 workers get 503 as often as 2,000 to 10,000 would
at the full limits.

Rates are those of the middle half of a run. The rate of 10,000 workers is extrapolated: it is the rate per worker of the
largest fleet that was simulated without a limit, times 10,000.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._fleet import Fleet, Flight
from benchmarks._rows import Row, Run, arguments
from benchmarks._simulated_s3 import READS_PER_S, WRITES_PER_S

TASKS_EACH = 20
FAR = 10_000
SHARE = 0.04
KINDS = {
    "writes": ("create", "swap", "put", "delete"),
    "reads": ("get", "not_modified", "list"),
    "refused": ("503",),
}


def middle(flight: Flight) -> list[Counter[str]]:
    """Return the seconds of the middle half."""
    n = len(flight.by_second)
    return flight.by_second[n // 4 : max(n // 4 + 1, 3 * n // 4)]


def per_second(seconds: Iterable[Counter[str]], kind: str) -> list[float]:
    return [float(sum(counts[one] for one in KINDS[kind])) for counts in seconds]


def rows(flight: Flight, conditions: dict[str, Any]) -> list[Row]:
    """Return the rows of one run."""
    n_tasks, task_s = conditions["n_tasks"], conditions["task_s"]
    words = f"{conditions['workers']:,} workers, tasks of {task_s:g} s"
    words += f", S3 at {conditions['limits']:g} of its limits" if conditions["limits"] else ""
    asked = {kind: sum(flight.requests[one] for one in names) for kind, names in KINDS.items()}
    useful = Row(f"useful time: {words}", "share", [flight.useful], conditions={**conditions, "measure": "useful"})
    useful.note = f"{flight.seconds:.1f} s for {n_tasks:,} tasks"
    steady = Row(f"useful time in the middle half: {words}", "share", [flight.steady])
    steady.conditions = {**conditions, "measure": "steady"}
    per_task = Row(f"requests a task: {words}", "requests", [sum(asked.values()) / n_tasks])
    per_task.requests = dict(flight.requests)
    per_task.conditions = {**conditions, "measure": "per_task"}
    per_task.note = ", ".join(f"{count / n_tasks:.2f} {kind}" for kind, count in asked.items() if count)
    found = [useful, steady, per_task]
    for kind in KINDS if conditions["limits"] else ("writes", "reads"):
        row = Row(f"{kind} a second: {words}", "requests/s", per_second(middle(flight), kind))
        row.conditions = {**conditions, "measure": kind}
        most = max(per_second(flight.by_second, kind))
        row.note = f"most in any second of the run: {most:,.0f}"
        found.append(row)
    return found


def over_time(flight: Flight, conditions: dict[str, Any]) -> list[Row]:
    """Return the requests in each second of a run, for a plot."""
    found = []
    for second, counts in enumerate(flight.by_second):
        values = {kind: per_second([counts], kind)[0] for kind in KINDS}
        row = Row(f"second {second}", "requests/s", [sum(values.values())])
        row.conditions = {**conditions, "measure": "over_time", "second": second, **values}
        found.append(row)
    return found


def far_rows(found: list[Row], n_workers: int, task_s: float) -> list[Row]:
    """Return the extrapolated rates of larger fleets, and the number of workers that reach a limit."""
    rates = {
        row.conditions["measure"]: row.percentile(0.5) / n_workers
        for row in found
        if row.conditions["measure"] in ("writes", "reads")
    }
    made = []
    for kind, limit in (("writes", WRITES_PER_S), ("reads", READS_PER_S)):
        row = Row(f"{kind} a second: {FAR:,} workers, tasks of {task_s:g} s", "requests/s", [rates[kind] * FAR])
        row.conditions = {"measure": kind, "workers": FAR, "task_s": task_s, "limits": None, "extrapolated": True}
        row.note = (
            f"extrapolated: {rates[kind]:.2f} a second and worker as of {n_workers:,}; the limit of one partition is {limit:,}, "
            f"which {limit / rates[kind]:,.0f} workers reach"
        )
        made.append(row)
    return made


def fly(
    run: Run, n_workers: int, task_s: float, *, limits: float | None = None, tasks_each: int = TASKS_EACH
) -> list[Row]:
    n_tasks = n_workers * tasks_each
    flight = Fleet(n_workers, limits=limits).run(n_tasks, task_s)
    conditions = {"workers": n_workers, "task_s": task_s, "limits": limits, "n_tasks": n_tasks}
    found = rows(flight, conditions)
    run.table(f"{n_workers:,} workers, {n_tasks:,} tasks of {task_s:g} s", found)
    run.rows(over_time(flight, conditions))
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", help="sizes of the fleets, instead of the default ones")
    options = parser.parse_args()
    run = Run(__file__, options)
    sizes = options.workers or ([10, 50] if run.quick else [50, 100, 200, 500, 1000])
    for task_s, tasks_each in ((1.0, TASKS_EACH), (10.0, 4)):
        for n_workers in sizes:
            found = fly(run, n_workers, task_s, tasks_each=tasks_each)
        run.table(f"{FAR:,} workers, extrapolated", far_rows(found, max(sizes), task_s))
    for n_workers in [50] if run.quick else [80, 120, 160, 200, 400]:
        fly(run, n_workers, 1.0, limits=SHARE / 2 if run.quick else SHARE)


if __name__ == "__main__":
    main()
