"""`starburst study`: staged campaigns of trials, from YAML files or by name."""

from __future__ import annotations

import click

from starburst_executor.cli.commands.study.changing import abort, approve, export, fork, import_, replay
from starburst_executor.cli.commands.study.driving import resume, run
from starburst_executor.cli.commands.study.files import init, schema
from starburst_executor.cli.commands.study.looking import events, list_, status, validate

__all__ = ["study"]


@click.group()
def study() -> None:
    """Run campaigns of stages and trials, which go on exactly where they were stopped.

    STUDY is the name of a study in the store, or a YAML file that describes one: `starburst study init` writes an example.
    """


for _command in (
    init, schema, run, resume, status, list_, approve, abort, validate, events, export, import_, fork, replay,
):  # fmt: skip
    study.add_command(_command)
