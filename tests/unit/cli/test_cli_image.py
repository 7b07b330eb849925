"""`starburst image`: what it takes, what it prints. What it does is tested with the modules that do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.aws.image import images
from starburst_executor.aws.image.environment import Environment, find_environment
from starburst_executor.aws.image.images import Image
from starburst_executor.aws.stack import outputs as stack
from starburst_executor.cli.main import run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("numpy\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(stack, "read_stack", lambda clients: "the stack")
    return tmp_path


def test_context_writes_what_the_image_is_built_from(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = find_environment(project)
    assert run(["image", "context", "folder"]) == 0
    assert {path.name: path.read_bytes() for path in (project / "folder").iterdir()} == environment.files()
    printed = capsys.readouterr().out
    assert printed.startswith("docker build --build-arg BASE_IMAGE=")
    assert printed.endswith(f"--tag starburst-worker:{environment.tag('x86_64')} folder\n")
    assert run(["image", "context", "folder"]) == 2
    assert "it exists already: folder" in capsys.readouterr().err


def test_build_prints_names_and_nothing_else_on_standard_output(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def build(
        clients: Any, stack: Any, environment: Environment, arch: str, *, engine: Any, clock: Any, say: Any
    ) -> str:
        asked.append((stack, environment.base_image, arch, engine))
        say("progress")
        return f"uri-{arch}"

    monkeypatch.setattr(images, "build_image", build)
    words = ["image", "build", "--arch", "arm64", "--arch", "x86_64", "--engine", "podman", "--base-image", "base"]
    assert run(words) == 0
    assert capsys.readouterr() == ("uri-arm64\nuri-x86_64\n", "progress\nprogress\n")
    assert asked == [("the stack", "base", "arm64", "podman"), ("the stack", "base", "x86_64", "podman")]
    assert run(["image", "build"]) == 0
    assert asked[-1][2:] == ("x86_64", None)


def test_a_project_that_is_not_there_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "build", "nowhere"]) == 2
    assert "no such folder or script: nowhere" in capsys.readouterr().err


def test_images_are_listed_for_people_and_programs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Image("repository:py3.12-5f-x86_64", "py3.12-5f-x86_64", 1_700_000_000.0, 123_456_789)
    monkeypatch.setattr(images, "list_images", lambda clients, stack: [one])
    assert run(["image", "list"]) == 0
    assert capsys.readouterr().out.split() == ["py3.12-5f-x86_64", "2023-11-14", "22:13", "UTC", "123", "MB"]
    assert run(["image", "list", "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"format": 1, "uri": one.uri, "tag": one.tag, "pushed_at": one.pushed_at, "n_bytes": one.n_bytes}
    ]
    monkeypatch.setattr(images, "list_images", lambda clients, stack: [])
    assert run(["image", "list"]) == 0
    assert capsys.readouterr().err == "no images: `starburst image build` builds one\n"
