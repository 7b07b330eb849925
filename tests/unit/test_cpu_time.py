"""Examples of properties are judged by the CPU time that they take, never by the clock of a machine that others use too."""

from __future__ import annotations

import threading

import hypothesis
import pytest

from starburst_executor.clock import SystemClock
from tests.support.cpu_time import within_cpu_s


def test_no_example_has_a_deadline() -> None:
    assert hypothesis.settings().deadline is None


def test_waiting_costs_nothing() -> None:
    within_cpu_s(0.05)(SystemClock().wait)(threading.Event(), 0.06)


def test_computing_costs_something() -> None:
    assert within_cpu_s(60.0)(sum)(range(10)) == 45
    with pytest.raises(AssertionError, match="of CPU time"):
        within_cpu_s(0.0)(sum)(range(100_000))
