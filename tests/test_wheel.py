"""The built wheel, alone: all of the package is in it, and in an empty environment it runs the README's ten lines."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.moto_server import ROOT
from tests.support.packages import install
from tests.test_docs import blocks

PACKAGE = ROOT / "starburst_executor"
# pip may have to fetch all that it installs.
INSTALL_S = 300
pytestmark = pytest.mark.timeout(2 * INSTALL_S)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--no-build-isolation", "--wheel-dir", folder, ROOT, within=folder,
    )  # fmt: skip
    [built] = folder.glob("*.whl")
    return built


def run(*command: str | Path, within: Path) -> str:
    """What a command prints that has nothing of this checkout on its path; it must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=within, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    assert "starburst_executor/py.typed" in sources
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    # The Dockerfile lies outside of the package in a checkout.
    assert packed - sources == {name for name in packed if name.endswith("/Dockerfile")}
    assert len(packed - sources) == 1
    assert sources - packed == set()


def test_the_wheel_alone_runs_the_ten_lines_of_the_readme(wheel: Path, tmp_path: Path) -> None:
    shown = list(blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    place = next(place for place, block in enumerate(shown) if block.words == ["python"])
    code, output = shown[place], shown[place + 1]
    assert output.words == ["text", "output"]
    run(sys.executable, "-m", "venv", "empty", within=tmp_path)
    python = tmp_path / "empty" / "bin" / "python"
    run(*install(str(python), str(wheel)), within=tmp_path)
    (tmp_path / "ten_lines.py").write_text(code.text, encoding="utf-8")
    assert run(python, "ten_lines.py", within=tmp_path) == output.text
    where = run(python, "-c", "import starburst_executor as s; print(s.__file__)", within=tmp_path)
    assert Path(where.strip()).is_relative_to((tmp_path / "empty").resolve())
