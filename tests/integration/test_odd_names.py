"""Folders whose names are no text in UTF-8: a home, the working folder, the script, the temporary folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.moto_server import ROOT

ODD = os.fsdecode(b"odd\xff\xfe")
SCRIPT = """
import os, sys
from starburst_executor import DetachedExecutor, StarburstExecutor, StarburstError

def here(x):
    print("ran")
    return os.getcwdb(), x

try:
    with StarburstExecutor(workers=1) as executor:
        assert executor.submit(here, 1).result(60) == (os.getcwdb(), 1)
    executor = DetachedExecutor(workers=1)
    executor.submit(here, 2)
    executor.detach()
    executor = DetachedExecutor.reattach(executor.id)
    (future,) = executor.as_completed(60)
    assert future.result() == (os.getcwdb(), 2)
    assert executor.output(future) == ("ran\\n", "")
    assert [summary.id for summary in DetachedExecutor.list_sessions()] == [executor.id]
    assert executor.url.isascii()
    executor.cleanup(force=True)
    print("ended well")
except StarburstError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    try:
        (tmp_path / ODD).mkdir()
    except OSError:
        pytest.skip("this file system takes only names that are text")
    return tmp_path / ODD


def run(script: Path, cwd: Path, **environment: str) -> str:
    script.write_text(SCRIPT, encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, script],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("where", ["home", "xdg", "starburst home", "everywhere", "everywhere, without a locale"])
def test_folders_whose_names_are_no_text(tmp_path: Path, odd: Path, where: str) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    script, cwd = plain / "script.py", plain
    environment = {
        "home": {"HOME": str(odd)},
        "xdg": {"HOME": str(plain), "XDG_DATA_HOME": str(odd / "data"), "XDG_CONFIG_HOME": str(odd / "config")},
        "starburst home": {"STARBURST_HOME": str(odd)},
    }.get(where, {"HOME": str(odd), "TMPDIR": str(odd)})
    if where.startswith("everywhere"):
        script, cwd = odd / os.fsdecode(b"script\xff.py"), odd
    if where.endswith("locale"):
        environment |= {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert run(script, cwd, **environment).endswith("ended well\n")


def test_an_error_that_names_such_a_folder_can_be_printed(tmp_path: Path, odd: Path) -> None:
    (odd / "file").touch()
    told = run(tmp_path / "script.py", tmp_path, STARBURST_HOME=str(odd / "file"))
    assert "ConfigError a detached session" in told
    assert "udcff" in told
