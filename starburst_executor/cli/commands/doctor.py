"""`starburst doctor`: checks an AWS account end to end."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from starburst_executor.cli import exits
from starburst_executor.cli.options import examples, json_option, stack_options
from starburst_executor.cli.render import show_json_array
from starburst_executor.clock import SystemClock

if TYPE_CHECKING:
    from starburst_executor.aws.clients import Clients
    from starburst_executor.aws.doctor import Finding

__all__ = ["doctor"]

_MARKS = {"right": "ok", "wrong": "WRONG", "unknown": "?"}


@click.command(epilog=examples("starburst doctor", "starburst doctor --profile work --json"))
@stack_options
@json_option
def doctor(clients: Clients, as_json: bool) -> None:
    """Check that the account has everything that workers on AWS need, and print each problem with its remedy.

    The exit status is 1 if a check fails. Nothing is changed, except that one small object is written and deleted.
    """
    from starburst_executor.aws.doctor import WRONG, examine

    findings = []
    for finding in examine(clients, SystemClock()):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        show_json_array(map(dataclasses.asdict, findings))
    if any(finding.verdict == WRONG for finding in findings):
        raise click.exceptions.Exit(exits.NO)


def _show(finding: Finding) -> None:
    click.echo(f"{_MARKS[finding.verdict]:<6} {finding.check:<20} {finding.words}")
    if finding.todo:
        click.echo(f"{'':<28}{'to do' if finding.verdict == 'wrong' else 'it says'}: {finding.todo}")
