"""Measures what a study costs beside plain `map`: its overhead, its requests for the record, and how soon a large one resumes.

    python benchmarks/studies.py [--quick] [--out FOLDER]

The embedded store and local workers. Overhead: trials of 1 s that sleep, in one stage, and the same tasks with `map` in a detached session, in
turns; starting and ending the session is included in both. What a study costs more does not grow with its trials, so it is also measured by
itself: of one trial a worker, in many turns. Requests: of ten stages and of one, those for record and tables, counted at the store. Resuming: all but
two of 100,000 trials have ended when the driver stops; the time is that of a new process, from the call of `run` until it has all outcomes.
Far: 1,000 trials of 1 s on fifty workers whose store has S3's latency, beside `map` there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._rows import Row, Run, arguments
from benchmarks.s3_endpoint.process import running
from starburst_executor import DetachedExecutor, Local, Stage, Study
from starburst_executor.study.objects import StudyObjects

WORKERS = 8
LEFT = 2  # trials that have not ended when a study resumes


def nap(_: Any) -> dict[str, float]:
    time.sleep(1)
    return {"score": 1.0}


def score(trial: Any) -> dict[str, float]:
    return {"score": trial.index}


def mapped(store: str, n: int) -> float:
    started = time.perf_counter()
    with DetachedExecutor(workers=WORKERS, store=store) as executor:
        assert len(list(executor.map(nap, range(n)))) == n
        executor.cleanup()
    return time.perf_counter() - started


def studied(store: str, n: int) -> float:
    started = time.perf_counter()
    study = Study(f"naps-{time.time_ns()}", [Stage("only", nap, n, select=("score", 3))], store=store, workers=WORKERS)
    assert study.run(progress=False).is_complete
    seconds = time.perf_counter() - started
    study.delete()
    return seconds


def overhead(*, quick: bool) -> list[Row]:
    n, rounds = (16, 1) if quick else (240, 5)
    plain, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            plain.append(mapped(f"sqlite://{folder}/sessions", n))
            ours.append(studied(f"sqlite://{folder}/sessions", n))
    ratios = [100 * (one / other - 1) for one, other in zip(ours, plain, strict=True)]
    more = fixed(3 if quick else 15)
    conditions = {"trials": n, "workers": WORKERS}
    return [
        Row(f"map, {n} tasks of 1 s", "s", plain, conditions=conditions),
        Row(f"study, {n} trials of 1 s", "s", ours, conditions=conditions),
        Row("overhead of the study", "%", ratios, conditions=conditions, budget="≤ 1"),
        Row(
            f"seconds more than map, of {WORKERS} trials", "s", more, conditions={"trials": WORKERS, "workers": WORKERS}
        ),
        Row(
            f"these of {n} trials of 1 s",
            "%",
            [100 * s / (n / WORKERS) for s in more],
            conditions=conditions,
            budget="≤ 1",
        ),
    ]


def fixed(n_turns: int) -> list[float]:
    """Return by how many seconds a study of one trial a worker takes longer than `map`, in turns whose order changes."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        store = f"sqlite://{folder}/sessions"
        for turn in range(n_turns):
            if turn % 2:
                plain = mapped(store, WORKERS)
                found.append(studied(store, WORKERS) - plain)
            else:
                ours = studied(store, WORKERS)
                found.append(ours - mapped(store, WORKERS))
    return found


def requests(*, quick: bool) -> list[Row]:
    rows = []
    for n in (1, 3) if quick else (1, 10):
        counts: Counter[str] = Counter()
        with tempfile.TemporaryDirectory() as folder:
            stages = [Stage(f"s{i}", score, 20, select=("score", 5)) for i in range(n)]
            study = Study("counted", stages, store=f"sqlite://{folder}/sessions", workers=2)
            opened = study._opened  # noqa: SLF001 - what this process asks for the record and the tables goes through it
            counting: Any = _Counting(opened.store, counts)
            opened.objects = StudyObjects(counting, "counted", opened.clock)
            study.run(progress=False)
            study.delete()
        writes = sum(number for kind, number in counts.items() if kind not in _READS)
        row = Row(f"writes for the record and its tables, a stage of {n}", "requests", [writes / n], budget="≤ 4")
        row.note = f"reads: {counts.total() - writes}, at most one a beat"
        row.requests, row.conditions = dict(counts), {"stages": n}
        rows.append(row)
    return rows


