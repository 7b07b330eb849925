"""`starburst run` and `attach`: starts a session from a function or a program, and watches it to its end."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn

import click

from starburst_executor import config
from starburst_executor.cli import exits
from starburst_executor.cli.commands.status import (
    check_recipients,
    finish_messages,
    look_pauses,
    looking,
    messenger_for,
    verdict,
)
from starburst_executor.cli.inputs import Call, Inputs, calls_of, check_call, named_values, program_call
from starburst_executor.cli.options import (
    DURATION,
    OUT,
    examples,
    looked_up,
    notify_option,
    session_argument,
    store_option,
)
from starburst_executor.cli.render import Progress, printable, say, show_json
from starburst_executor.cli.targets import load_target
from starburst_executor.cli.terminations import Terminated, check_terminated, terminations_noted
from starburst_executor.cli.writers import as_json as to_json
from starburst_executor.cli.writers import format_for, write_all
from starburst_executor.client.detached import DetachedExecutor
from starburst_executor.client.finding import Visit, visit
from starburst_executor.client.fitting import signature_text
from starburst_executor.client.following import Following
from starburst_executor.client.given import GivenLauncher
from starburst_executor.client.money import hourly_usd
from starburst_executor.client.once_wanted import Call as OnceCall
from starburst_executor.client.reading import Reading
from starburst_executor.client.report import SessionStatus, amount
from starburst_executor.client.results import Outcome, Selection, stream
from starburst_executor.client.submits_once import once_of
from starburst_executor.client.tending import Tending
from starburst_executor.clock import SystemClock
from starburst_executor.errors import ConfigError, KeyNotFound
from starburst_executor.programs import check_outputs, run_program
from starburst_executor.protocol import calls
from starburst_executor.protocol.content import function_name
from starburst_executor.texts import shortened

__all__ = ["attach", "run"]

_SHOWN_CHARACTERS = 200
# The options that give settings. Messages about a value name them.
_OPTIONS = {
    "workers": "--workers",
    "store": "--store",
    "launcher": "--launcher",
    "task_timeout": "--timeout",
    "retries": "--retries",
    "max_failures": "--max-fails",
    "absolute_timeout": "--expires",
    "budget_usd": "--budget",
    "max_hourly_cost": "--max-hourly-cost",
}
# Calls that a dry run pickles to estimate the bytes of all.
_SAMPLE = 1000


class _Run(click.Command):
    """A command whose words after `--` are a program of the user's, whatever they look like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta["program"] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command(
    cls=_Run,
    epilog=examples(
        "starburst run measure.py:measure --csv samples.csv --arg scale=2 --detach",
        "starburst run package.module:function --range 0:10000 --workers 8 --out results.jsonl",
        "starburst run script.py:function --lines names.txt --limit 1",
        "starburst run measure.py:measure --csv samples.csv --name nightly --retries 2 --max-fails 5%",
        "starburst run --csv samples.csv --outputs '*.bam' -- align --x {x} {sample}",
    ),
)
@click.argument("target", type=click.Path(), required=False)
@click.option(
    "--range",
    "range_",
    metavar="[A:]B[:STEP]",
    help="Call it with each of these numbers, as range does: 100, 0:100, 0:100:10.",
)
@click.option("--lines", type=click.Path(), metavar="FILE", help="With each line of a file; - for standard input.")
@click.option(
    "--csv", "csv_", type=click.Path(), metavar="FILE", help="With each row of a table: columns are keyword arguments."
)
@click.option(
    "--jsonl",
    type=click.Path(),
    metavar="FILE",
    help="With each object of a file of JSON lines: keys are keyword arguments.",
)
@click.option(
    "--files",
    type=click.Path(),
    metavar="PATTERN",
    help="With each of these files, such as 'data/*.fastq': their absolute names.",
)
@click.option(
    "--arg", "constants", multiple=True, metavar="NAME=VALUE", help="The same argument for all calls; may be repeated."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the first N inputs, for a trial run.")
@click.option(
    "--outputs",
    multiple=True,
    metavar="PATTERN",
    help="Files that the program writes, which become part of its outcome.",
)
@click.option("--dry-run", is_flag=True, help="Tell tasks, bytes, workers and dollars, and start nothing.")
@click.option("--workers", type=int, metavar="N", help="How many tasks run at once.  [default: one for each processor]")
@click.option("--launcher", metavar="NAME", help="What starts workers: local, fargate, batch, none, …")
@click.option("--timeout", type=DURATION, metavar="TIME", help="Stop a task that runs longer; it fails.")
@click.option("--retries", type=int, metavar="N", help="Try a task that fails up to N times more.")
@click.option("--label", metavar="COLUMN", help="Label each task with the value of this column or argument.")
@click.option("--max-fails", metavar="N|P%", help="End the session when more than N tasks, or P% of them, have failed.")
@click.option(
    "--name", metavar="NAME", help="The session's name: the same name again submits only inputs that are new."
)
@click.option("--retry-failed", is_flag=True, help="With --name: run what failed or was cancelled again, as it is now.")
@click.option("--expires", type=DURATION, metavar="TIME", help="End the session after this time.")
@click.option("--budget", type=float, metavar="USD", help="End the session when its workers have cost this much.")
@click.option("--max-hourly-cost", type=float, metavar="USD", help="Start no workers that would cost more an hour.")
@click.option(
    "--out",
    type=OUT,
    metavar="FILE|DIR",
    help="Write the results there at the end; - for standard output.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(("jsonl", "csv", "pickle", "parquet")),
    help="[default: by the suffix of FILE]",
)
@click.option("--detach", is_flag=True, help="Do not wait: print the session's id.")
@notify_option
@store_option
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object: what --dry-run tells, with --detach the session, else its status at the end.",
)
def run(
    *,
    target: str | None,
    range_: str | None,
    lines: str | None,
    csv_: str | None,
    jsonl: str | None,
    files: str | None,
    constants: tuple[str, ...],
    limit: int | None,
    outputs: tuple[str, ...],
    dry_run: bool,
    workers: int | None,
    launcher: str | None,
    timeout: float | None,
    retries: int | None,
    label: str | None,
    max_fails: str | None,
    name: str | None,
    retry_failed: bool,
    expires: float | None,
    budget: float | None,
    max_hourly_cost: float | None,
    out: Path | None,
    kind: str | None,
    detach: bool,
    notify: tuple[str, ...],
    store: str | None,
    as_json: bool,
) -> None:
    """Run TARGET, module:function or script.py:function, or the program after --, once for each input, in a session that outlives
    this command.

    It is watched unless --detach; ^C asks whether to detach, cancel or go on, and detaches where there is no terminal. Texts of inputs become
    what the function's annotations say; without one, numbers in cells and in --arg become numbers. In a program's words, {name} is a
    column, and {} the line, file or number.

    With --name the command may be run again, also after it was killed: it attaches to the session of that name and submits the inputs
    that are not there yet.
    """
    context = click.get_current_context()
    context.with_resource(terminations_noted())
    program: tuple[str, ...] = context.meta.get("program", ())
    inputs = Inputs(range_, lines, csv_, jsonl, files, constants, limit)
    if detach and out is not None:
        raise ConfigError(
            "--out needs the results: leave out --detach, or type `starburst results last --out FILE` later"
        )
    if detach and notify:
        raise ConfigError(
            "--notify needs a command that watches: leave out --detach, or type `starburst wait last --notify URL` later"
        )
    if kind is not None and out is None:
        raise ConfigError("--format is for --out: name the file, or - for standard output")
    if as_json and str(out) == "-":
        raise ConfigError("--json and --out - both write to standard output: name a file for the results")
    check_recipients(notify)
    if retry_failed and name is None:
        raise ConfigError(
            "--retry-failed needs --name: what failed in another session is run by `starburst retry SESSION --failed`"
        )
    function, calls = _prepared(target, program, inputs, outputs, label)
    settings: dict[str, Any] = {
        "workers": workers,
        "store": store,
        "launcher": launcher,
        "task_timeout": timeout,
        "retries": retries,
        "max_failures": max_fails,
        "absolute_timeout": expires,
        "budget_usd": budget,
        "max_hourly_cost": max_hourly_cost,
    }
    for setting, option in _OPTIONS.items():
        if settings[setting] is not None:
            config.check_setting(setting, settings[setting], option)
    if dry_run:
        _tell(calls, settings, as_json=as_json)
        return
    counts: dict[str, int] = {}
    if name is None:
        executor = DetachedExecutor(**settings)
        said = amount(_submit(executor, function, calls), "task")
    else:
        executor, counts = _submit_once(name, settings, function, calls, retry_failed=retry_failed)
        said = f"{amount(counts['inputs'], 'input')}, {counts['new']:,} of them new"
        if retry_failed:
            run_again = "runs" if counts["retried"] == 1 else "run"
            said += f"; {amount(counts['retried'], 'task')} {run_again} again"
    with _left_when_interrupted(executor):
        called = name or executor.id
        say(f"session {executor.id}{f', {name}' if name else ''}: {said}")
        if detach:
            executor.detach()
            if as_json:
                show_json(id=executor.id, url=executor.url, name=name or "", **counts)
            else:
                click.echo(executor.id)
            say(f"it goes on: `starburst status {called} --watch`, `starburst results {called}`")
            return
        with visit(executor.url, SystemClock(), key=executor.key) as visited:
            found = _watch(visited, executor, notify=notify)
            if out is not None:
                to = None if str(out) == "-" else out
                write_all(stream(Reading(visited.session), Selection()), to, format_for(to, kind))
            executor.detach()
            if as_json:
                show_json(**found.to_dict(), **counts)
            say(_farewell(found, out))
            raise click.exceptions.Exit(verdict(visited, found))


