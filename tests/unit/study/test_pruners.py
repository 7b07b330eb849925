"""Pruners of Optuna over the reports of trials: they decide as in an Optuna study of one process, on any worker, also after kills."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import optuna
import pytest

from starburst_executor.errors import ConfigError, RecordInvalid
from starburst_executor.store.base import Body, Listed, Stored
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.metrics import metric_of
from starburst_executor.study.pruners import OptunaPruner, prune_of
from starburst_executor.study.reports import Ended
from starburst_executor.study.running import row_of, run_trial
from starburst_executor.study.search import search_of
from starburst_executor.study.selection import selection_of
from starburst_executor.study.spec import TrialSpec
from starburst_executor.study.stage import Stage, TrialOptions
from starburst_executor.study.trial import Trial
from starburst_executor.testing import MemoryStore
from starburst_executor.testing.clock import FakeClock

N_TRIALS, N_STEPS = 30, 9
KEYS = StudyKeys("mine")
PRUNERS: dict[str, dict[str, Any]] = {
    "SuccessiveHalvingPruner": {"min_resource": 1, "reduction_factor": 2},
    "HyperbandPruner": {"min_resource": 1, "max_resource": N_STEPS, "reduction_factor": 3},
    "MedianPruner": {"n_startup_trials": 3},
    "PercentilePruner": {"percentile": 30.0, "n_startup_trials": 2, "n_warmup_steps": 2},
    "ThresholdPruner": {"upper": 1.2},
}
AUTO: dict[str, dict[str, Any]] = {"SuccessiveHalvingPruner": {}, "HyperbandPruner": {}}


def values_of(index: int) -> list[float]:
    draw = random.Random(index)
    start, slope = draw.uniform(0.2, 1.2), draw.uniform(-0.1, 0.1)
    return [start + slope * step + draw.uniform(-0.05, 0.05) for step in range(N_STEPS)]


class CountingStore:
    """A store in memory that counts requests."""

    url, limiter = "memory://counted", None

    def __init__(self) -> None:
        self._store = MemoryStore("counted", clock=FakeClock(0))
        self.asked: Counter[str] = Counter()

    def get(self, key: str) -> Stored:
        self.asked["get"] += 1
        return self._store.get(key)

    def put(self, key: str, body: Body) -> str:
        self.asked["put"] += 1
        return self._store.put(key, body)

    def list(self, prefix: str) -> list[Listed]:
        self.asked["list"] += 1
        return self._store.list(prefix)


def spec_of(pruner: Any, run: Callable[[Any], Any] | None = None) -> TrialSpec:
    return TrialSpec(
        stage="s", edition=1, seed=1, cases=(), inputs=(), run=run, command=None, here="", metrics={"loss": metric_of("min", "")},
        options=TrialOptions(), prune=pruner, store="", study="mine",
    )  # fmt: skip


def pruner_of(name: str, options: dict[str, Any]) -> OptunaPruner:
    pruner = prune_of({"metric": "loss", "pruner": name, "options": options}, "prune")
    assert isinstance(pruner, OptunaPruner)
    return pruner


def study_of(name: str, options: dict[str, Any], **more: Any) -> Any:
    pruner = getattr(optuna.pruners, name)(**options)
    return optuna.create_study(study_name="stage", direction="minimize", pruner=pruner, **more)


def ended_at(trial: Any, values: Iterable[float], report: Callable[[int, float], None]) -> int | None:
    """Report values until the trial is to stop; return that step."""
    for step, value in enumerate(values):
        report(step, value)
        if trial.should_prune():
            return step
    return None


def in_optuna(name: str, options: dict[str, Any]) -> list[int | None]:
    study, steps = study_of(name, options), []
    for index in range(N_TRIALS):
        trial = study.ask()
        steps.append(ended_at(trial, values_of(index), lambda step, value, trial=trial: trial.report(value, step)))
        if steps[-1] is None:
            study.tell(trial, values_of(index)[-1])
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return steps


def run(trial: Any) -> dict[str, float]:
    values = values_of(trial.index)
    step = ended_at(trial, values, lambda step, value: trial.report(step, loss=value))
    trial.params["step"] = step
    return {} if step is not None else {"loss": values[-1]}


def steps_of(
    spec: TrialSpec, store: Any, between: Callable[[int], None] = lambda index: None, n_trials: int = N_TRIALS
) -> list[Any]:
    steps = []
    for index in range(n_trials):
        between(index)
        steps.append(run_trial(spec, index, store=store, clock=FakeClock(0))["params"]["step"])
    return steps


@pytest.mark.parametrize(
    ("name", "options"), [*PRUNERS.items(), *AUTO.items()], ids=lambda one: one if isinstance(one, str) else ""
)
def test_a_pruner_decides_as_in_an_optuna_study_of_one_process(name: str, options: dict[str, Any]) -> None:
    expected = in_optuna(name, options)
    assert len(set(expected)) > 1
    assert steps_of(spec_of(pruner_of(name, options), run), CountingStore()) == expected


def test_a_driver_that_is_killed_and_trials_that_run_again_change_no_decision() -> None:
    name, options = "SuccessiveHalvingPruner", PRUNERS["SuccessiveHalvingPruner"]
    spec, store, drivers = spec_of(pruner_of(name, options), run), CountingStore(), [Ended()]

    def between(index: int) -> None:
        drivers[-1].take(range(index))
        drivers[-1].publish(store, KEYS.reports("s", 1))
        if index % 7 == 3:  # another driver, which finds what this one has written
            drivers.append(Ended())
        if index % 3 == 1:  # an attempt that dies after its first reports
            trial = Trial(spec, index, store=store, clock=FakeClock(0))
            ended_at(trial, [9.0, 9.0], lambda step, value: trial.report(step, loss=value))

    assert steps_of(spec, store, between) == in_optuna(name, options)
    assert len(drivers) > 3
    # A trial that comes later reads all that ended with one GET each of those that are not in the driver's object.
    before = store.asked["get"]
    trial = Trial(spec, N_TRIALS, store=store, clock=FakeClock(0))
    trial.report(0, loss=1.0)
    trial.should_prune()
    assert store.asked["get"] - before < N_TRIALS // 2


@pytest.mark.parametrize("name", ["SuccessiveHalvingPruner", "HyperbandPruner"])
def test_trials_that_run_at_once_on_several_workers_see_each_other(name: str) -> None:
    study, store = study_of(name, PRUNERS[name]), CountingStore()
    clock = FakeClock(0)
    spec = spec_of(pruner_of(name, PRUNERS[name]))
    theirs = {index: study.ask() for index in range(12)}
    ours = {index: Trial(spec, index, store=store, clock=clock) for index in theirs}
    n_stopped = 0
    for step in range(N_STEPS):
        for index in list(theirs):
            value = values_of(index)[step]
            clock.advance(3)
            theirs[index].report(value, step)
            ours[index].report(step, loss=value)
            says = theirs[index].should_prune()
            assert ours[index].should_prune() == says, f"trial {index}, step {step}"
            if says:
                study.tell(theirs[index], state=optuna.trial.TrialState.PRUNED)
                ours[index].end({})
                n_stopped += 1
                del theirs[index]
    assert 0 < n_stopped < 12


def test_the_requests_of_a_trial_go_by_time() -> None:
    store, clock = CountingStore(), FakeClock(0)
    spec = spec_of(pruner_of("MedianPruner", {}))
    others = steps_of(replace(spec, run=run), store, n_trials=3)
    assert others == [None] * 3
    store.asked.clear()
    trial = Trial(spec, 3, store=store, clock=clock)
    for step in range(10):
        trial.report(step, loss=0.1)
        assert not trial.should_prune()
    assert store.asked == {"list": 1, "get": 3, "put": 1}
    clock.advance(2.5)
    trial.report(10, loss=0.1)
    trial.should_prune()
    assert store.asked == {"list": 2, "get": 3, "put": 2}  # what has not changed is not read again
    trial.end({"loss": 0.1})
    assert store.asked == {"list": 2, "get": 3, "put": 3}
    store.put(f"{KEYS.reports('s', 1)}1", b"\xc1")
    clock.advance(2.5)
    with pytest.raises(RecordInvalid, match="the report of a trial cannot be read"):
        trial.should_prune()


def test_a_trial_that_reports_nothing_makes_no_pruner_and_no_request() -> None:
    cannot_be_made, store = OptunaPruner("loss", "NoPruner", {}), CountingStore()
    outcome = run_trial(spec_of(cannot_be_made, lambda trial: {"loss": 1.0}), 0, store=store, clock=FakeClock(0))
    assert outcome["metrics"] == {"loss": 1.0}
    assert not store.asked


def test_hyperband_and_tpe_propose_and_decide_as_in_an_optuna_study_of_one_process() -> None:
    space = {"x": {"low": 0.0, "high": 1.0}}
    tpe = {"n_startup_trials": 4, "n_ei_candidates": 8}
    options = {"min_resource": 1, "max_resource": N_STEPS, "reduction_factor": 2}

    def values(x: float) -> list[float]:
        return [(x - 0.3) ** 2 + 0.5 / (1 + step) for step in range(N_STEPS)]

    study = study_of("HyperbandPruner", options, sampler=optuna.samplers.TPESampler(seed=5, constant_liar=True, **tpe))
    expected: list[Any] = []
    for _ in range(N_TRIALS):
        asked = study.ask({"x": optuna.distributions.FloatDistribution(0.0, 1.0)})
        curve = values(asked.params["x"])
        step = ended_at(asked, curve, lambda step, value, asked=asked: asked.report(value, step))
        expected.append((asked.params["x"], step))
        study.tell(
            asked, None if step is not None else curve[-1], optuna.trial.TrialState.PRUNED if step is not None else None
        )

    pruner = pruner_of("HyperbandPruner", options)
    given = {"optuna": space, "options": tpe}
    search = search_of(given, {"loss": "min"}, selection_of(("loss", 1), ""), "search", pruner=pruner)
    assert search is not None
    assert search.described()["pruner"]["pruner"] == "HyperbandPruner"

    def train(trial: Any) -> dict[str, float]:
        curve = values(trial.params["x"])
        trial.params["step"] = ended_at(trial, curve, lambda step, value: trial.report(step, loss=value))
        return {} if trial.params["step"] is not None else {"loss": curve[-1]}

    searcher, journal, store, found = search.begin(5, N_TRIALS), [], CountingStore(), []
    for index in range(N_TRIALS):
        point = dict(searcher.ask(index))
        spec = replace(spec_of(pruner, train), proposed={index: point})
        row = row_of(spec, index, run_trial(spec, index, store=store, clock=FakeClock(0)))
        found.append((row.params["x"], row.params["step"]))
        searcher.tell(row, point)
        state, lines = searcher.dump()
        journal += lines
        searcher = search.restore(5, N_TRIALS, state, journal)  # as after a kill
    assert found == expected
    assert len({step for _, step in found}) > 2
    # Another pruner does not change what a sampler sees.
    other = search_of(given, {"loss": "min"}, selection_of(("loss", 1), ""), "s", pruner=pruner_of("MedianPruner", {}))
    assert other is not None
    assert "pruner" not in other.described()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("loss", "BestPruner"), "prune: pruner='BestPruner': no pruner of Optuna: there are HyperbandPruner, "),
        (("loss", 3.5), r"prune=\('loss', 3.5\): must be a metric and a number of trials or a pruner of Optuna"),
        ({"metric": "loss"}, "must have metric, and either after or pruner"),
        ({"metric": "loss", "after": 3, "pruner": "NopPruner"}, "must have metric, and either after or pruner"),
        ({"metric": "loss", "pruner": "MedianPruner", "options": {"n": 1}}, "prune: the pruner cannot be made: TypeError"),
        ({"metric": "loss", "pruner": dict}, "makes a dict, which is no pruner of Optuna"),
        ({"metric": 3, "pruner": "NopPruner"}, "metric=3, options={}: must be a name and a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_pruner_is_refused(given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Stage("s", run, 3, prune=given)


@pytest.mark.filterwarnings("ignore:PatientPruner is experimental")
def test_the_forms_of_a_pruner_and_what_changes_it() -> None:
    made = optuna.pruners.SuccessiveHalvingPruner(min_resource=2)
    stages = {
        "name": Stage("s", run, 3, prune=("loss", "SuccessiveHalvingPruner")),
        "made": Stage("s", run, 3, prune=("loss", made)),
        "other": Stage("s", run, 3, prune=("loss", optuna.pruners.SuccessiveHalvingPruner(min_resource=3))),
        "class": Stage("s", run, 3, prune={"metric": "loss", "pruner": optuna.pruners.NopPruner}),
        "function": Stage("s", run, 3, prune=("loss", functools.partial(optuna.pruners.NopPruner))),
        "nested": Stage("s", run, 3, prune=("loss", optuna.pruners.PatientPruner(made, patience=2))),
    }
    described = {name: stage.prune.described() for name, stage in stages.items()}  # type: ignore[union-attr]
    assert described["name"] == {"metric": "loss", "pruner": "SuccessiveHalvingPruner", "options": {}}
    assert described["made"]["options"]["min_resource"] == 2
    assert described["made"] != described["other"]
    assert described["class"]["pruner"] == "NopPruner"
    assert described["function"]["pruner"] == "partial"
    assert described["nested"]["options"]["wrapped_pruner"] == {"SuccessiveHalvingPruner": described["made"]["options"]}
    assert Stage("s", run, 3, prune={"metric": "loss", "after": 4}).prune == ("loss", 4)
