"""`starburst study`: staged campaigns of trials, from YAML files or by name."""

from __future__ import annotations

import click

from starburst_executor.cli.commands.study.changing import abort, approve, delete, export, fork, import_, replay
from starburst_executor.cli.commands.study.checking import check
from starburst_executor.cli.commands.study.comparing import compare
from starburst_executor.cli.commands.study.driving import resume, run
from starburst_executor.cli.commands.study.files import init, schema
from starburst_executor.cli.commands.study.keeping import cleanup, fetch
from starburst_executor.cli.commands.study.looking import events, list_, status, validate
from starburst_executor.cli.commands.study.reporting import report
from starburst_executor.cli.groups import CommandGroup

__all__ = ["study"]


_HEADINGS = {
    "init": "Write and run",
    "status": "Look into",
    "fetch": "Artefacts",
    "check": "Compare",
    "approve": "Change",
    "export": "Files",
}


@click.group(cls=CommandGroup, headings=_HEADINGS)
def study() -> None:
    """Run campaigns of stages and trials, which go on exactly where they were stopped.

    STUDY is the name of a study in the store, or a YAML file that describes one: `starburst study init` writes an example.
    """


for _command in (
    init, run, resume, replay,
    status, list_, events, report, validate,
    fetch, cleanup,
    check, compare,
    approve, abort, fork, delete,
    export, import_, schema,
):  # fmt: skip
    study.add_command(_command)
