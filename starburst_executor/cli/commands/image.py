"""`starburst image`: build, list, and look at what images of workers are built from."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from starburst_executor.cli.groups import CommandGroup
from starburst_executor.cli.options import examples, json_option, stack_options
from starburst_executor.cli.render import show_json
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError

if TYPE_CHECKING:
    from starburst_executor.aws.image.environment import Environment

__all__ = ["image"]

_base_option = click.option(
    "--base-image",
    metavar="IMAGE",
    help="The image to build on: Debian or Ubuntu with the same minor version of Python.",
)


@click.group(cls=CommandGroup)
def image() -> None:
    """Manage the images in which workers on AWS run."""


@image.command(
    epilog=examples(
        "starburst image build",
        "starburst image build simulate.py --arch arm64",
        "starburst image build --engine codebuild",
    )
)
@click.argument("project", type=click.Path(path_type=Path), default=".")
@click.option(
    "--arch", "archs", multiple=True, help="x86_64 or arm64; can be given twice.  [default: x86_64, as for launchers]"
)
@click.option("--engine", help="docker, podman, buildah or codebuild.  [default: the first that works]")
@_base_option
@stack_options
def build(clients: Any, project: Path, archs: tuple[str, ...], engine: str | None, base_image: str | None) -> None:
    """Build the image that PROJECT needs, unless it exists, and print its URI.

    PROJECT is a folder with a lock file, requirements.txt or pyproject.toml (or one beneath such a folder), or a script,
    whose imports are analysed.
    """
    from starburst_executor.aws.image.images import build_image
    from starburst_executor.aws.stack.outputs import read_stack

    environment = _environment(project, base_image)
    stack = read_stack(clients)
    for arch in archs or ("x86_64",):
        uri = build_image(clients, stack, environment, arch, engine=engine, clock=SystemClock(), say=_say)
        click.echo(uri)


@image.command("list", epilog=examples("starburst image list", "starburst image list --json"))
@json_option
@stack_options
def list_(clients: Any, as_json: bool) -> None:
    """List the images of the stack, newest first."""
    from starburst_executor.aws.image.images import list_images
    from starburst_executor.aws.stack.outputs import read_stack

    images = list_images(clients, read_stack(clients))
    if as_json:
        for one in images:
            show_json(**asdict(one))
        return
    if not images:
        _say("no images: `starburst image build` builds one")
    for one in images:
        pushed = datetime.fromtimestamp(one.pushed_at, timezone.utc)
        click.echo(f"{one.tag:40}  {pushed:%Y-%m-%d %H:%M} UTC  {one.n_bytes / 1e6:7,.0f} MB")


@image.command(epilog=examples("starburst image context /tmp/image simulate.py"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("project", type=click.Path(path_type=Path), default=".")
@_base_option
def context(folder: Path, project: Path, base_image: str | None) -> None:
    """Write the build context of PROJECT's image into a new FOLDER, and print the command that builds it."""
    environment = _environment(project, base_image)
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"it exists already: {folder}; name a new folder") from error
    for name, body in environment.files().items():
        (folder / name).write_bytes(body)
    words = " ".join(f"--build-arg {name}={value}" for name, value in environment.build_arguments().items())
    click.echo(f"docker build {words} --tag starburst-worker:{environment.tag('x86_64')} {folder}")


def _environment(project: Path, base_image: str | None) -> Environment:
    from starburst_executor.aws.image.environment import find_environment

    if not project.exists():
        raise ConfigError(f"no such folder or script: {project}")
    script = project.absolute() if project.is_file() else None
    return find_environment(None if script is not None else project, script=script, base_image=base_image)


def _say(line: str) -> None:
    click.echo(line, err=True)
