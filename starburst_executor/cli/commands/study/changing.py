"""`starburst study approve`, `abort`, `export`, `import`, `delete`, `fork` and `replay`."""

from __future__ import annotations

import pdb as debugger  # noqa: T100 - what `--pdb` asks for
from contextlib import closing
from pathlib import Path

import click

from starburst_executor.cli import exits
from starburst_executor.cli.commands.study.finding import objects_of, place, store_url, stored, studies, study_argument
from starburst_executor.cli.main import Failed
from starburst_executor.cli.options import examples, store_option
from starburst_executor.cli.render import say, to_json
from starburst_executor.errors import ConfigError, StarburstError

__all__ = ["abort", "approve", "delete", "export", "fork", "import_", "replay"]


@click.command(epilog=examples("starburst study approve shapes coarse --note 'looks right'"))
@study_argument
@click.argument("stage")
@click.option("--by", metavar="WHO", help="Who approves.  [default: this user]")
@click.option("--note", default="", metavar="TEXT", help="Why; it is kept in the record.")
def approve(named: str, store: str | None, stage: str, by: str | None, note: str) -> None:
    """Let the survivors of STAGE, which waits at its gate, go on."""
    from starburst_executor.study.transitions import Unfit

    try:
        stored(named, store).approve(stage, by=by, note=note)
    except (Unfit, LookupError) as error:
        raise ConfigError(f"{error}; `starburst study status {named}` shows which stage waits") from error
    say(f"stage {stage} is approved")


@click.command(epilog=examples("starburst study abort shapes --reason 'wrong data'"))
@study_argument
@click.option("--reason", default="", metavar="TEXT", help="Why; it is kept in the record.")
def abort(named: str, store: str | None, reason: str) -> None:
    """Stop STUDY and keep all that it has: `starburst study run STUDY --continue` goes on."""
    found = stored(named, store)
    if (state := found.status().state) != "open":
        raise ConfigError(f"study {found.name} is {state}: there is nothing to abort")
    found.abort(reason)
    say(f"study {found.name} is aborted; `starburst study run {named} --continue` goes on")


@click.command(
    epilog=examples("starburst study export shapes shapes.json", "starburst study export shapes shapes.json --previous")
)
@study_argument
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--previous", is_flag=True, help="The generation before the last change, for a record that cannot be read."
)
def export(named: str, store: str | None, file: Path, previous: bool) -> None:
    """Write the record of STUDY, with its tables of trials, as readable JSON to FILE, or to standard output with `-`; without artefacts
    and functions. Needs no key."""
    from starburst_executor.study.copies import exported

    with objects_of(named, store) as objects:
        text = exported(objects, objects.previous() if previous else objects.read())
    if str(file) == "-":
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    say(f"{file} is written; `starburst study fetch {named}` fetches artefacts")


@click.command(
    "import",
    epilog=examples(
        "starburst study import shapes.json --store s3://bucket/team",
        "starburst study import shapes.json --name shapes-2",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--name", metavar="NAME", help="The study's name.  [default: as it was]")
@click.option("--replace", is_flag=True, help="Put it in the place of a study whose record cannot be read.")
@store_option
def import_(file: Path, name: str | None, replace: bool, store: str | None) -> None:
    """Take the study of FILE, which `export` wrote, into a store. Its artefacts and functions are not in the file."""
    url = store_url(store)
    found = studies().import_(file, store=url, name=name, replace=replace)
    say(
        f"study {found} is in {url}, without artefacts and functions: the file or the program that defines its stages goes on with it; "
        f"`starburst study validate {found}` lists what it misses"
    )


@click.command(epilog=examples("starburst study delete shapes"))
@study_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(named: str, store: str | None, yes: bool) -> None:
    """Delete STUDY and its session, with everything that they store; also a study that cannot be read."""
    found, url = place(named, store)
    from starburst_executor.study.opened import OpenedStudy, open_studies

    if not yes:
        click.confirm(f"delete study {found} in {url}, with all outcomes and artefacts?", abort=True)
    with closing(open_studies(url)) as opened:
        OpenedStudy(found, opened, None).delete()
    say(f"study {found} is deleted")


@click.command(epilog=examples("starburst study fork shapes fine shapes-2"))
@study_argument
@click.argument("stage")
@click.argument("new_name")
def fork(named: str, store: str | None, stage: str, new_name: str) -> None:
    """Make a study NEW_NAME that keeps everything of STUDY before STAGE."""
    try:
        found = stored(named, store).fork(stage, name=new_name)
    except LookupError as error:
        raise ConfigError(str(error.args[0] if error.args else error)) from error
    say(f"study {found.name} begins at {stage}: `starburst study run {found.name}`")


@click.command(
    epilog=examples("starburst study replay shapes coarse/3", "starburst study replay shapes coarse/3 --pdb")
)
@study_argument
@click.argument("trial")
@click.option("--pdb", is_flag=True, help="Enter the debugger where it raises.")
def replay(named: str, store: str | None, trial: str, pdb: bool) -> None:
    """Run one trial, such as coarse/3, again here, with the same case, parameters and seed. Nothing is stored."""
    from starburst_executor.study.failures import TrialFailed

    found = stored(named, store)
    try:
        metrics = found.replay(trial)
    except TrialFailed as error:
        raise Failed(str(error), exits.NO) from error
    except StarburstError:
        raise
    except LookupError as error:
        raise ConfigError(str(error.args[0] if error.args else error)) from error
    except Exception as error:  # user code runs here
        if pdb:
            debugger.post_mortem(error.__traceback__)
        raise Failed(f"trial {trial} raises {type(error).__name__}: {error}", exits.NO) from error
    click.echo(to_json(metrics))
