"""Runs the container engines of this machine by their commands: docker, podman, buildah.

Passwords are passed by standard input; no shell is used.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from starburst_executor.errors import ConfigError, LaunchError

__all__ = ["CONTAINER_ENGINES", "ContainerEngine", "find_container_engine"]

CONTAINER_ENGINES = ("docker", "podman", "buildah")
# Commands that succeed only if the container engine works: docker also needs its service.
_ANSWERS = {"docker": ["version"], "podman": ["info"], "buildah": ["version"]}
_ANSWER_S = 20
_LAST_LINES = 20
_PLATFORMS = {"x86_64": "linux/amd64", "arm64": "linux/arm64"}


class ContainerEngine:
    """A container engine.

    Args:
        say: Called with each line that the engine prints.
    """

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self.name = name
        self._say = say

    def login(self, registry: str, user: str, password: str) -> None:
        """Log in to a registry. Raises: LaunchError."""
        self._run(["login", "--username", user, "--password-stdin", registry], password)

    def build(self, folder: Path, reference: str, arch: str, arguments: Mapping[str, str]) -> None:
        """Build the folder's Dockerfile for a processor, `x86_64` or `arm64`, and tag the image. Raises: LaunchError."""
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        build = "bud" if self.name == "buildah" else "build"
        self._run([build, "--platform", _PLATFORMS[arch], *words, "--tag", reference, str(folder)])

    def push(self, reference: str) -> None:
        """Push an image. Raises: LaunchError."""
        self._run(["push", reference])

    def _run(self, words: Sequence[str], text: str = "") -> None:
        last: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            with subprocess.Popen(
                [self.name, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process:
                assert process.stdin is not None  # stdin=PIPE  # noqa: S101
                assert process.stdout is not None  # noqa: S101
                process.stdin.write(text)
                process.stdin.close()
                for line in process.stdout:
                    self._say(line.rstrip())
                    last.append(line)
        except OSError as error:
            raise LaunchError(f"{self.name} cannot be run: {error.strerror}") from error
        if process.returncode:
            raise LaunchError(
                f"`{self.name} {words[0]}` failed: status={process.returncode}; its last lines:\n{''.join(last).rstrip()}"
            )


def find_container_engine(say: Callable[[str], None], wanted: str | None = None) -> ContainerEngine | None:
    """Return the first container engine that works, or None.

    Args:
        wanted: The only container engine to try.
    Raises: ConfigError: there is no such container engine, or it does not answer.
    """
    if wanted is not None and wanted not in CONTAINER_ENGINES:
        raise ConfigError(f"engine={wanted!r}: must be one of {', '.join(CONTAINER_ENGINES)}, or codebuild")
    for name in CONTAINER_ENGINES if wanted is None else (wanted,):
        if shutil.which(name) is not None and _answers(name):
            return ContainerEngine(name, say)
    if wanted is not None:
        raise ConfigError(f"{wanted} does not answer: is it installed, and its service running? (`{wanted} info`)")
    return None


def _answers(name: str) -> bool:
    try:
        done = subprocess.run(
            [name, *_ANSWERS[name]], check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
