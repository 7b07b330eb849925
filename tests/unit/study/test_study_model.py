"""What users write down: stages and their plan, metrics, selections, fingerprints. Faults are named, choices are stable."""

from __future__ import annotations

import functools
import math
import random
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starburst_executor.errors import ConfigError
from starburst_executor.protocol import calls
from starburst_executor.study.changes import code_changes, config_changes
from starburst_executor.study.failures import TrialFailed
from starburst_executor.study.fingerprints import codes_of, config_of
from starburst_executor.study.metrics import Metric, Output, metric_of, taken
from starburst_executor.study.plan import Plan
from starburst_executor.study.running import run_trial
from starburst_executor.study.selection import All, By, Pareto, Top, Where, selection_of
from starburst_executor.study.spec import TrialSpec, trial_seed
from starburst_executor.study.stage import Stage, TrialOptions
from starburst_executor.study.study import Study
from starburst_executor.study.tables import COMPLETED, FAILED, TrialRow
from starburst_executor.testing.clock import FakeClock


def trial(_: Any) -> dict[str, float]:
    return {"score": 1.0}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "a/b"}, "a stage's name is 1 to 63 of letters"),
        ({"run": None}, "stage s: give either run, a function, or command, a program"),
        ({"run": None, "command": "x {y"}, "stage s: command='x {y': expected '}'"),
        ({"run": None, "command": "x 'y"}, 'stage s: command="x \'y": No closing quotation'),
        (
            {"run": None, "command": "x {seed}", "cases": [{"x": 1}, {"seed": 2}]},
            "stage s: command: {seed} is the trial's own, and a parameter of its cases is called 'seed' too",
        ),
        ({"run": None, "command": " "}, "stage s: command is empty"),
        ({"run": None, "command": "x {}"}, "stage s: command='x {}': braces without a name"),
        ({"run": None, "command": ["x", "{0.y}"]}, "stage s: command='{0.y}': braces without a name"),
        ({"run": None, "command": ["x\0"]}, "no program takes a null character"),
        ({"run": None, "command": 5}, "stage s: command=5: must be text, or a list of words"),
        ({"cases": "abc"}, "stage s: cases='abc': must be a list"),
        ({"cases": {"x": [1, 2]}}, "stage s: cases={'x': .*: must be a list"),
        ({"cases": 5}, "stage s: cases=5: must be a list"),
        ({"depends_on": 5}, "stage s: depends_on=5: must be the names of stages"),
        ({"metrics": ["m"]}, r"stage s: metrics=\['m'\]: must be a mapping"),
        ({"metrics": {"m": {"unit": 5}}}, "stage s: metrics: m: unit=5: must be text"),
        ({"metrics": {"m": {"key": 5}}}, "stage s: metrics: m: key=5: must be text"),
        ({"metrics": {"m": {"regex": 5}}}, "stage s: metrics: m: regex=5: must be text"),
        ({"metrics": {"m": {"function": 5}}}, "stage s: metrics: m: function=5: must be a function"),
        ({"metadata": [1]}, r"stage s: metadata=\[1\]: must be a mapping"),
        ({"options": {"timeout": 1e300}}, "timeout=1e.300: must be a number of seconds greater than 0, and at most"),
        ({"trials": 0}, "stage s: trials=0: must be a whole number, 1..1,000,000"),
        ({"trials": None}, "or cases be given"),
        ({"select": ("score", 0)}, r"stage s: select=\('score', 0\): must be"),
        ({"select": lambda: 0}, "stage s: select="),
        ({"depends_on": "a b"}, "stage s: depends_on: 'a b' is no name of a stage"),
        (
            {"options": {"resources": {"gpu": 1}}},
            "stage s: options: trials have no resources: they are submitted once by their keys, and such tasks have none; choose workers",
        ),
        ({"options": {"limit": ("api", 1)}}, "trials have no limit: they are submitted once"),
        ({"options": {"cache": "x"}}, "trials have no cache: the outcome of a trial is kept with its study"),
        ({"options": {"retries": 1, "retry_on": "x"}}, "stage s: options: retry_on='x': must be an exception class"),
        ({"options": {"retries": 1, "backoff": -1}}, "stage s: options: backoff=-1: pauses must be 0"),
        ({"options": {"backoff": 1}}, "stage s: options: backoff: give retries too"),
        (
            {"options": {"retires": 1}},
            "stage s: options: unknown option 'retires': a stage takes timeout, retries, retry_on, backoff, priority and",
        ),
        ({"options": {"timeout": -1}}, "timeout=-1: must be a number of seconds greater than 0"),
        ({"options": {"retries": 101}}, "retries=101: must be a whole number, 0..100"),
        ({"gate": "yes"}, "stage s: gate='yes': must be true, a number of seconds, or a mapping"),
        ({"gate": {"timeout": 3, "then": "go"}}, "then='go': must be 'abort' or 'approve'"),
        ({"abort_if": {"failed": 2}}, "failed=2: must be a share"),
        ({"abort_if": {"fail": 0.1}}, "unknown fail: rules are failed, after, no_progress, budget_usd"),
        ({"metrics": {"x": "up"}}, "stage s: metrics: x: direction='up': must be 'max' or 'min'"),
        ({"metrics": {"x": {"regex": "("}}}, r"regex='\('"),
        ({"metrics": {"x": {"regex": "a", "key": "b"}}}, "key and regex are two ways to take one metric"),
        ({"metrics": {"x": {"dir": "min"}}}, "unknown dir; a metric has direction"),
        ({"seed": "7"}, "seed='7': must be a whole number"),
        ({"prune": "loss"}, "prune='loss': must be a metric and a number of trials"),
        ({"keep": "best"}, "stage s: keep='best': must be one of all, survivors, none"),
        ({"cases": [{"x": object()}]}, r"cases\[0\]: x is a object: a record holds plain values"),
        ({"metadata": {"x": {1: 2}}}, "metadata: x is a mapping with the key 1, which is no text"),
    ],
)
def test_a_stage_names_what_is_wrong(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Stage(**{"name": "s", "run": trial, "trials": 3, **given})


def test_a_plan_names_every_fault_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        Plan(
            [
                Stage("first", trial, 1, depends_on="last"),
                Stage("last", trial, 1, depends_on="first"),
                Stage("last", trial, 1, depends_on="first-"),
            ]
        )
    text = str(found.value)
    assert "two stages have the name 'last'" in text
    assert "'first-', which is no stage, did you mean 'first'?" in text
    with pytest.raises(ConfigError, match=r"in a circle: (a -> b -> a|b -> a -> b)"):
        Plan([Stage("a", trial, 1, depends_on="b"), Stage("b", trial, 1)])
    with pytest.raises(ConfigError, match="at least one stage"):
        Plan([])
    with pytest.raises(ConfigError, match="its own cases must be mappings"):
        Plan([Stage("a", trial, 1), Stage("b", trial, cases=[1, 2])])


def test_stages_are_linear_unless_they_say_otherwise() -> None:
    plan = Plan(
        [
            Stage("a", trial, 1),
            Stage("b", trial, 1),
            Stage("c", trial, 1, depends_on="a", options={"priority": 5}),
            Stage("d", trial, 1, depends_on=("b", "c")),
            Stage("e", trial, 1, depends_on=()),
        ]
    )
    assert [plan.parents(name) for name in "abcde"] == [(), ("a",), ("a",), ("b", "c"), ()]
    assert plan.ready({"b", "c", "d", "e"}, {"a"}) == ["c", "b", "e"]
    assert plan.below("b") == ["d"]
    assert plan.before("c") == ["a", "b", "e"]


# --------------------------------------------------------------------------------------------------------------- selection

values = st.one_of(st.integers(-3, 3), st.just(math.nan), st.just(math.inf))
tables = st.lists(
    st.tuples(st.sampled_from([COMPLETED, COMPLETED, FAILED]), values, values, st.booleans()), max_size=12
).map(
    lambda found: [
        TrialRow("s", i, state, metrics={"a": a, **({"b": b} if has_b else {})})
        for i, (state, a, b, has_b) in enumerate(found)
    ]
)
DIRECTIONS = {"a": "min"}


def no_failed(row: TrialRow) -> bool:
    return row.metrics["a"] > 0


@given(tables, st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_choice_depends_on_the_rows_and_not_on_their_order(table: list[TrialRow], k: int, lot: random.Random) -> None:
    rules = [All(), Top("a", k), Top("b", k), Pareto(("a", "b")), Pareto(("a", "b"), k), Where(no_failed)]
    rules.append(By(lambda rows, state: [row for row in rows if row.is_completed][:k]))
    shuffled = lot.sample(table, len(table))
    for rule in rules:
        choice = rule.choose(table, DIRECTIONS, {})
        assert rule.choose(shuffled, DIRECTIONS, {}) == choice
        assert all(table[index].is_completed for index in choice.survivors)
        assert len(set(choice.survivors)) == len(choice.survivors)
        assert choice.reason


@given(tables, st.integers(1, 6))
def test_the_best_are_the_best(table: list[TrialRow], k: int) -> None:
    chosen = Top("a", k).choose(table, DIRECTIONS, {}).survivors
    eligible = [row for row in table if row.is_completed and not math.isnan(row.metrics["a"])]
    assert len(chosen) == min(k, len(eligible))
    order = [(table[index].metrics["a"], index) for index in chosen]
    assert order == sorted(order)
    left = [row for row in eligible if row.index not in chosen]
    assert all((row.metrics["a"], row.index) > order[-1] for row in left)


@given(tables)
def test_no_trial_beats_one_of_a_pareto_front_in_everything(table: list[TrialRow]) -> None:
    def beats(one: TrialRow, other: TrialRow) -> bool:
        a, b = (one.metrics["a"], -one.metrics["b"]), (other.metrics["a"], -other.metrics["b"])
        return a != b and a[0] <= b[0] and a[1] <= b[1]

    eligible = [
        row
        for row in table
        if row.is_completed and not any(math.isnan(row.metrics.get(name, math.nan)) for name in "ab")
    ]
    expected = {row.index for row in eligible if not any(beats(other, row) for other in eligible)}
    assert set(Pareto(("a", "b")).choose(table, DIRECTIONS, {}).survivors) == expected


def test_forms_of_selections() -> None:
    assert selection_of(None, "select") == All()
    assert selection_of(("score", 3), "select") == Top("score", 3)
    assert selection_of((("a", "b"), None), "select") == Pareto(("a", "b"))
    assert isinstance(selection_of(lambda row: True, "select"), Where)
    assert isinstance(selection_of(lambda rows, state: rows, "select"), By)


def test_a_function_selects_by_rows_indexes_or_names_and_its_state_is_a_copy() -> None:
    table = [TrialRow("s", i, COMPLETED) for i in range(3)] + [TrialRow("s", 3, FAILED)]
    state = {"n": 1}

    def select(rows: list[TrialRow], state: dict[str, int]) -> list[Any]:
        state["n"] += 1
        return [rows[2], 0, "s/1", 0]

    choice = By(select).choose(table, {}, state)
    assert (choice.survivors, choice.state, state) == ((2, 0, 1), {"n": 2}, {"n": 1})
    with pytest.raises(ValueError, match="s/3, which is failed"):
        By(lambda rows, state: [3]).choose(table, {}, {})
    with pytest.raises(ValueError, match="selects 9, which is no trial"):
        By(lambda rows, state: [9]).choose(table, {}, {})


# ----------------------------------------------------------------------------------------------------------------- metrics


def test_ways_to_take_a_metric(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"power": 3.5}')
    (tmp_path / "log.txt").write_text("area: 12\narea: 11 um2\n")
    output = Output("score = -1.5e3 points\n", tmp_path)
    metrics = {
        "score": metric_of({"regex": r"score = (\S+)"}, ""),
        "power": metric_of({"file": "out.json", "direction": "min", "unit": "W"}, ""),
        "area": metric_of({"file": "log.txt", "regex": r"area: (\d+)"}, ""),
        "n": metric_of(lambda output: len(output.text), ""),
    }
    assert taken(output, metrics) == {"score": -1500.0, "power": 3.5, "area": 11.0, "n": 22}
    assert taken({"a": 1, "b": True, "loss": 2.5}, {"l": Metric("min", key="loss")}) == {"a": 1, "b": 1, "l": 2.5}
    assert taken(None, {}) == {}
    assert taken(output, {}) == {}  # a program that only writes what later stages read
    assert taken("x=4", {"x": Metric(regex=r"x=(\d)")}) == {"x": 4.0}


@pytest.mark.parametrize(
    ("value", "metrics", "says"),
    [
        ({"a": [1]}, {}, "the metric 'a' is a list: metrics are numbers"),
        ([1], {}, "a trial returns a mapping of metrics, not a list"),
        ({"a": 1}, {"b": "max"}, "the metric 'b' is missing: there are a"),
        (3, {"b": "max"}, "the trial returned a int, not a mapping"),
        (Output("", Path("/")), {"b": "max"}, "give it a regex, a function or a JSON file"),
        (Output("y=1", Path("/")), {"b": {"regex": r"x=(\d)"}}, "nothing matches"),
    ],
)
def test_a_metric_that_cannot_be_taken_says_why(value: Any, metrics: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError, LookupError), match=says):
        taken(value, {name: metric_of(one, name) for name, one in metrics.items()})


# ------------------------------------------------------------------------------------------------------------- fingerprints


def helper(x: float) -> float:
    return x * 2


def uses_helper(trial: Any) -> dict[str, float]:
    """Documented."""
    return {"score": helper(trial.index)}


def code(function: Any) -> dict[str, str]:
    return codes_of([Stage("s", function, 1)])["s"]


def made(source: str, name: str = "run") -> Any:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, "<made>", "exec"), namespace)
    return namespace[name]


