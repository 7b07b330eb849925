"""The files for GitHub and GitLab, the project's own and those of its pages, against the schemas that the two publish.

Neither service has run them yet; the schemas come with `check-jsonschema`, so nothing is asked of the network.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```yaml\n(# (\.github/workflows/\S+|\.gitlab-ci\.yml)\n(?:.*\n)*?)```$", re.MULTILINE)


def problems(schema: str, *files: Path) -> str:
    """Return what is wrong with these files by a schema of this name; the empty string if nothing is."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def pages(tmp_path: Path, kind: str) -> list[Path]:
    """Write each file of this kind that a page shows to a file; return these."""
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for text, name in _BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind in name:
                found.append(tmp_path / f"{page.stem}-{len(found)}.yml")
                found[-1].write_text(text, encoding="utf-8")
    return found


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("vendor.github-workflows", ".github/workflows/*.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/*.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_files_of_the_project(schema: str, pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files
    assert problems(schema, *files) == ""


@pytest.mark.parametrize(
    ("schema", "kind"), [("vendor.github-workflows", ".github/workflows"), ("vendor.gitlab-ci", ".gitlab-ci")]
)
def test_files_in_pages(tmp_path: Path, schema: str, kind: str) -> None:
    files = pages(tmp_path, kind)
    assert files
    assert problems(schema, *files) == ""


def test_a_wrong_file_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("on: push\njobs:\n  one:\n    runs_on: ubuntu-latest\n    steps: []\n", encoding="utf-8")
    assert "runs_on" in problems("vendor.github-workflows", wrong)


def test_a_job_that_reads_the_repository_may(tmp_path: Path) -> None:
    """Permissions that are not named are none: a job that checks a private repository out must name `contents`."""
    for file in [*ROOT.glob(".github/workflows/*.yml"), *pages(tmp_path, ".github/workflows")]:
        text = file.read_text(encoding="utf-8")
        assert "actions/checkout" not in text or "permissions:" not in text or "contents:" in text, file.name
