"""Engines of this machine, by scripts on the path that write down how they were called."""

from __future__ import annotations

from pathlib import Path

import pytest

from starburst_executor.aws.image.container_engines import ContainerEngine, find_container_engine
from starburst_executor.errors import ConfigError, LaunchError

SCRIPT = """#!/bin/sh
echo "$(basename "$0") $*" >>"$(dirname "$0")/calls"
[ "$1" = login ] && cat >>"$(dirname "$0")/calls" && echo >>"$(dirname "$0")/calls"
echo "working on $1"
{}
"""


class Shelf:
    """A folder that is all of the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, then: str = "exit 0") -> None:
        (self.folder / name).write_text(SCRIPT.format(then))
        (self.folder / name).chmod(0o755)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("docker", "podman", "buildah"):  # whatever this machine has does not answer
        Shelf(tmp_path).put(name, "exit 1")
    return Shelf(tmp_path)


def quiet(_: str) -> None:
    """Nothing is said."""


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ((), None),
        (("buildah",), "buildah"),
        (("podman", "buildah"), "podman"),
        (("docker", "podman", "buildah"), "docker"),
    ],
)
def test_the_first_that_answers_is_taken(shelf: Shelf, there: tuple[str, ...], found: str | None) -> None:
    for name in there:
        shelf.put(name)
    engine = find_container_engine(quiet)
    assert (engine and engine.name) == found


def test_one_that_was_asked_for_and_does_not_answer_is_an_error(shelf: Shelf) -> None:
    shelf.put("docker")
    with pytest.raises(ConfigError, match="podman does not answer"):
        find_container_engine(quiet, "podman")
    with pytest.raises(ConfigError, match="must be one of docker, podman, buildah, or codebuild"):
        find_container_engine(quiet, "rkt")


@pytest.mark.parametrize(("name", "build"), [("docker", "build"), ("podman", "build"), ("buildah", "bud")])
def test_each_is_called_in_its_way_and_the_password_is_no_argument(shelf: Shelf, name: str, build: str) -> None:
    shelf.put(name)
    said: list[str] = []
    engine = ContainerEngine(name, said.append)
    engine.login("registry.example.org", "AWS", "secret word")
    engine.build(Path("/context"), "registry.example.org/r:tag", "arm64", {"BASE_IMAGE": "base", "PYTHON": "3.12"})
    engine.push("registry.example.org/r:tag")
    options = "--platform linux/arm64 --build-arg BASE_IMAGE=base --build-arg PYTHON=3.12"
    assert shelf.calls() == [
        f"{name} login --username AWS --password-stdin registry.example.org",
        "secret word",
        f"{name} {build} {options} --tag registry.example.org/r:tag /context",
        f"{name} push registry.example.org/r:tag",
    ]
    assert said == ["working on login", f"working on {build}", "working on push"]


def test_a_failure_has_the_last_lines(shelf: Shelf) -> None:
    shelf.put("docker", 'for i in $(seq 100); do echo "line $i"; done; echo "no space left" >&2; exit 4')
    with pytest.raises(LaunchError, match=r"(?s)`docker push` failed: status=4.*line 100\nno space left$") as caught:
        ContainerEngine("docker", quiet).push("r:tag")
    assert "line 50\n" not in str(caught.value)


def test_an_engine_that_is_gone_meanwhile_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(LaunchError, match="nowhere cannot be run"):
        ContainerEngine("nowhere", quiet).push("r:tag")
