"""Measures tasks per second, beside other libraries in the same run, and store requests per task.

    python benchmarks/throughput.py [--quick] [--out FOLDER] [--seconds S]

Tasks that do nothing and tasks of 1 ms; 10,000, 100,000 and a million; `submit` in a loop and `map`, not batched by hand; 2 and 8
local workers; ours with the embedded store. Then, on one S3 endpoint, ours and Lithops, which keeps its state there too.
Libraries take turns within each setting, each in a process of its own (`benchmarks/peers`). Workers have
started and run the function before the timing begins. Ours runs all tasks, and each peer as many as it completes in
`--seconds`, about 30 over all settings; the rates are compared. A library that is not installed is reported as absent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments, n_requests
from benchmarks.peers._job import Answer, Job, ask
from benchmarks.s3_endpoint.process import BUCKET, Running, running

OURS = "StarburstExecutor"
BASELINE = "ProcessPoolExecutor, chunksize 1"
JOBLIB = "joblib, automatic batches"
_ALL_S = 600.0


@dataclass(frozen=True)
class Contender:
    """A library with one set of options."""

    label: str
    peer: str
    hows: tuple[str, ...] = ("submit", "map")
    options: Mapping[str, Any] = field(default_factory=dict)


CONTENDERS = (
    Contender(OURS, "starburst"),
    Contender(BASELINE, "process_pool", options={"chunksize": 1}),
    Contender("ProcessPoolExecutor, chunksize 64", "process_pool", ("map",), {"chunksize": 64}),
    Contender("loky", "loky_executor"),
    Contender(JOBLIB, "joblib_parallel", ("map",)),
    Contender("dask.distributed", "dask_executor"),
    Contender("Lithops, local files", "lithops_executor", ("map",)),
)


@dataclass(frozen=True)
class Setting:
    """The workload, the same for all libraries."""

    task: str
    how: str
    n_workers: int
    n_tasks: int
    n_turns: int = 1

    def __str__(self) -> str:
        return f"{self.n_tasks:,} tasks, {self.task}, {self.how}, {self.n_workers} workers"

    @property
    def conditions(self) -> dict[str, Any]:
        return {"task": self.task, "how": self.how, "workers": self.n_workers, "n_tasks": self.n_tasks}


FIRST = Setting("no-op", "map", 2, 10_000, n_turns=5)
LOOP = Setting("no-op", "submit", 2, 100_000)
LONG = Setting("no-op", "map", 2, 100_000)
LONGEST = Setting("no-op", "map", 2, 1_000_000)

# Our rate over that of a library, by that library's label and setting. Ours writes each task's state to disk, theirs keep none.
BUDGETS = {
    (BASELINE, str(FIRST)): "≥ 3",
    (BASELINE, str(LOOP)): "≥ 8",
    (BASELINE, str(LONG)): "≥ 20",
    (BASELINE, str(LONGEST)): "≥ 20",
    (JOBLIB, str(LONGEST)): "≥ 1",
}
# Microseconds of processor time a task: of the client, and of agents and runners together.
CPU_BUDGETS = {str(LOOP): ("≤ 6", "≤ 4"), str(LONGEST): ("≤ 6", "≤ 4")}


def settings(*, quick: bool) -> list[Setting]:
    """Return the settings, those of 10,000 no-op tasks on two workers first."""
    if quick:
        return [Setting("no-op", "map", 2, 10_000)]
    some = [
        Setting(task, how, n_workers, n_tasks)
        for task in ("no-op", "1 ms")
        for n_workers in (2, 8)
        # 100,000 tasks are submitted in one way only, but for no-op tasks on two workers.
        for how, n_tasks in (("submit", 10_000), ("map", 10_000), ("map", 100_000))
    ]
    return [FIRST, LOOP, LONGEST, *(one for one in some if one.conditions != FIRST.conditions)]


class Throughput:
    """The measurements of one run.

    Args:
        at_most_s: Longest time of one measurement of a peer.
    """

    def __init__(self, at_most_s: float) -> None:
        self._at_most_s = at_most_s
        self._capped: dict[tuple[str, str, str, int], Answer] = {}

    def rows(self, setting: Setting, contenders: Iterable[Contender]) -> list[Row]:
        """Measure all contenders in turns; return their rates, then ours over each of theirs."""
        mine = [one for one in contenders if setting.how in one.hows]
        answers: dict[str, list[Answer]] = {one.label: [] for one in mine}
        for _ in range(setting.n_turns):
            for one in mine:
                answers[one.label].append(self._ask(one, setting))
        rows = [rate_row(label, setting, found) for label, found in answers.items()]
        ours = answers.pop(OURS)
        rows += [ratio_row(label, setting, ours, found) for label, found in answers.items()]
        return rows + cpu_rows(setting, ours)

    def _ask(self, one: Contender, setting: Setting) -> Answer:
        place = (one.label, setting.task, setting.how, setting.n_workers)
        if place in self._capped:
            # It did not complete fewer tasks in time: more tasks would give the same rate.
            return self._capped[place]
        at_most_s = _ALL_S if one.label == OURS else self._at_most_s
        job = Job(one.peer, setting.task, setting.how, setting.n_workers, setting.n_tasks, at_most_s, dict(one.options))
        answer = ask(job)
        if answer.absent or (answer.n_tasks < setting.n_tasks and setting.n_turns == 1):
            self._capped[place] = answer
        return answer


def rate_row(label: str, setting: Setting, answers: Sequence[Answer]) -> Row:
    """Return the tasks per second of the measured turns; without a value if there are none."""
    measured = [answer for answer in answers if not answer.absent]
    row = Row(f"{label}: {setting}", "tasks/s", [answer.rate for answer in measured])
    row.conditions = {**setting.conditions, "library": label}
    if not measured:
        row.note = answers[0].absent
        return row
    last = measured[-1]
    row.conditions["library_version"] = last.version
    row.cpu_client_s, row.cpu_workers_s, row.requests = last.cpu_client_s, last.cpu_workers_s, last.requests
    notes = [f"of {last.n_tasks:,} tasks"] if last.n_tasks < setting.n_tasks else []
    if last.requests:
        row.conditions["requests_a_task"] = n_requests(last.requests) / last.n_all_tasks
        notes.append(f"{row.conditions['requests_a_task']:.3f} requests a task")
    if len(measured) < len(answers):
        notes.append(f"{len(answers) - len(measured)} of {len(answers)} turns failed")
    row.note = ", ".join(notes)
    return row


def ratio_row(label: str, setting: Setting, ours: Sequence[Answer], theirs: Sequence[Answer]) -> Row:
    """Return our rate over theirs, turn by turn; without a value if either was not measured."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if not a.absent and not b.absent]
    row = Row(f"ours over {label}: {setting}", "times", [a.rate / b.rate for a, b in pairs])
    row.conditions = {**setting.conditions, "ours_over": label}
    row.budget = BUDGETS.get((label, str(setting)), "")
    row.note = "" if pairs else (next((one.absent for one in (*theirs, *ours) if one.absent), "not measured"))
    return row


