"""`starburst quota`: shows the account's quotas of vCPUs and their use, and requests higher ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from starburst_executor.cli import exits
from starburst_executor.cli.options import examples, json_option, stack_options
from starburst_executor.cli.render import say, show_json
from starburst_executor.errors import ConfigError

if TYPE_CHECKING:
    from starburst_executor.aws.clients import Clients

__all__ = ["quota"]


@click.command(
    epilog=examples("starburst quota", "starburst quota fargate-spot --json", "starburst quota fargate --request 500")
)
@click.argument("kind", required=False)
@click.option("--request", "vcpus", type=click.FloatRange(min=1), metavar="N", help="Request a quota of N vCPUs.")
@click.option("--yes", is_flag=True, help="Do not ask back.")
@json_option
@stack_options
def quota(clients: Clients, kind: str | None, vcpus: float | None, yes: bool, as_json: bool) -> None:
    """Show the number of vCPUs that may run at once in the account and region, of KIND or of every kind.

    KIND: fargate, fargate-spot, ec2, ec2-spot, ec2-gpu, ec2-gpu-spot.
    """
    from starburst_executor.aws.billing.quotas import KINDS, read_quota, request_quota

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"there is no such kind of quota: {kind!r}; there are {', '.join(KINDS)}")
    if vcpus is None:
        found = {name: read_quota(clients, KINDS[name]) for name in ([kind] if kind else KINDS)}
        if as_json:
            for name, one in found.items():
                show_json(kind=name, quota=None if one is None else dataclasses.asdict(one))
            return
        click.echo(f"{'kind':<14}{'vCPUs':>8}{'in use':>8}{'left':>8}")
        for name, one in found.items():
            cells = ["?", "?", "?"]
            if one is not None:
                in_use = "?" if one.in_use is None else f"{one.in_use:g}"
                cells = [f"{one.limit:g}", in_use, f"{one.room:g}"]
            click.echo(f"{name:<14}" + "".join(f"{cell:>8}" for cell in cells))
        if None in found.values():
            say("?: these credentials may not read it, or AWS does not tell it here")
        return
    if kind is None:
        raise ConfigError(f"--request needs a KIND: one of {', '.join(KINDS)}")
    if not yes and not click.confirm(f"ask AWS for {vcpus:g} vCPUs of {kind} in {clients.region}?", err=True):
        raise click.exceptions.Exit(exits.NO)
    state = request_quota(clients, KINDS[kind], vcpus)
    click.echo(f"{kind}: asked for {vcpus:g} vCPUs in {clients.region}: {state}; AWS answers within minutes to days")
