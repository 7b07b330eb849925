"""Two studies side by side: metrics by stage, what changed, survivors."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from starburst_executor.study.baselines import median_of
from starburst_executor.study.comparing import StudyComparison, compared, side_of
from starburst_executor.study.plan import Plan
from starburst_executor.study.stage import Stage
from tests.support.study_world import World


def measure(trial: Any) -> dict[str, float]:
    if trial.index == 3:
        raise ValueError("bad")
    return {"loss": float(trial.index), "size": 2.0}


def faster(trial: Any) -> dict[str, float]:
    return {"loss": trial.index / 2, "speed": 1.0}


def plan_of(run: Any, n_trials: int, *more: Stage) -> Plan:
    stage = Stage("s", run, n_trials, cases=[{"x": 1.5}, {"x": 2.5}], metrics={"loss": "min"}, select=("loss", 2))
    return Plan([stage, *more])


def compare(a: Plan, b: Plan) -> StudyComparison:
    sides = []
    for plan in (a, b):
        world = World(lambda plan=plan: plan)
        world.drive()
        sides.append(side_of(world.objects()))
    return compared(*sides)


def test_what_differs_is_named_by_stage() -> None:
    found = compare(plan_of(measure, 4), plan_of(faster, 5, Stage("t", measure, 1)))
    s, t = found.stages
    assert (s.states, t.states) == (("done", "done"), (None, "done"))
    pairs = {pair.metric: pair for pair in s.metrics}
    loss, speed = pairs["loss"], pairs["speed"]
    assert loss.a is not None
    assert loss.b is not None
    assert (loss.direction, loss.a.n, loss.a.best, loss.a.mean, loss.a.median) == ("min", 3, 0.0, 1.0, 1.0)
    assert (loss.b.n, loss.b.mean, speed.a, pairs["size"].b) == (5, 1.0, None, None)
    assert ("configuration", "trials", "4", "5") in [(one.kind, one.what, one.a, one.b) for one in s.differences]
    assert any(one.kind == "code" and one.what == "run" for one in s.differences)
    assert [[one["name"] for one in side] for side in s.winners] == [["s/0", "s/1"], ["s/0", "s/1"]]
    text = str(found)
    assert "stage t: not there / done" in text
    assert "loss (min): best 0, mean 1, median 1, n=3 / best 0, mean 1, median 1, n=5 (+0.00 % of the mean)" in text
    assert "configuration: trials: 4 / 5" in text
    assert "2. s/1 (loss=1, size=2, x=2.5) / s/1 (loss=0.5, speed=1, x=2.5)" in text
    assert json.loads(json.dumps(found.to_dict()))["stages"][0]["name"] == "s"


def test_equal_studies_have_no_difference() -> None:
    found = compare(plan_of(measure, 4), plan_of(measure, 4))
    assert found.differences == ()
    assert found.stages[0].differences == ()
    assert "configuration and code are the same" in str(found)


def infinite(trial: Any) -> dict[str, float]:
    values = {"loss": (math.inf, -math.inf, 1.0), "size": (1.7e308, 1.7e308, 1.7e308)}
    return {name: of_trials[trial.index] for name, of_trials in values.items()}


def test_numbers_without_a_sum_are_compared_too() -> None:
    found = compare(plan_of(infinite, 3), plan_of(measure, 3))
    pairs = {pair.metric: pair.a for pair in found.stages[0].metrics}
    assert pairs["loss"] is not None
    assert pairs["size"] is not None
    assert math.isnan(pairs["loss"].mean)
    assert pairs["size"].mean == pytest.approx(1.7e308)
    assert median_of([1.5e308, 1.7e308, -1.0, 1.6e308]) == pytest.approx(1.55e308)
    assert "loss (min): best -inf, mean nan" in str(found)
