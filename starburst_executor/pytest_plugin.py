"""A plugin of pytest for tests of users: the fixture `starburst`, and a home folder of its own for each test that asks.

Loaded by pytest itself, through the entry point `pytest11`, so it imports nothing heavy before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from starburst_executor.testing.inline import InlineExecutor

__all__ = ["starburst", "starburst_home"]


@pytest.fixture
def starburst() -> Iterator[InlineExecutor]:
    """An executor that runs each task at once, in this process, with the pickling of real workers."""
    from starburst_executor.testing.inline import InlineExecutor

    with InlineExecutor() as executor:
        yield executor


@pytest.fixture
def starburst_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder for settings, keys and sessions of this test, so that it neither reads nor writes the user's own."""
    home = tmp_path / "starburst"
    monkeypatch.setenv("STARBURST_HOME", str(home))
    return home
