"""What an image of workers must hold: Python, packages, this library. Two clients that need the same find the same image.

    project ──requirements.py──► requirements  ┐
    apt.txt ───────────────────► Debian's      ├─► Environment ──tag──► the image's name
    this library ──wheel.py────► a wheel       ┘        └──files──► the folder that it is built in

The tag is a hash of every byte that goes into that folder, of the base image's name and of the processor. Nothing that
is not in the image changes it; the user's own modules do not.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path

from starburst_executor.aws.image.requirements import Requirements, find_requirements, upwards
from starburst_executor.aws.image.wheel import Wheel, library_wheel
from starburst_executor.errors import ConfigError

__all__ = ["ARCHS", "Environment", "context_zip", "find_environment"]

ARCHS = ("x86_64", "arm64")
# The official images, where pulling is not counted as it is at Docker Hub. Source: https://gallery.ecr.aws/docker/library/python
_BASE = "public.ecr.aws/docker/library/python:{python}-slim"
# Outcomes and functions are its pickles: it reads those of its own version only.
_AS_HERE = ("cloudpickle",)
_TAG_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Environment:
    """What an image holds.

    Attributes:
        python: The minor version: `3.12`.
        requirements: The user's packages, and where that was found.
        system_packages: Debian packages, from `apt.txt`.
        wheel: This library.
        base_image: What the image is built on.
        dockerfile: How.
        project: The script or folder that it was found for, as `starburst image build` takes it.
    """

    python: str
    requirements: Requirements
    system_packages: tuple[str, ...]
    wheel: Wheel
    base_image: str
    dockerfile: str
    project: Path = Path()

    def files(self) -> dict[str, bytes]:
        """The folder that the image is built in: contents by name."""
        worker = [f"./{self.wheel.name}", *(f"{name}=={metadata.version(name)}" for name in _AS_HERE)]
        return {
            "Dockerfile": self.dockerfile.encode(),
            "apt.txt": _text(self.system_packages),
            "constraints.txt": _text(self.requirements.pinned),
            "requirements.txt": _text(self.requirements.wanted),
            "worker.txt": _text(worker),
            self.wheel.name: self.wheel.body,
        }

    def tag(self, arch: str) -> str:
        """The image's tag: Python's version, 16 digits of a hash, and the processor; `py3.12-…-x86_64`."""
        digest = hashlib.sha256(f"{self.base_image}\0{self.python}\0{arch}\0".encode())
        for name, body in sorted(self.files().items()):
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
        return f"py{self.python}-{digest.hexdigest()[:_TAG_DIGITS]}-{arch}"

    def build_arguments(self) -> dict[str, str]:
        """The Dockerfile's `ARG`s."""
        return {"BASE_IMAGE": self.base_image, "PYTHON": self.python}


def find_environment(
    start: Path | None = None, *, script: Path | None = None, base_image: str | None = None
) -> Environment:
    """What the workers of a program need, from its project's files.

    Args:
        start: A folder of the project; the script's, or the working folder, if left out.
        script: The program; the one that runs, unless this is an interactive session.
        base_image: Built on in place of the official Python image; Debian or Ubuntu with the same minor version.
    Raises: ConfigError: a file cannot be read, or nothing says which packages are needed.
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
    """A folder to build in as one zip, the same bytes for the same files."""
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _running_script() -> Path | None:
    """The program of this process; None in an interactive session, and under a tool such as a notebook's or a web server's."""
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
    # Beside this module where the library is installed; in a checkout it is where people look for it.
    here = Path(__file__)
    for path in (here.with_name("Dockerfile"), here.parents[3] / "worker_image" / "Dockerfile"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ConfigError("this installation of starburst-executor has no Dockerfile: install it again")


def _text(lines: tuple[str, ...] | list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
