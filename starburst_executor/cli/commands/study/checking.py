"""`starburst study check`: fails a CI job if a study's metrics became worse than those of a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from starburst_executor.cli import exits
from starburst_executor.cli.commands.study.finding import objects_of, study_argument
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import say, show_json
from starburst_executor.errors import ConfigError

if TYPE_CHECKING:
    from starburst_executor.study.baselines import Measured

__all__ = ["check"]


@click.command(
    epilog=examples(
        "starburst study check bench --baseline bench.json --tolerance seconds=2%",
        "starburst study check bench --baseline bench.json --tolerance seconds=2% --update-baseline",
        "starburst study check bench-2 --baseline bench-1 --tolerance seconds=2% --tolerance score=0.01 --direction score=max",
    )
)
@study_argument
@click.option("--baseline", required=True, metavar="FILE|NAME", help="A JSON file, or another study of this store.")
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    metavar="METRIC=N%",
    help="How much worse a mean may be: a share, or a number.",
)
@click.option(
    "--direction",
    "directions",
    multiple=True,
    metavar="METRIC=max|min",
    help="Of a metric that the study does not declare.",
)
@click.option("--stage", metavar="STAGE", help="The stage that is compared.  [default: the last one]")
@click.option("--by", multiple=True, metavar="PARAM", help="A parameter by which trials are compared.  [default: all]")
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of tests and intervals.")
@click.option(
    "--update-baseline",
    is_flag=True,
    help="Write the study's values to the baseline's FILE, and keep its artefacts; exit status 0.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="GITHUB_STEP_SUMMARY",
    show_envvar=True,
    help="Append a table in Markdown to this file.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML to this file.")
@json_option
def check(
    named: str,
    store: str | None,
    baseline: str,
    tolerances: tuple[str, ...],
    directions: tuple[str, ...],
    stage: str | None,
    by: tuple[str, ...],
    confidence: float,
    update_baseline: bool,
    summary: Path | None,
    junit: Path | None,
    as_json: bool,
) -> None:
    """Compare the trials of STUDY with a baseline. Needs no key.

    Exit status 0 if no metric became worse, 1 if one did or is missing, 2 if they cannot be compared. Trials with equal parameters are
    repeats: with two and more, a difference counts if Welch's t-test shows it as well.
    """
    with objects_of(named, store) as objects:
        from starburst_executor.study.baselines import measured
        from starburst_executor.study.check_report import to_markdown, write_junit
        from starburst_executor.study.checking import checked, tolerances_of

        found = measured(objects, stage, by=by or None)
        url = objects.store.url
    path = Path(baseline)
    if update_baseline and not _is_path(baseline):
        raise ConfigError(
            f"--update-baseline writes a file, and {baseline!r} names a study: give a name that ends with .json"
        )
    if update_baseline and not path.exists():
        _update(named, store, path, found)
        say(f"{path} is written; cases: {len(found.cases):,}")
        return
    report = checked(
        found,
        _baseline(baseline, named, url, found.stage, by),
        tolerances_of(tolerances),
        directions=dict(_directions(directions)),
        confidence=confidence,
        named=baseline,
    )
    if summary is not None:
        try:
            with summary.open("a", encoding="utf-8") as file:
                file.write(to_markdown(report))
        except OSError as error:
            raise ConfigError(f"the summary cannot be written: {summary}: {error.strerror}") from error
    if junit is not None:
        write_junit(report, junit)
    if as_json:
        show_json(**report.to_dict())
    else:
        click.echo(str(report))
    if update_baseline:
        _update(named, store, path, found)
        say(f"{path} is written")
        return
    raise click.exceptions.Exit(exits.DONE if report.is_ok else exits.NO)


def _update(named: str, store: str | None, path: Path, found: Measured) -> None:
    from starburst_executor.study.baselines import keep_artefacts, write_baseline

    # Before the file: what it names is then kept already.
    with objects_of(named, store) as objects:
        keep_artefacts(objects, found, path.name)
    write_baseline(path, found)


def _baseline(baseline: str, named: str, store: str, stage: str, by: tuple[str, ...]) -> Measured:
    from starburst_executor.study.baselines import measured, read_baseline

    if _is_path(baseline):
        if not Path(baseline).exists():
            raise ConfigError(f"there is no baseline {baseline}: `--update-baseline` writes it from study {named}")
        return read_baseline(Path(baseline))
    with objects_of(baseline, store) as objects:
        return measured(objects, stage, by=by or None)


def _is_path(baseline: str) -> bool:
    return baseline.endswith(".json") or "/" in baseline


def _directions(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        metric, _, direction = text.partition("=")
        if direction not in ("max", "min") or not metric:
            raise ConfigError(f"--direction {text!r}: must be metric=max or metric=min")
        found.append((metric, direction))
    return found
