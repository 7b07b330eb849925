"""Measures what a study costs beside plain `map`: its overhead, its requests for the record, and how soon a large one resumes.

    python benchmarks/studies.py [--quick] [--out FOLDER]

The embedded store and local workers. Overhead: trials of 1 s that sleep, in one stage, and the same tasks with `map` in a detached session, in
turns; starting and ending the session is included in both. Requests: of ten stages, those for record and tables. Resuming: all but two
of 100,000 trials have ended when the driver stops; the time is that of a new process, from the call of `run` until it has all outcomes.
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
from starburst_executor import DetachedExecutor, Stage, Study

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
    conditions = {"trials": n, "workers": WORKERS}
    return [
        Row(f"map, {n} tasks of 1 s", "s", plain, conditions=conditions),
        Row(f"study, {n} trials of 1 s", "s", ours, conditions=conditions),
        Row("overhead of the study", "%", ratios, conditions=conditions, budget="≤ 1"),
    ]


def requests(*, quick: bool) -> list[Row]:
    n = 3 if quick else 10
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        stages = [Stage(f"s{i}", score, 20, select=("score", 5)) for i in range(n)]
        study = Study("counted", stages, store=f"sqlite://{folder}/sessions", workers=2)
        objects = study._objects  # noqa: SLF001 - what this process asks for the record and the tables goes through it
        objects.store = _Counting(objects.store, counts)
        study.run(progress=False)
        study.delete()
    row = Row("writes for the record and its tables, a stage", "requests", [counts.total() / n], budget="≤ 4")
    row.requests, row.conditions = dict(counts), {"stages": n}
    return [row]


class _Counting:
    """A store that counts the writes of records and tables."""

    def __init__(self, store: Any, counts: Counter[str]) -> None:
        self._store, self._counts = store, counts

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in ("create", "swap", "put"):
            return method

        def counted(key: str, *more: Any) -> Any:
            self._counts[name] += key.rpartition("/")[2] in ("record", "previous") or "/trials/" in key
            return method(key, *more)

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


def main() -> None:
    run = Run(__file__, arguments(__doc__).parse_args())
    run.table("overhead", overhead(quick=run.quick))
    run.table("requests", requests(quick=run.quick))
    run.table("resuming", resuming(quick=run.quick))


if __name__ == "__main__":
    main()
