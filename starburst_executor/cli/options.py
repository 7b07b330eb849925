"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from starburst_executor import config

__all__ = ["json_option", "stack_options", "store_option"]

F = TypeVar("F", bound=Callable[..., Any])

store_option = click.option(
    "--store",
    metavar="URL",
    help="The store to search.  [default: STARBURST_STORE, the config file, the embedded store]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def stack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--stack`, `--region` and `--profile`; the command gets `clients` instead of them."""

    @click.option("--stack", "--name", "stack", metavar="NAME", help="The stack's name.  [default: starburst]")
    @click.option("--region", metavar="REGION", help="Its AWS region.  [default: that of the AWS tools]")
    @click.option("--profile", metavar="NAME", help="A profile of the AWS config files.")
    @functools.wraps(command)
    def wrapped(stack: str | None, region: str | None, profile: str | None, **others: Any) -> Any:
        from starburst_executor.aws.clients import Clients  # loads boto3, which only commands that call AWS need

        settings = config.resolve_aws(stack=stack, region=region, profile=profile)
        return command(clients=Clients(settings), **others)

    return wrapped
