"""Which packages a project needs, from what it says of itself: found, read, and written as pip understands it.

Looked for beside the script (in the working folder where there is none) and in the folders above it, up to the one that
holds `.git`. The first folder that has any of these decides, by the first of them that it has:

    uv.lock, poetry.lock, pdm.lock   with pyproject.toml: its dependencies, in exactly the versions of the lock
    requirements.txt                 as it is, what it includes put in
    pyproject.toml                   its dependencies, if it names any
    none of them                     what the script and the user's modules import, in the versions installed here

Packages that are folders of the user's (`-e .`, `./lib`, workspace members) are left out: they travel as code.
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
# A requirement that is a folder or file of this machine, or an editable one.
_LOCAL = re.compile(r"(-e|--editable)[ =]|\.{0,2}/|\.{1,2}$|\.{1,2}\[|~|file:|[^ ]+ @ file:")


class Requirements(NamedTuple):
    """What to install, one line of pip's requirements format each.

    Attributes:
        source: Where that was found, for people.
        wanted: What is needed itself, with options such as `--extra-index-url`.
        pinned: Versions of these and of what they need in turn.
    """

    source: str
    wanted: tuple[str, ...]
    pinned: tuple[str, ...]


def find_requirements(start: Path, script: Path | None = None) -> Requirements:
    """The packages of the project that `start` is a folder of.

    Args:
        script: The program, for a project that says nothing: what it imports is looked for.
    Raises: ConfigError: a file cannot be read, or nothing says which packages are needed.
    """
    for folder in upwards(start):
        for name in _FILES:
            path = folder / name
            if path.is_file() and (found := _read(path)) is not None:
                return found
    return _installed(script)


def upwards(start: Path) -> Iterator[Path]:
    """A folder and those above it that may belong to the same project: up to the one with `.git`, or to below home."""
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
            raise ConfigError(f"a lock file without what it locks: {path}: put its pyproject.toml beside it")
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
    found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return found


def _normal(requirement: str) -> str:
    """The name in a requirement as indexes compare it."""
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def _is_elsewhere(requirement: str) -> bool:
    """Whether it can be had from anywhere: not a folder of this machine, and not this library, which is added."""
    return _LOCAL.match(requirement) is None and _normal(requirement) != _LIBRARY


# --- requirements.txt -------------------------------------------------------------------------------------------------


def _lines(path: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """The requirements in a file and in those it includes, in order."""
    if path in above:
        raise ConfigError(f"a requirements file that includes itself: {path}")
    text = re.sub(r"\\\r?\n", " ", path.read_text(encoding="utf-8"))
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        included = re.match(r"(?:-r|--requirement|-c|--constraint)[ =]\s*(.+)", line)
        if included is not None and line.startswith(("-r", "--r")):
            yield from _lines(path.parent / included[1], (*above, path))
        elif included is not None:
            raise ConfigError(f"a constraints file within a requirements file is not sent: {path}: {line}; put it in")
        elif line and _is_elsewhere(line):
            yield re.sub(r"\s+", " ", line)


# --- pyproject.toml and lock files ------------------------------------------------------------------------------------


def _dependencies(project: Mapping[str, Any]) -> list[str] | None:
    """What a project says it needs; None if it says nothing."""
    standard = project.get("project", {})
    if "dependencies" in standard:
        return list(standard["dependencies"])
    poetry = project.get("tool", {}).get("poetry", {}).get("dependencies")
    if poetry is None:
        return [] if standard else None
    return [line for name, spec in poetry.items() if name != "python" for line in _of_poetry(name, spec)]


def _of_poetry(name: str, spec: Any) -> Iterator[str]:
    """Poetry's own way to write a dependency; its version ranges are left to the lock."""
    for one in spec if isinstance(spec, list) else [spec]:
        fields = one if isinstance(one, dict) else {"version": str(one)}
        if "path" in fields or fields.get("optional"):
            continue
        extras = f"[{','.join(fields['extras'])}]" if fields.get("extras") else ""
        version = _range_of_poetry(str(fields.get("version", "*")))
        markers = f" ; {fields['markers']}" if fields.get("markers") else ""
        where = (
            f" @ git+{fields['git']}{_at(fields)}"
            if "git" in fields
            else f" @ {fields['url']}"
            if "url" in fields
            else version
        )
        yield f"{name}{extras}{where}{markers}"


