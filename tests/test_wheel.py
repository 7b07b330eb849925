"""What is released: well formed, whole, and the wheel alone in an empty environment runs the README's ten lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.moto_server import ROOT
from tests.support.packages import install
from tests.test_docs import blocks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = ROOT / "starburst_executor"
# pip may have to fetch all that it installs.
INSTALL_S = 300
pytestmark = pytest.mark.timeout(2 * INSTALL_S)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout, and the wheel that is built from that sdist, as for a release."""
    pytest.importorskip("build", reason="releases are built where the extra `dev` is installed")
    folder = tmp_path_factory.mktemp("distributions")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, within=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    [built] = distributions.glob("*.whl")
    return built


def run(*command: str | Path, within: Path) -> str:
    """What a command prints that has nothing of this checkout on its path; it must succeed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=within, env=environment, capture_output=True, text=True, timeout=INSTALL_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_is_released_is_well_formed(distributions: Path) -> None:
    tools = Path(sys.executable).parent
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions.iterdir(), within=distributions)
    run(tools / "check-wheel-contents", *distributions.glob("*.whl"), within=distributions)


def test_the_extra_all_is_every_extra_that_users_have() -> None:
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = metadata["project"]["optional-dependencies"]
    [everything] = extras["all"]
    for_users = set(extras) - {"all", "bench", "build", "dev", "docs", "fuzz", "peers", "test", "update"}
    assert set(re.findall(r"[\w-]+(?=[,\]])", everything)) == for_users


def test_a_library_that_workers_install_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text[text.index("dependencies = [") : text.index("\n]\n", text.index("dependencies = ["))].splitlines()[1:]
    wanted = [line for line in listed if line.strip().startswith('"')]
    assert wanted
    assert [line for line in wanted if not listed[listed.index(line) - 1].strip().startswith("#")] == []


def test_all_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    sources = {name for name in sources if "__pycache__" not in name}
    assert "starburst_executor/py.typed" in sources
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    # These lie outside of the package in a checkout.
    assert packed - sources == {f"starburst_executor/aws/image/{name}" for name in ("Dockerfile", "lock.txt")}
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
