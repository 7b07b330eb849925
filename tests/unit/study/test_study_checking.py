"""Regression checks: what fails, what passes, and with which certainty; baselines as files."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from starburst_executor.errors import ConfigError
from starburst_executor.study.baselines import Case, Measured, measured, read_baseline, write_baseline
from starburst_executor.study.check_report import to_markdown, write_junit
from starburst_executor.study.checking import CheckReport, checked, tolerances_of
from starburst_executor.study.plan import Plan
from starburst_executor.study.stage import Stage
from tests.support.study_world import World


def side(values: dict[str, list[float]], direction: str = "min") -> Measured:
    cases = tuple(
        Case({"case": name}, len(found), {"loss": tuple(found)} if found else {}) for name, found in values.items()
    )
    return Measured("one", "s", {"loss": direction}, cases)


def check(after: list[float], before: list[float], tolerance: str = "loss=2%", direction: str = "min") -> CheckReport:
    return checked(side({"a": after}, direction), side({"a": before}, direction), tolerances_of([tolerance]))


def noisy(mean: float, noise: float, n: int, seed: int) -> list[float]:
    lot = random.Random(seed)
    return [mean * (1 + lot.gauss(0, noise)) for _ in range(n)]


@pytest.mark.parametrize(
    ("after", "before", "tolerance", "direction", "verdict"),
    [
        ([1.0], [1.0], "loss=0%", "min", "ok"),
        ([1.03], [1.0], "loss=2%", "min", "regression"),
        ([1.03], [1.0], "loss=2%", "max", "better"),
        ([0.97], [1.0], "loss=2%", "max", "regression"),
        ([1.02], [1.0], "loss=2%", "min", "ok"),
        ([-0.97], [-1.0], "loss=2%", "min", "regression"),
        ([0.1], [0.0], "loss=2%", "min", "regression"),
        ([0.1], [0.0], "loss=0.2", "min", "ok"),
        ([], [1.0], "loss=2%", "min", "missing"),
        ([1.0], [], "loss=2%", "min", "new"),
        ([1.03, 1.03], [1.0, 1.0], "loss=2%", "min", "regression"),
        ([1.0, 1.0], [1.0, 1.0], "loss=2%", "min", "ok"),
        ([1.5, 0.8, 1.1], [1.0, 1.4, 0.6], "loss=2%", "min", "uncertain"),
        ([float("nan"), 1.0], [1.0], "loss=2%", "min", "ok"),
    ],
)
def test_a_verdict(after: Any, before: Any, tolerance: str, direction: str, verdict: str) -> None:
    report = check(after, before, tolerance, direction)
    assert [one.verdict for one in report.comparisons] == [verdict]
    assert report.is_ok == (verdict not in ("regression", "missing"))


def test_3_percent_are_found_in_noise_and_noise_alone_passes() -> None:
    found = [check(noisy(1.03, 0.01, 20, seed), noisy(1.0, 0.01, 20, seed + 1_000)).is_ok for seed in range(50)]
    noise = [check(noisy(1.0, 0.01, 20, seed), noisy(1.0, 0.01, 20, seed + 1_000)).is_ok for seed in range(50)]
    assert found.count(True) <= 2
    assert noise.count(False) == 0
    # Without a tolerance the test alone decides: about one in twenty at 95 %.
    alone = [check(noisy(1.0, 0.01, 20, s), noisy(1.0, 0.01, 20, s + 1_000), "loss=0%").is_ok for s in range(100)]
    assert 1 <= alone.count(False) <= 15


@pytest.mark.parametrize("power", [-1000, 1022])
def test_the_size_of_numbers_does_not_matter(power: int) -> None:
    after, before = noisy(1.03, 0.01, 8, 1), noisy(1.0, 0.01, 8, 2)
    [usual] = check(after, before).comparisons
    [extreme] = check(*([math.ldexp(value, power) for value in values] for values in (after, before))).comparisons
    assert (extreme.verdict, extreme.p) == (usual.verdict, usual.p) == ("regression", usual.p)
    assert extreme.low == math.ldexp(usual.low or 0.0, power)


def test_many_comparisons_are_not_many_chances_for_a_false_alarm() -> None:
    names = [f"case {number}" for number in range(20)]

    def many(seed: int) -> Measured:
        return side({name: noisy(1.0, 0.05, 8, seed * 100 + number) for number, name in enumerate(names)})

    reports = [checked(many(seed), many(seed + 500), tolerances_of(["loss=0%"])) for seed in range(10)]
    assert sum(not report.is_ok for report in reports) <= 3
    assert all(one.p is not None for one in reports[0].comparisons)


def test_the_interval_holds_the_true_difference_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(60):
        [one] = check(noisy(1.1, 0.05, 6, seed), noisy(1.0, 0.05, 9, seed + 1_000)).comparisons
        assert one.low is not None
        assert one.high is not None
        hits += one.low <= 0.1 <= one.high
    assert 51 <= hits <= 60


@pytest.mark.parametrize("text", ["loss", "loss=", "loss=2x", "=2%", "loss=-1%", "loss=1.2.3"])
def test_a_tolerance_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"must be metric=2% or metric=0\.1"):
        tolerances_of([text])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="there is no metric 'los': there are loss"):
        checked(side({"a": [1.0]}), side({"a": [1.0]}), tolerances_of(["los=2%"]), directions={"los": "min"})
    with pytest.raises(ConfigError, match="there is no metric 'los': there are loss"):
        checked(side({"a": [1.0]}), side({"a": [1.0]}), tolerances_of(["los=2%"]))
    undeclared = replace(side({"a": [1.0]}), directions={})
    with pytest.raises(ConfigError, match=r"the direction of metric 'loss' is not known: .*--direction loss=min"):
        checked(undeclared, undeclared, tolerances_of(["loss=2%"]))
    with pytest.raises(ConfigError, match=r"no case is in both: .* has case=b, the baseline case=a: --by names the"):
        checked(side({"b": [1.0]}), side({"a": [1.0]}), tolerances_of(["loss=2%"]))
    with pytest.raises(ConfigError, match="a check needs a tolerance"):
        tolerances_of([])
    with pytest.raises(ConfigError, match="confidence=2"):
        checked(side({"a": [1.0]}), side({"a": [1.0]}), tolerances_of(["loss=2%"]), confidence=2)


def test_a_report_for_people_for_the_page_of_a_job_and_for_its_list_of_tests(tmp_path: Path) -> None:
    before = side({"a": [1.0, 1.0], "b": [2.0], "c": [1.0], "d": [1.0, 1.4, 0.6]})
    after = side({"a": [1.1, 1.1], "b": [2.0], "c": [], "d": [1.5, 0.8, 1.1]})
    report = checked(after, before, tolerances_of(["loss=2%"]), named="base.json")
    assert not report.is_ok
    assert "fails: 2 of 4 comparisons" in str(report)
    assert "regression loss of case=a: 1 -> 1.1 (+10.00 %, tolerance 2 %), n=2, 2, p=0" in str(report)
    assert "missing    loss of case=c: the study has no value" in str(report)
    text = to_markdown(report)
    assert "| ❌ regression | loss (min) | case=a | 1 (n=2) | 1.1 (n=2) | +10.00 % | +0.1 … +0.1 | 0 | 2 % |" in text
    assert "more repeats would" in text
    write_junit(report, tmp_path / "check.xml")
    root = ET.parse(tmp_path / "check.xml").getroot()
    cases = {case.get("name"): [child.tag for child in case] for case in root.iter("testcase")}
    assert cases == {
        "loss: case=a": ["failure"], "loss: case=b": [], "loss: case=c": ["failure"], "loss: case=d": ["skipped"],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="JUnit XML cannot be written"):
        write_junit(report, tmp_path / "none" / "check.xml")


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    found = side({"a": [1.0, 0.1 + 0.2], "b": []})
    write_baseline(path, found)
    assert read_baseline(path) == found
    first = path.read_bytes()
    write_baseline(path, read_baseline(path))
    assert path.read_bytes() == first
    assert [one.name for one in tmp_path.iterdir()] == ["base.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read"),
        pytest.param("[" * 100_000, "cannot be read", id="nested"),
        ("[]", "is no baseline of format 1"),
        ('{"format": 2}', "is no baseline of format 1"),
        ('{"format": 1, "study": "a", "stage": "b", "directions": {}}', "KeyError: 'cases'"),
        (
            json.dumps(
                {
                    "format": 1,
                    "study": "a",
                    "stage": "b",
                    "directions": {},
                    "cases": [{"params": {}, "trials": 1, "metrics": {"x": ["1"]}}],
                }
            ),
            "'1' is no number",
        ),
    ],
)
def test_a_malformed_baseline_says_what_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_baseline(path)


def trial(one: Any) -> dict[str, float]:
    if one.index == 5:
        raise ValueError("bad")
    return {"loss": one.index, "other": 1}


def test_trials_of_a_study_with_equal_parameters_are_repeats() -> None:
    stage = Stage(
        "s",
        trial,
        6,
        cases=[{"size": 1, "kind": "a"}, {"size": 2, "kind": "a"}, {"size": 3, "kind": "b"}],
        metrics={"loss": "min"},
    )
    world = World(lambda: Plan([stage]))
    world.drive()
    found = measured(world.objects())
    assert (found.study, found.stage, found.directions) == ("campaign", "s", {"loss": "min"})
    assert [(case.params["size"], case.trials, case.metrics["loss"]) for case in found.cases] == [
        (1, 2, (0, 3)), (2, 2, (1, 4)), (3, 2, (2,)),
    ]  # fmt: skip
    by_kind = measured(world.objects(), by=["kind"]).cases
    assert [(case.name, case.trials) for case in by_kind] == [("kind=a", 4), ("kind=b", 2)]
    with pytest.raises(ConfigError, match=r"by 'kin': no trial has this parameter: there are kind"):
        measured(world.objects(), by=["kin"])
    with pytest.raises(ConfigError, match="has no stage 't'"):
        measured(world.objects(), "t")
    aborted = World(lambda: Plan([stage, Stage("t", trial, 2, select=lambda row: row.metrics["gone"])]))
    aborted.drive()
    with pytest.raises(ConfigError, match="stage t of study campaign is running: a check needs a decided stage"):
        measured(aborted.objects())


def without_end(trial: Any) -> dict[str, float]:
    return {"loss": [math.nan, math.inf, 3.0][trial.index], "never": math.nan}


def test_a_baseline_of_numbers_that_are_not_finite_can_be_read(tmp_path: Path) -> None:
    world = World(lambda: Plan([Stage("s", without_end, 3, metrics={"loss": "min", "never": "min"})]))
    world.drive()
    found = measured(world.objects())
    write_baseline(tmp_path / "base.json", found)
    assert read_baseline(tmp_path / "base.json") == found
    assert [(case.trials, case.metrics) for case in found.cases] == [(3, {"loss": (3.0,)})]
    with pytest.raises(ConfigError, match="there is no metric 'never'"):
        checked(found, found, tolerances_of(["never=1%"]))


def test_names_of_any_characters_are_one_line_and_valid_in_each_report(tmp_path: Path) -> None:
    metric, case = "a|b\n", "x\x1b\x00\udc80|\n"
    found = Measured("one", "s", {metric: "min"}, (Case({"case": case}, 1, {metric: (1.0,)}),))
    report = checked(found, replace(found, cases=()), tolerances_of({metric: "1%"}))
    assert len(str(report).splitlines()) == 2
    assert r"a|b\n of case=x\x1b\x00\udc80|\n: the baseline" in str(report)
    text = to_markdown(report)
    assert r"| a\|b\n (min) | case=x\x1b\x00\udc80\|\n |" in text
    (tmp_path / "check.md").write_text(text, encoding="utf-8")
    write_junit(report, tmp_path / "check.xml")
    assert [one.get("name") for one in ET.parse(tmp_path / "check.xml").getroot().iter("testcase")] == [
        r"a|b\n: case=x\x1b\x00\udc80|\n"
    ]
