"""The lock says for every supported Python what is installed, and is in line with pyproject.toml."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.support.moto_server import ROOT
from tests.support.packages import LOCK

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MINORS = [10, 11, 12, 13, 14]
MACHINES = {"linux": "x86_64", "darwin": "arm64"}


def pins() -> list[Requirement]:
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.lstrip().startswith("#")]


def direct() -> Iterator[Requirement]:
    """All that the library, its extras and its build name, but for the library itself."""
    project = PROJECT["project"]
    texts = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    texts += [text for extra in project["optional-dependencies"].values() for text in extra]
    yield from (one for one in map(Requirement, texts) if one.name != project["name"])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("system", MACHINES)
def test_each_requirement_has_one_version_within_its_range(minor: int, system: str) -> None:
    environment: dict[str, str] = {
        **default_environment(),  # type: ignore[dict-item]  # its values are texts
        "python_version": f"3.{minor}",
        "python_full_version": f"3.{minor}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": MACHINES[system],
        "sys_platform": system,
        "extra": "",
    }
    locked: dict[str, list[Requirement]] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(environment):
            locked.setdefault(normal(pin.name), []).append(pin)
    assert [name for name, found in locked.items() if len(found) > 1] == []
    for wanted in direct():
        if wanted.marker is None or wanted.marker.evaluate(environment):
            [pin] = locked.get(normal(wanted.name)) or [None]
            assert pin, f"not locked: {wanted}; `make update`"
            [version] = [one.version for one in pin.specifier]
            assert wanted.specifier.contains(version, prereleases=True), f"{pin} is not within {wanted}; `make update`"


def test_a_pin_is_a_version_and_says_nothing_of_a_machine() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert not re.search(r"://|^-|file:|[ (]/", text, re.MULTILINE)
    assert all([one.operator for one in pin.specifier] == ["=="] and not pin.url for pin in pins())


def test_what_is_supported_is_said_alike() -> None:
    minors = [f"3.{minor}" for minor in MINORS]
    classified = [one.rpartition(" ")[2] for one in PROJECT["project"]["classifiers"] if " :: 3." in one]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    listed = {name: re.findall(rf"^{name} := (.*)$", makefile, re.M)[0].split() for name in ("MINORS", "OLDEST_FIRST")}
    assert classified == minors
    assert PROJECT["project"]["requires-python"] == f">={minors[0]}"
    assert listed == {"MINORS": [str(one) for one in reversed(MINORS)], "OLDEST_FIRST": [str(one) for one in MINORS]}
