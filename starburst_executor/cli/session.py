"""`starburst sessions`, `status` and `cleanup`: list, inspect and end detached sessions."""

from __future__ import annotations

import dataclasses
import json

import click

from starburst_executor import config
from starburst_executor.cli import EXIT_NO
from starburst_executor.cli.options import json_option, store_option
from starburst_executor.client.detached import DetachedExecutor

__all__ = ["cleanup", "sessions", "status"]


@click.command()
@store_option
@json_option
def sessions(store: str | None, as_json: bool) -> None:
    """List the sessions of a store, oldest first. Needs no key.

    Without --store it lists the sessions of the embedded store and, if a stack was set up, those in its bucket.
    """
    stores = _stores(store)
    found = [one for url in stores for one in DetachedExecutor.list_sessions(url)]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    elif not found:
        click.echo(f"no sessions in {' or '.join(stores)}; pass --store to search another store", err=True)
    for one in () if as_json else found:
        click.echo(str(one))


def _stores(named: str | None) -> list[str]:
    """Return the stores to search: the given one, or the embedded store and the bucket of the stack that was set up."""
    own = config.resolve(detached=True, store=named).store
    if named is not None or own != config.default_store(detached=True) or not config.has_stack():
        return [own]
    from starburst_executor.aws.clients import Clients  # loads boto3, which is needed only with a stack
    from starburst_executor.aws.stack.outputs import default_store

    return [own, default_store(Clients(config.resolve_aws()))]


@click.command()
@click.argument("session")
@store_option
@json_option
def status(session: str, store: str | None, as_json: bool) -> None:
    """Count the tasks and workers of SESSION, an id or a URL. Starts nothing and changes nothing."""
    executor = DetachedExecutor.reattach(session, store=store, launcher="none")
    try:
        found = executor.status()
    finally:
        executor.detach()
    click.echo(json.dumps(dataclasses.asdict(found), indent=2) if as_json else str(found))


@click.command()
@click.argument("session")
@store_option
@click.option("--force", is_flag=True, help="Also delete all its objects, including outcomes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cleanup(session: str, store: str | None, force: bool, yes: bool) -> None:
    """End SESSION, an id or a URL: stop its workers and cancel unfinished tasks. Outcomes stay, unless --force."""
    executor = DetachedExecutor.reattach(session, store=store)
    try:
        if not yes:
            click.echo(str(executor.status()), err=True)
            question = "delete it and all its outcomes?" if force else "end it?"
            if not click.confirm(question, err=True):
                raise click.exceptions.Exit(EXIT_NO)
        executor.cleanup(force=force)
    finally:
        executor.detach()
    click.echo(f"session {executor.id}: {'deleted' if force else 'ended'}")
