"""A table of small programs gives under `StarburstExecutor` what it gives under `ProcessPoolExecutor`, but where said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sixty_programs import PROGRAMS
from tests.sessions import ROOT

SCRIPT = Path(__file__).with_name("sixty_programs.py")

# What differs, and what we give; `docs/howto/drop-in.md` says so.
DIFFERS: dict[str, Any] = {
    "a_lambda": 1,
    "a_closure": 1,
    "an_error_that_does_not_come_back": "raises Local",
}


@pytest.fixture(scope="module")
def gave(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each program gave, by executor."""
    home = tmp_path_factory.mktemp("home")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STARBURST_HOME": str(home), "SIXTY": "60"}
    commands = {kind: [sys.executable, str(SCRIPT), kind] for kind in ("pool", "starburst")}
    processes = {
        kind: subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for kind, command in commands.items()
    }
    return {kind: json.loads(process.communicate(timeout=200)[0]) for kind, process in processes.items()}


def test_there_are_sixty() -> None:
    assert len(PROGRAMS) >= 60


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_it_gives_under_a_process_pool(gave: dict[str, dict[str, Any]], name: str) -> None:
    pool, starburst = gave["pool"][name], gave["starburst"][name]
    if name in DIFFERS:
        assert starburst == DIFFERS[name]
        assert starburst != pool, f"{name} no longer differs: strike it out"
    else:
        assert starburst == pool
