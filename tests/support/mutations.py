"""Bugs that are added on purpose, and the seeds of the simulation that must find them."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest

from starburst_executor.testing.simulation import simulate
from starburst_executor.testing.simulation.plot import Plot

__all__ = ["Patch", "assert_found"]

Patch = Callable[[pytest.MonkeyPatch], None]


def assert_found(
    mutation: Patch,
    monkeypatch: pytest.MonkeyPatch,
    *,
    first: int = 0,
    n_seeds: int,
    words: str,
    plot_of: Callable[[int], Plot | None],
) -> None:
    """Add a bug, and play seeds until one breaks a promise, in words that fit; fail if none does.

    Args:
        plot_of: The plot of a seed; None for the one that the seed draws.
    """
    # What the broken product logs is of no interest.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    mutation(monkeypatch)
    for seed in range(first, first + n_seeds):
        report = simulate(seed, plot_of(seed))
        if report.violations:
            print(f"found by seed {seed}: {report.violations[0]}")
            assert re.search(words, report.violations[0])
            return
    pytest.fail(f"not found within {n_seeds} seeds from {first} on")