def _prepared(
    target: str | None, program: tuple[str, ...], inputs: Inputs, outputs: tuple[str, ...], label: str | None
) -> tuple[Callable[..., Any], Iterator[Call]]:
    """Return the function and its calls, the first of which was checked."""
    if (target is None) is not bool(program):
        raise ConfigError("name what to run: module:function, script.py:function, or a program after --")
    if target is None:
        calls: Iterator[Call] = (
            program_call(program, call, outputs)._replace(label=_label(named_values(call, None), label))
            for call in calls_of(inputs, None)
        )
        function: Callable[..., Any] = run_program
    else:
        if outputs:
            raise ConfigError("--outputs is for programs: a function returns what is its outcome")
        function = load_target(target)
        calls = (
            call._replace(label=_label(named_values(call, function), label)) for call in calls_of(inputs, function)
        )
    try:
        check_outputs(outputs)
    except ValueError as error:
        raise ConfigError(f"--outputs: {error}") from error
    first = next(calls, None)
    if first is None:
        raise ConfigError("no inputs: nothing to run")
    check_call(function, first)
    return function, chain([first], calls)


def _label(values: Mapping[str, Any], column: str | None) -> str:
    if column is None:
        return ""
    if column not in values:
        known = ", ".join(filter(None, values)) or "no names"
        raise ConfigError(f"--label {column}: the inputs have no such column or argument; they have {known}")
    return str(values[column])


