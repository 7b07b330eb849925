"""Studies whose parameters are proposed, in simulated worlds: kills, stalls, ends of sessions and the order in which trials end change no proposal."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from starburst_executor.study import asks, running
from starburst_executor.study.plan import Plan
from starburst_executor.study.record import COMPLETE
from starburst_executor.study.running import run_trial
from starburst_executor.study.stage import Stage
from tests.support.study_world import Life, World, essence

SPACE = {"x": {"low": -1.0, "high": 1.0}, "n": {"low": 1, "high": 6}, "kind": ["a", "b"]}


@pytest.fixture(autouse=True)
def no_clock_in_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def timeless(spec: Any, index: int, **more: Any) -> dict[str, Any]:
        return {**run_trial(spec, index, **more), "seconds": 0.0}

    monkeypatch.setattr(running, "run_trial", timeless)


def measure(trial: Any) -> dict[str, float]:
    if trial.index % 11 == 7:
        raise ValueError("bad")
    at = trial.params
    return {"loss": at["x"] ** 2 + abs(at["n"] - 3) + (at["kind"] == "b")}


class Climber:
    """A search with random numbers and a best point, which both are its state."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.best: tuple[float, dict[str, Any]] | None = None
        self.n_heard = 0

    def ask(self) -> dict[str, Any]:
        x = (
            self.random.uniform(-1, 1)
            if self.best is None
            else self.best[1]["x"] + self.random.gauss(0, 0.1 / (1 + self.n_heard))
        )
        return {"x": x, "n": self.random.randint(1, 6), "kind": self.random.choice(["a", "b"])}

    def tell(self, params: dict[str, Any], metrics: dict[str, float] | None) -> None:
        self.n_heard += 1
        if metrics is not None and (self.best is None or metrics["loss"] < self.best[0]):
            self.best = (metrics["loss"], params)


def plan_of(search: Any, trials: tuple[int, ...] = (8, 4)) -> Plan:
    stages = [
        Stage(f"s{number}", measure, n, search=search, select=("loss", 2), metrics={"loss": "min"})
        for number, n in enumerate(trials)
    ]
    return Plan(stages)


SEARCHES: dict[str, Any] = {
    "object": {"object": Climber, "ahead": 3},
    "optuna": {"optuna": SPACE, "ahead": 3, "options": {"n_startup_trials": 3, "n_ei_candidates": 4}},
    "random": {"random": SPACE},
    "sobol": {"sobol": SPACE},
}
PLANS: dict[str, Callable[[], Plan]] = {
    name: functools.cache(functools.partial(plan_of, search)) for name, search in SEARCHES.items()
}


def undisturbed(plan: Callable[[], Plan], seed: int = 0) -> World:
    world = World(plan, seed)
    record = world.drive()
    assert record is not None
    assert record.state == COMPLETE, record.reason
    return world


def check_each_ran_once(world: World) -> None:
    assert not {key: n for key, n in world.ended.items() if n > 1}


def proposals(world: World) -> list[Any]:
    return [[row.params for row in world.objects().read_table(stage.table or "")] for stage in world.record.stages]


@pytest.mark.parametrize("name", PLANS)
def test_neither_the_order_of_outcomes_nor_the_speed_of_workers_changes_a_proposal(name: str) -> None:
    plain = undisturbed(PLANS[name])
    points = [tuple(point.items()) for point in proposals(plain)[0]]
    assert len(set(points)) == len(points)
    for seed in (1, 2):
        assert essence(undisturbed(PLANS[name], seed).record) == essence(plain.record)


