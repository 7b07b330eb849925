"""`starburst dashboard`: the live page of sessions, in a browser."""

from __future__ import annotations

import webbrowser

import click

from starburst_executor.cli.commands.status import check_recipients
from starburst_executor.cli.options import (
    examples,
    looked_up,
    notify_option,
    optional_session_argument,
    stores_of,
)
from starburst_executor.cli.render import say
from starburst_executor.client.finding import visit
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError

__all__ = ["dashboard"]


@click.command(
    epilog=examples(
        "starburst dashboard last --open",
        "starburst dashboard last --notify ntfy://my-topic",
        "starburst dashboard --store s3://bucket/team --port 8700",
        "starburst dashboard --port 8700 --origin https://hub.example.org --root-path /starburst    # behind a proxy",
        "ssh -N -L 8700:localhost:8700 machine    # then the printed address opens here",
    )
)
@optional_session_argument
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", default=0, type=click.IntRange(0, 65_535), metavar="PORT", help="[default: any that is free]")
@click.option("--open", "opens", is_flag=True, help="Open it in the browser.")
@click.option("--allow-actions", is_flag=True, help="Let the page retry, cancel, scale and extend sessions.")
@click.option(
    "--allow-host", "hosts", multiple=True, metavar="NAME", help="A further name of this machine; may be repeated."
)
@notify_option
@click.option(
    "--origin", default="", metavar="URL", help="Where a proxy serves it, as browsers see it: https://hub.example.org"
)
@click.option("--root-path", default="", metavar="PATH", help="The path under which a proxy serves it.")
def dashboard(
    session: str | None,
    store: str | None,
    *,
    host: str,
    port: int,
    opens: bool,
    allow_actions: bool,
    hosts: tuple[str, ...],
    notify: tuple[str, ...],
    origin: str,
    root_path: str,
) -> None:
    """Show sessions live in a browser: SESSION, or all of a store. Reads the store alone; changes nothing without --allow-actions.

    The printed address has a token in it: who has the address and reaches the port sees what you see. Ctrl-C ends it. With --notify it
    sends messages about SESSION while it runs, whether a browser looks or not.
    """
    try:
        from starburst_executor.dashboard.hub import Places
        from starburst_executor.dashboard.serve import Dashboard
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: the dashboard needs an extra: pip install 'starburst-executor[dashboard]'"
        ) from error
    check_recipients(notify)
    url = None if session is None else looked_up(session, store)
    if url is not None:
        with visit(url, SystemClock()):  # what is not there, or refused, is said here and not in the browser
            pass
    places = Places(stores_of(store), is_given=store is not None)
    page = Dashboard(
        places,
        url,
        host=host,
        port=port,
        root_path=root_path,
        hosts=hosts,
        origin=origin,
        allows_actions=allow_actions,
        notify=notify,
    )
    if not page.is_local:
        say("it listens to other machines too, without encryption: prefer --host 127.0.0.1 and ssh -L")
    click.echo(page.url)
    if opens:
        webbrowser.open(page.url)
    page.run()
