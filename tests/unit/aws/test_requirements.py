"""What a project needs, from each kind of file that may say so."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

from starburst_executor.aws.image.requirements import find_requirements
from starburst_executor.errors import ConfigError

PYPROJECT = '[project]\nname = "mine"\ndependencies = ["numpy>=1", "helper", "starburst-executor", "tool[extra] ; python_version < \'4\'"]\n'
UV = """
version = 1
[[package]]
name = "mine"
version = "1"
source = { editable = "." }
[[package]]
name = "helper"
version = "1"
source = { virtual = "packages/helper" }
[[package]]
name = "numpy"
version = "2.1.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "Tool"
version = "3"
source = { git = "https://example.org/tool?rev=main#c0ffee" }
[[package]]
name = "forked"
version = "1"
resolution-markers = ["sys_platform == 'linux'"]
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "forked"
version = "2"
resolution-markers = ["sys_platform == 'darwin'", "sys_platform == 'win32'"]
source = { registry = "https://pypi.org/simple" }
"""
POETRY = """
[[package]]
name = "numpy"
version = "2.1.0"
[[package]]
name = "tool"
version = "3"
[package.source]
type = "git"
url = "https://example.org/tool.git"
resolved_reference = "c0ffee"
[[package]]
name = "helper"
version = "1"
[package.source]
type = "directory"
url = "../helper"
[[package]]
name = "twice"
version = "1"
[[package]]
name = "twice"
version = "2"
"""
OLD_POETRY = """
[tool.poetry.dependencies]
python = "^3.10"
numpy = "^2.1"
small = "~1.2.3"
zero = "^0.3"
exact = "1.0"
any = "*"
more = { version = ">=1,<3", extras = ["a", "b"], markers = "sys_platform == 'linux'" }
beside = { path = "../beside" }
perhaps = { version = "1", optional = true }
tool = { git = "https://example.org/tool.git", rev = "c0ffee" }
"""


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("_lock", ".lock").replace("_toml", ".toml").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project/.git").mkdir(parents=True)
    return tmp_path / "project"


def test_a_lock_of_uv(project: Path) -> None:
    write(project, uv_lock=UV, pyproject_toml=PYPROJECT, requirements_txt="never read")
    found = find_requirements(project)
    assert found.source == str(project / "uv.lock")
    assert found.wanted == ("numpy>=1", "tool[extra] ; python_version < '4'")
    assert found.pinned == (
        "forked==1 ; (sys_platform == 'linux')",
        "forked==2 ; (sys_platform == 'darwin') or (sys_platform == 'win32')",
        "numpy==2.1.0",
        "tool @ git+https://example.org/tool@c0ffee",
    )


def test_a_lock_of_poetry(project: Path) -> None:
    write(project, poetry_lock=POETRY, pyproject_toml=PYPROJECT)
    found = find_requirements(project)
    assert found.wanted == ("numpy>=1", "tool[extra] ; python_version < '4'")
    assert found.pinned == ("numpy==2.1.0", "tool @ git+https://example.org/tool.git@c0ffee")


def test_poetrys_own_dependencies(project: Path) -> None:
    write(project, poetry_lock="", pyproject_toml=OLD_POETRY)
    assert find_requirements(project).wanted == (
        "numpy>=2.1,<3",
        "small>=1.2.3,<1.3",
        "zero>=0.3,<0.4",
        "exact==1.0",
        "any",
        "more[a,b]>=1,<3 ; sys_platform == 'linux'",
        "tool @ git+https://example.org/tool.git@c0ffee",
    )


def test_a_requirements_file_and_what_it_includes(project: Path) -> None:
    text = "--extra-index-url https://example.org/simple\n-r sub/more.txt\nnumpy==2 \\\n  --hash=sha256:5f # why\n"
    write(project, requirements_txt=text + "-e .\n./lib\n\n# nothing\nstarburst_executor==0.1\nhere @ file:///tmp/x\n")
    write(project / "sub", more_txt="scipy")
    found = find_requirements(project)
    assert found.wanted == ("--extra-index-url https://example.org/simple", "scipy", "numpy==2 --hash=sha256:5f")
    assert found.pinned == ()


def test_dependencies_without_a_lock(project: Path) -> None:
    write(project, pyproject_toml=PYPROJECT)
    assert find_requirements(project).wanted == ("numpy>=1", "helper", "tool[extra] ; python_version < '4'")


def test_the_nearest_folder_decides_up_to_the_repository(project: Path) -> None:
    write(project.parent, requirements_txt="outside")
    write(project, requirements_txt="top")
    (project / "a/b").mkdir(parents=True)
    assert find_requirements(project / "a/b").wanted == ("top",)
    write(project / "a", requirements_txt="near")
    assert find_requirements(project / "a/b").wanted == ("near",)
    (project / "requirements.txt").unlink()
    (project / "script.py").write_text("")
    assert find_requirements(project, project / "script.py").wanted == ()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"uv_lock": UV}, "a lock file without a project"),
        ({"uv_lock": "= no toml", "pyproject_toml": PYPROJECT}, "cannot be read"),
        ({"requirements_txt": "-r requirements.txt"}, "includes itself"),
        ({"requirements_txt": "-r nowhere.txt"}, "cannot be read.*nowhere"),
        ({"requirements_txt": "-c constraints.txt"}, "constraints"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(project: Path, files: dict[str, str], words: str) -> None:
    write(project, **files)
    with pytest.raises(ConfigError, match=words) as caught:
        find_requirements(project)
    assert str(project) in str(caught.value)


def test_without_any_file_what_the_script_imports_as_it_is_installed(project: Path) -> None:
    write(project, pyproject_toml="[tool.ruff]\n")  # says nothing of packages
    (project / "script.py").write_text("import own, json, starburst_executor")
    (project / "own.py").write_text("def f():\n    import tenacity, msgpack, no_such_module_anywhere\n")
    found = find_requirements(project, project / "script.py")
    assert found.source == "the imports of script.py, in the versions installed here"
    assert found.wanted == tuple(f"{name}=={metadata.version(name)}" for name in ("msgpack", "tenacity"))


def installed(folder: Path, name: str, direct_url: object = None, requires: tuple[str, ...] = ()) -> None:
    """A package that is installed in this folder, for `importlib.metadata`."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("\n".join(lines))
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n")
    (info / "top_level.txt").write_text(name)
    if direct_url is not None:
        (info / "direct_url.json").write_text(json.dumps(direct_url))
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")


