"""Searches as users write them: spaces, their points, what is refused, and what Optuna's samplers keep between two drivers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starburst_executor.errors import ConfigError, KeyNotFound, RecordInvalid
from starburst_executor.protocol.seal import Sealer
from starburst_executor.study.asks import SearchLog
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.search import Search
from starburst_executor.study.spaces import Range, space_of
from starburst_executor.study.stage import Stage
from starburst_executor.study.tables import CANCELLED, COMPLETED, FAILED, TrialRow
from starburst_executor.study.yaml import read_study
from starburst_executor.testing import MemoryStore
from starburst_executor.testing.clock import FakeClock

SPACE = {"x": Range(0.1, 10.0, log=True), "n": range(2, 9, 2), "kind": ["a", "b", "c"]}


def trial(_: Any) -> dict[str, float]:
    return {"loss": 1.0}


def made_nothing() -> dict[str, int]:
    return {}


def search_of(given: Any, **more: Any) -> Search:
    search = Stage("s", trial, 8, search=given, metrics={"loss": "min"}, select=("loss", 1), **more).search
    assert search is not None
    return search


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            3,
            "search=3: must be an object with ask and tell, or a mapping of one of grid, random, sobol, optuna, object",
        ),
        ({"random": SPACE, "sobol": SPACE}, "must be an object with ask and tell"),
        ({"random": {}}, "must be a mapping of parameters to ranges or lists of choices"),
        ({"random": {"x": 3}}, "random: x=3: must be a list of choices, or a range"),
        ({"random": {"x": []}}, "there is no choice"),
        ({"random": {"x": [object()]}}, "choices are texts, numbers, booleans or null"),
        ({"random": {"x": {"low": 2, "high": 1}}}, "low=2 is greater than high=1"),
        ({"random": {"x": {"low": -1e308, "high": 1e308}}}, "from low=-1e.308 to high=1e.308 is more than a number"),
        ({"random": {"x": {"low": 0, "high": 10**400}}}, "one of its numbers is a whole number of more than 63 bits"),
        ({"random": {"x": {"low": 0, "high": 2**64}}}, "one of its numbers is a whole number of more than 63 bits"),
        ({"random": {"x": [1, 2**64]}}, "not a whole number of more than 63 bits; let the trial map a text"),
        ({"random": {"x": {"low": 0, "high": 1, "log": True}}}, "a range with log begins above 0"),
        (
            {"random": {"x": {"low": 0, "high": 3, "step": 0.5}}},
            "step=0.5: |step=0.5 must be greater than 0, and a whole",
        ),
        ({"random": {"x": {"low": 0, "hi": 3}}}, "a range has low and high, and perhaps log or step"),
        ({"random": SPACE, "ahead": 3}, "unknown ahead: random takes its space alone"),
        ({"optuna": SPACE, "ahead": 0}, "ahead=0: must be a whole number, 1..10,000"),
        ({"optuna": SPACE, "sampler": "Foo"}, "no sampler of Optuna: there are .*TPESampler"),
        ({"optuna": SPACE, "options": {"foo": 1}}, "the sampler cannot be made: TypeError"),
        ({"optuna": SPACE, "sampler": made_nothing}, "makes a dict, which is no sampler of Optuna"),
        ({"grid": {"x": Range(0.0, 1.0)}}, "a grid needs a list of values, or a range of whole numbers or with a step"),
        ({"grid": {"x": range(2000), "y": range(2000)}}, "the grid has 4,000,000 points"),
        ({"object": 3}, "must have ask and tell, or be a function of a seed"),
    ],
)
def test_a_search_names_what_is_wrong(given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Stage("s", trial, 8, search=given, select=("loss", 1))


def test_a_search_by_optuna_needs_a_metric() -> None:
    with pytest.raises(ConfigError, match="name the metric that is improved"):
        Stage("s", trial, 8, search={"optuna": SPACE})


def test_a_grid_makes_the_cases() -> None:
    stage = Stage(
        "s", trial, search={"grid": {"n": [1, 2], "kind": ["a", "b"], "x": {"low": 0.0, "high": 0.3, "step": 0.1}}}
    )
    assert (stage.trials, stage.search) == (16, None)
    assert [case["kind"] for case in stage.cases[::4]] == ["a", "b", "a", "b"]
    assert [round(case["x"], 9) for case in stage.cases[:4]] == [0.0, 0.1, 0.2, 0.3]
    with pytest.raises(ConfigError, match="give either cases or a grid"):
        Stage("s", trial, cases=[{"a": 1}], search={"grid": {"n": [1]}})


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=3, max_size=3))
def test_each_point_is_in_its_space(shares: list[float]) -> None:
    space = space_of({**SPACE, "f": {"low": 0.0, "high": 1.0, "step": 0.25}}, "space")
    point = space.point([*shares, shares[0]])
    assert all(space.parts[name].has(value) for name, value in point.items())
    assert not space.parts["n"].has(3)
    assert not space.parts["kind"].has("d")


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_a_design_depends_on_its_seed_and_begins_alike_for_any_number_of_trials(kind: str) -> None:
    search = search_of({kind: {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 0.0, "high": 1.0}}})
    few, many, other = (search.begin(seed, n) for seed, n in ((3, 8), (3, 32), (4, 8)))
    points = [dict(few.ask(index)) for index in range(8)]
    assert points == [dict(many.ask(index)) for index in range(8)]
    assert points != [dict(other.ask(index)) for index in range(8)]
    if kind == "sobol":  # one point in each eighth
        assert sorted(int(point["x"] * 8) for point in points) == list(range(8))


def row(index: int, loss: float | None, state: str = COMPLETED, kind: str = "") -> TrialRow:
    metrics = {} if loss is None else {"loss": loss}
    return TrialRow("s", index, state, kind, metrics=metrics, curve=((0, {"loss": 2.0}), (1, {"loss": 1.5})))


OUTCOMES = [
    row(0, 3.0),
    row(1, None, FAILED, "raised"),
    row(2, None, CANCELLED, "pruned"),
    row(3, float("nan")),
    row(4, 1.0),
]


@pytest.mark.parametrize("sampler", ["TPESampler", "NSGAIISampler", "RandomSampler", "GridSampler"])
def test_a_sampler_of_optuna_that_is_stored_and_loaded_goes_on_as_if_it_had_not_been(sampler: str) -> None:
    options: dict[str, Any] = {
        "TPESampler": {"n_startup_trials": 2},
        "NSGAIISampler": {"population_size": 3},
        "GridSampler": {"search_space": {"n": [2, 4, 6, 8], "kind": ["a", "b", "c"], "x": [0.5]}},
    }.get(sampler, {})
    search = search_of({"optuna": SPACE, "sampler": sampler, "options": options})

    def asked(*, is_stored: bool) -> Sequence[Any]:
        searcher, journal, points = search.begin(5, 12), [], []
        for index in range(12):
            if index >= 2:
                told = OUTCOMES[(index - 2) % 5]
                searcher.tell(
                    TrialRow("s", index - 2, told.state, told.kind, metrics=told.metrics, curve=told.curve), {}
                )
            points.append(dict(searcher.ask(index)))
            if is_stored:
                state, lines = searcher.dump()
                journal += lines
                searcher = search.restore(5, 12, state, journal)
        return points

    assert asked(is_stored=True) == asked(is_stored=False)


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("sampler", ["GridSampler", "BruteForceSampler"])
@pytest.mark.filterwarnings("ignore:BruteForceSampler is experimental")
def test_a_sampler_that_has_no_more_points_says_how_many_it_had(sampler: str, ahead: int) -> None:
    space = {"n": [2, 4, 6], "kind": ["a", "b"]}
    options = {"search_space": space} if sampler == "GridSampler" else {}
    searcher = search_of({"optuna": space, "sampler": sampler, "options": options}).begin(5, 20)

    def ask_all() -> None:
        for index in range(20):
            if index >= ahead:
                searcher.tell(TrialRow("s", index - ahead, COMPLETED, metrics={"loss": 1.0}), {})
            searcher.ask(index)

    with pytest.raises(ConfigError, match=f"{sampler} has 6 points, fewer than the stage has trials: give it trials=6"):
        ask_all()


def test_optuna_sees_what_ran_failed_was_pruned_and_runs() -> None:
    search = search_of({"optuna": SPACE, "sampler": "RandomSampler"})
    searcher: Any = search.begin(5, 8)
    for index in range(7):
        searcher.ask(index)
    for outcome in OUTCOMES:
        searcher.tell(outcome, {})
    states = [one.state.name for one in searcher._study.get_trials()]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "COMPLETE", "RUNNING", "RUNNING"]
    assert searcher._study.get_trials()[2].intermediate_values == {0: 2.0, 1: 1.5}
    assert searcher._study.best_trial.number == 4


def test_an_entry_with_another_seal_or_place_is_not_unpickled() -> None:
    store, keys = MemoryStore("search-log", clock=FakeClock(0)), StudyKeys("one")

    def log(key: bytes = b"k" * 32) -> SearchLog:
        return SearchLog(store, keys, Sealer(key, "study/one"), "s", 1)

    written = log()
    for number in range(3):
        assert written.append([{"x": number}], b"", [number], heard=number, search="f")
    read = log()
    read.load()
    assert (read.proposed, read.journal, read.heard, read.number) == ([{"x": 0}, {"x": 1}, {"x": 2}], [0, 1, 2], 2, 3)
    with pytest.raises(KeyNotFound, match="sealed with another key, or has been changed"):
        log(b"x" * 32).load()
    store.put("studies/one/searches/s.1/00000003", store.get("studies/one/searches/s.1/00000001").body)
    with pytest.raises(KeyNotFound):
        log().load()
    store.delete(["studies/one/searches/s.1/00000002"])
    with pytest.raises(RecordInvalid, match="is missing"):
        log().load()


def test_two_drivers_that_ask_at_once_go_on_from_the_first_ones_entry() -> None:
    store, keys = MemoryStore("search-race", clock=FakeClock(0)), StudyKeys("one")
    one, other = (SearchLog(store, keys, Sealer(b"k" * 32, "study/one"), "s", 1) for _ in range(2))
    assert one.append([{"x": 1}], b"one", [], heard=0, search="f")
    assert not other.append([{"x": 2}], b"other", [], heard=0, search="f")
    assert (other.proposed, other.state) == ([{"x": 1}], b"one")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{sobl: {x: [1]}}", "stages[0].search.sobl: unknown field, did you mean sobol?"),
        ("{random: {x: {lo: 1, high: 3}}}", "stages[0].search.random.x.lo: unknown field, did you mean low?"),
        ("{random: {x: {low: a, high: 3}}}", "stages[0].search.random.x.low: must be a number, not 'a'"),
        ("{optuna: {x: [1]}, sampler: Foo, metric: m}", "stages[0].search: sampler='Foo': no sampler of Optuna"),
        ("{random: {x: {low: 1e-5, high: 1, log: true}, kind: [a, true, null, 2]}}", ""),
    ],
)
def test_a_search_in_a_file(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"study: one\nstages:\n  - name: first\n    command: ls\n    trials: 4\n    search: {text}\n")
    if says:
        with pytest.raises(ConfigError) as caught:
            read_study(path, lambda target: trial)
        assert f"line 6: {says}" in str(caught.value)
        return
    search = read_study(path, lambda target: trial)[1][0].search
    assert search is not None
    assert search.described() == {
        "random": {"x": {"low": 1e-05, "high": 1, "log": True, "step": None}, "kind": ["a", True, None, 2]}
    }