def test_a_command_says_why_it_failed() -> None:
    def failure(command: Any, **params: Any) -> TrialFailed:
        spec = TrialSpec("s", 1, 0, (params,), (), None, command, "", {}, TrialOptions(), None, "", "study")
        with pytest.raises(TrialFailed) as caught:
            run_trial(spec, 0)
        return caught.value

    by_signal = failure(["sh", "-c", f"kill -{signal.SIGRTMIN + 1} $$"])
    assert f"was killed by signal {signal.SIGRTMIN + 1}: sh" in str(by_signal)
    assert by_signal.kind == "crashed"
    # Of a survivor, for example, whose stage was none of commands.
    assert "seed is a parameter of this trial, and the trial's own value" in str(failure("echo {seed}", seed=1))


def test_a_command_with_names_in_braces_is_one() -> None:
    for word in ("{x}", "{x.y}", "{2x}", "{x[0]}", "{{}}", "{x:5}", "{x!r}"):
        assert Stage("s", command=["tool", word], trials=1).command == ("tool", word)


@pytest.mark.parametrize(
    ("stages", "seed", "says"),
    [
        (None, 0, "stages: None is none: must be a list of Stage"),
        (["a"], 0, "stages: 'a' is none: must be a list of Stage"),
        ([Stage("s", trial, 1)], 2**64, "seed=18446744073709551616: must be a whole number, -2"),
        ([Stage("s", trial, 1)], 1.0, "seed=1.0: must be a whole number"),
    ],
)
def test_a_study_of_wrong_arguments_says_what_is_wrong(stages: Any, seed: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Study("some", stages, seed=seed)


def test_a_fingerprint_follows_what_a_function_does() -> None:
    plain = "def help(x):\n    return x + 1\ndef run(trial):\n    return {'s': help(trial.index)}\n"
    same = "# a comment\n\n\ndef help(x):\n    # another\n    return x + 1\n\n\ndef run(trial):\n    return {'s': help(trial.index)}\n"
    assert code(made(plain)) == code(made(same))
    assert code(made(plain)) != code(made(plain.replace("x + 1", "x + 2")))
    assert code(made(plain)) != code(made(plain.replace("'s'", "'t'")))
    documented = plain.replace("(trial):\n", "(trial):\n    'What it does.'\n")
    assert code(made(plain)) == code(made(documented))
    assert code(uses_helper) == code(uses_helper)


def test_a_fingerprint_sees_closures_defaults_classes_and_constants() -> None:
    def closed(value: Any) -> Any:
        return lambda trial: {"s": value}

    assert code(closed(1)) == code(closed(1))
    assert code(closed(1)) != code(closed(2))
    assert code(closed({"a": [1, {2}]})) != code(closed({"a": [1, {3}]}))
    source = "LIMIT = 3\nclass Model:\n    def fit(self):\n        return LIMIT\ndef run(trial, k=1):\n    return {'s': Model().fit()}\n"
    assert code(made(source)) != code(made(source.replace("LIMIT = 3", "LIMIT = 4")))
    assert code(made(source)) != code(made(source.replace("return LIMIT", "return -LIMIT")))
    assert code(made(source)) != code(made(source.replace("k=1", "k=2")))


def test_a_difference_in_code_is_named() -> None:
    source = "LIMIT = 3\nKEY = 'secret'\ndef help(x):\n    return x + LIMIT\ndef run(trial):\n    return {'s': help(trial.index), 'n': len(KEY)}\n"

    def changed(old: str, new: str) -> list[str]:
        before, after = code(made(source)), code(made(source.replace(old, new)))
        assert "secret" not in str(before)
        return [str(change) for change in code_changes("s", before, after)]

    assert changed("LIMIT = 3", "LIMIT = 40") == ["stage s: value of LIMIT was 3, is 40"]
    [of_helper] = changed("x + LIMIT", "x - LIMIT")
    assert re.fullmatch(r"stage s: code of help was [0-9a-f]{12}, is [0-9a-f]{12}", of_helper)
    assert [one.partition(" was ")[0] for one in changed("'secret'", "'other'")] == ["stage s: code of run"]


def test_cases_of_a_scripts_own_class_are_compared_by_what_they_hold() -> None:
    source = (
        "import dataclasses\n@dataclasses.dataclass\nclass Data:\n    x: object\n"
        "class Plain:\n    def __init__(self, x):\n        self.x = x\n    def size(self):\n        return 1\n"
    )

    def seen(x: Any, text: str = source) -> tuple[dict[str, str], dict[str, str]]:
        stage = Stage("s", uses_helper, cases=[made(text, name)(x) for name in ("Data", "Plain")])
        return config_of(stage, (), 0), codes_of([stage])["s"]

    assert seen({"a", "b"}) == seen({"b", "a"})  # a class of a script has a random id in each pickle
    assert seen({"a", "b"})[0] != seen({"a", "c"})[0]
    assert seen(1)[1] != seen(1, source.replace("return 1", "return 2"))[1]


def test_a_fingerprint_is_the_same_in_a_script_and_in_a_module_of_its_name() -> None:
    source = "class Run:\n    def __init__(self, n):\n        self.n = n\n    def __call__(self, trial):\n        return {'s': self.n}\nrun = Run(3)\n"
    as_script = made(source)
    as_module = made(source)
    type(as_module).__module__ = type(as_module).__call__.__module__ = "tests.some"
    assert code(as_script) == code(as_module)
    as_module.n = 4
    assert code(as_script) != code(as_module)


_REFERRING = """
import abc, dataclasses, enum, functools, json, random, time
from pathlib import Path
LIMIT, TABLE, HERE = 3, {"a": [1, 2]}, Path("/tmp")
@dataclasses.dataclass
class Point:
    x: int = 3
class Kind(enum.Enum):
    A = 1
class Base(abc.ABC):
    @abc.abstractmethod
    def fit(self): ...
class Model(Base):
    def fit(self): return LIMIT
def traced(function):
    @functools.wraps(function)
    def inner(trial): return function(trial)
    return inner
class Run:
    def __init__(self): self.n = LIMIT
    def __call__(self, trial): return {"s": self.n}
"""


@pytest.mark.parametrize(
    "function",
    [
        "def run(trial): return {'s': trial.rng().random(), 'at': trial.time}",  # attributes with the names of modules
        "def run(trial):\n    import json\n    return {'s': len(json.dumps(TABLE))}",
        "def run(trial):\n    class Own:\n        random = 3\n        time = random\n    return {'s': Own.time}",
        "def run(trial): return {'s': Model().fit() + Kind.A.value + Point().x, 'n': len(str(HERE))}",
        "def run(trial): return {'s': sum(x * LIMIT for x in TABLE['a'])}",
        "@traced\ndef run(trial): return {'s': 1}",
        "run = functools.partial(lambda n, trial: {'s': n + LIMIT}, 3)",
        "run = Run()",
    ],
)
def test_a_fingerprint_is_the_same_after_the_stage_was_stored_and_loaded(function: str) -> None:
    before = made(_REFERRING + function)
    [after] = calls.load_function(calls.dump_function(functools.partial(tuple, [before])))()
    assert code(after) == code(before) == code(made(_REFERRING + function))


def test_a_difference_in_the_configuration_is_named() -> None:
    def config(**given: Any) -> dict[str, str]:
        return Plan([Stage("s", trial, **{"trials": 3, **given})]).config("s", 7)

    def changed(given: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
        return [
            str(one).removeprefix("stage s: ") for one in config_changes("s", config(**(before or {})), config(**given))
        ]

    assert changed({}) == []
    assert changed({"options": {"priority": 3}}) == []  # where it is submitted first changes no result
    assert changed({"trials": 4}) == ["trials was 3, is 4"]
    assert changed({"options": {"timeout": 3}}, {"options": {"timeout": 60.5}}) == ["options.timeout was 60.5, is 3"]
    assert changed({"cases": [{"x": 1}]}) == ['cases was not given, is [{"x": 1}]']
    assert changed({"select": ("score", 2)}) == ['select was {"all": true}, is {"top": {"k": 2, "metric": "score"}}']
    assert changed({"gate": True}) == ['gate was not given, is {"then": "abort", "timeout": null}']
    assert changed({"abort_if": {"failed": 0.5}}) == ["abort_if.failed was not given, is 0.5"]
    assert changed({"metrics": {"score": "min"}}) == ['metrics.score was not given, is {"direction": "min"}']
    assert changed({"seed": 8}) == ["seed was 7, is 8"]
    assert changed({"keep": "none"}) == ['keep was not given, is "none"']
    assert changed({"keep": "all"}) == []
    assert changed({"prune": ("score", 2)}) == ['prune was not given, is ["score", 2]']
    many = [{"x": i} for i in range(1000)]
    [of_cases] = changed({"cases": many}, {"cases": [*many[:-1], {"x": 7}]})
    assert re.fullmatch(r"cases was \[.*… \(1000 of them, \w{12}\), is \[.*… \(1000 of them, \w{12}\)", of_cases)
    [of_objects] = changed({"cases": [object, 3]}, {"cases": [object, 4]})
    assert re.fullmatch(r"cases was 2 objects \(\w{12}\), is 2 objects \(\w{12}\)", of_objects)


# ------------------------------------------------------------------------------------------------------------------- trials


def spec(**given: Any) -> TrialSpec:
    plain: dict[str, Any] = {
        "stage": "s", "edition": 1, "seed": 0, "cases": (), "inputs": (), "run": trial, "command": None, "here": "", "metrics": {},
        "options": TrialOptions(), "prune": None, "store": "", "study": "x",
    }  # fmt: skip
    return TrialSpec(**{**plain, **given})


def test_cases_are_taken_in_turn_and_crossed_with_inputs() -> None:
    from starburst_executor.study.record import Survivor

    own = spec(cases=({"x": 1}, {"x": 2}))
    assert [own.params(i) for i in range(3)] == [{"x": 1}, {"x": 2}, {"x": 1}]
    assert (spec().case(3), spec().params(3)) == (None, {})
    inputs = (Survivor("a/4", params={"x": 4}), Survivor("a/1", params={"x": 1}))
    crossed = spec(inputs=inputs, cases=({"y": 1}, {"y": 2}))
    assert [crossed.case(i).name for i in range(4)] == ["a/4", "a/1", "a/4", "a/1"]
    assert [crossed.params(i) for i in range(4)] == [
        {"x": 4, "y": 1},
        {"x": 1, "y": 1},
        {"x": 4, "y": 2},
        {"x": 1, "y": 2},
    ]


def test_a_seed_depends_on_seed_stage_and_index_alone() -> None:
    seeds = {trial_seed(seed, stage, index) for seed in range(3) for stage in "ab" for index in range(50)}
    assert len(seeds) == 300
    assert trial_seed(0, "a", 1) == trial_seed(0, "a", 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_trial_is_tried_again_after_the_errors_that_are_named_with_pauses() -> None:
    clock, raised = FakeClock(1), [ConnectionResetError(), ConnectionResetError(), KeyError("fatal"), ValueError()]
    began = clock.monotonic()

    def flaky(trial: Any) -> dict[str, float]:
        raise raised.pop(0)

    options = TrialOptions.of({"retries": 5, "retry_on": OSError, "backoff": (1, 3, 60)}, "options")
    with pytest.raises(KeyError):
        run_trial(spec(run=flaky, options=options), 0, clock=clock)
    assert len(raised) == 1
    assert clock.monotonic() - began == 4  # 1 s, then 3 s
    both = Plan([Stage("s", flaky, 1, options={"retries": 5, "retry_on": OSError, "backoff": 2})]).config("s", 0)
    assert (both["options.retry_on"], both["options.backoff"]) == ('["builtins.OSError"]', "[2.0, 1.0, 2.0]")
