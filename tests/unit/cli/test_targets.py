"""How a script is run whose functions a user names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from starburst_executor.cli.targets import load_module, load_target


@pytest.fixture(autouse=True)
def own_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that is run takes the place of this process's program: afterwards it is the old one."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", getattr(main, "__file__", None), raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_script_runs_once_whatever_number_of_its_functions_is_named(tmp_path: Path) -> None:
    script = tmp_path / "once.py"
    script.write_text(
        "from pathlib import Path\n"
        "with Path(__file__).with_suffix('.log').open('a') as log:\n"
        "    log.write('.')\n"
        "def a(): return b\n"
        "def b(): return a\n"
    )
    assert load_target(f"{script}:a")() is load_target(f"{script}:b")
    assert vars(load_module(str(script)))["a"] is load_target(f"{script}:a")
    assert script.with_suffix(".log").read_text() == "."
    script.write_text(script.read_text().replace("return b", "return a"))
    assert load_target(f"{script}:a")() is load_target(f"{script}:a")
    assert script.with_suffix(".log").read_text() == ".."


def test_a_script_runs_as_it_would_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "annotated.py"
    script.write_text("def f(n: int): return n\n")
    assert load_target(f"{script}:f").__annotations__ == {"n": int}
