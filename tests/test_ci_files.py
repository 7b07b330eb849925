"""The files for GitHub and GitLab, the project's own and those of its pages, against the schemas that the two publish.

Neither service has run them yet; the schemas come with `check-jsonschema`, so nothing is asked of the network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_the_site_of_each_branch_and_tag_is_kept_beside_the_others(tmp_path: Path) -> None:
    """The step of the workflow, on a repository here: pushed to main, then a release, then main again."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8"))
    (step,) = [
        step["run"]
        for step in workflow["jobs"]["docs"]["steps"]
        if "site" in step.get("name", "") or "_versions.py" in step.get("run", "")
    ]

    def git(*words: str, at: Path) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main", *words]
        return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout

    origin, author = tmp_path / "origin", tmp_path / "author"
    git("init", "--quiet", "--bare", str(origin), at=tmp_path)
    git("clone", "--quiet", str(origin), str(author), at=tmp_path)
    (author / "docs").mkdir()
    (author / "docs" / "_versions.py").write_bytes((ROOT / "docs" / "_versions.py").read_bytes())
    (author / ".gitignore").write_text("docs/_build\n")
    git("add", ".", at=author)
    git("commit", "--quiet", "--message", "one", at=author)
    git("push", "--quiet", "origin", "HEAD:main", at=author)
    for i, name in enumerate(["main", "v0.1.0", "v0.2.0rc1", "main"]):
        runner = tmp_path / f"runner{i}"
        git("clone", "--quiet", "--depth", "1", f"file://{origin}", str(runner), at=tmp_path)
        built = runner / "docs" / "_build" / "html"
        (built / "_static").mkdir(parents=True)
        (built / "index.html").write_text(f"built {i}")
        (built / f"page{i}.html").touch()
        environment = {**os.environ, "GITHUB_REF_NAME": name, "HOME": str(tmp_path)}
        path = f"{Path(sys.executable).parent}:{environment['PATH']}"
        ran = subprocess.run(
            ["bash", "-e", "-c", step],
            cwd=runner,
            env={**environment, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    site = runner / "site"
    assert {path.parent.name: path.read_text() for path in site.glob("*/index.html")} == {
        "main": "built 3", "0.1.0": "built 1", "0.2.0rc1": "built 2",
    }  # fmt: skip
    listed = [
        json.loads(path.read_text().partition(" = ")[2].rstrip(";\n")) for path in site.glob("*/_static/versions.js")
    ]
    assert listed == [["main", "0.2.0rc1", "0.1.0"]] * 3
    assert "page3.html" in (site / "main" / "_static" / "pages.js").read_text()
    assert not (site / "main" / "page0.html").exists()
    assert "0.1.0/index.html" in (site / "index.html").read_text()  # a candidate is no release
    kept = git("ls-tree", "-r", "--name-only", "site", at=origin).splitlines()
    assert (".nojekyll" in kept, "docs/_versions.py" in kept) == (True, False)
