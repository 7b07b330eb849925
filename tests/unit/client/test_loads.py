"""A name of loads changes when an own module is loaded again, and only then."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from starburst_executor import modules
from starburst_executor.client import loads as loads_module
from starburst_executor.client.loads import Loads
from starburst_executor.protocol.keys import is_loads


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose modules alone are the user's own: those of the tests would be, too."""
    monkeypatch.syspath_prepend(tmp_path)
    own = ["loads_one", "loads_two", "loads_package"]
    monkeypatch.setattr(loads_module, "own_loaded", lambda: [name for name in modules.own_loaded() if name in own])
    (tmp_path / "loads_one.py").write_text("value = 1\n")
    (tmp_path / "loads_two.py").write_text("value = 1\n")
    (tmp_path / "loads_package").mkdir()
    (tmp_path / "loads_package" / "__init__.py").touch()
    (tmp_path / "loads_package" / "part.py").write_text("value = 1\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]


def test_without_own_modules_there_is_no_name(folder: Path) -> None:
    assert Loads().name() == ""


@pytest.mark.usefixtures("folder")
def test_two_processes_with_the_same_modules_have_the_same_name() -> None:
    importlib.import_module("loads_one")
    name = Loads().name()
    assert is_loads(name)
    assert Loads().name() == name


@pytest.mark.usefixtures("folder")
def test_importing_more_changes_nothing() -> None:
    importlib.import_module("loads_one")
    loads = Loads()
    name = loads.name()
    importlib.import_module("loads_package.part")
    assert loads.name() == name


@pytest.mark.parametrize("name", ["loads_one", "loads_package.part", "loads_package"])
def test_a_reload_changes_the_name_each_time(folder: Path, name: str) -> None:
    module = importlib.import_module(name)
    loads = Loads()
    names = [loads.name()]
    for _ in range(3):
        importlib.reload(module)
        names.append(loads.name())
        assert loads.name() == names[-1]
    assert len(set(names)) == 4


@pytest.mark.usefixtures("folder")
def test_a_module_that_came_later_or_was_gone_counts_too() -> None:
    importlib.import_module("loads_one")
    loads = Loads()
    names = [loads.name()]
    importlib.reload(importlib.import_module("loads_two"))
    names.append(loads.name())
    importlib.reload(sys.modules["loads_two"])
    names.append(loads.name())
    del sys.modules["loads_two"]
    names.append(loads.name())
    importlib.import_module("loads_two")
    names.append(loads.name())
    first, second, third, gone, again = names
    assert first == second
    assert len({second, third, again}) == 3
    assert gone == third


def test_editing_alone_changes_nothing_here_and_all_for_the_next_client(folder: Path) -> None:
    importlib.import_module("loads_one")
    loads = Loads()
    name = loads.name()
    (folder / "loads_one.py").write_text("value = 2\n")
    os.utime(folder / "loads_one.py", (1, 1))
    assert loads.name() == name
    assert Loads().name() != name
