"""`starburst study run` and `resume`: drive a study to its end, or leave that to its workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from starburst_executor.cli import exits
from starburst_executor.cli.commands.study.finding import is_file, of_file, store_url, stored, studies, study_argument
from starburst_executor.cli.commands.study.showing import show_study
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import say, show_json, utc

if TYPE_CHECKING:
    from starburst_executor.study.events import Event
    from starburst_executor.study.report import StudyStatus
    from starburst_executor.study.study import Study

__all__ = ["resume", "run"]

F = TypeVar("F", bound=Callable[..., Any])


def _driving(command: F) -> F:
    """The options of what drives a study."""
    for option in (
        json_option,
        click.option("--detach", is_flag=True, help="Leave driving to the workers, and return at once."),
        click.option("--workers", type=click.IntRange(1, 10_000), metavar="N", help="How many trials run at once."),
        click.option("--launcher", metavar="NAME", help="What starts workers: local, fargate, batch, none, …"),
        click.option("--budget", "budget_usd", type=float, metavar="USD", help="End when workers have cost this much."),
        click.option("--failed", is_flag=True, help="Run failed trials of stages in progress again."),
        click.option("--restart", multiple=True, metavar="STAGE", help="Start this stage, and those below it, over."),
        click.option(
            "--accept-changes", is_flag=True, help="Go on although a started stage was changed; it is written down."
        ),
        click.option("--continue", "continue_aborted", is_flag=True, help="Go on although the study was aborted."),
    ):
        command = option(command)
    return command


@click.command(
    epilog=examples(
        "starburst study run study.yaml",
        "starburst study run study.yaml --workers 50 --launcher fargate-spot --budget 20",
        "starburst study run shapes --failed",
    )
)
@study_argument
@_driving
def run(
    named: str,
    store: str | None,
    workers: int | None,
    launcher: str | None,
    budget_usd: float | None,
    **options: Any,
) -> None:
    """Run STUDY to its end, or go on where it was stopped. Exit status 0 if it is complete, also if it was before.

    SIGTERM and ^C stop at a consistent record; the same command goes on. Several may run at once: one drives, the others watch.
    """
    settings = {"workers": workers, "launcher": launcher, "budget_usd": budget_usd}
    found = (
        of_file(named, store, **settings)
        if is_file(named)
        else studies().resume(named, store=store_url(store), **settings)
    )
    _drive(found, **options)


@click.command(epilog=examples("starburst study resume shapes", "starburst study resume shapes --restart fine"))
@study_argument
@_driving
def resume(
    named: str,
    store: str | None,
    workers: int | None,
    launcher: str | None,
    budget_usd: float | None,
    **options: Any,
) -> None:
    """Go on with STUDY as it is stored: with its stored functions, from any folder and machine."""
    settings = {"workers": workers, "launcher": launcher, "budget_usd": budget_usd}
    name = stored(named, store)
    _drive(studies().resume(name.name, store=name.store, **settings), **options)


def _drive(found: Study, *, detach: bool, as_json: bool, restart: tuple[str, ...], **options: Any) -> None:
    tell = _tell_json if as_json else _tell
    if detach:
        found.start(restart=restart, **options)
        say(f"study {found.name}: workers drive it; `starburst study status {found.name} --watch` shows how far it is")
        return
    status = found.run(restart=restart, progress=tell, **options)
    show_study(status, as_json=as_json)
    raise click.exceptions.Exit(_verdict(status))


def _tell(event: Event) -> None:
    say(f"{utc(event.at)}  {event.text}")


def _tell_json(event: Event) -> None:
    show_json(event=event.kind, text=event.text, at=event.at, **dict(event.data))


def _verdict(status: StudyStatus) -> int:
    return exits.DONE if status.state in ("complete", "open") else exits.NO