def _submit(executor: DetachedExecutor, function: Callable[..., Any], calls: Iterator[Call]) -> int:
    n_tasks = 0
    try:
        for call in calls:
            check_terminated()
            view = executor.options(label=call.label) if call.label else executor
            view.submit(function, *call.args, **call.kwargs)
            n_tasks += 1
        executor.flush()
    except BaseException:
        # Half of the inputs are of no use, and would run a second time with the next try.
        executor.cleanup(force=True)
        raise
    return n_tasks


def _submit_once(
    name: str, settings: dict[str, Any], function: Callable[..., Any], calls: Iterator[Call], *, retry_failed: bool
) -> tuple[DetachedExecutor, dict[str, int]]:
    """Begin the session of this name, or attach to it, and submit the inputs that are new. Return how many there are, are new and run again."""
    # Before the session begins: an input that cannot be read leaves nothing behind.
    given = list(calls)
    inputs = [OnceCall(call.args, call.kwargs) for call in given]
    executor = DetachedExecutor(name=name, **settings)
    labels = [call.label for call in given]
    try:
        once = once_of(executor)
        own = f"{function_name(function)}{signature_text(function)}"
        known = once.function()
        if known is not None and known != own:
            raise ConfigError(
                f"the session named {name} runs {known}, and now it is {own}, so its inputs mean something else: choose another --name, "
                f"or delete that session by `starburst cleanup {name} --force`"
            )
        once.submit(function, inputs, retry_failed=retry_failed, labels=labels if any(labels) else None)
    except BaseException:
        executor.detach()
        raise
    return executor, {"inputs": len(inputs), "new": once.n_submitted, "retried": once.n_retried}


