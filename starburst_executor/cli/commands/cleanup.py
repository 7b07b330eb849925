"""`starburst cleanup`: ends sessions, or deletes them."""

from __future__ import annotations

import click

from starburst_executor.cli import exits
from starburst_executor.cli.options import DURATION, examples, looked_up, optional_session_argument, stores_of
from starburst_executor.cli.render import line_of, say
from starburst_executor.client.counting import SessionSummary
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError, StarburstError
from starburst_executor.protocol.records import SessionState

__all__ = ["cleanup"]

_STATES = [state.value for state in SessionState]


@click.command(
    epilog=examples(
        "starburst cleanup last",
        "starburst cleanup last --force --yes",
        "starburst cleanup --older-than 7d --state terminated --force",
    )
)
@optional_session_argument
@click.option(
    "--older-than", type=DURATION, metavar="AGE", help="All sessions without activity for this time: 12h, 7d."
)
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="All sessions in this state.")
@click.option("--force", is_flag=True, help="Also delete all their objects, including outcomes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def cleanup(
    session: str | None,
    store: str | None,
    older_than: float | None,
    states: tuple[str, ...],
    force: bool,
    yes: bool,
) -> None:
    """End SESSION: stop its workers and cancel unfinished tasks. Outcomes stay, unless --force.

    Without SESSION, all sessions of the store that --older-than and --state choose; those of other users, for which there is
    no key here, are left alone.
    """
    if (session is None) is not bool(older_than is not None or states):
        raise ConfigError("cleanup: name one SESSION, or choose several by --older-than or --state")
    if session is not None:
        _clean_one(looked_up(session, store), force=force, yes=yes)
        return
    chosen = _chosen(store, older_than, states)
    if not chosen:
        say("no such sessions; `starburst sessions` lists those that are there")
        return
    if not yes:
        for summary in chosen:
            say(str(summary))
        _ask(f"{'delete' if force else 'end'} {_these(len(chosen))}{' and all outcomes' if force else ''}?")
    n_left = 0
    for summary in chosen:
        try:
            _clean(DetachedExecutor.reattach(summary.url), force=force)
        except StarburstError as error:
            n_left += 1
            say(f"session {summary.id}: left alone: {error}")
    if n_left:
        raise click.exceptions.Exit(exits.STORE)


def _these(n: int) -> str:
    return "this session" if n == 1 else f"these {n:,} sessions"


def _chosen(store: str | None, older_than: float | None, states: tuple[str, ...]) -> list[SessionSummary]:
    now = SystemClock().now()
    return [
        summary
        for url in stores_of(store)
        for summary in DetachedExecutor.list_sessions(url)
        if (not states or summary.state in states)
        and (older_than is None or now - summary.last_activity_at > older_than)
    ]


def _clean_one(url: str, *, force: bool, yes: bool) -> None:
    executor = DetachedExecutor.reattach(url)
    try:
        if not yes:
            say(f"session {executor.id}: {line_of(executor.status())}")
            _ask("delete it and all its outcomes?" if force else "end it?")
    except BaseException:
        executor.detach()
        raise
    _clean(executor, force=force)


def _ask(question: str) -> None:
    if not click.confirm(question, err=True):
        raise click.exceptions.Exit(exits.NO)


def _clean(executor: DetachedExecutor, *, force: bool) -> None:
    try:
        executor.cleanup(force=force)
    finally:
        executor.detach()
    click.echo(f"session {executor.id}: {'deleted' if force else 'ended'}")
