"""A study for tests with real processes, whose parameters a sampler of Optuna proposes, over three stages.

`python -m tests.support.searching NAME STORE FOLDER N` drives it with N trials in its first stage.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from starburst_executor import Stage, Study
from tests.sessions import timings_for

SPACE = {"x": {"low": -1.0, "high": 1.0}, "n": {"low": 1, "high": 6}, "kind": ["a", "b"]}


def measure(trial: Any) -> dict[str, float]:
    # Trials end in another order than they began.
    time.sleep(0.02 * (trial.seed % 5))
    with open(f"{os.environ['SEARCH_FOLDER']}/ended", "a", encoding="utf-8") as file:
        file.write(f"{trial.name}\n")
    if trial.index % 11 == 7:
        raise ValueError("bad")
    at = trial.params
    return {"loss": at["x"] ** 2 + abs(at["n"] - 3) + (at["kind"] == "b")}


def study(name: str, store: str, n_trials: int) -> Study:
    search = {"optuna": SPACE, "ahead": 4, "options": {"n_startup_trials": 5, "n_ei_candidates": 8}}
    trials = (n_trials, n_trials, n_trials)
    stages = [
        Stage(f"s{i}", measure, n, search=search, select=("loss", 2), metrics={"loss": "min"})
        for i, n in enumerate(trials)
    ]
    return Study(name, stages, store=store, workers=2, seed=7, timings=timings_for(store))


if __name__ == "__main__":
    os.environ["SEARCH_FOLDER"] = sys.argv[3]
    print(study(sys.argv[1], sys.argv[2], int(sys.argv[4])).run(progress=False).state)
