"""Shows how far a study is: the funnel of its stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from starburst_executor.cli.render import is_terminal, show_json

if TYPE_CHECKING:
    from starburst_executor.study.status import StudyStatus

__all__ = ["funnel", "show_study", "table_of"]

_SURVIVORS = 3  # named in a table; the others are counted


def show_study(found: StudyStatus, *, as_json: bool) -> None:
    """Print the state of a study, once."""
    if as_json:
        show_json(**found.to_dict())
    elif is_terminal():
        from rich.console import Console

        Console().print(table_of(found))
    else:
        click.echo(str(found))


def funnel(found: StudyStatus) -> str:
    """Return how many trials each stage has ended, and how many survived: `coarse 40/40 > 4, fine 20/20 > 2 (waits for approval)`."""
    return ", ".join(
        f"{stage.name} {stage.completed + stage.failed + stage.cancelled}/{stage.trials}"
        + (f" > {len(stage.survivors)}" if stage.state in ("done", "waiting") else "")
        + (" (waits for approval)" if stage.state == "waiting" else "")
        for stage in found.stages
    )


_COLOURS = {"done": "green", "complete": "green", "running": "cyan", "waiting": "yellow", "aborted": "red"}


def table_of(found: StudyStatus) -> Any:
    """Return the funnel as a table of rich."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = Text(f"study {found.name} is {found.state}", style=f"bold {_COLOURS.get(found.state, '')}".strip())
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("stage", "state", "", "completed", "failed", "cancelled", "survivors"):
        table.add_column(
            heading, justify="right" if heading in ("completed", "failed", "cancelled") else "left", overflow="fold"
        )
    for stage in found.stages:
        ended = stage.completed + stage.failed + stage.cancelled
        survivors = ", ".join(stage.survivors[:_SURVIVORS]) + (
            f" and {len(stage.survivors) - _SURVIVORS:,} more" if len(stage.survivors) > _SURVIVORS else ""
        )
        table.add_row(
            stage.name,
            Text(stage.state, style=_COLOURS.get(stage.state, "")),
            ProgressBar(total=max(1, stage.trials), completed=ended, width=24),
            f"{stage.completed:,}",
            Text(f"{stage.failed:,}", style="red" if stage.failed else ""),
            f"{stage.cancelled:,}",
            survivors,
        )
    return Group(title, table, *([Text(found.reason)] if found.reason else []))
