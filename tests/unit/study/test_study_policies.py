"""The policies that studies share: which trials survive, and when a stage aborts its study. In Python and in files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.cli import targets
from starburst_executor.errors import ConfigError
from starburst_executor.study import own_policies
from starburst_executor.study.aborting import reason_to_abort
from starburst_executor.study.events import StageProgress
from starburst_executor.study.fingerprints import codes_of, config_of
from starburst_executor.study.plan import Plan
from starburst_executor.study.policies import (
    ABORTING,
    SELECTING,
    BudgetLeft,
    Doomed,
    NoImprovement,
    NotBelow,
    Within,
    aborting,
    selecting,
)
from starburst_executor.study.record import COMPLETE
from starburst_executor.study.selection import By, Where, selection_of
from starburst_executor.study.stage import AbortRules, Stage
from starburst_executor.study.tables import COMPLETED, FAILED, TrialRow
from starburst_executor.study.yaml import read_study
from tests.support.study_world import World


def rows(*values: float | None) -> list[TrialRow]:
    return [
        TrialRow("s", i, FAILED if value is None else COMPLETED, metrics={} if value is None else {"loss": value})
        for i, value in enumerate(values)
    ]


def progress(*values: float | None, direction: str = "min", **more: Any) -> StageProgress:
    table = rows(*values)
    return StageProgress(
        "s", 99, len(table), 0, 0, kinds={}, directions={"loss": direction},
        outcomes={row.index: row for row in table}, **{"cost_usd": 0.0, "idle_s": 0.0, **more},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "values", "chosen"),
    [
        ({"at_least": {"metric": "loss", "value": 2}}, (1, 2, None, 3, math.nan), (1, 3)),
        ({"at_most": {"metric": "loss", "value": 2}}, (1, 2, None, 3, math.nan), (0, 1)),
        ({"at_least": {"metric": "other", "value": 2}}, (1, 2), ()),
        ({"within": {"metric": "loss", "share": 0.1, "direction": "min"}}, (11, 10, 12, None, math.nan, 10), (1, 5, 0)),
        ({"within": {"metric": "loss", "share": 0.1, "direction": "min", "most": 1}}, (11, 10, 12), (1,)),
        ({"within": {"metric": "loss", "share": 0.1}}, (-10, -11, -12), (0, 1)),
        ({"within": {"metric": "loss", "share": 0.1}}, (math.inf, 3), (0,)),
        ({"within": {"metric": "loss", "share": 0.1}}, (None,), ()),
    ],
)
def test_a_policy_selects(given: Any, values: tuple[Any, ...], chosen: tuple[int, ...]) -> None:
    selection = selection_of(given, "select")
    assert isinstance(selection, By if "within" in given else Where)
    choice = selection.choose(rows(*values), {}, {})
    assert choice.survivors == chosen
    assert choice.reason.startswith(str(next(iter(given.values()))["metric"]))


def test_no_improvement_goes_by_the_index_and_not_by_the_order_of_ending() -> None:
    rule = NoImprovement("loss", 3)
    assert rule(progress()) == ""
    assert rule(progress(None, None, None, None)) == ""
    assert rule(progress(5, 4, 6, 6)) == ""
    assert rule(progress(5, 4, 6, None, 4)) == "loss has not improved over 3 trials; the best is 4"
    assert rule(progress(5, 4, 6, None, 3.9)) == ""
    assert NoImprovement("loss", 3, by=0.5)(progress(5, 4, 6, None, 3.9)) != ""
    assert rule(progress(5, 4, 6, 7, direction="max")) == ""
    assert rule(progress(7, 4, 6, 7, direction="max")) == "loss has not improved over 3 trials; the best is 7"
    # Trial 2 still runs: what ended after it does not count yet.
    gap = progress(5, 4, 6, 6, 6)
    assert (
        rule(StageProgress(**{**_fields(gap), "outcomes": {i: row for i, row in gap.outcomes.items() if i != 2}})) == ""
    )


def _fields(one: StageProgress) -> dict[str, Any]:
    return {name: getattr(one, name) for name in StageProgress.__dataclass_fields__}


def test_budget_left() -> None:
    rule = BudgetLeft(2)
    assert rule(progress(budget_usd=10.0, cost_usd=8.0)) == ""
    assert rule(progress(budget_usd=10.0, cost_usd=8.5)) == "$1.50 of $10.00 are left, less than $2.00"
    assert rule(progress(cost_usd=100.0)) == ""
    assert AbortRules.of({"budget_left": {"usd": 2}}, "abort_if").needs_cost
    assert not AbortRules.of({"doomed": {"metric": "loss", "reach": 0.1}}, "abort_if").needs_cost


def test_a_branch_is_doomed_if_no_survivor_can_reach_the_best_so_far() -> None:
    rule = Doomed("loss", 0.2)
    inputs = ({"loss": 15.0}, {"loss": 13.0}, {"loss": math.nan})
    assert rule(progress(inputs=inputs, best={"loss": 10.4})) == ""
    said = rule(progress(inputs=inputs, best={"loss": 10.0}))
    assert said == "no survivor can reach the best loss so far, 10: the best input has 13, its reach is 0.2"
    # One of its own trials got there, whatever its reach was said to be.
    assert rule(progress(12, 9, inputs=inputs, best={"loss": 10.0})) == ""
    assert rule(progress(inputs=(), best={"loss": 10.0})) == ""
    assert rule(progress(inputs=inputs, best={})) == ""
    assert rule(progress(inputs=({"loss": 8.0},), best={"loss": 10.0}, direction="max")) != ""
    assert rule(progress(inputs=({"loss": 8.5},), best={"loss": 10.0}, direction="max")) == ""
    # Infinity less a share of it is no number.
    assert Doomed("loss", 0)(progress(inputs=({"loss": math.inf},), best={"loss": math.inf}, direction="max")) == ""
    assert rule(progress(3, inputs=({"loss": math.inf},), best={"loss": 5.0})) == ""


def test_rules_go_together_and_the_first_that_applies_is_the_reason() -> None:
    given = {"failed": 0.5, "no_improvement": {"metric": "loss", "trials": 1}, "budget_left": {"usd": 3}}
    rules = AbortRules.of(given, "abort_if")
    assert reason_to_abort(rules, progress(1, 2)) == "stage s: loss has not improved over 1 trials; the best is 1"
    assert reason_to_abort(rules, progress(1, budget_usd=4.0, cost_usd=2.0)).startswith("stage s: $2.00 of $4.00")
    assert reason_to_abort(rules, progress(1)) == ""
    assert AbortRules.of(BudgetLeft(3), "abort_if").policies == (BudgetLeft(3),)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"at_lest": {}}, "must be a mapping of one of at_least, at_most, within"),
        ({"at_least": {"metric": "loss"}}, "at_least: needs metric, value"),
        ({"at_least": {"metric": "loss", "limit": 1}}, "must be a mapping of metric, value"),
        ({"at_least": {"metric": "loss", "value": "1"}}, "value='1': must be a number"),
        ({"within": {"metric": "loss", "share": -1}}, "share=-1: must be a share, 0 or more"),
        ({"within": {"metric": "loss", "share": 1, "most": 0}}, "most=0: must be a whole number, at least 1"),
        ({"within": {"metric": "loss", "share": 1, "direction": "up"}}, "direction='up': must be max or min"),
    ],
)
def test_a_policy_names_what_is_wrong(given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Stage("s", measure, 3, select=given)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown no_improvment: rules are failed, .*no_improvement, doomed"):
        Stage("s", measure, 3, abort_if={"no_improvment": {}})
    with pytest.raises(ConfigError, match="trials=0: must be a whole number, at least 1"):
        Stage("s", measure, 3, abort_if={"no_improvement": {"metric": "loss", "trials": 0}})


def measure(trial: Any) -> dict[str, float]:
    return {"loss": float(trial.index)}


@pytest.mark.parametrize("given", [{"within": {"metric": "loss", "share": 0.1}}, Within("loss", 0.1)])
def test_within_has_the_direction_of_its_stage_unless_it_says_its_own(given: Any) -> None:
    def direction(select: Any, **metrics: str) -> str | None:
        selection = Stage("s", measure, 2, select=select, metrics=metrics).selection
        assert isinstance(selection, By)
        assert isinstance(selection.function, Within)
        return selection.function.direction

    assert direction(given, loss="min") == "min"
    assert direction(given, loss="max") == direction(given) == "max"
    assert direction(Within("loss", 0.1, "max"), loss="min") == "max"


def test_a_driver_keeps_to_them() -> None:
    def plan(n_trials: int = 20, limit: int = 5) -> Plan:
        rules = {"no_improvement": {"metric": "loss", "trials": limit}}
        stage = Stage("s", measure, n_trials, select=NotBelow("loss", 3), abort_if=rules, metrics={"loss": "min"})
        return Plan([stage, Stage("t", measure, 2, select=Within("loss", 0.5, "min"))])

    record = World(plan).drive()
    assert record.state == "aborted"
    assert "loss has not improved over" in record.reason
    world = World(lambda: plan(6, 99))
    record = world.drive()
    assert record.state == COMPLETE
    assert [one.name for one in record.stage("s").survivors] == ["s/3", "s/4", "s/5"]
    assert record.stage("s").reason == "loss at least 3 accepts 3 of 6 completed"


def test_a_file_names_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = "study: one\nstages:\n  - name: first\n    command: ls\n    trials: 4\n    metrics: {loss: min}\n"
    select, abort_if = (
        "{within: {metric: loss, share: 0.1, direction: min}}",
        "{no_improvement: {metric: loss, trials: 3}}",
    )
    path.write_text(f"{text}    select: {select}\n    abort_if: {abort_if}\n")
    stage = read_study(path, lambda target: measure)[1][0]
    assert stage.selection == By(Within("loss", 0.1, "min"))
    assert stage.abort_if.policies == (NoImprovement("loss", 3),)
    path.write_text(f"{text}    select: {{within: {{metric: loss}}}}\n")
    with pytest.raises(ConfigError, match=r"line 7: stages\[0\].select: within: needs metric, share"):
        read_study(path, lambda target: measure)


def test_a_changed_policy_is_a_changed_configuration() -> None:
    def config(value: float, trials: int) -> Any:
        rules = {"no_improvement": {"metric": "loss", "trials": trials}}
        return Plan([Stage("s", measure, 3, select=NotBelow("loss", value), abort_if=rules)]).config("s", 0)

    assert config(1, 2) == config(1, 2)
    assert config(1, 2) != config(2, 2)
    assert config(1, 2) != config(1, 3)


def test_each_policy_of_the_registries_says_what_it_does() -> None:
    assert all(kind.__doc__ and isinstance(kind.text, property) for kind in {**SELECTING, **ABORTING}.values())


# ------------------------------------------------------------------------------------------------------------ of users

OWN = """
from starburst_executor.study.policies import aborting, selecting

