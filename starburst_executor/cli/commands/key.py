"""`starburst key`: exports one session's key, and imports it on another machine."""

from __future__ import annotations

import sys

import click

from starburst_executor import config
from starburst_executor.cli.groups import CommandGroup
from starburst_executor.cli.options import examples, looked_up, session_argument
from starburst_executor.cli.render import say
from starburst_executor.client import registry
from starburst_executor.client.finding import visit
from starburst_executor.clock import SystemClock
from starburst_executor.errors import KeyNotFound
from starburst_executor.store.url import split_url

__all__ = ["key"]


@click.group(cls=CommandGroup)
def key() -> None:
    """Keys of sessions: values and errors cannot be read without."""


@key.command(epilog=examples("starburst key export last", "export STARBURST_KEY=$(starburst key export last)"))
@session_argument
def export(session: str, store: str | None) -> None:
    """Print the key of SESSION: 64 hexadecimal digits.

    With this key a person can read that session's data, and run code in its workers and clients. Pass it as STARBURST_KEY or
    as key=, or import it with `starburst key import`. It does not open other sessions.
    """
    # A URL is believed: its session may be on a store that cannot be reached from here.
    session_id = split_url(session if "://" in session else looked_up(session, store))[1]
    # Only the key goes to standard output, so that $(starburst key export …) works.
    click.echo(config.find_session_key(session_id).hex())


@key.command(
    "import", epilog=examples("starburst key import s3://bucket/team/ID", "starburst key import URL < key.txt")
)
@session_argument
@click.option("--replace", is_flag=True, help="Replace a key that was imported before.")
def import_(session: str, store: str | None, replace: bool) -> None:
    """Import the key of SESSION, usually by its URL, so that commands and programs on this machine find both.

    The key is asked for, or read from standard input, so that it is in no list of processes and in no history of a shell. It is
    kept in a file of its own that only you can read.
    """
    url = looked_up(session, store)
    text = click.prompt("key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    session_id = split_url(url)[1]
    with visit(url, SystemClock(), key=text.strip()) as visited:
        if not visited.session.sealer.has_key:
            raise KeyNotFound(f"that is not the key of this session: session={session_id}; nothing was taken in")
    path = config.import_session_key(session_id, text.strip(), replace=replace)
    registry.remember(session_id, url)
    say(f"key of session {session_id} is in {path}: `starburst status {session_id}`")
