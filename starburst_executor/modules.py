"""Finds the user's own modules in this process, and the modules that they import.

A module is *standard* if the interpreter brought it, *installed* if it lies in a `site-packages`, and the user's *own*
otherwise: beside the script, on `PYTHONPATH`, or installed as editable. Own are the top-level modules and packages that
this process has imported, and those that their source files, and the script's, import anywhere: also in a function that
has not run yet. A module whose name is computed at run time, and that was never imported here, is not found.

The search imports and runs no code.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

__all__ = ["Modules", "Place", "find_modules", "is_hidden", "own_loaded"]

_LIBRARY = "starburst_executor"
# Modules that debuggers and interpreters add to a process from folders of their own; tasks do not import them.
_TOOLS = ("pydev", "_pydev", "debugpy", "sitecustomize", "usercustomize")
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class Place(NamedTuple):
    """Where a top-level module is.

    Attributes:
        folders: Of a package; several of a namespace package.
        file: Of a module that is one file.
    """

    folders: tuple[str, ...]
    file: str | None


class Modules(NamedTuple):
    """The result of `find_modules`.

    Attributes:
        own: The user's own top-level modules, by name.
        installed: Top-level names that own modules or the script import and that are installed, or not to be found.
    """

    own: dict[str, Place]
    installed: frozenset[str]


def find_modules(script: Path | None = None) -> Modules:
    """Find the user's own modules and their imports. Reads each source once, until it changes.

    Args:
        script: A program to analyse instead of this process: its imports, and theirs in turn.
    """
    own: dict[str, Place] = {}
    installed: set[str] = set()
    if script is None:
        main = _attribute(sys.modules.get("__main__"), "__file__")
        todo = own_loaded()
        todo += _imports_of([main]) if isinstance(main, str) else []
    else:
        todo = _imports_of([str(script)])
    folder = None if script is None else str(script.parent)
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name == _LIBRARY or name in sys.stdlib_module_names or name.startswith(_TOOLS):
            continue
        seen.add(name)
        place = _place(name, folder)
        if not _is_own(place):
            installed.add(name)
            continue
        own[name] = place
        todo += _imports_of(_sources(place))
        if any(map(_is_installed, _all_folders(name, folder))):
            installed.add(name)  # a namespace that own and installed packages share
    return Modules(own, frozenset(installed))


def own_loaded() -> list[str]:
    """The user's own top-level modules that this process has imported. Reads no sources."""
    return [name for name in _loaded() if _is_own(_place(name))]


def _loaded() -> dict[str, ModuleType]:
    """Return the top-level modules of this process that may be the user's own, by name."""
    return {
        name: module
        for name, module in list(sys.modules.items())
        if "." not in name
        and name not in ("__main__", "__mp_main__", _LIBRARY)
        and name not in sys.builtin_module_names
        and not name.startswith(_TOOLS)
        and issubclass(type(module), ModuleType)
    }


def _attribute(module: ModuleType | None, name: str) -> object:
    """Return a module's attribute, or None, without triggering modules that load themselves on first access."""
    return None if module is None else object.__getattribute__(module, "__dict__").get(name)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name does not belong to a module: caches, settings, environments."""
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", ".egg-info"))


def _is_own(place: Place) -> bool:
    return bool(place.folders) or place.file is not None


def _place(name: str, beside: str | None = None) -> Place:
    """Where a top-level module is, as far as that is the user's own; an empty place otherwise.

    Args:
        beside: The folder of a script that is not this process's: looked in first.
    """
    folders = tuple(folder for folder in _all_folders(name, beside) if _is_users(folder) and Path(folder).is_dir())
    file = _file(name, beside)
    if file is not None and (not _is_users(file.rpartition(os.sep)[0]) or not Path(file).is_file()):
        return Place((), None)  # a package that is installed, whatever was added to its path
    return Place(folders, None if folders else file)


def _all_folders(name: str, beside: str | None) -> list[str]:
    spec = _spec(name, beside)
    module = sys.modules.get(name) if spec is None else None
    found = _attribute(module, "__path__") if spec is None else spec.submodule_search_locations
    return [folder for folder in found if isinstance(folder, str)] if isinstance(found, Iterable) else []


def _file(name: str, beside: str | None) -> str | None:
    spec = _spec(name, beside)
    module = sys.modules.get(name) if spec is None else None
    file = _attribute(module, "__file__") if spec is None else spec.origin if spec.has_location else None
    return file if isinstance(file, str) else None


def _spec(name: str, beside: str | None) -> importlib.machinery.ModuleSpec | None:
    """How a module would be found; None for one that is loaded, and so says itself where it is."""
    if beside is not None and (found := importlib.machinery.PathFinder.find_spec(name, [beside])) is not None:
        return found
    if name in sys.modules:
        return None
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # finders of others
        return None


@lru_cache(maxsize=10_000)
def _is_users(folder: str) -> bool:
    """Remembered: a process has hundreds of modules in a few folders, and each link on the way to a folder is read."""
    return not _is_installed(folder) and not _is_standard(folder)


def _is_installed(folder: str) -> bool:
    return not _INSTALLED.isdisjoint(Path(folder).parts)


def _is_standard(folder: str) -> bool:
    return f"{os.path.realpath(folder)}{os.sep}".startswith(_standard_folders())


@lru_cache(maxsize=1)
def _standard_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders if folder)


def _sources(place: Place) -> Iterator[str]:
    if place.file is not None:
        yield place.file
    for top in place.folders:
        for folder, names, files in os.walk(top):
            names[:] = [name for name in names if not is_hidden(name)]
            yield from (f"{folder}{os.sep}{file}" for file in files if file.endswith(".py"))


def _imports_of(paths: Iterable[str]) -> list[str]:
    found: set[str] = set()
    for path in paths:
        try:
            stat = Path(path).stat()
        except OSError:
            continue
        found |= _imports_in(path, stat.st_mtime_ns, stat.st_size)
    return sorted(found)


@lru_cache(maxsize=10_000)
def _imports_in(path: str, _mtime_ns: int, _n_bytes: int) -> frozenset[str]:
    """The top-level names that a source file imports anywhere; none if it is no Python source."""
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return frozenset()
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return frozenset(names)


# The fields that hold statements, or what holds statements: handlers of exceptions and cases.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements. There is no import within an expression, and most of a tree are expressions."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name in _BLOCKS:
            waiting += getattr(node, name, ())