@selecting("sampled")
def sampled(row, *, every, begin=0):
    return row.index % every == begin

@selecting("last")
def last(rows, state, *, k):
    return rows[-k:]

@aborting("too_slow")
def too_slow(progress, *, seconds):
    return f"idle for {progress.idle_s:g} s" if progress.idle_s > seconds else ""
"""


@pytest.fixture
def registered() -> Iterator[None]:
    registries = (own_policies.OWN_SELECTING, own_policies.OWN_ABORTING)
    exec(OWN, {"__name__": "rules"})
    yield
    for registry in registries:
        registry.clear()


@pytest.mark.usefixtures("registered")
def test_a_registered_policy_selects_and_aborts_by_its_name() -> None:
    assert selection_of({"sampled": {"every": 2, "begin": 1}}, "select").choose(rows(1, 2, 3, 4), {}, {}).survivors == (
        1,
        3,
    )
    choice = selection_of({"last": {"k": 2}}, "select").choose(rows(1, 2, 3), {}, {})
    assert (choice.survivors, choice.reason) == ((1, 2), "last(k=2) selects 2 of 3")
    rules = AbortRules.of({"too_slow": {"seconds": 5}, "failed": 0.5}, "abort_if")
    assert rules.needs_cost
    assert reason_to_abort(rules, progress(1, idle_s=4.0)) == ""
    assert reason_to_abort(rules, progress(1, idle_s=6.0)) == "stage s: idle for 6 s"


@pytest.mark.usefixtures("registered")
def test_the_arguments_and_the_code_of_a_registered_policy_are_parts_of_its_stage() -> None:
    def stage(every: int, seconds: int) -> Stage:
        select, abort_if = {"sampled": {"every": every}}, {"too_slow": {"seconds": seconds}}
        return Stage("s", print, 3, select=select, abort_if=abort_if)

    config = config_of(stage(2, 60), (), 1)
    assert config["select"] == '{"where": "sampled(every=2)"}'
    assert config["abort_if.policies"] == '["too_slow(seconds=60)"]'
    assert config != config_of(stage(3, 60), (), 1)
    code = codes_of([stage(2, 60)])["s"]
    assert (code["select"], code["abort_if.too_slow"]) == ("sampled", "too_slow")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sampled": {"step": 2}}, r"select: sampled=\{'step': 2\}: must be a mapping of every, begin"),
        ({"sampled": {}}, "select: sampled: needs every"),
        ({"sample": {}}, "must be a mapping of one of at_least, at_most, within, sampled, last to its arguments"),
    ],
)
def test_a_registered_policy_names_what_is_wrong(given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        selection_of(given, "select")


@pytest.mark.usefixtures("registered")
def test_a_name_is_registered_once_and_its_function_takes_what_it_is_called_with() -> None:
    exec(OWN, {"__name__": "rules"})  # the same file once more
    with pytest.raises(ConfigError, match=r"a policy of that name is registered: rules\.sampled"):
        selecting("sampled")(lambda row: True)
    with pytest.raises(ConfigError, match="a policy's name is an identifier, and none of top"):
        aborting("failed")
    with pytest.raises(
        ConfigError, match=r"policy late: .* must take a StageProgress, and its further parameters after"
    ):
        aborting("late")(lambda progress, seconds: True)


@pytest.mark.usefixtures("registered")
def test_a_file_imports_what_registers_its_policies(tmp_path: Path) -> None:
    own_policies.OWN_SELECTING.clear()
    own_policies.OWN_ABORTING.clear()
    path = tmp_path / "study.yaml"
    (tmp_path / "rules.py").write_text(OWN, encoding="utf-8")
    text = """\
study: one
import: [rules.py]
stages:
  - {name: a, command: ls, trials: 4, select: {sampled: {every: 2}}, abort_if: {too_slow: {seconds: 9}, failed: 0.5}}
"""
    path.write_text(text, encoding="utf-8")
    [stage] = of_file_stages(path)
    assert stage.selection.described() == {"where": "sampled(every=2)"}
    assert [one.text for one in stage.abort_if.policies] == ["too_slow(seconds=9)"]
    path.write_text(text.replace("too_slow", "too_late"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 4: stages\[0\].abort_if.too_late: unknown field"):
        of_file_stages(path)
    path.write_text(text.replace("rules.py", "no_rules"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 2: import\[0\]: the module no_rules cannot be imported"):
        of_file_stages(path)


def of_file_stages(path: Path) -> list[Stage]:
    def load_module(target: str) -> Any:
        return targets.load_module(str(path.parent / target) if target.endswith(".py") else target)

    return read_study(path, targets.load_target, load_module)[1]
