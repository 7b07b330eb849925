"""`starburst teardown`: removes the stack that `starburst setup` made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from starburst_executor import config
from starburst_executor.cli import exits
from starburst_executor.cli.options import examples, stack_options
from starburst_executor.clock import SystemClock
from starburst_executor.errors import LaunchError

if TYPE_CHECKING:
    from starburst_executor.aws.clients import Clients

__all__ = ["teardown"]


@click.command(epilog=examples("starburst teardown", "starburst teardown --stack trial --yes --force"))
@stack_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Stop running workers.")
def teardown(clients: Clients, yes: bool, force: bool) -> None:
    """Remove a stack and everything in it: sessions with their outcomes, images, logs, keys. A bucket, a cluster and a VPC that
    existed before stay.

    It is refused while workers run, unless --force is given. If it is interrupted, run it again.
    """
    from starburst_executor.aws.stack.contents import contents, running
    from starburst_executor.aws.stack.teardown import tear_down

    clock, settings = SystemClock(), clients.settings
    has = contents(clients)
    if has is None:
        config.forget_aws(config.AwsSettings(stack=settings.stack, region=clients.region))
        raise LaunchError(f"no stack {settings.stack!r} in {clients.region}: nothing to remove")
    alive = running(clients, has, clock)
    if alive and not force:
        raise LaunchError(
            f"stack {settings.stack!r} is in use: {alive}; wait for them, end their sessions (`starburst cleanup`), or "
            f"stop them with --force{': ' + ', '.join(alive.sessions[:5]) if alive.sessions else ''}"
        )
    if not yes:
        lost = " and ".join(f"s3://{bucket}" for bucket in has.buckets)
        stays = f"sessions in s3://{has.given_bucket} stay, without their workers" if has.given_bucket else ""
        words = "; ".join(filter(None, (f"every session in {lost} will be lost" if lost else "", stays)))
        click.echo(f"stack {settings.stack} in {clients.region}: {words}", err=True)
        if click.prompt("type the stack's name to remove it", err=True) != settings.stack:
            click.echo("that is not the stack's name: nothing was changed", err=True)
            raise click.exceptions.Exit(exits.NO)
    left = tear_down(clients, clock, has, lambda line: click.echo(line, err=True))
    click.echo(f"stack {settings.stack} in {clients.region} is removed")
    for words in left:
        click.echo(f"left: {words}")
    click.echo(
        "left: roles that are linked to services (AWSServiceRoleFor…): the account's other users may need them, and they "
        "cost nothing",
        err=True,
    )
