"""`starburst study fetch` and `cleanup`: what trials saved."""

from __future__ import annotations

from pathlib import Path

import click

from starburst_executor.cli.commands.study.finding import objects_of, study_argument
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import say, show_json, show_table
from starburst_executor.errors import ConfigError

__all__ = ["cleanup", "fetch"]


@click.command(
    epilog=examples(
        "starburst study fetch shapes --list",
        "starburst study fetch shapes --survivors --to winners",
        "starburst study fetch shapes fine/3 coarse --name '*.svg'",
    )
)
@study_argument
@click.argument("trials", nargs=-1, metavar="[TRIAL]...")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where files are written.  [default: the study's name]",
)
@click.option("--name", metavar="PATTERN", help="Only artefacts of such names, as in '*.png'.")
@click.option("--survivors", is_flag=True, help="Only artefacts of trials that were selected.")
@click.option("--list", "lists", is_flag=True, help="List them, and fetch none.")
@json_option
def fetch(
    named: str,
    store: str | None,
    trials: tuple[str, ...],
    folder: Path | None,
    name: str | None,
    survivors: bool,
    lists: bool,
    as_json: bool,
) -> None:
    """Write what trials of STUDY saved as files FOLDER/STAGE/INDEX/NAME. TRIAL is a trial such as fine/3, or a stage.

    What is there already with the same content is not fetched again. Needs no key.
    """
    from starburst_executor.study.fetching import artefacts_of, check_trials, chosen_of
    from starburst_executor.study.fetching import fetch as fetched

    with objects_of(named, store) as objects:
        record = objects.read()
        try:
            check_trials(record, trials)
        except LookupError as error:
            raise ConfigError(str(error.args[0])) from error
        chosen = chosen_of(artefacts_of(objects, record), trials=trials, name=name, survivors=survivors)
        paths = {}
        if not lists:
            folder = folder or Path(objects.keys.name)
            try:
                paths = {one: str(path) for one, path in fetched(objects, chosen, folder)}
            except OSError as error:
                raise ConfigError(f"artefacts cannot be written to {folder}: {error}") from error
    if as_json:
        for one in chosen:
            show_json(
                trial=one.trial, name=one.name, digest=one.digest, bytes=one.size, kind=one.kind, survivor=one.is_survivor,
                **({} if lists else {"path": paths[one]}),
            )  # fmt: skip
    elif lists and chosen:
        rows = [
            [one.trial, one.name, f"{one.size:,}", one.kind, "yes" if one.is_survivor else "", one.digest[:12]]
            for one in chosen
        ]
        show_table(["trial", "name", "bytes", "kind", "survivor", "sha256"], rows)
    size = sum({one.digest: one.size for one in chosen}.values())
    what = f"{len(chosen):,} artefacts, {size:,} different bytes"
    say(what if lists else f"{what}: written to {folder}")


@click.command(epilog=examples("starburst study cleanup shapes", "starburst study cleanup shapes --keep none"))
@study_argument
@click.option(
    "--keep",
    type=click.Choice(["all", "survivors", "none"]),
    default="survivors",
    show_default=True,
    help="Whose artefacts are kept; all removes only those that no outcome names.",
)
@json_option
def cleanup(named: str, store: str | None, keep: str, as_json: bool) -> None:
    """Remove artefacts of STUDY that are not needed any more. Those that a baseline names are kept. Needs no key.

    Its record, its tables and all metrics stay.
    """
    from starburst_executor.study.fetching import clean

    with objects_of(named, store) as objects:
        done = clean(objects, objects.read(), keep)
        name = objects.keys.name
    if as_json:
        show_json(study=name, removed=done.removed, removed_bytes=done.removed_bytes, kept=done.kept)
    say(
        f"study {name}: {done.removed:,} objects of {done.removed_bytes:,} bytes are removed, {done.kept:,} artefacts are kept"
    )