def cpu_rows(setting: Setting, ours: Sequence[Answer]) -> list[Row]:
    """Return the processor time of one of our tasks, in the client and in its workers, where there are budgets for it."""
    rows = []
    budgets = CPU_BUDGETS.get(str(setting))
    for whose, budget in zip(("client", "workers"), budgets, strict=True) if budgets else ():
        seconds = [getattr(answer, f"cpu_{whose}_s") / answer.n_tasks * 1e6 for answer in ours if not answer.absent]
        row = Row(f"processor time a task, {whose}: {setting}", "µs", seconds, budget=budget)
        row.conditions = {**setting.conditions, "cpu_of": whose}
        rows.append(row)
    return rows


def on_s3(endpoint: Running) -> tuple[Contender, ...]:
    """Measure ours and Lithops on one endpoint."""
    theirs = {"endpoint_url": endpoint.url, "bucket": BUCKET}
    return (
        Contender(OURS, "starburst", options={"store": endpoint.store("throughput")}),
        Contender("Lithops, S3", "lithops_executor", ("map",), theirs),
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=2.5, help="longest time of each measurement of a peer")
    options = parser.parse_args()
    run = Run(__file__, options)
    throughput = Throughput(1.0 if run.quick else options.seconds)
    for setting in settings(quick=run.quick):
        run.table(f"embedded store, {setting}", throughput.rows(setting, CONTENDERS))
    with running("aws") as endpoint:
        setting = Setting("no-op", "map", 2, 1_000 if run.quick else 10_000)
        run.table(f"S3 endpoint with Amazon's latency, {setting}", throughput.rows(setting, on_s3(endpoint)))


if __name__ == "__main__":
    main()
