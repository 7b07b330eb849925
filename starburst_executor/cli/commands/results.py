"""`starburst results`, `errors`, `explain` and `joblog`: what became of the tasks."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from starburst_executor.cli.commands.status import looking
from starburst_executor.cli.inputs import short
from starburst_executor.cli.options import OUT, examples, json_option, opened, session_argument
from starburst_executor.cli.render import is_terminal, printable, say, show_json, utc
from starburst_executor.cli.writers import FORMATS, format_for, write_all
from starburst_executor.client.explaining import explain_session, explain_task
from starburst_executor.client.failing import FailureKind, failure_kinds
from starburst_executor.client.reading import Reading
from starburst_executor.client.results import Outcome, Selection, stream
from starburst_executor.errors import ConfigError
from starburst_executor.programs import PROGRAM_FAILED
from starburst_executor.protocol.spans.record import State

__all__ = ["errors", "explain", "joblog", "results"]


_INDEX = re.compile(r"\d{1,100}", re.ASCII)


@click.command(
    epilog=examples(
        "starburst results last",
        "starburst results last --out results.csv",
        "starburst results last --failed --format jsonl",
        "starburst results last --index 0:100,250",
    )
)
@session_argument
@click.option("--out", type=OUT, metavar="FILE|DIR", help="Write there; into a folder a file each.")
@click.option("--format", "kind", type=click.Choice(FORMATS), help="[default: by the suffix of FILE, else jsonl]")
@click.option("--failed", is_flag=True, help="Only tasks that failed.")
@click.option(
    "--index", metavar="RANGES", help="Only these, as in 1:10,20: from the first up to but not including the last."
)
@click.option("--json", "as_json", is_flag=True, help="As --format jsonl.")
def results(
    session: str, store: str | None, out: Path | None, kind: str | None, failed: bool, index: str | None, as_json: bool
) -> None:
    """Print the outcomes of the tasks of SESSION that have ended, in submission order. Memory does not grow with their number.

    jsonl: a JSON object a line, with task, index, state, and value or error; what JSON cannot express is written as text. csv and parquet:
    a column for each key if values are dicts. pickle: one pickled dict after the other, with values as they were.
    """
    states = frozenset({State.FAILED} if failed else {State.COMPLETED, State.FAILED, State.CANCELLED})
    selection = Selection(states, None if index is None else _ranges(index))
    kind = "jsonl" if as_json else format_for(out, kind)
    counts: Counter[str] = Counter()
    with opened(session, store, needs_key=True) as visited:
        visited.session.manifest.check_python()
        write_all(_counted(stream(Reading(visited.session), selection), counts), out, kind)
    if out is not None or is_terminal():
        words = ", ".join(f"{n:,} {state}" for state, n in sorted(counts.items()))
        words = words or f"no {'such tasks' if failed or index is not None else 'tasks'} have ended"
        say(f"{words}{'' if out is None else f'; written to {out}'}")


def _counted(outcomes: Iterator[Outcome], counts: Counter[str]) -> Iterator[Outcome]:
    for outcome in outcomes:
        counts[outcome.task.state.name.lower()] += 1
        yield outcome


def _ranges(text: str) -> tuple[tuple[int, float], ...]:
    """Return the ranges of `1:10,20,30:`."""
    ranges = []
    for part in text.split(","):
        start, colon, stop = part.strip().partition(":")
        if not all(_INDEX.fullmatch(one) for one in (start, stop) if one) or not (start or colon):
            raise ConfigError(f"--index {short(text)}: write single indices and ranges, as in 1:10,20")
        first = int(start or 0)
        ranges.append((first, (int(stop) if stop else float("inf")) if colon else first + 1))
    return tuple(ranges)


@click.command(epilog=examples("starburst errors last", "starburst errors last --json"))
@session_argument
@json_option
def errors(session: str, store: str | None, as_json: bool) -> None:
    """Show the failures of SESSION, grouped by exception and place: how many, first and last, one traceback, example inputs."""
    with opened(session, store, needs_key=True) as visited:
        kinds = failure_kinds(Reading(visited.session))
        session_id = visited.session.session_id
    if as_json:
        for one in kinds:
            show_json(**dataclasses.asdict(one))
        return
    if not kinds:
        say(f"no task of session {session_id} has failed")
    for one in kinds:
        _show(one)
    again = f"run only what failed: starburst retry {session_id} --failed"
    if any(one.type_name == PROGRAM_FAILED for one in kinds):
        say(f"fix the program where workers find it, and {again}")
    elif any(one.place for one in kinds):
        say(f"fix the function, and {again} --with script.py:function")
    elif kinds:  # nothing that it has raised: it took too long, say, or its worker was lost
        say(f"{again}; after a change of the function, --with script.py:function")


def _show(one: FailureKind) -> None:
    name = one.type_name.removeprefix("builtins.")
    click.secho(f"{one.n_tasks:,} × {name}{f' at {one.place}' if one.place else ''}", bold=True)
    click.echo(f"  first {utc(one.first_at)}, last {utc(one.last_at)}")
    if one.message:
        click.echo(f"  message: {printable(one.message)}")
    for task, call, attempts in zip(one.tasks, one.inputs, one.attempts, strict=True):
        click.echo(f"  task {task}: {printable(call)}")
        for earlier in attempts:
            words = f"attempt {earlier.attempt} on {earlier.worker} until {utc(earlier.at)}: {printable(earlier.error)}"
            click.echo(f"    {words}")
    for line in one.traceback.splitlines():
        click.echo(f"    {printable(line)}")
    click.echo()


@click.command(epilog=examples("starburst explain last", "starburst explain last 0-17"))
@session_argument
@click.argument("task", required=False)
@json_option
def explain(session: str, store: str | None, task: str | None, as_json: bool) -> None:
    """Explain why tasks of SESSION wait, or what became of TASK, such as 0-17. Needs no key, but for why a task failed."""
    with opened(session, store) as visited:
        status = looking(visited).look()
        if task is None:
            sentences = explain_session(visited.session, status)
        else:
            sentences = explain_task(Reading(visited.session), status, task)
    if as_json:
        show_json(session=status.id, task=task, reasons=sentences)
        return
    for sentence in sentences:
        click.echo(f"{'- ' if len(sentences) > 1 else ''}{printable(sentence)}")


_COLUMNS = ("Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command")


@click.command(epilog=examples("starburst joblog last > joblog.tsv", "starburst joblog last --json"))
@session_argument
@json_option
def joblog(session: str, store: str | None, as_json: bool) -> None:
    """Print a line for each task of SESSION that has ended, with the columns of GNU parallel's --joblog. Needs no key.

    Seq counts from 1, Exitval is 0 for a value and 1 for a failure or a cancelled task, and Command is the task's id.
    """
    with opened(session, store) as visited:
        hosts = {worker.id: worker.host for worker in looking(visited).look().members}
        if not as_json:
            click.echo("\t".join(_COLUMNS))
        seq = 0
        for block in Reading(visited.session).all():
            for task in block.tasks:
                seq += 1
                if not task.has_ended:
                    continue
                host, exitval = hosts.get(task.worker, task.worker or ":"), int(task.state != State.COMPLETED)
                began_at = task.at - task.seconds
                if as_json:
                    show_json(
                        seq=seq, task=task.id, host=host, started_at=began_at, seconds=task.seconds, exitval=exitval,
                        state=task.state.name.lower(), attempt=block.attempt(task), run=task.run, worker=task.worker,
                    )  # fmt: skip
                else:
                    cells = (seq, host, f"{began_at:.3f}", f"{task.seconds:.3f}", 0, 0, exitval, 0, task.id)
                    click.echo("\t".join(map(str, cells)))