def _at(fields: Mapping[str, Any]) -> str:
    named = next((fields[key] for key in ("rev", "tag", "branch") if key in fields), None)
    return f"@{named}" if named else ""


def _range_of_poetry(text: str) -> str:
    """`^1.2.3` and `~1.2` as pip writes them: up to the next version that may break."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([\^~])\s*v?(\d+(?:\.\d+)*)(.*)", part)
        if match is None:
            found.append(f"=={part}" if part[0].isdigit() else "" if part == "*" else part)
            continue
        numbers = [int(number) for number in match[2].split(".")]
        if match[1] == "~":
            keep = min(2, len(numbers))
        else:
            keep = next((i for i, number in enumerate(numbers) if number), len(numbers) - 1) + 1
        upper = [*numbers[: keep - 1], numbers[keep - 1] + 1]
        found.append(f">={match[2]}{match[3]},<{'.'.join(map(str, upper))}")
    return ",".join(filter(None, found))


def _locked(lock: Mapping[str, Any]) -> tuple[list[str], set[str]]:
    """Versions that a lock file settles, as constraints; names of packages that are folders of the user's."""
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
        # One of several: which, the markers say; where they do not, it stays open.
        if len(places) == 1 or all(markers for _, markers in places):
            many = len(places) > 1
            pinned += [f"{name}{place}" + (f" ; {markers}" if many else "") for place, markers in places]
    return pinned, local


def _place(package: Mapping[str, Any]) -> str | None:
    """What follows a locked package's name: its version or where it comes from; None if that is this machine."""
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
        # What a notebook imports is in no file: half of it would be worse than nothing.
        raise ConfigError(
            "nothing says which packages workers need: name your script, or write a requirements.txt "
            f"(`pip freeze > requirements.txt`): looked for {', '.join(_FILES)}"
        )
    found = find_modules(script)
    owners = metadata.packages_distributions()
    names = sorted({_normal(owner) for module in found.installed for owner in owners.get(module, ())} - {_LIBRARY})
    wanted = tuple(filter(None, map(_as_installed, names)))
    pinned = tuple(filter(None, map(_as_installed, sorted(_needed_by(names)))))
    return Requirements(f"what {script.name} imports, in the versions installed here", wanted, pinned)


def _needed_by(names: Iterable[str]) -> set[str]:
    """What these need in turn, as far as it is installed. Of no harm if too much: it only settles versions."""
    todo, seen = list(names), set(names)
    while todo:
        try:
            requires = metadata.distribution(todo.pop()).requires or ()
        except metadata.PackageNotFoundError:
            continue
        more = {_normal(line) for line in requires if "extra ==" not in line} - seen - {_LIBRARY}
        seen |= more
        todo += more
    return seen - set(names)


def _as_installed(name: str) -> str | None:
    """The requirement that gives what is installed here; None if there is nothing, or only a folder of the user's."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    record = json.loads(found.read_text("direct_url.json") or "{}")
    if "dir_info" in record:
        if record["dir_info"].get("editable"):
            return None
        raise ConfigError(
            f"a package that was installed from a folder of this machine: {name}, from {record.get('url')}; install it "
            "as editable (`pip install -e`), so that it is sent as code, or name a source for it in a requirements.txt"
        )
    if "vcs_info" in record:
        return f"{name} @ {record['vcs_info']['vcs']}+{record['url']}@{record['vcs_info']['commit_id']}"
    if "url" in record and not record["url"].startswith("file:"):
        return f"{name} @ {record['url']}"
    return f"{name}=={found.version}"
