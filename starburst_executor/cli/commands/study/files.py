"""`starburst study init` and `schema`: what a file may hold."""

from __future__ import annotations

import json
from pathlib import Path

import click

from starburst_executor.cli.commands.study.finding import studies
from starburst_executor.cli.options import examples
from starburst_executor.cli.render import say
from starburst_executor.errors import ConfigError

__all__ = ["init", "schema"]


@click.command(epilog=examples("starburst study init", "starburst study init sweep.yaml"))
@click.argument("file", type=click.Path(path_type=Path), default=Path("study.yaml"))
@click.option("--replace", is_flag=True, help="Overwrite the file if it is there.")
def init(file: Path, replace: bool) -> None:
    """Write an example of a study to FILE, which runs as it is."""
    studies()
    from starburst_executor.study.yaml import EXAMPLE

    try:
        with file.open("w" if replace else "x", encoding="utf-8") as opened:
            opened.write(EXAMPLE)
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already: give another name, or --replace") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    say(f"{file} is written: `starburst study run {file}` runs it")


@click.command(epilog=examples("starburst study schema > study.schema.json"))
def schema() -> None:
    """Print the JSON Schema of a study's file, for editors."""
    studies()
    from starburst_executor.study.yaml_model import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