# Optuna takes its time: of its requests every ninth.
@pytest.mark.parametrize(("name", "step"), [("object", 1), ("optuna", 9)])
def test_a_driver_killed_at_every_request_changes_no_proposal(name: str, step: int) -> None:
    expected = essence(undisturbed(PLANS[name]).record)
    number = 0
    while True:
        world = World(PLANS[name])
        if world.drive(Life(at=number, is_after=number // step % 2 == 1)) is not None:
            break
        assert world.drive().state == COMPLETE
        assert essence(world.record) == expected, f"killed at request {number}"
        check_each_ran_once(world)
        number += step
    assert number > 40


@pytest.mark.parametrize(("name", "step"), [("object", 1), ("optuna", 9)])
def test_a_driver_that_stalls_while_another_takes_over_changes_no_proposal(name: str, step: int) -> None:
    expected = essence(undisturbed(PLANS[name]).record)
    number = 0
    while True:
        world = World(PLANS[name])
        life = Life(at=number, is_after=number // step % 2 == 1)
        life.stalled = lambda world=world: world.drive(Life(at=25))
        assert world.drive(life).state == COMPLETE
        assert essence(world.record) == expected, f"stalled at request {number}"
        check_each_ran_once(world)
        if life.n_asked <= number:
            break
        number += step
    assert number > 40


def train(trial: Any) -> dict[str, float]:
    for step in range(6):
        trial.report(step, loss=trial.params["x"] ** 2 + 1 / (1 + step))
        if trial.should_prune():
            return {}
    return {"loss": trial.params["x"] ** 2}


@functools.cache
def pruned() -> Plan:
    # One after the other: then what is pruned does not depend on time either.
    search = {"optuna": SPACE, "ahead": 1, "options": {"n_startup_trials": 3, "n_ei_candidates": 4}}
    prune = {"metric": "loss", "pruner": "HyperbandPruner", "options": {"max_resource": 6, "reduction_factor": 2}}
    return Plan([Stage("s", train, 16, search=search, prune=prune, metrics={"loss": "min"}, select=("loss", 2))])


def test_a_killed_driver_changes_neither_what_hyperband_stops_nor_what_is_proposed() -> None:
    plain = undisturbed(pruned)
    expected = essence(plain.record)
    assert plain.record.stages[0].cancelled > 2
    n_kills = 0
    for number in itertools.count(20, 23):
        world = World(pruned, number)
        if world.drive(Life(at=number, is_after=number % 2 == 1)) is not None:
            break
        n_kills += 1
        assert world.drive().state == COMPLETE
        assert essence(world.record) == expected, f"killed at request {number}"
        check_each_ran_once(world)
    assert n_kills > 3


def story(plan: Callable[[], Plan], seed: int) -> World:
    lot = random.Random(seed)
    world = World(plan, seed, may_end=lot.choice([0.0, 0.02, 0.1]))
    for _ in range(5):
        world.drive(Life(at=lot.randint(0, 90), is_after=lot.random() < 0.5))
    world.may_end = 0.0
    assert world.drive().state == COMPLETE
    return world


@pytest.mark.parametrize("name", PLANS)
def test_five_kills_and_ends_of_sessions_change_no_proposal(name: str) -> None:
    expected = essence(undisturbed(PLANS[name]).record)
    for seed in range(4):
        world = story(PLANS[name], seed)
        assert essence(world.record) == expected, f"seed {seed}"
        check_each_ran_once(world)


def test_300_trials_of_an_optuna_sampler_killed_five_times_propose_what_an_undisturbed_study_proposes() -> None:
    search = {"optuna": SPACE, "ahead": 8, "options": {"multivariate": False, "n_ei_candidates": 8}}
    plan = functools.cache(functools.partial(plan_of, search, (120, 100, 80)))
    plain = undisturbed(plan)
    world = World(plan, 1)
    for at in (60, 110, 150, 90, 130):
        assert world.drive(Life(at=at, is_after=at % 20 == 10)) is None
    assert world.drive().state == COMPLETE
    assert sum(map(len, proposals(plain))) == 300
    assert proposals(world) == proposals(plain)
    check_each_ran_once(world)
    # It has learned something: the later half of the first stage is better than the earlier.
    losses = [row.metrics.get("loss", 9.0) for row in plain.objects().read_table(plain.record.stage("s0").table or "")]
    assert sum(losses[60:]) < sum(losses[:60])


# ------------------------------------------------------------------------------------------------------------- mutations


def tell_what_has_ended(patch: pytest.MonkeyPatch) -> None:
    """Ask as soon as any trial has ended, and tell all that have."""

    def asked(self: Any, rows: Any) -> Any:
        searcher = self._searcher_of(rows)
        heard = self.__dict__.setdefault("mutant", set())
        for index in sorted(set(rows) - heard):
            searcher.tell(rows[index], self.proposed[index])
            heard.add(index)
        return [dict(searcher.ask(len(self.proposed)))]

    patch.setattr(asks.Asks, "_asked", asked)


def begin_anew(patch: pytest.MonkeyPatch) -> None:
    """A driver that resumes begins the search again, as if it had asked for nothing."""
    patch.setattr(asks.Asks, "_begun", lambda self, rows: self._search.begin(self._seed, self._trials))


def forget_running(patch: pytest.MonkeyPatch) -> None:
    """A state that is stored without what is in the journal since."""
    append = asks.SearchLog.append

    def shortened(self: Any, asked: Any, state: bytes, lines: Any, *, heard: int, search: str) -> bool:
        return append(self, asked, state, lines, heard=max(heard - 1, 0), search=search)

    patch.setattr(asks.SearchLog, "append", shortened)


@pytest.mark.parametrize("mutation", [tell_what_has_ended, begin_anew, forget_running])
def test_an_added_bug_is_found(mutation: Callable[[pytest.MonkeyPatch], None]) -> None:
    expected = essence(undisturbed(PLANS["object"]).record)
    with pytest.MonkeyPatch.context() as patch:
        mutation(patch)
        assert any(essence(story(PLANS["object"], seed).record) != expected for seed in range(12))


# ---------------------------------------------------------------------------------------------------------------- the log


def test_a_log_is_read_with_few_requests_and_each_proposal_is_written_few_times() -> None:
    plan = functools.cache(functools.partial(plan_of, {"object": Climber, "ahead": 1}, (64,)))
    world = undisturbed(plan)
    entries = world.store.list("studies/campaign/searches/s0.1/")
    assert len(entries) == 64
    assert [asks._path(n) for n in (0, 1, 6, 7, 8)] == [[], [1], [4, 6], [4, 6, 7], [8]]
    assert max(len(asks._path(n)) for n in range(1, 65)) <= 6


def killed_when_asked_twice() -> World:
    """A world whose driver was killed as soon as two requests for three proposals each were in the log: two of eight are left to propose."""
    for at in range(60):
        world = World(PLANS["object"])
        assert world.drive(Life(at=at)) is None
        if len(list(world.store.list("studies/campaign/searches/s0.1/"))) == 2:
            return world
    raise AssertionError("no driver asked twice")


def test_a_changed_search_is_told_of_what_there_is_and_goes_on() -> None:
    world = killed_when_asked_twice()
    search = {"optuna": SPACE, "ahead": 3, "sampler": "RandomSampler"}
    world.plan = functools.cache(functools.partial(plan_of, search))
    assert world.drive(is_changed=True).state == COMPLETE
    check_each_ran_once(world)
    expected = proposals(undisturbed(PLANS["object"]))[0]
    found = proposals(world)[0]
    n_kept = next((index for index in range(8) if found[index] != expected[index]), 8)
    assert n_kept == 6
    assert len({point["x"] for point in found}) == 8


class Stubborn:
    def ask(self) -> Any:
        return {"x": object()}

    def tell(self, params: Any, metrics: Any) -> None:
        """Learn nothing."""


def test_a_search_that_raises_or_proposes_what_cannot_be_stored_aborts_the_study() -> None:
    for search, says in (({"object": Stubborn()}, "a record holds plain values"), (lambda seed: 7, "AttributeError")):
        record = World(functools.partial(plan_of, search)).drive()
        assert record.state == "aborted"
        assert says in record.reason
