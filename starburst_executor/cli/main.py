"""The group of all commands. To add one: a click command beneath `commands/`, and its line in `COMMANDS`.

A command's module is loaded when that command is named, or when all are listed. Every error is one sentence on standard error; its exit
status is that of `exits.py`. `--debug`, after any command, shows the traceback too.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from starburst_executor.cli import exits
from starburst_executor.errors import StarburstError
from starburst_executor.version import __version__

__all__ = ["COMMANDS", "Failed", "run", "starburst"]

# name: module in `commands` and the command in it, in the order of `starburst --help`
COMMANDS = {
    "run": "run:run",
    "sessions": "sessions:sessions",
    "status": "status:status",
    "attach": "run:attach",
    "wait": "status:wait",
    "top": "status:top",
    "dashboard": "dashboard:dashboard",
    "results": "results:results",
    "errors": "results:errors",
    "explain": "results:explain",
    "joblog": "results:joblog",
    "report": "report:report",
    "metrics": "report:metrics",
    "retry": "retry:retry",
    "cancel": "change:cancel",
    "extend": "change:extend",
    "scale": "change:scale",
    "cleanup": "cleanup:cleanup",
    "study": "study:study",
    "logs": "logs:logs",
    "key": "key:key",
    "config": "configuration:configuration",
    "version": "configuration:version",
    "setup": "setup:setup",
    "doctor": "doctor:doctor",
    "teardown": "teardown:teardown",
    "image": "image:image",
    "quota": "quota:quota",
    "shell": "shell:shell",
}
# The headings of `starburst --help`, each with its first command.
_HEADINGS = {
    "run": "Run and watch",
    "results": "Look into",
    "retry": "Change",
    "logs": "Logs, keys, settings",
    "setup": "AWS account",
}
_SENTENCE = 300  # no first sentence of a command's help is longer
_SIGPIPE = 141  # the status that a shell shows for a program that SIGPIPE ended


class Failed(click.ClickException):
    """A failure: one sentence on standard error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code  # click declares it for the class

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"starburst: {self.format_message()}", file=file, err=file is None)


class _Commands(click.Group):
    """A group whose commands are loaded on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"starburst_executor.cli.commands.{module}"), name)
        _add_debug(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if near:
                raise click.UsageError(f"no such command: {args[0]!r}, did you mean {near[0]}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        heading = ""
        for name in COMMANDS:
            heading = _HEADINGS.get(name, heading)
            command = self.get_command(ctx, name)
            if command is not None:
                rows.setdefault(heading, []).append((name, command.get_short_help_str(_SENTENCE)))
        for title, listed in rows.items():
            with formatter.section(title):
                formatter.write_dl(listed)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)] or super().shell_complete(
            ctx, incomplete
        )

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (StarburstError, TimeoutError) as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            raise Failed(str(error), exits.code_of(error, in_account=bool(ctx.meta.get("in_account")))) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            raise Failed(
                f"a fault of starburst itself: {type(error).__name__}: {error}; --debug shows where, please report it",
                exits.FAULT,
            ) from error


def _add_debug(command: click.Command) -> None:
    """Give a command, and those beneath it, the option `--debug`."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _add_debug(inner)
    elif not any(param.name == "debug" for param in command.params):
        command.params.append(
            click.Option(["--debug"], is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks.")
        )


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["debug"] = True


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="SESSION is an id, a unique beginning of one, a URL, a name, or `last`. `starburst worker URL` runs one worker of a session: "
    "see `starburst worker --help`.",
)
@click.version_option(__version__, prog_name="starburst")
def starburst() -> None:
    """Manage sessions, and the AWS account in which their workers may run."""


def run(words: list[str]) -> int:
    """Run the command of these arguments and return the exit status."""
    try:
        # In this mode click catches its own Exit and returns the status; for a command that returns normally, None.
        status = starburst.main(words, prog_name="starburst", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("starburst: interrupted", err=True)
        return exits.INTERRUPTED
    except click.UsageError as error:
        path = "starburst" if error.ctx is None else error.ctx.command_path
        click.echo(f"starburst: {error.format_message().rstrip('.')}; `{path} --help` shows what it takes", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader, such as `head`, has gone: no output is possible. Nor must the interpreter flush into the pipe at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGPIPE
    return status if isinstance(status, int) else exits.DONE
