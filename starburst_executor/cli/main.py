"""The group of all commands. To add one: a click command beneath `commands/`, and its line in `COMMANDS`.

A command's module is loaded when that command is named, or when all are listed. Every error is one sentence on standard error; its exit
status is that of `exits.py`. `--debug`, after any command, shows the traceback too.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from starburst_executor.cli import exits
from starburst_executor.cli.groups import CommandGroup
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
    "cache": "cache:cache",
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
# What click raises for a group without a command, with its help as the message; not before click 8.2.
_HELP: tuple[type[click.UsageError], ...] = tuple(filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)]))
# Of an output that is a file of the user's, on a disk.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Failed(click.ClickException):
    """A failure: one sentence on standard error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        vars(self)["exit_code"] = exit_code  # click declares it for the class

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"starburst: {self.format_message()}", file=file, err=file is None)


class _ReaderGone(click.ClickException):
    """What reads the output, such as `head`, has gone: no output is possible, and none is wanted."""

    def __init__(self) -> None:
        super().__init__("")
        vars(self)["exit_code"] = exits.READER_GONE

    def show(self, file: IO[Any] | None = None) -> None:
        pass


@contextmanager
def _writing() -> Iterator[None]:
    """Turn the errors of standard output into ours; click would end the process with status 1 when the reader has gone."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.EPIPE and (error.errno not in _UNWRITABLE or error.filename is not None):
            raise
        # What is left in the buffer: the interpreter flushes it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise _ReaderGone from error
        raise Failed(f"the output cannot be written: {error.strerror}", exits.USAGE) from error


class _Commands(CommandGroup):
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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in COMMANDS if name.startswith(incomplete)] or super().shell_complete(
            ctx, incomplete
        )

    def make_context(self, *args: Any, **attributes: Any) -> click.Context:
        with _writing():  # `--help` is printed here
            return super().make_context(*args, **attributes)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _writing():
                return super().invoke(ctx)
        except (StarburstError, TimeoutError) as error:
            if ctx.meta.get("debug"):
                traceback.print_exc()
            raise Failed(str(error), exits.code_of(error, in_account=bool(ctx.meta.get("in_account")))) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
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
    headings=_HEADINGS,
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
    except click.exceptions.Abort as error:
        if isinstance(error.__context__, EOFError):
            click.echo("\nstarburst: the input ended before an answer; where --yes exists, it needs none", err=True)
            return exits.NO
        click.echo("starburst: interrupted", err=True)
        return exits.INTERRUPTED
    except click.UsageError as error:
        if isinstance(error, _HELP):
            click.echo(error.format_message(), err=True)
            return error.exit_code
        said = error.format_message().rstrip(".")
        click.echo(
            f"starburst: {said}{'' if said.endswith('?') else ';'} `{_path_of(words)} --help` shows what it takes",
            err=True,
        )
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return status if isinstance(status, int) else exits.DONE


def _path_of(words: list[str]) -> str:
    """Return the command that these words name, as far as they name one: click does not say where an option was wrong."""
    command: click.Command = starburst
    path = "starburst"
    for word in words:
        inner = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if inner is None:
            break
        command, path = inner, f"{path} {word}"
    return path