def _tell(inputs: Iterator[Call], settings: dict[str, Any], *, as_json: bool) -> None:
    clock = SystemClock()
    given = GivenLauncher(settings["launcher"], clock, detached=True)
    resolved = config.resolve(detached=True, store_of=given.store_of, **{**settings, "launcher": given.spec})
    sample = [len(calls.dump_call(call.args, call.kwargs)) for call in islice(inputs, _SAMPLE)]
    n_tasks = len(sample) + sum(1 for _ in inputs)
    n_bytes = sum(sample) * n_tasks // max(1, len(sample))
    launcher = given.open_for(resolved.launcher, resolved.store)
    usd = hourly_usd(launcher, resolved.workers)
    if as_json:
        show_json(
            tasks=n_tasks,
            bytes=n_bytes,
            workers=resolved.workers,
            launcher=str(resolved.launcher),
            store=resolved.store,
            usd_per_hour=usd,
        )
        return
    click.echo(f"tasks      {n_tasks:,}, with about {n_bytes:,} bytes of arguments")
    click.echo(f"workers    {resolved.workers:,} at once, by launcher {resolved.launcher}")
    click.echo(f"store      {resolved.store}")
    click.echo(
        f"cost       {'nothing for workers' if usd is None else f'about ${usd:.2f} an hour while all of them run'}"
    )
    click.echo("nothing was started")


def _farewell(found: SessionStatus, out: Path | None) -> str:
    words = f"session {found.id}: {found.completed:,} completed, {found.failed:,} failed, {found.cancelled:,} cancelled"
    if found.reason:
        words += f"; it was ended: {found.reason}"
    if out is not None and str(out) != "-":
        words += f"; written to {out}"
    if found.failed:
        return f"{words}; `starburst errors {found.id}` shows why"
    return words if out is not None else f"{words}; `starburst results {found.id}` prints what they returned"


# --- watching ---------------------------------------------------------------------------------------------------------


@click.command(epilog=examples("starburst attach last", "starburst attach last --json > outcomes.jsonl"))
@session_argument
@notify_option
@click.option("--json", "as_json", is_flag=True, help="Print outcomes as JSON lines, as `results` does.")
def attach(session: str, store: str | None, notify: tuple[str, ...], as_json: bool) -> None:
    """Watch SESSION to its end: results and failures as they come, and missing workers are started. Exit status 1 if a task failed.

    ^C asks whether to detach, cancel or go on, and detaches where there is no terminal. Outcomes that were there before come first.
    """
    click.get_current_context().with_resource(terminations_noted())
    check_recipients(notify)
    url = looked_up(session, store)
    executor = DetachedExecutor.reattach(url)
    try:
        with _left_when_interrupted(executor), visit(url, SystemClock(), key=executor.key) as visited:
            if not visited.session.sealer.has_key:
                raise KeyNotFound(f"attaching needs the session's key: `starburst key import {shlex.quote(url)}`")
            found = _watch(visited, executor, Following(Reading(visited.session)), notify=notify, as_json=as_json)
            code = verdict(visited, found)
    finally:
        executor.detach()
    raise click.exceptions.Exit(code)


