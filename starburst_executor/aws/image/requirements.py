"""Determines the packages that a project needs, from its own files, in pip's requirements format.

The search begins beside the script (in the working directory if there is none) and goes up to the folder with `.git`. The
first folder with any of these files decides, by the first of them:

    uv.lock, poetry.lock, pdm.lock   with pyproject.toml: its dependencies, in exactly the versions of the lock
    requirements.txt                 its lines, and those of included files
    pyproject.toml                   its dependencies, if it has any
    none of them                     the imports of the script and the user's modules, in the versions installed here

Packages that are local folders (`-e .`, `./lib`, workspace members) are left out: they travel as code.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from starburst_executor.errors import ConfigError
from starburst_executor.modules import find_modules

__all__ = ["Requirements", "find_requirements", "upwards"]

_LOCKS = ("uv.lock", "poetry.lock", "pdm.lock")
_FILES = (*_LOCKS, "requirements.txt", "pyproject.toml")
_LIBRARY = "starburst-executor"
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
# A requirement that is a local folder or file, or editable.
_LOCAL = re.compile(r"(-e|--editable)[ =]|\.{0,2}/|\.{1,2}$|\.{1,2}\[|~|file:|[^ ]+ @ file:")


class Requirements(NamedTuple):
    """The packages to install, as lines in pip's requirements format.

    Attributes:
        source: The source of the list, for messages.
        wanted: The direct requirements, with options such as `--extra-index-url`.
        pinned: Versions of these and of their dependencies.
    """

    source: str
    wanted: tuple[str, ...]
    pinned: tuple[str, ...]


def find_requirements(start: Path, script: Path | None = None) -> Requirements:
    """Find the requirements of the project that contains the folder `start`.

    Args:
        script: The program, whose imports are used if the project lists no packages.
    Raises: ConfigError: a file cannot be read, or the required packages cannot be determined.
    """
    for folder in upwards(start):
        for name in _FILES:
            path = folder / name
            if path.is_file() and (requirements := _read(path)) is not None:
                return requirements
    return _installed(script)


def upwards(start: Path) -> Iterator[Path]:
    """Yield a folder and its parents in the same project: up to the one with `.git`, or to below the home folder."""
    for folder in (start, *start.parents):
        if folder == Path.home() and folder != start:
            return
        yield folder
        if (folder / ".git").exists():
            return


def _read(path: Path) -> Requirements | None:
    try:
        if path.name == "requirements.txt":
            return Requirements(str(path), tuple(_lines(path)), ())
        if not path.with_name("pyproject.toml").is_file():
            raise ConfigError(f"a lock file without a project: {path}: put its pyproject.toml beside it")
        project = _parsed(path.with_name("pyproject.toml"))
        wanted = _dependencies(project)
        if path.name not in _LOCKS:
            return None if wanted is None else Requirements(str(path), tuple(filter(_is_elsewhere, wanted)), ())
        pinned, local = _locked(_parsed(path))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"a project's file cannot be read: {path}: {error}") from error
    wanted = [line for line in wanted or () if _is_elsewhere(line) and _normal(line) not in local]
    return Requirements(str(path), tuple(wanted), tuple(pinned))


def _parsed(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return table


def _normal(requirement: str) -> str:
    """Return the normalised name in a requirement, as indexes compare names."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def _is_elsewhere(requirement: str) -> bool:
    """Whether other machines can install it: not a local folder, and not this library, which is added separately."""
    return _LOCAL.match(requirement) is None and _normal(requirement) != _LIBRARY


# --- requirements.txt -------------------------------------------------------------------------------------------------


