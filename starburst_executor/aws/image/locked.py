"""The versions in which this library's own dependencies are tested, for the image of workers: a part of the project's lock.

Constraints, not requirements: they say which version is installed of what is installed in any case.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path

__all__ = ["locked_versions"]

_DISTRIBUTION = "starburst-executor"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def locked_versions(but: Collection[str] = ()) -> tuple[str, ...]:
    """Return lines of the lock, in pip's format, for all that this library needs to run as a worker, without `but`.

    Empty if this installation has no lock; then the library's ranges alone decide.
    """
    needed = set(_needed(_DISTRIBUTION, set())) - {_normal(name) for name in but}
    return tuple(line for line in _lock().splitlines() if line[:1].isalnum() and _name(line) in needed)


def _lock() -> str:
    # Beside this module in an installed copy; at the top of a checkout.
    module = Path(__file__)
    for path in (module.with_name("lock.txt"), module.parents[3] / "lock.txt"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""


def _needed(distribution: str, seen: set[str]) -> Iterator[str]:
    """Yield the names of all that an installed distribution needs, at any distance, without its extras."""
    try:
        lines = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return  # for another platform
    for line in lines:
        name = _name(line)
        if "extra ==" not in line and name not in seen:
            seen.add(name)
            yield name
            yield from _needed(name, seen)


def _name(line: str) -> str:
    found = _NAME.match(line)
    return _normal(found[0]) if found else ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
