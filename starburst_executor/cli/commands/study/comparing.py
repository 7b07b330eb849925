"""`starburst study compare`: two studies side by side."""

from __future__ import annotations

import click

from starburst_executor.cli.commands.study.finding import StudyName, objects_of, study_argument
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import show_json

__all__ = ["compare"]


@click.command(
    epilog=examples("starburst study compare shapes shapes-2", "starburst study compare shapes shapes-2 --json")
)
@study_argument
@click.argument("other", metavar="OTHER", type=StudyName())
@json_option
def compare(named: str, store: str | None, other: str, as_json: bool) -> None:
    """Show what differs between STUDY and OTHER: metrics by stage, configuration and code, survivors. Needs no key."""
    with objects_of(named, store) as first, objects_of(other, store) as second:
        from starburst_executor.study.comparing import compared, side_of

        found = compared(side_of(first), side_of(second))
    if as_json:
        show_json(**found.to_dict())
    else:
        click.echo(str(found))
