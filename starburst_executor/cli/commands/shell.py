"""`starburst shell`: a shell in a worker on AWS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from starburst_executor.cli.options import examples, stack_options

if TYPE_CHECKING:
    from starburst_executor.aws.clients import Clients

__all__ = ["shell"]


@click.command(
    epilog=examples("starburst shell 1a2260d01fa-44f22512", "starburst shell 1a2260d01fa-44f22512 --command bash")
)
@click.argument("worker")
@click.option("--command", metavar="TEXT", default="/bin/sh", show_default=True, help="The program to run.")
@stack_options
def shell(clients: Clients, worker: str, command: str) -> None:
    """Open a shell in WORKER, on Fargate, EC2 or Batch, by its id. Needs `starburst setup --shell` and AWS's session-manager-plugin."""
    from starburst_executor.aws.shell import open_shell
    from starburst_executor.aws.stack.outputs import read_stack

    raise click.exceptions.Exit(open_shell(clients, read_stack(clients), worker, command))
