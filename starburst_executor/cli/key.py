"""`starburst key export`: one session's key, to pass to another machine."""

from __future__ import annotations

import click

from starburst_executor import config
from starburst_executor.client.registry import known_url
from starburst_executor.errors import SessionNotFound
from starburst_executor.protocol.keys import is_session_id
from starburst_executor.store.url import split_url

__all__ = ["key"]


@click.group()
def key() -> None:
    """Export keys of sessions."""


@key.command()
@click.argument("session")
def export(session: str) -> None:
    """Print the key of SESSION, an id or a URL: 64 hexadecimal digits.

    With this key a person can read that session's data, and run code in its workers and clients. Pass it as STARBURST_KEY or
    as key=. It does not open other sessions.
    """
    session_id = session if is_session_id(session) else split_url(session)[1]
    if session == session_id and known_url(session_id) is None:
        raise SessionNotFound(
            f"no such session was started on this machine: session={session_id}; pass its URL to export its key anyway"
        )
    # Only the key goes to standard output, so that $(starburst key export …) works.
    click.echo(config.find_session_key(session_id).hex())