def _watch(
    visited: Visit,
    executor: DetachedExecutor,
    following: Following | None = None,
    *,
    notify: tuple[str, ...] = (),
    as_json: bool = False,
) -> SessionStatus:
    """Watch a session until nothing is left to do, and have its missing workers started.

    Raises: Exit if the user detaches.
    """
    looks, tending = looking(visited), Tending(executor, visited.session)
    messenger = messenger_for(visited.session, notify)
    clock, never, pauses = visited.session.clock, threading.Event(), look_pauses()
    with Progress() as progress:
        while True:
            try:
                check_terminated()
                found = looks.look()
                for outcome in following.fresh() if following is not None else ():
                    progress.print(_shown(outcome, as_json=as_json))
                progress.show(found, is_last=found.is_over)
                if messenger is not None:
                    messenger.check(found)
                if found.is_over:
                    finish_messages(messenger, found)
                    return found
                tending.go_on()
                clock.wait(never, next(pauses))
            except Terminated:
                raise
            except KeyboardInterrupt:
                _interrupted(executor, progress)


def _shown(outcome: Outcome, *, as_json: bool) -> str:
    if as_json:
        return to_json(outcome, sys.stdout.encoding)
    task, failure = outcome.task, outcome.failure()
    if failure is not None:
        kind = failure.type_name.removeprefix("builtins.")
        return _cut(f"{task.id} {task.state.name.lower()} {kind}: {failure.message}")
    value, error = outcome.loaded()
    try:
        return _cut(f"{task.id} completed {value!r}" if error is None else f"{task.id} completed, not shown: {error}")
    except Exception as fault:  # user code runs here: __repr__
        return _cut(f"{task.id} completed, not shown: {type(fault).__name__}: {fault}")


def _cut(text: str) -> str:
    return shortened(printable(text[: _SHOWN_CHARACTERS + 1]), _SHOWN_CHARACTERS)


def _interrupted(executor: DetachedExecutor, progress: Progress) -> None:
    """Ask what to do after a ^C; return to go on. Where there is no terminal, detach. Raises: Exit."""
    answer = "d"
    if sys.stdin.isatty() and sys.stderr.isatty():
        progress.pause()
        try:
            answer = click.prompt(
                "(d)etach: it goes on, (c)ancel what waits and detach, (g)o on watching",
                type=click.Choice(["d", "c", "g"]), default="d", show_choices=False, err=True,
            )  # fmt: skip
        except (click.Abort, KeyboardInterrupt):
            click.echo(err=True)  # the question's line has no end
            answer = "d"
    if answer == "g":
        progress.go_on()
        return
    if answer == "c":
        say(f"{amount(executor.cancel(), 'task')} cancelled")
    _leave(executor, exits.INTERRUPTED)


@contextmanager
def _left_when_interrupted(executor: DetachedExecutor) -> Iterator[None]:
    """Detach on a ^C or a signal that nothing in the block has answered. Raises: Exit."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        _leave(executor, interrupt.exit_code if isinstance(interrupt, Terminated) else exits.INTERRUPTED)


def _leave(executor: DetachedExecutor, exit_code: int) -> NoReturn:
    """Detach, say how to come back, and end the command. Raises: Exit; Abort on a further ^C, which ends it at once."""
    try:
        executor.detach()
    except KeyboardInterrupt as again:
        raise click.Abort from again
    say(f"session {executor.id} goes on; come back with: starburst attach {shlex.quote(executor.url)}")
    raise click.exceptions.Exit(exit_code)