_READS = ("get", "get_if_changed")


class _Counting:
    """A store that counts the requests for records and tables."""

    def __init__(self, store: Any, counts: Counter[str]) -> None:
        self._store, self._counts = store, counts

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in ("create", "swap", "put", *_READS):
            return method

        def counted(key: str, *more: Any, **options: Any) -> Any:
            self._counts[name] += key.rpartition("/")[2] in ("record", "previous") or "/trials/" in key
            return method(key, *more, **options)

        return counted


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[4])
from pathlib import Path
from benchmarks import studies
study = studies.large(sys.argv[1], int(sys.argv[2]), sys.argv[3])
started = time.perf_counter()
def hear(event):
    if event.data.get("trials") and event.data["completed"] >= int(sys.argv[2]) - studies.LEFT:
        print(time.perf_counter() - started, flush=True)
        study.stop()
study.run(progress=hear)
"""


class Waits:
    """Trials that end at once, except for the last two, which wait for a file."""

    def __init__(self, n: int, file: str) -> None:
        self.n, self.file = n, file

    def __call__(self, trial: Any) -> dict[str, float]:
        while trial.index >= self.n - LEFT and not Path(self.file).exists():
            time.sleep(0.05)
        return {"score": trial.index}


def large(store: str, n: int, file: str) -> Study:
    # One worker more than waiting trials: the others go on.
    return Study("large", [Stage("only", Waits(n, file), n, select=("score", 10))], store=store, workers=LEFT + 2)


def resuming(*, quick: bool) -> list[Row]:
    n = 2_000 if quick else 100_000
    times = []
    with tempfile.TemporaryDirectory() as folder:
        store, file = f"sqlite://{folder}/sessions", f"{folder}/go"
        for _ in range(2 if quick else 4):
            words = [sys.executable, "-c", PROGRAM, store, str(n), file, str(Path(__file__).parents[1])]
            printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            times.append(float(printed.split()[0]))
        Path(file).touch()
        study = large(store, n, file)
        assert study.run(progress=False).stages[0].completed == n
        study.delete()
    conditions = {"trials": n}
    return [
        Row(f"{n:,} trials from the beginning", "s", times[:1], conditions=conditions),
        Row(f"resuming with {n:,} trials", "s", times[1:], conditions=conditions, budget="≤ 10"),
    ]


def far(*, quick: bool) -> list[Row]:
    n, workers, rounds = (40, 4, 1) if quick else (1_000, 50, 3)
    plain, ours, counts = [], [], {}
    with running("aws") as endpoint:
        for turn in range(rounds):
            began = time.perf_counter()
            with DetachedExecutor(
                workers=workers, launcher=Local(agents=workers), store=endpoint.store(f"map-{turn}")
            ) as executor:
                assert len(list(executor.map(nap, range(n)))) == n
                executor.cleanup()
            plain.append(time.perf_counter() - began)
            before, began = endpoint.counts(), time.perf_counter()
            stage = Stage("only", nap, n, select=("score", 3))
            study = Study(
                "far", [stage], store=endpoint.store(f"study-{turn}"), workers=workers, launcher=Local(agents=workers)
            )
            assert study.run(progress=False).is_complete
            ours.append(time.perf_counter() - began)
            counts = {kind: int(number - before.get(kind, 0)) for kind, number in endpoint.counts().items()}
            study.delete()
    conditions = {"trials": n, "workers": workers, "store": "S3 latency"}
    more = [100 * (one / other - 1) for one, other in zip(ours, plain, strict=True)]
    return [
        Row(f"map, {n:,} tasks of 1 s at S3's latency", "s", plain, conditions=conditions),
        Row(f"study, {n:,} trials of 1 s at S3's latency", "s", ours, conditions=conditions, requests=counts),
        Row("longer than map", "%", more, conditions=conditions),
    ]


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    run.table("overhead", overhead(quick=run.quick))
    run.table("requests", requests(quick=run.quick))
    run.table("resuming", resuming(quick=run.quick))
    run.table("far", far(quick=run.quick))


if __name__ == "__main__":
    main()
