"""Which modules are the user's own, found without running any of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from starburst_executor.modules import Modules, find_modules, is_hidden, own_loaded
from tests.support.moto_server import ROOT

PROJECT = {
    "main.py": "import single, pkg.deep, json, msgpack\nfrom space.part import leaf\ndef f():\n    import lazy\n",
    "single.py": "import os.path\nfrom . import nothing\n",
    "pkg/__init__.py": "",
    "pkg/deep.py": "from .other import x\nimport starburst_executor\n",
    "pkg/never_loaded.py": "import further",
    "pkg/.hidden/x.py": "import hidden_away",
    "space/part/leaf.py": "",
    "lazy.py": "import no_such_module_anywhere",
    "further.py": "raise SystemExit('was run')",
    "hidden_away.py": "",
    "broken.py": "def (",
    "unused.py": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_scripts_own_modules_are_found_also_those_not_loaded_yet(project: Path) -> None:
    found = find_modules(project / "main.py")
    assert found.own.keys() == {"single", "pkg", "space", "lazy", "further"}
    assert found.own["single"].file == str(project / "single.py")
    assert found.own["pkg"].folders == (str(project / "pkg"),)
    assert found.own["space"].folders == (str(project / "space"),)
    assert found.installed == {"msgpack", "no_such_module_anywhere"}


def test_a_script_that_is_none_or_broken_imports_nothing(project: Path) -> None:
    assert find_modules(project / "broken.py") == Modules({}, frozenset())
    assert find_modules(project / "not there.py") == Modules({}, frozenset())


def test_a_process_has_what_it_has_loaded_and_what_its_script_may_load(project: Path) -> None:
    """With a package that is installed as editable, a tool's module, and one that loads itself when looked at."""
    program = """
import importlib.util, sys
sys.path.append("elsewhere")
import dynamic, pydevd_thing
spec = importlib.util.find_spec("dawdler")
spec.loader = importlib.util.LazyLoader(spec.loader)
sys.modules["dawdler"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
from starburst_executor.modules import find_modules
found = find_modules()
print(sorted(found.own), type(module).__name__)
def later():
    import lazy
"""
    (project / "elsewhere").mkdir()
    for name, text in {"dynamic": "", "pydevd_thing": "", "dawdler": "raise SystemExit('was run')"}.items():
        (project / f"elsewhere/{name}.py").write_text(text)
    (project / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=project, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['dawdler', 'dynamic', 'lazy'] _LazyModule", done.stderr


def test_where_a_folder_leads_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session asks for the modules that are loaded, of which a program may have hundreds."""
    own = own_loaded()
    assert "tests" in own
    read: list[str] = []
    monkeypatch.setattr("os.path.realpath", lambda path: read.append(path) or path)
    assert own_loaded() == own
    assert read == []


@pytest.mark.parametrize("name", [".env", ".git", "__pycache__", "x.pyc", "x.egg-info"])
def test_what_no_import_needs_is_hidden(name: str) -> None:
    assert is_hidden(name)
    assert not is_hidden(name.strip("._") + ".py")


def test_imports_are_found_wherever_a_statement_may_stand(tmp_path: Path) -> None:
    text = """
import m0
if m0: import m1
elif m0.x: import m2
else: import m3
for _ in (): import m4
else: import m5
while False: import m6
else: import m7
try: import m8
except OSError: import m9
else: import m10
finally: import m11
with m0.y as _: import m12
class C:
    import m13
    async def f(self):
        async with self: import m14
        async for _ in self: import m15
        return [lambda: (yield)]
match m0:
    case [_]: import m16
"""
    (tmp_path / "main.py").write_text(text)
    for i in range(17):
        (tmp_path / f"m{i}.py").touch()
    assert find_modules(tmp_path / "main.py").own.keys() == {f"m{i}" for i in range(17)}
