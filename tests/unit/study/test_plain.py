"""Plain values: what parameters, metadata and the state of a selection may hold, and that each trial has its own."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starburst_executor.errors import ConfigError
from starburst_executor.protocol.content import digest_of
from starburst_executor.study.metrics import number
from starburst_executor.study.plain import check_params, own_copy, plain_copy
from starburst_executor.study.running import function_of, run_trial
from starburst_executor.study.selection import By
from starburst_executor.study.spec import TrialSpec
from starburst_executor.study.stage import TrialOptions
from starburst_executor.study.tables import COMPLETED, TrialRow

TEXTS = st.text(st.characters(exclude_categories=[])).filter(lambda text: _is_storable(text))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False) | TEXTS | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def _is_storable(text: str) -> bool:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text
    except UnicodeError:
        return False


@given(st.dictionaries(TEXTS, PLAIN, max_size=4))
def test_what_is_let_through_comes_back_from_the_store(values: dict[str, Any]) -> None:
    check_params(values, "here")
    assert plain_copy(values) == values


def test_numbers_of_numpy_are_numbers_and_tuples_become_lists() -> None:
    values = {"n": np.int64(3), "x": np.float64(2.5), "l": (np.float32(1), {"b": np.bool_(True)}), "name": "\udcff.txt"}
    check_params(values, "here")
    copied = plain_copy(values)
    assert copied == {"n": 3, "x": 2.5, "l": [1.0, {"b": True}], "name": "\udcff.txt"}
    assert (type(copied["n"]), type(copied["l"][1]["b"])) == (int, bool)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"n": 2**63}, "n is a whole number of more than 63 bits"),
        ({"n": np.longdouble(1)}, "n is a longdouble"),
        ({"n": np.arange(3)}, "n is a ndarray"),
        ({"s": {1}}, "s is a set"),
        ({"s": "\ud800"}, "s is text with a lone surrogate"),
        ({3: 1}, "the name 3 must be text"),
        ({"m": {3: 1}}, "m is a mapping with the key 3, which is no text"),
        ({"m": {"a": [1, {2}]}}, "m is a dict with a list with a set"),
        ({"\ud800": 1}, r"'\\ud800' is text with a lone surrogate"),
        ({"m": {"\ud800": 1}}, "m is a dict with text with a lone surrogate"),
    ],
)
def test_what_no_record_holds_is_refused_by_its_name(values: dict[Any, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_params(values, "here")


def test_a_metric_that_is_no_number_is_named_and_a_long_one_is_a_float() -> None:
    assert number("n", 10**30) == 1e30
    assert number("n", 2**62) == 2**62
    for value in ("abc", 10**400):
        with pytest.raises(ValueError, match="the metric 'n' is no number"):
            number("n", value)


def test_the_state_of_a_selection_is_plain_when_it_is_chosen() -> None:
    def odd(rows: list[TrialRow], state: dict[str, Any]) -> list[TrialRow]:
        state["seen"] = {1}
        return rows

    with pytest.raises(ConfigError, match=r"the state of .*odd, which is stored: seen is a set"):
        By(odd).choose([TrialRow("a", 0, COMPLETED)], {}, {})


def spec_of(run: Any, cases: tuple[Any, ...], **options: Any) -> TrialSpec:
    return TrialSpec("a", 1, 7, cases, (), run, None, "", {}, TrialOptions(**options), None, "", "s")


def test_the_calls_of_a_stage_are_the_same_from_another_folder_and_with_other_code() -> None:
    one = spec_of(lambda trial: {"m": 1}, ())
    other = replace(spec_of(lambda trial: {"m": 2}, ({"x": 1},)), here="/elsewhere")
    assert digest_of(function_of(one, 1)) == digest_of(function_of(other, 1))
    for spec, turn in ((one, 2), (replace(one, edition=2), 1), (replace(one, stage="b"), 1)):
        assert digest_of(function_of(spec, turn)) != digest_of(function_of(one, 1))


def test_steps_of_a_curve_are_whole_numbers_also_of_numpy() -> None:
    def run(trial: Any) -> dict[str, float]:
        for step in np.arange(3):
            trial.report(step, loss=step)
        for wrong in (-1, 1.0, True, "1", None, 2**63):
            with pytest.raises(ValueError, match="must be a whole number"):
                trial.report(wrong, loss=1)
        return {}

    curve = run_trial(spec_of(run, ()), 0)["curve"]
    assert curve == [[0, {"loss": 0.0}], [1, {"loss": 1.0}], [2, {"loss": 2.0}]]
    assert [type(step) for step, _ in curve] == [int, int, int]


def test_a_trial_and_an_attempt_share_no_value_with_others() -> None:
    tries: list[list[str]] = []

    def run(trial: Any) -> dict[str, float]:
        trial.params["path"].append("seen")
        trial.case["more"].append("seen")
        tries.append([*trial.params["path"], *trial.case["more"]])
        if len(tries) == 1:
            raise ValueError("again")
        return {}

    spec = spec_of(run, ({"path": ["begin"], "more": []},), retries=1)
    assert [run_trial(spec, index)["params"]["path"] for index in (0, 1)] == [["begin", "seen"]] * 2
    assert tries == [["begin", "seen", "seen"]] * 3


def test_what_cannot_be_copied_is_given_as_it_is() -> None:
    lock = threading.Lock()
    assert own_copy(lock) is lock
