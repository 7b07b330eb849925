"""The contents of an image of workers: Python, packages, this library. Clients with equal needs find the same image.

    project ──requirements.py──► requirements  ┐
    apt.txt ───────────────────► Debian's      ├─► Environment ──tag──► the image's name
    this library ──wheel.py────► a wheel       ┘        └──files──► the build folder

The tag is a hash of every byte in that folder, of the base image's name and of the processor. Files outside the image,
such as the user's own modules, do not change it.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path

from starburst_executor.aws.image.locked import locked_versions
from starburst_executor.aws.image.requirements import Requirements, find_requirements, upwards
from starburst_executor.aws.image.wheel import Wheel, library_wheel
from starburst_executor.errors import ConfigError

__all__ = ["ARCHS", "Environment", "context_zip", "find_environment"]

ARCHS = ("x86_64", "arm64")
# The official images, from a registry without Docker Hub's limits on pulls. Source: https://gallery.ecr.aws/docker/library/python
_BASE = "public.ecr.aws/docker/library/python:{python}-slim"
# It pickles functions and outcomes, and reads only pickles of its own version.
_AS_HERE = ("cloudpickle",)
_TAG_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Environment:
    """The contents of an image.

    Attributes:
        python: The minor version: `3.12`.
        requirements: The user's packages, and the source of that list.
        system_packages: Debian packages, from `apt.txt`.
        wheel: This library.
        base_image: The base image.
        dockerfile: The text of the Dockerfile.
        project: The script or folder, as `starburst image build` accepts it.
    """

    python: str
    requirements: Requirements
    system_packages: tuple[str, ...]
    wheel: Wheel
    base_image: str
    dockerfile: str
    project: Path = Path()

    def files(self) -> dict[str, bytes]:
        """Return the files of the build folder: contents by name."""
        worker = [f"./{self.wheel.name}", *(f"{name}=={metadata.version(name)}" for name in _AS_HERE)]
        return {
            "Dockerfile": self.dockerfile.encode(),
            "apt.txt": _text(self.system_packages),
            "constraints.txt": _text(self.requirements.pinned),
            # What the user's project says about a package counts more than what this library was tested with.
            "library.txt": _text(locked_versions(but={*_names(self.requirements), *_AS_HERE})),
            "requirements.txt": _text(self.requirements.wanted),
            "worker.txt": _text(worker),
            self.wheel.name: self.wheel.body,
        }

    def tag(self, arch: str) -> str:
        """Return the image's tag: Python's version, 16 digits of a hash, and the processor; `py3.12-…-x86_64`."""
        digest = hashlib.sha256(f"{self.base_image}\0{self.python}\0{arch}\0".encode())
        for name, body in sorted(self.files().items()):
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
        return f"py{self.python}-{digest.hexdigest()[:_TAG_DIGITS]}-{arch}"

    def build_arguments(self) -> dict[str, str]:
        """Return the values of the Dockerfile's `ARG`s."""
        return {"BASE_IMAGE": self.base_image, "PYTHON": self.python}


def find_environment(
    start: Path | None = None, *, script: Path | None = None, base_image: str | None = None
) -> Environment:
    """Determine the environment that the workers of a program need, from its project's files.

    Args:
        start: A folder of the project; by default the script's folder, or the working directory.
        script: The program; by default the running one, except in an interactive session.
        base_image: Replaces the official Python image; must be Debian or Ubuntu with the same minor version of Python.
    Raises: ConfigError: a file cannot be read, or the required packages cannot be determined.
    """
    if start is None and script is None:
        script = _running_script()
    start = (start or (script.parent if script is not None else Path.cwd())).absolute()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Environment(
        python=python,
        requirements=find_requirements(start, script),
        system_packages=_system_packages(start),
        wheel=library_wheel(),
        base_image=base_image or _BASE.format(python=python),
        dockerfile=_dockerfile(),
        project=(script or start).absolute(),
    )


def context_zip(files: dict[str, bytes]) -> bytes:
    """Pack the build folder as a zip; equal files give equal bytes."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _names(requirements: Requirements) -> set[str]:
    found = (re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line) for line in (*requirements.wanted, *requirements.pinned))
    return {match[0] for match in found if match}


def _running_script() -> Path | None:
    """Return the program of this process; None in an interactive session, and under a tool such as a notebook or web server."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if not isinstance(main, str) or not Path(main).is_file():
        return None
    script = Path(main).absolute()
    return None if script.is_relative_to(sys.prefix) or script.is_relative_to(sys.base_prefix) else script


def _system_packages(start: Path) -> tuple[str, ...]:
    for folder in upwards(start):
        path = folder / "apt.txt"
        if path.is_file():
            lines = (line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
            return tuple(sorted({word for line in lines for word in line.split()}))
    return ()


def _dockerfile() -> str:
    # Beside this module in an installed copy; in a folder of its own in a checkout.
    module = Path(__file__)
    for path in (module.with_name("Dockerfile"), module.parents[3] / "worker_image" / "Dockerfile"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ConfigError("this installation of starburst-executor has no Dockerfile: install it again")


def _text(lines: tuple[str, ...] | list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
