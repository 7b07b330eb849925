"""Every example script runs, the demo over a part of its files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.moto_server import ROOT

EXAMPLES = ROOT / "examples"
# What each of the short ones prints, among other things.
SHORT = {
    "hello": str([x * x for x in range(10)]),
    "monte_carlo": "pi = 3.1",
    "failures": "and still: 7",
    "sweep": "widest at growth 3.9",
    "bootstrap": "mean 1.054, 95 % of 2,000 resampled means between 0.985 and 1.132",
    "backtest": "7 settings of 9",
    "reads": "sample-5.fastq: 2,000 reads, 40.1% G or C",
    "images": "12 images of 256 x 256",
    "scraping": "24 pages, from 'Page 0' to 'Page 23'",
    "study_sklearn": "best: depth",
}
RUN_S = 100

# What a test of the demo runs instead of it: each fortieth file is enough to see that all its parts work.
PART_OF_THE_DEMO = """
import sys
sys.path.insert(0, {examples!r})
import stdlib_census, survive
few = stdlib_census.sources()[::40]
stdlib_census.sources = survive.sources = lambda: few
survive.__file__ = __file__
if sys.argv[1:2] == ["submit"]:
    survive.submit()
elif sys.argv[1:2] == ["reattach"]:
    survive.reattach(sys.argv[2])
else:
    import demo
"""


def run(script: Path, folder: Path) -> str:
    """What a script prints; it must succeed and complain of nothing."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_none_is_forgotten() -> None:
    covered = {*SHORT, "demo", "stdlib_census", "survive"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == covered


@pytest.mark.parametrize("name", SHORT)
def test_example(name: str, tmp_path: Path) -> None:
    assert SHORT[name] in run(EXAMPLES / f"{name}.py", tmp_path)


def test_a_program_swept_by_a_study(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "sweep_program", tmp_path / "sweep")
    done = subprocess.run(
        [sys.executable, "-m", "starburst_executor.cli", "study", "run", "sweep/study.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        timeout=RUN_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 completed, 1 failed; 3 survive" in done.stdout
    assert "study heat: complete" in done.stdout


def test_a_part_of_the_demo(tmp_path: Path) -> None:
    script = tmp_path / "part_of_the_demo.py"
    script.write_text(PART_OF_THE_DEMO.format(examples=str(EXAMPLES)), encoding="utf-8")
    printed = run(script, tmp_path)
    assert "the serial run agrees" in printed
    assert "is killed with SIGKILL" in printed
    assert re.search(r"requests per task +\d", printed)
