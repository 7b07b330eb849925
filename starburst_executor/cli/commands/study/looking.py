"""`starburst study list`, `status`, `events` and `validate`: look, and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Signal
from typing import TYPE_CHECKING

import click

from starburst_executor.cli import exits
from starburst_executor.cli.commands.study.finding import (
    StudyName,
    is_file,
    looked_at,
    of_file,
    store_url,
    stored,
    studies,
    study_argument,
)
from starburst_executor.cli.commands.study.showing import funnel, show_study, table_of
from starburst_executor.cli.options import examples, json_option, store_option
from starburst_executor.cli.render import is_terminal, say, show_json, show_table
from starburst_executor.clock import SystemClock
from starburst_executor.errors import RecordInvalid, StudyNotFound, VersionMismatch

if TYPE_CHECKING:
    from starburst_executor.study.status import StudyStatus

__all__ = ["events", "list_", "status", "validate"]

_WATCH_S = 2.0


@click.command("list", epilog=examples("starburst study list", "starburst study list --json"))
@store_option
@json_option
def list_(store: str | None, as_json: bool) -> None:
    """List the studies of a store. Needs no key."""
    url = store_url(store)
    names = studies().names(url)
    if not names:
        say(f"no studies in {url}; `starburst study init` writes an example")
        return
    found = []
    for name in names:
        try:
            with looked_at(name, url) as look:
                found.append(look())
        except StudyNotFound:
            continue  # its process died before it had created the record, or it was just deleted
        except (RecordInvalid, VersionMismatch) as error:
            say(f"study {name} cannot be read: {error}")
    if as_json:
        for one in found:
            show_json(**one.to_dict())
        return
    rows = [[one.name, one.state, funnel(one), one.reason] for one in found]
    show_table(["study", "state", "stages", "reason"], rows)


@click.command(epilog=examples("starburst study status shapes", "starburst study status shapes --watch"))
@study_argument
@click.option("--watch", is_flag=True, help="Go on until the study is complete or aborted.")
@json_option
def status(named: str, store: str | None, watch: bool, as_json: bool) -> None:
    """Show the stages of STUDY: state, trials by outcome, survivors. Starts nothing, needs no key."""
    with looked_at(named, store) as look:
        if not watch:
            show_study(look(), as_json=as_json)
            return
        clock, never = SystemClock(), Signal()
        with _watching(as_json) as show:
            while True:
                found = look()
                show(found)
                if found.state != "open":
                    return
                clock.wait(never, _WATCH_S)


@contextmanager
def _watching(as_json: bool) -> Iterator[Callable[[StudyStatus], None]]:
    """Yield what shows a status again and again: a table in place on a terminal, a line for each change elsewhere."""
    if as_json:
        yield lambda found: show_json(**found.to_dict())
        return
    if is_terminal():
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            yield lambda found: live.update(table_of(found), refresh=True)
        return
    shown: list[str] = []

    def show(found: StudyStatus) -> None:
        line = f"{found.name} is {found.state}: {funnel(found)}"
        if shown[-1:] != [line]:
            shown[:] = [line]
            click.echo(line)

    yield show


@click.command(epilog=examples("starburst study events shapes", "starburst study events shapes | jq .text"))
@study_argument
def events(named: str, store: str | None) -> None:
    """Print what has happened in STUDY: JSON lines of study, stages and trials, in the order of time."""
    for event in stored(named, store).events():
        show_json(kind=event.kind, at=event.at, text=event.text, **event.data)


@click.command(epilog=examples("starburst study validate study.yaml", "starburst study validate shapes"))
@click.argument("named", metavar="STUDY", type=StudyName())
@click.option("--file-only", is_flag=True, help="Check the file alone, not what is in the store.")
@store_option
@json_option
def validate(named: str, store: str | None, file_only: bool, as_json: bool) -> None:
    """Check a study's file, and all that is stored of STUDY. Prints every fault; exit status 1 if there is one."""
    found = of_file(named, store) if is_file(named) else None
    issues: list[str] = []
    if not file_only and (found is None or found.name in studies().names(found.store)):
        issues = stored(named, store).validate()
    if as_json:
        show_json(study=named, issues=issues)
    else:
        for issue in issues:
            click.echo(issue)
        say(f"{named}: {len(issues) or 'no'} fault{'' if len(issues) == 1 else 's'}")
    raise click.exceptions.Exit(exits.NO if issues else exits.DONE)
