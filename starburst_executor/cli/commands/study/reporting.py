"""`starburst study report`: a page, figures or the numbers of a study."""

from __future__ import annotations

import json
from pathlib import Path

import click

from starburst_executor.cli.commands.study.finding import objects_of, study_argument
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import say
from starburst_executor.clock import SystemClock

__all__ = ["report"]


@click.command(
    epilog=examples(
        "starburst study report shapes",
        "starburst study report shapes --out figures/shapes.pdf",
        "starburst study report shapes --out pareto.svg --figure fronts",
    )
)
@study_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write there: .html, .png, .svg, .pdf or .json.  [default: the study's name, .html]",
)
@click.option("--figure", metavar="NAME", help="Only this figure, as .png, .svg or .pdf: funnel, metrics, lineage, …")
@json_option
def report(named: str, store: str | None, out: Path | None, figure: str | None, as_json: bool) -> None:
    """Write a report on STUDY: one page that opens anywhere, or each figure as a file with its data as CSV beside it. Needs no key.

    It shows parameters, metrics, errors and names of artefacts. Decided stages are in the figures, running ones in the funnel.
    """
    from starburst_executor.report.study.report import StudyReport

    with objects_of(named, store) as objects:
        made = StudyReport.of(objects, SystemClock())
        name = objects.keys.name
    if as_json:
        click.echo(json.dumps(made.to_dict(), default=str))
        if out is None:
            return
    for path in made.save(out or Path(f"{name}.html"), figure=figure):
        say(f"written: {path}")
