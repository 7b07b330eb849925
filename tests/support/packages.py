"""In which versions tests install packages: those of lock.txt, or those that `make test-latest` is about."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.moto_server import ROOT

__all__ = ["LOCK", "constraints", "install"]

LOCK = ROOT / "lock.txt"


def constraints() -> list[str]:
    """One `name==version` a line, with markers. Empty: the newest of everything."""
    lines = _file().read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def install(python: str, *what: str) -> list[str]:
    """The command that installs this for an interpreter."""
    return [
        python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", str(_file()), *what
    ]  # fmt: skip


def _file() -> Path:
    # Relative to the top of the checkout, as `make` names it.
    return ROOT / os.environ.get("TEST_CONSTRAINTS", LOCK)
