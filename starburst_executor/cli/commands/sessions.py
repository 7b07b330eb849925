"""`starburst sessions`: lists the sessions of a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fnmatch import fnmatchcase

import click

from starburst_executor.cli.options import DURATION, examples, json_option, store_option, stores_of
from starburst_executor.cli.render import age, is_terminal, say, show_json, show_table
from starburst_executor.client.counting import SessionSummary
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.finding import visit
from starburst_executor.client.looks import Looks
from starburst_executor.clock import SystemClock
from starburst_executor.protocol.records import SessionState

__all__ = ["sessions"]

_STATES = [state.value for state in SessionState]


@click.command(
    epilog=examples(
        "starburst sessions", "starburst sessions --state open --newer-than 2d", "starburst sessions --counts --json"
    )
)
@store_option
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="In this state; may be repeated.")
@click.option("--older-than", type=DURATION, metavar="AGE", help="Without activity for this time: 30m, 12h, 7d.")
@click.option("--newer-than", type=DURATION, metavar="AGE", help="Created within this time.")
@click.option("--name", "pattern", metavar="PATTERN", help="With a name like this, such as 'nightly*'.")
@click.option("--counts", is_flag=True, help="Count the tasks of each state: one to several hundred reads a session.")
@json_option
def sessions(
    store: str | None,
    states: tuple[str, ...],
    older_than: float | None,
    newer_than: float | None,
    pattern: str | None,
    counts: bool,
    as_json: bool,
) -> None:
    """List the sessions of a store, oldest first. Needs no key.

    Without --store it lists the sessions of the embedded store and, if a stack was set up, those in its bucket.
    """
    stores, now = stores_of(store), SystemClock().now()
    found = [
        summary
        for url in stores
        for summary in DetachedExecutor.list_sessions(url)
        if (not states or summary.state in states)
        and (older_than is None or now - summary.last_activity_at > older_than)
        and (newer_than is None or now - summary.created_at <= newer_than)
        and (pattern is None or (summary.name and fnmatchcase(summary.name, pattern)))
    ]
    if not found:
        which = "no sessions" if not (states or older_than or newer_than or pattern) else "no such sessions"
        say(f"{which} in {' or '.join(stores)}; pass --store to search another store")
        return
    if as_json:
        for summary in found:
            show_json(**dataclasses.asdict(summary), **(_counts(summary) if counts else {}))
    elif counts:
        _show_counts(found)
    elif is_terminal():
        headings = ["session", "name", "created", "last activity", "state", "tasks", "ended"]
        rows = [
            [
                one.id,
                one.name,
                age(now - one.created_at),
                age(now - one.last_activity_at),
                one.state,
                one.n_tasks,
                one.n_ended,
            ]
            for one in found
        ]
        show_table(headings, rows, right=("tasks", "ended"))
    else:
        for summary in found:
            click.echo(str(summary))


_COUNTED = ("pending", "claimed", "running", "completed", "failed", "cancelled")


def _show_counts(found: list[SessionSummary]) -> None:
    rows = [[one.id, one.name, one.state, one.n_tasks, *_counts(one).values()] for one in found]
    show_table(["session", "name", "state", "tasks", *_COUNTED], rows, right=("tasks", *_COUNTED))


def _counts(summary: SessionSummary) -> dict[str, int]:
    return dict(_counted(summary))


def _counted(summary: SessionSummary) -> Iterator[tuple[str, int]]:
    with visit(summary.url, SystemClock()) as visited:
        status = Looks(visited.session).look()
    for name in _COUNTED:
        yield name, getattr(status, name)
