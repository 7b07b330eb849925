"""An environment's tag says what is in the image: the same for the same, another for anything else."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest

from starburst_executor.aws.image.environment import Environment, context_zip, find_environment
from starburst_executor.aws.image.wheel import Wheel, library_wheel
from starburst_executor.version import __version__
from tests.support.moto_server import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "apt.txt").write_text("libgomp1 git # for wheels\n\n# nothing\ngit\n")
    return tmp_path


def test_what_an_image_is_built_from(project: Path) -> None:
    environment = find_environment(project)
    files = environment.files()
    assert files["requirements.txt"] == b"numpy\n"
    assert files["apt.txt"] == b"git\nlibgomp1\n"
    assert files["Dockerfile"] == (ROOT / "worker_image/Dockerfile").read_bytes()
    assert re.fullmatch(
        rb"\./starburst_executor-[0-9.]+-py3-none-any\.whl\ncloudpickle==[0-9.]+\n", files["worker.txt"]
    )
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environment.build_arguments()["PYTHON"] == here
    assert environment.build_arguments()["BASE_IMAGE"].endswith(f"python:{here}-slim")
    # Everything that the Dockerfile copies is there.
    copied = re.findall(r"^COPY (.+) \S+$", environment.dockerfile, re.MULTILINE)
    names = [name for line in copied for name in line.split() if name != "*.whl"]
    assert set(names) <= files.keys()


def test_the_image_has_the_locked_versions_of_what_the_library_needs_alone(project: Path) -> None:
    text = find_environment(project).files()["library.txt"].decode()
    names = re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
    assert {"boto3", "botocore", "msgpack", "tenacity", "urllib3"} <= set(names)
    assert len(names) == len(text.splitlines())
    assert all(line in (ROOT / "lock.txt").read_text(encoding="utf-8") for line in text.splitlines())
    # Not what other extras or tests use; cloudpickle has to be that of the client.
    assert not {"numpy", "click", "pytest", "matplotlib", "cloudpickle"} & set(names)


def test_what_the_users_project_pins_is_left_to_it(project: Path) -> None:
    (project / "requirements.txt").write_text("numpy\nBoto3 == 1.40.0\nurllib3<2\n")
    text = find_environment(project).files()["library.txt"].decode()
    assert not re.search(r"^(boto3|urllib3)==", text, re.MULTILINE)
    assert re.search(r"^botocore==", text, re.MULTILINE)


def test_the_tag_is_the_same_for_the_same_and_fit_for_a_registry(project: Path) -> None:
    tag = find_environment(project).tag("x86_64")
    assert tag == find_environment(project).tag("x86_64")
    assert re.fullmatch(r"py3\.\d+-[0-9a-f]{16}-x86_64", tag)
    (project / "module.py").write_text("a change of code needs no image")
    assert find_environment(project).tag("x86_64") == tag


@pytest.mark.parametrize("what", ["requirements", "system packages", "library", "base", "Dockerfile", "Python", "arch"])
def test_whatever_is_in_the_image_changes_the_tag(project: Path, what: str) -> None:
    one = find_environment(project)
    changed: dict[str, Environment] = {
        "requirements": replace(one, requirements=one.requirements._replace(pinned=("numpy==2",))),
        "system packages": replace(one, system_packages=("git",)),
        "library": replace(one, wheel=Wheel(one.wheel.name, b"")),
        "base": replace(one, base_image="other"),
        "Dockerfile": replace(one, dockerfile=one.dockerfile + "\n"),
        "Python": replace(one, python="3.99"),
    }
    assert changed.get(what, one).tag("arm64" if what == "arch" else "x86_64") != one.tag("x86_64")


def test_where_requirements_were_found_does_not_change_the_tag(project: Path) -> None:
    one = find_environment(project)
    elsewhere = replace(one, requirements=one.requirements._replace(source="elsewhere"))
    assert elsewhere.tag("x86_64") == one.tag("x86_64")


def test_the_wheel_is_this_library_and_can_be_installed(tmp_path: Path) -> None:
    wheel = library_wheel()
    assert wheel == library_wheel()
    archive = zipfile.ZipFile(BytesIO(wheel.body))
    assert (
        archive.read("starburst_executor/worker/agent.py") == (ROOT / "starburst_executor/worker/agent.py").read_bytes()
    )
    assert not [name for name in archive.namelist() if "__pycache__" in name]
    about = archive.read(f"starburst_executor-{__version__}.dist-info/METADATA").decode()
    assert "Requires-Dist: boto3" in about
    assert "extra ==" not in about
    (tmp_path / wheel.name).write_bytes(wheel.body)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*pip, tmp_path / "site", tmp_path / wheel.name], check=True)
    program = "import starburst_executor.worker.agent as agent, importlib.metadata as m; print(agent.__file__, m.version('starburst-executor'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / "site/starburst_executor/worker/agent.py"), __version__]


def test_the_same_folder_is_the_same_zip() -> None:
    assert context_zip({"a": b"1", "b": b"2"}) == context_zip({"b": b"2", "a": b"1"})


def test_a_program_has_the_environment_that_is_built_for_its_script(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool that runs it, here pytest, does not count as the program."""
    monkeypatch.chdir(ROOT / "tests")
    assert find_environment().requirements.source == str(ROOT / "pyproject.toml")
    (project / "requirements.txt").unlink()
    program = "from starburst_executor.aws.image.environment import find_environment\nimport msgpack\nprint(find_environment().tag('arm64'))"
    (project / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, project / "program.py"],
        cwd="/",
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == find_environment(script=project / "program.py").tag("arm64")
