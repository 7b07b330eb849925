"""`starburst study run` and `resume`: drive a study to its end, or leave that to its workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from starburst_executor.cli import exits
from starburst_executor.cli.commands.study.finding import is_file, of_file, stored, study_argument
from starburst_executor.cli.commands.study.showing import show_study
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import say, show_json
from starburst_executor.errors import ConfigError

if TYPE_CHECKING:
    from starburst_executor.study.events import Event
    from starburst_executor.study.study import Study

__all__ = ["resume", "run"]

F = TypeVar("F", bound=Callable[..., Any])


def _driving(command: F) -> F:
    """The options of what drives a study."""
    for option in (
        json_option,
        click.option("--detach", is_flag=True, help="Leave driving to the workers, and return at once."),
        click.option("--no-wait", is_flag=True, help="Return when nothing but an approval is missing."),
        click.option(
            "--budget", "budget_usd", type=float, metavar="USD", help="Abort when its workers have cost this much."
        ),
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
@click.option("--workers", type=click.IntRange(1, 10_000), metavar="N", help="How many trials run at once.")
@click.option("--launcher", metavar="NAME", help="What starts workers: local, fargate, batch, none, …")
@click.option("--name", metavar="NAME", help="Of the study, instead of the one in the file.")
@_driving
def run(
    named: str,
    store: str | None,
    name: str | None,
    workers: int | None,
    launcher: str | None,
    budget_usd: float | None,
    **options: Any,
) -> None:
    """Run STUDY to its end, or go on where it was stopped. Exit status 0 if it is complete, also if it was before.

    SIGTERM and ^C stop at a consistent record; the same command goes on. Several may run at once: one drives, the others watch.
    """
    if is_file(named):
        _drive(of_file(named, store, name, workers=workers, launcher=launcher, budget_usd=budget_usd), **options)
        return
    if workers is not None or launcher is not None or name is not None:
        raise ConfigError("--workers, --launcher and --name belong to a study's file; a stored study has its own")
    _drive(stored(named, store, budget_usd=budget_usd), **options)


@click.command(epilog=examples("starburst study resume shapes", "starburst study resume shapes --restart fine"))
@study_argument
@_driving
def resume(named: str, store: str | None, budget_usd: float | None, **options: Any) -> None:
    """Go on with STUDY as it is stored, with its stored functions: from any folder and machine."""
    _drive(stored(named, store, budget_usd=budget_usd), **options)


def _drive(
    study: Study, *, detach: bool, no_wait: bool, as_json: bool, restart: tuple[str, ...], **options: Any
) -> None:
    if detach:
        if restart or any(options.values()):
            raise ConfigError("--detach goes with none of --restart, --failed, --accept-changes, --continue")
        status = study.start()
        if status.state == "open":
            say(
                f"study {study.name}: workers drive it; `starburst study status {study.name} --watch` shows how far it is"
            )
            return
        show_study(status, as_json=as_json)
        raise click.exceptions.Exit(exits.NO if status.state == "aborted" else exits.DONE)
    try:
        status = study.run(restart=restart, wait=not no_wait, progress=_tell_json if as_json else None, **options)
    except (KeyboardInterrupt, SystemExit):
        say(
            f"study {study.name} is stopped, at a consistent record; its submitted trials go on, and the same command goes on with it"
        )
        raise
    show_study(status, as_json=as_json)
    if status.state == "aborted":
        say(f"`starburst study run {study.name} --continue` goes on, with --failed also with the trials that failed")
    raise click.exceptions.Exit(exits.NO if status.state == "aborted" else exits.DONE)


def _tell_json(event: Event) -> None:
    show_json(event=event.kind, text=event.text, at=event.at, **dict(event.data))
