"""Fixtures of every test: a separate environment, so that no test reads or writes the settings of the user who runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.left_behind import LeftBehind


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeftBehind(config), "left-behind")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse a set: its order differs from process to process, and then pytest-xdist runs nothing."""
    for mark in metafunc.definition.iter_markers("parametrize"):
        if any(isinstance(values, (set, frozenset)) for values in mark.args):
            raise pytest.UsageError(f"{metafunc.definition.nodeid}: parametrized by a set, which has no order")


@pytest.fixture(autouse=True)
def starburst_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh `STARBURST_HOME`, inherited by the processes that a test starts; every other `STARBURST_*` is gone."""
    for name in list(os.environ):
        if name.startswith("STARBURST_"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("starburst_home")
    monkeypatch.setenv("STARBURST_HOME", str(home))
    return home