def test_what_is_needed_in_turn_is_pinned_and_sources_are_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = project / "site-packages"
    installed(site, "alpha", requires=("beta>=1", "never ; extra == 'dev'", "gone"))
    installed(site, "beta")
    vcs = {"url": "https://example.org/g", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}}
    installed(site, "gamma", vcs)
    installed(site, "delta", {"url": "https://example.org/d.whl", "archive_info": {}})
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    (project / "script.py").write_text("import alpha, gamma, delta")
    found = find_requirements(project, project / "script.py")
    assert found.wanted == (
        "alpha==1.0",
        "delta @ https://example.org/d.whl",
        "gamma @ git+https://example.org/g@c0ffee",
    )
    assert found.pinned == ("beta==1.0",)


def test_a_package_that_was_installed_from_a_folder_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = project / "site-packages"
    installed(site, "local", {"url": "file:///home/me/local", "dir_info": {}})
    installed(site, "editable", {"url": "file:///home/me/local", "dir_info": {"editable": True}})
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    (project / "script.py").write_text("import editable")
    assert find_requirements(project, project / "script.py").wanted == ()
    (project / "script.py").write_text("import local, editable")
    with pytest.raises(ConfigError, match=r"local, from file:///home/me/local; install it as editable"):
        find_requirements(project, project / "script.py")


def test_a_notebook_is_told_to_write_down_what_it_needs(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"write a requirements\.txt \(`pip freeze > requirements\.txt`\)"):
        find_requirements(project)
