"""The interpreters on this machine that ship CPython's executor tests, each with what this library depends on."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tests.support.left_behind import shared_by_tests
from tests.support.moto_server import ROOT
from tests.support.packages import constraints, install

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Interpreter", "NotReady", "find_interpreters"]

_MINORS = range(10, 15)
# `test` is the standard library's; many distributions leave it out, or parts of it.
_PROBE = """
import sys, importlib.util
import _multiprocessing, ensurepip, venv
import test.support.script_helper
sys.exit(importlib.util.find_spec("test.test_concurrent_futures") is None or print(*sys.version_info[:2], sep="."))
"""


class NotReady(Exception):
    """The dependencies could not be installed; the message says why."""


class Interpreter(NamedTuple):
    """One that has the tests."""

    version: str
    path: str

    def ready(self) -> str:
        """The path of this interpreter with the library's dependencies: itself, or in an environment made for it.

        Raises: NotReady.
        """
        if self.path == sys.executable:
            return self.path
        folder = ROOT / ".venvs" / f"cpython-suite-{self.version}"
        folder.parent.mkdir(exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            # Another run of these tests may be making it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _environment(self.path, folder)


@lru_cache(maxsize=1)
def find_interpreters() -> tuple[Interpreter, ...]:
    """At most one for each minor version that is supported: the one that runs, on `PATH`, or of pyenv."""
    found: dict[str, str] = {}
    for path in _candidates():
        if (version := _probe(path)) is not None:
            found.setdefault(version, path)
    return tuple(Interpreter(version, found[version]) for version in sorted(found, key=lambda v: int(v.split(".")[1])))


def _candidates() -> list[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    named = [f"python3.{minor}" for minor in _MINORS]
    kept = [str(path) for minor in _MINORS for path in sorted(pyenv.glob(f"3.{minor}.*/bin/python"), reverse=True)]
    return [sys.executable, *named, *kept]


def _probe(path: str) -> str | None:
    try:
        answer = subprocess.run([path, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = answer.stdout.strip()
    return version if answer.returncode == 0 and version in {f"3.{minor}" for minor in _MINORS} else None


def _environment(python: str, folder: Path) -> str:
    made = folder / "bin" / "python"
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted = "\n".join([*needed, *constraints()])
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        _call([python, "-m", "venv", "--clear", str(folder)])
        _call(install(str(made), *needed))
        stamp.write_text(wanted, encoding="utf-8")
    return str(made)


def _call(command: list[str]) -> None:
    try:
        environment = {**os.environ, **shared_by_tests("packages of other interpreters")}
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=environment)
    except subprocess.CalledProcessError as error:
        raise NotReady(f"{' '.join(command[:4])} …: {(error.stderr or error.stdout).strip()[-500:]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotReady(str(error)) from error
