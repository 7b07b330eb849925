"""Measures what the pace of claims, commits and polls gives, against its goals: requests, useful time, lone calls, saturated fleets.

    python benchmarks/pace.py [--quick] [--out FOLDER]

All in simulated time (`_far.py`, `_fleet.py`), at Amazon's latencies, with fifty workers of one slot unless the row says otherwise: so no
figure depends on the machine, and the seconds assume unlimited processors. `throughput.py` has the rows that depend on processors, beside
other libraries. With `--quick` the runs are shorter; fewer tasks cost more requests each, so these rows miss some goals.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._far import lone_calls, play
from benchmarks._fleet import Fleet
from benchmarks._rows import Row, Run, arguments, cost_usd, n_requests

WORKERS = 50
_POINT = 20e-6
# Fleets at this share of S3's limits, with the same number of tasks each: the second size has the highest rate, the last one
# is four times the size at which requests are first refused all the time.
_SHARE, _SIZES, _N_TASKS, _SEEDS = 0.01, (30, 60, 120), 2400, (1, 2, 3)


def runs(task_s: float, n_tasks: int, goals: tuple[str, str, str]) -> list[Row]:
    """Run tasks of this duration; return requests a task, the time of the first result or of all, and the useful share."""
    played = play([task_s] * n_tasks, WORKERS)
    words = f"{n_tasks:,} × {'points' if task_s == _POINT else f'{task_s:g} s'} on {WORKERS}"
    conditions = {"task_s": task_s, "n_tasks": n_tasks, "workers": WORKERS, "simulated": True}
    requests = Row(f"requests a task: {words}", "requests/task", [n_requests(played.requests) / n_tasks])
    requests.requests, requests.budget = dict(played.requests), goals[0]
    requests.note = f"${cost_usd(played.requests) / n_tasks * 1e6:.2f} a million"
    seconds = Row(
        f"seconds: {words}", "s", [played.seconds], budget=goals[1], note=f"first result {played.first_s:.2f} s"
    )
    found = [requests, seconds]
    if task_s > _POINT:
        useful = n_tasks * task_s / WORKERS / played.seconds
        found.append(Row(f"useful time: {words}", "share", [useful], budget=goals[2]))
    for row in found:
        row.conditions = conditions
    return found


def lone(rest_s: float, goal: str) -> list[Row]:
    """Make lone calls; return their latency, and the requests of each beside polls of the bell and beats."""
    calls = lone_calls(12, rest_s, WORKERS)
    words = f"a lone call {f'after {rest_s:g} s' if rest_s else 'just after work'}, {WORKERS} workers idle"
    conditions = {"rest_s": rest_s, "workers": WORKERS, "simulated": True}
    per_call = [float(n_requests(requests)) for requests in calls.requests]
    return [
        Row(f"latency: {words}", "s", calls.seconds, conditions=conditions, budget=goal),
        Row(f"requests: {words}", "requests", per_call, conditions=conditions, budget="≤ 15" if rest_s else ""),
    ]


def saturated(sizes: tuple[int, ...], n_tasks: int) -> list[Row]:
    """Run the same tasks of 1 s with fleets of these sizes on an S3 with low limits; return tasks a second, and the last size over the best."""
    rates = {
        n: [n_tasks / Fleet(n, limits=_SHARE, seed=seed).run(n_tasks, 1.0).seconds for seed in _SEEDS] for n in sizes
    }
    found = []
    for n_workers, each in rates.items():
        row = Row(f"throughput: {n_workers} workers, tasks of 1 s, S3 at {_SHARE:g} of its limits", "tasks/s", each)
        row.conditions = {"workers": n_workers, "limits": _SHARE, "n_tasks": n_tasks}
        found.append(row)
    last = max(sizes)
    # Seed by seed, over the best of the smaller sizes.
    shares = [rate / max(rates[n][i] for n in sizes if n < last) for i, rate in enumerate(rates[last])]
    row = Row(f"throughput over the peak: {last} workers", "share", [fmean(shares)], budget="≥ 0.95")
    row.conditions = {"workers": last, "limits": _SHARE, "n_tasks": n_tasks}
    row.note = f"the mean of {len(shares)} seeds: {', '.join(f'{share:.0%}' for share in shares)}"
    return [*found, row]


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    quick = run.quick
    table = runs(1.0, 1_000 if quick else 10_000, ("≤ 1.5", "", ""))
    table += runs(10.0, 200 if quick else 1_000, ("≤ 5", "", ""))
    table += runs(1.0, 2_000, ("", "", "≥ 0.97"))
    run.table("tasks of seconds", table)
    table = runs(_POINT, 10_000, ("≤ 0.12", "≤ 1.2", ""))
    if not quick:
        table += runs(_POINT, 1_000_000, ("≤ 0.02", "", ""))
    run.table("tiny tasks", table)
    run.table("lone calls", [*lone(0.0, "≤ 0.35"), *lone(10.0, "≤ 0.7")])
    run.table("beyond the limits", saturated(_SIZES[::2] if quick else _SIZES, _N_TASKS // 4 if quick else _N_TASKS))


if __name__ == "__main__":
    main()
