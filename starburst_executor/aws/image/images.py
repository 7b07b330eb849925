"""Finds images of workers by their tag, or builds and pushes them, with a container engine of this machine or with CodeBuild.

    Environment ──tag──► is it in the repository? ──yes──► its URI
                                                  └─no──► docker | podman | buildah, else CodeBuild ──► its URI

A tag identifies an image's contents and is immutable, so an existing image is never built again.
"""

from __future__ import annotations

import base64
import platform
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.aws.image.codebuild import build_there
from starburst_executor.aws.image.container_engines import ContainerEngine, find_container_engine
from starburst_executor.aws.image.environment import ARCHS, Environment
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.clock import Clock
from starburst_executor.errors import ConfigError, LaunchError

__all__ = ["CODEBUILD", "Image", "build_image", "image_uri", "list_images", "native_arch"]

CODEBUILD = "codebuild"
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the stack's repository. `pushed_at` is UTC epoch seconds, `n_bytes` is the compressed size."""

    uri: str
    tag: str
    pushed_at: float
    n_bytes: int


def image_uri(clients: Clients, stack: Stack, environment: Environment, arch: str = "x86_64") -> str:
    """Return the URI of the image with this environment.

    Raises: LaunchError: it has not been built. ECR: 1 DescribeImages.
    """
    tag = environment.tag(arch)
    if not _exists(clients, stack, tag):
        command = f"starburst image build {_shown(environment.project)}" + (
            f" --arch {arch}" if arch != ARCHS[0] else ""
        )
        raise LaunchError(
            f"no image for this environment: run `{command}`, or pass another with image=: tag={tag}, "
            f"requirements={environment.requirements.source}, repository={stack.repository_uri}"
        )
    return f"{stack.repository_uri}:{tag}"


def _shown(project: Path) -> str:
    """Return a path as a user types it in the working directory."""
    folder = Path.cwd()
    return shlex.quote(str(project.relative_to(folder) if project.is_relative_to(folder) else project))


def build_image(
    clients: Clients,
    stack: Stack,
    environment: Environment,
    arch: str = "x86_64",
    *,
    clock: Clock,
    say: Callable[[str], None],
    engine: str | None = None,
) -> str:
    """Build and push the image with this environment, unless it exists; return its URI.

    Args:
        arch: `x86_64` or `arm64`.
        say: Called with each line of progress.
        engine: `docker`, `podman`, `buildah` or `codebuild`. By default the first of the three container engines that works, or
            CodeBuild if none works or if this machine has another processor.
    Raises:
        LaunchError: it could not be built or pushed. ConfigError: an unknown container engine or processor.
    ECR: 1 DescribeImages, then 1 GetAuthorizationToken and the container engine's requests, or those of CodeBuild.
    """
    if arch not in ARCHS:
        raise ConfigError(f"arch={arch!r}: must be {' or '.join(ARCHS)}")
    tag = environment.tag(arch)
    uri = f"{stack.repository_uri}:{tag}"
    if _exists(clients, stack, tag):
        say(f"exists: {uri}")
        return uri
    say(f"Python {environment.python}, {environment.requirements.source}")
    builder = _container_engine(stack, arch, engine, say)
    try:
        if builder is None:
            build_there(
                clients, stack, tag, environment.files(), environment.build_arguments(), arch, clock=clock, say=say
            )
        else:
            _build_locally(clients, builder, environment, uri, arch)
    except LaunchError:
        # Tags are immutable: if another client pushed the same tag first, the push is refused.
        if not _exists(clients, stack, tag):
            raise
    say(f"pushed: {uri}")
    return uri


def list_images(clients: Clients, stack: Stack) -> list[Image]:
    """Return the tagged images in the stack's repository, newest first. ECR: 1 DescribeImages per 100."""
    try:
        pages = clients.get("ecr").get_paginator("describe_images").paginate(repositoryName=stack.repository)
        images = [
            Image(f"{stack.repository_uri}:{tag}", tag, detail["imagePushedAt"].timestamp(), detail["imageSizeInBytes"])
            for page in pages
            for detail in page["imageDetails"]
            for tag in detail.get("imageTags", ())
        ]
    except FOREIGN as error:
        raise meaning(error, f"listing the images of {stack.repository_uri}") from error
    return sorted(images, key=lambda image: -image.pushed_at)


def native_arch() -> str | None:
    """Return this machine's processor as images name it; None for other kinds."""
    return _MACHINES.get(platform.machine().lower())


def _container_engine(
    stack: Stack, arch: str, wanted: str | None, say: Callable[[str], None]
) -> ContainerEngine | None:
    """Return the container engine to build with; None for CodeBuild."""
    if wanted == CODEBUILD:
        return None
    # A container engine may be set up to emulate another processor, about ten times slower; CodeBuild has both.
    if wanted is None and arch != native_arch() and stack.codebuild_project is not None:
        return None
    return find_container_engine(say, wanted)


def _build_locally(clients: Clients, engine: ContainerEngine, environment: Environment, uri: str, arch: str) -> None:
    # Log in first, so that a missing right shows before minutes are spent on the build.
    registry = uri.partition("/")[0]
    try:
        [granted] = clients.get("ecr").get_authorization_token()["authorizationData"]
    except FOREIGN as error:
        raise meaning(error, "logging in to the image registry; `--engine codebuild` needs no such right") from error
    user, _, password = base64.b64decode(granted["authorizationToken"]).decode().partition(":")
    engine.login(registry, user, password)
    with tempfile.TemporaryDirectory(prefix="starburst-image-") as folder:
        for name, body in environment.files().items():
            Path(folder, name).write_bytes(body)
        engine.build(Path(folder), uri, arch, environment.build_arguments())
    engine.push(uri)


def _exists(clients: Clients, stack: Stack, tag: str) -> bool:
    try:
        answer = clients.get("ecr").describe_images(repositoryName=stack.repository, imageIds=[{"imageTag": tag}])
    except FOREIGN as error:
        if error_code(error) == "ImageNotFoundException":
            return False
        raise meaning(error, f"looking for an image in {stack.repository_uri}") from error
    return bool(answer["imageDetails"])
