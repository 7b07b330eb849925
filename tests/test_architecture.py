"""The layering of the package, read from its sources: who may import whom, who may read clocks and the environment.

    errors, clock, config, context, modules, programs, source, tracing, version ─► protocol ─► store ─► session ─► aws ─► launch ─► client | worker
        ─► integrations, report, study, dashboard ─► testing, pytest_plugin ─► cli

A module imports only from its own layer and from those on its left. `client` and `worker` never meet but in the store.
The public front, `starburst_executor/__init__.py`, collects names and is imported by `testing` and `cli` alone.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "starburst_executor"
ROOT = Path(__file__).resolve().parent.parent / PACKAGE
SOURCES = sorted(ROOT.rglob("*.py"))

BOTTOM = (
    "errors",
    "clock",
    "config",
    "context",
    "families",
    "modules",
    "programs",
    "source",
    "texts",
    "tracing",
    "version",
)
LAYERS: tuple[tuple[str, ...], ...] = (
    BOTTOM,
    ("protocol",),
    ("store",),
    ("session",),
    ("aws",),
    ("launch",),
    ("client", "worker"),
    ("integrations", "report", "study", "dashboard"),
    ("testing", "pytest_plugin"),
    ("cli",),
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer}
STRANGERS = {("client", "worker"), ("worker", "client")}

# Who alone may import what, as prefixes of paths beneath the package.
GUARDED: dict[str, tuple[str, ...]] = {
    "boto3": ("store/s3/", "launch/aws/", "aws/"),
    "botocore": ("store/s3/", "launch/aws/", "aws/"),
    "cloudpickle": ("protocol/pickler.py",),
    "click": ("cli/",),
    "tomlkit": ("config/file.py", "cli/__init__.py"),
    "time": ("clock.py",),
    "uuid": ("clock.py",),
    "random": (
        "clock.py",
        "study/search.py",  # draws points that can be repeated
        "study/trial.py",  # gives trials streams that can be repeated
        "worker/runner/process.py",  # gives each forked child a seed of its own, as the user's code expects
    ),
}
# `os` functions that read or change the environment; `config/` is their only user.
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


# Modules whose threads watch a process, a clock, a signal or a client: nothing that they import, however far down, can
# call the store. `testing/simulation` checks the same of every thread of a worker while it runs.
LISTENING = (
    "worker/listener.py",
    "worker/leaving.py",
    "worker/runner/handle.py",
    "worker/runner/spawn.py",
    "worker/runner/nursery.py",
)
STORE_UNITS = ("store", "session")


class Import(NamedTuple):
    """One module that a source names in an import statement, wherever it stands, and the line."""

    module: str
    line: int


def imports(tree: ast.AST) -> Iterator[Import]:
    """`from a import b` counts as `a.b`: b may be a module, and a prefix of it decides anyway."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: line={node.lineno}"
            yield from (Import(f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def unit_of(module: str) -> str:
    """The part of the package that an absolute module name belongs to; "" for its front."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else ""


def unit_of_path(relative: Path) -> str:
    return "" if relative == Path("__init__.py") else relative.parts[0].removesuffix(".py")


def layering_faults(relative: Path, source: str) -> list[str]:
    unit = unit_of_path(relative)
    faults = []
    for module, line in imports(ast.parse(source)):
        if module.split(".")[0] != PACKAGE or not unit:
            continue
        other = unit_of(module)
        if not other and RANK[unit] < RANK["testing"]:
            faults.append(f"{relative}:{line}: {unit} imports the package's front")
        elif other and (RANK[other] > RANK[unit] or (unit, other) in STRANGERS):
            faults.append(f"{relative}:{line}: {unit} imports {other}")
    return faults


def guarded_faults(relative: Path, source: str) -> list[str]:
    faults = []
    for module, line in imports(ast.parse(source)):
        allowed = GUARDED.get(module.split(".")[0])
        if allowed is not None and not relative.as_posix().startswith(allowed):
            faults.append(f"{relative}:{line}: imports {module.split('.')[0]}; only {', '.join(allowed)} may")
    return faults


def environment_faults(relative: Path, source: str) -> list[str]:
    if relative.parts[0] == "config":
        return []
    tree = ast.parse(source)
    lines = [line for module, line in imports(tree) if module in {f"os.{name}" for name in ENVIRONMENT}]
    lines += [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ENVIRONMENT
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    return [f"{relative}:{line}: reads the environment; only config/ may" for line in lines]


def docstring_faults(relative: Path, source: str) -> list[str]:
    """A module without a docstring, and public names of `__all__`, defined there, without one."""
    tree = ast.parse(source)
    faults = [] if ast.get_docstring(tree) else [f"{relative}: no docstring"]
    public = public_names(tree)
    for node in tree.body:
        if (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and node.name in public
            and not ast.get_docstring(node)
        ):
            faults.append(f"{relative}:{node.lineno}: {node.name} is public and has no docstring")
    return faults


def public_names(tree: ast.Module) -> set[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and "__all__" in {getattr(target, "id", None) for target in node.targets}:
            return set(ast.literal_eval(node.value))
    return set()


def listening_faults(relative: Path, source: str) -> list[str]:
    """A module of `LISTENING` from which the store can be reached; through which others."""
    if relative.as_posix() not in LISTENING:
        return []
    faults, found = [], {relative}
    frontier: list[tuple[str, str]] = [(source, relative.as_posix())]
    while frontier:
        text, way = frontier.pop()
        for module, _ in imports(ast.parse(text)):
            path = path_of(module)
            if path is not None and path not in found:
                found.add(path)
                way_there = f"{way} -> {path.as_posix()}"
                if path.parts[0] in STORE_UNITS:
                    faults.append(f"{way_there}: a thread that listens could call the store")
                else:
                    frontier.append(((ROOT / path).read_text(encoding="utf-8"), way_there))
    return faults


def path_of(module: str) -> Path | None:
    """The file of a module of the package, or of the one that a name was imported from; None for all others."""
    for parts in (module.split("."), module.split(".")[:-1]):
        if len(parts) > 1 and parts[0] == PACKAGE:
            for path in (Path(*parts[1:]).with_suffix(".py"), Path(*parts[1:], "__init__.py")):
                if (ROOT / path).exists():
                    return path
    return None


CHECKS = [layering_faults, guarded_faults, environment_faults, docstring_faults, listening_faults]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_package_has_no_faults(check):
    faults = [fault for path in SOURCES for fault in check(path.relative_to(ROOT), path.read_text(encoding="utf-8"))]
    assert not faults, "\n".join(faults)


def test_what_listens_reaches_the_store_through_no_other_module():
    source = "from starburst_executor.worker.functions import Functions"
    assert listening_faults(Path("worker/listener.py"), source)
    assert listening_faults(Path("worker/slot.py"), source) == []
    assert all((ROOT / path).exists() for path in LISTENING)


def test_every_top_level_unit_has_a_layer():
    units = {unit_of_path(path.relative_to(ROOT)) for path in SOURCES} - {""}
    assert units <= set(RANK), f"say in which layer these are: {units - set(RANK)}"


@pytest.mark.parametrize(
    ("check", "path", "source"),
    [
        (layering_faults, "protocol/liveness.py", "from starburst_executor.store import base"),
        (layering_faults, "store/s3/store.py", "import starburst_executor.client.executor"),
        (layering_faults, "client/executor.py", "def f():\n    from starburst_executor.worker.agent import Agent"),
        (layering_faults, "worker/agent.py", "from starburst_executor import client"),
        (layering_faults, "worker/agent.py", "from starburst_executor import StarburstExecutor"),
        (layering_faults, "errors.py", "from starburst_executor.protocol.keys import bell"),
        (guarded_faults, "client/executor.py", "def f():\n    import boto3"),
        (guarded_faults, "store/base.py", "from botocore.exceptions import ClientError"),
        (guarded_faults, "store/sqlite/store.py", "import cloudpickle"),
        (guarded_faults, "worker/agent.py", "from time import sleep"),
        (guarded_faults, "worker/agent.py", "import random"),
        (guarded_faults, "protocol/keys.py", "import uuid"),
        (environment_faults, "worker/agent.py", "import os\nx = os.environ['A']"),
        (environment_faults, "worker/agent.py", "import os\nx = os.getenv('A')"),
        (environment_faults, "worker/agent.py", "from os import environ"),
        (environment_faults, "config.py", "import os\nx = os.environ"),
        (environment_faults, "aws/config/setup.py", "import os\nx = os.environ"),
        (docstring_faults, "worker/agent.py", "x = 1"),
        (listening_faults, "worker/listener.py", "from starburst_executor.store import base"),
        (
            listening_faults,
            "worker/leaving.py",
            "def f():\n    from starburst_executor.session.store import SessionStore",
        ),
        (listening_faults, "worker/runner/handle.py", "import starburst_executor.session.own"),
        (docstring_faults, "worker/agent.py", '"""Doc."""\n__all__ = ["f"]\ndef f(): pass'),
    ],
)
def test_each_check_finds_its_fault(check, path, source):
    assert len(check(Path(path), source)) == 1


@pytest.mark.parametrize(
    ("check", "path", "source"),
    [
        (layering_faults, "client/executor.py", "from starburst_executor.store.base import ObjectStore"),
        (layering_faults, "__init__.py", "from starburst_executor.client.executor import StarburstExecutor"),
        (layering_faults, "testing/memory.py", "from starburst_executor import StarburstExecutor"),
        (guarded_faults, "store/s3/http.py", "import boto3"),
        (guarded_faults, "clock.py", "import time, random, uuid"),
        (environment_faults, "config/settings.py", "import os\nx = os.environ"),
        (docstring_faults, "errors.py", '"""Doc."""\n__all__ = ["f"]\ndef f():\n    "Doc."\ndef g(): pass'),
    ],
)
def test_no_check_finds_fault_with_what_is_right(check, path, source):
    assert check(Path(path), source) == []


def test_importing_the_package_is_light():
    """By what is loaded, not by time, which would depend on the machine."""
    program = (
        "import sys\nbefore = set(sys.modules)\n"
        f"import {PACKAGE}\n"
        "from starburst_executor import *\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    heavy = {"boto3", "botocore", "cloudpickle", "asyncio", "tqdm", "sqlite3", "http.client", "ssl"}
    heavy |= {"platformdirs", "tomli", "tomllib"}  # of use to a session, not to an import
    assert not loaded & heavy
    # About 150 with the standard library's own; twice that would be felt at every start of a worker.
    assert len(loaded) < 340, sorted(loaded)


def test_importing_the_front_alone_loads_no_module_of_an_executor():
    program = f"import sys, {PACKAGE}; print(*sorted(name for name in sys.modules if name.startswith({PACKAGE!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [PACKAGE, f"{PACKAGE}.version"]


def test_the_front_says_the_same_to_type_checkers_and_at_run_time():
    package = importlib.import_module(PACKAGE)
    declared = {
        alias.name: node.module.removeprefix(f"{PACKAGE}.")
        for node in ast.walk(ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE)
        for alias in node.names
    }
    assert declared.pop("__version__") == "version"
    assert declared == package._DEFINED_IN
    assert {*declared, "__version__"} == set(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Stduy'"):
        package.Stduy  # noqa: B018 - the access is what is tested


def module_names() -> list[str]:
    paths = [path.relative_to(ROOT.parent).with_suffix("") for path in SOURCES if path.stem != "__main__"]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@pytest.mark.parametrize("name", module_names())
def test_what_a_module_calls_public_is_there(name):
    module = importlib.import_module(name)
    missing = [one for one in getattr(module, "__all__", ()) if not hasattr(module, one)]
    assert not missing


def test_the_front_documents_every_public_name():
    package = importlib.import_module(PACKAGE)
    assert package.__all__, "the front names what is public"
    undocumented = [name for name in package.__all__ if not (getattr(package, name).__doc__ or "").strip()]
    assert not undocumented


def reaching_faults(where: str, source: str) -> list[str]:
    """Uses of an executor's engine outside of the module that is there for them; a subclass may use its own."""
    return [
        f"{where}:{node.lineno}: reaches into an executor; use tests/support/inside.py"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr == "_engine"
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]


def test_one_module_of_the_tests_reaches_into_executors() -> None:
    tests = Path(__file__).resolve().parent
    faults = [
        fault
        for path in sorted(tests.rglob("*.py"))
        if path != tests / "support" / "inside.py"
        for fault in reaching_faults(str(path.relative_to(tests)), path.read_text(encoding="utf-8"))
    ]
    assert not faults, "\n".join(faults)
    assert reaching_faults("x.py", "executor._engine.session")