def _lines(path: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yield the requirements in a file and in the files that it includes, in order."""
    if path in above:
        raise ConfigError(f"a requirements file includes itself: {path}")
    text = re.sub(r"\\\r?\n", " ", path.read_text(encoding="utf-8"))
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        included = re.match(r"(?:-r|--requirement|-c|--constraint)[ =]\s*(.+)", line)
        if included is not None and line.startswith(("-r", "--r")):
            yield from _lines(path.parent / included[1], (*above, path))
        elif included is not None:
            raise ConfigError(
                f"a constraints file in a requirements file is not supported: {path}: {line}; insert its lines"
            )
        elif line and _is_elsewhere(line):
            yield re.sub(r"\s+", " ", line)


# --- pyproject.toml and lock files ------------------------------------------------------------------------------------


def _dependencies(project: Mapping[str, Any]) -> list[str] | None:
    """Return a project's dependencies; None if it lists none."""
    standard = project.get("project", {})
    if "dependencies" in standard:
        return list(standard["dependencies"])
    poetry = project.get("tool", {}).get("poetry", {}).get("dependencies")
    if poetry is None:
        return [] if standard else None
    return [line for name, spec in poetry.items() if name != "python" for line in _of_poetry(name, spec)]


def _of_poetry(name: str, spec: Any) -> Iterator[str]:
    """Convert a dependency in Poetry's format; the lock file determines its version."""
    for entry in spec if isinstance(spec, list) else [spec]:
        fields = entry if isinstance(entry, dict) else {"version": str(entry)}
        if "path" in fields or fields.get("optional"):
            continue
        extras = f"[{','.join(fields['extras'])}]" if fields.get("extras") else ""
        version = _range_of_poetry(str(fields.get("version", "*")))
        markers = f" ; {fields['markers']}" if fields.get("markers") else ""
        source = (
            f" @ git+{fields['git']}{_at(fields)}"
            if "git" in fields
            else f" @ {fields['url']}"
            if "url" in fields
            else version
        )
        yield f"{name}{extras}{source}{markers}"


def _at(fields: Mapping[str, Any]) -> str:
    named = next((fields[key] for key in ("rev", "tag", "branch") if key in fields), None)
    return f"@{named}" if named else ""


def _range_of_poetry(text: str) -> str:
    """Convert `^1.2.3` and `~1.2` to pip's format: up to the next incompatible version."""
    ranges = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([\^~])\s*v?(\d+(?:\.\d+)*)(.*)", part)
        if match is None:
            ranges.append(f"=={part}" if part[0].isdigit() else "" if part == "*" else part)
            continue
        numbers = [int(number) for number in match[2].split(".")]
        if match[1] == "~":
            keep = min(2, len(numbers))
        else:
            keep = next((i for i, number in enumerate(numbers) if number), len(numbers) - 1) + 1
        upper = [*numbers[: keep - 1], numbers[keep - 1] + 1]
        ranges.append(f">={match[2]}{match[3]},<{'.'.join(map(str, upper))}")
    return ",".join(filter(None, ranges))


def _locked(lock: Mapping[str, Any]) -> tuple[list[str], set[str]]:
    """Return the versions in a lock file as constraints, and the names of packages that are local folders."""
    by_name: dict[str, list[tuple[str, str]]] = {}
    local: set[str] = set()
    for package in lock.get("package", ()):
        name = _normal(package["name"])
        place = _place(package)
        if place is None:
            local.add(name)
        else:
            markers = " or ".join(f"({marker})" for marker in package.get("resolution-markers", ()))
            by_name.setdefault(name, []).append((place, markers))
    pinned = []
    for name, places in sorted(by_name.items()):
        # The markers select one of several versions; without markers, the version is not pinned.
        if len(places) == 1 or all(markers for _, markers in places):
            has_several = len(places) > 1
            pinned += [f"{name}{place}" + (f" ; {markers}" if has_several else "") for place, markers in places]
    return pinned, local


def _place(package: Mapping[str, Any]) -> str | None:
    """Return the version or source of a locked package, as it follows the name; None for a local folder."""
    source = package.get("source", {})
    if not {"editable", "virtual", "directory", "path"}.isdisjoint(source) or "path" in package:
        return None
    if source.get("type") in ("directory", "file"):
        return None
    if "git" in source:  # uv: https://…?rev=main#<commit>
        url, _, commit = source["git"].partition("#")
        return f" @ git+{url.partition('?')[0]}@{commit}"
    if source.get("type") == "git":
        return f" @ git+{source['url']}@{source['resolved_reference']}"
    if source.get("type") == "url" or ("url" in source and "type" not in source):
        return f" @ {source['url']}"
    return f"=={package['version']}"


# --- what is installed here -------------------------------------------------------------------------------------------


def _installed(script: Path | None) -> Requirements:
    if script is None:
        # A notebook's imports are in no file, and an incomplete list would be worse than an error.
        raise ConfigError(
            "the packages that workers need are unknown: name your script, or write a requirements.txt "
            f"(`pip freeze > requirements.txt`): looked for {', '.join(_FILES)}"
        )
    modules = find_modules(script)
    owners = metadata.packages_distributions()
    names = sorted({_normal(owner) for module in modules.installed for owner in owners.get(module, ())} - {_LIBRARY})
    wanted = tuple(filter(None, map(_as_installed, names)))
    pinned = tuple(filter(None, map(_as_installed, sorted(_needed_by(names)))))
    return Requirements(f"the imports of {script.name}, in the versions installed here", wanted, pinned)


def _needed_by(names: Iterable[str]) -> set[str]:
    """Return the installed dependencies of these packages, recursively. Surplus entries are harmless: they only pin versions."""
    todo, known = list(names), set(names)
    while todo:
        try:
            requires = metadata.distribution(todo.pop()).requires or ()
        except metadata.PackageNotFoundError:
            continue
        more = {_normal(line) for line in requires if "extra ==" not in line} - known - {_LIBRARY}
        known |= more
        todo += more
    return known - set(names)


def _as_installed(name: str) -> str | None:
    """Return the requirement for the installed version; None if the package is missing or an editable folder."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    record = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "dir_info" in record:
        if record["dir_info"].get("editable"):
            return None
        raise ConfigError(
            f"a package was installed from a local folder: {name}, from {record.get('url')}; install it "
            "as editable (`pip install -e`), so that it is sent as code, or name a source for it in a requirements.txt"
        )
    if "vcs_info" in record:
        return f"{name} @ {record['vcs_info']['vcs']}+{record['url']}@{record['vcs_info']['commit_id']}"
    if "url" in record and not record["url"].startswith("file:"):
        return f"{name} @ {record['url']}"
    return f"{name}=={distribution.version}"
