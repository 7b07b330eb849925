"""The group of all commands. To add one: a file with a click command, and its line in `COMMANDS`.

A command's module is loaded when that command is named, or when all are listed. An error of the library is shown
as one line, with exit status 3; any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import importlib
from typing import IO, Any

import click

from starburst_executor.cli import EXIT_FAILED, EXIT_INTERRUPTED
from starburst_executor.errors import StarburstError
from starburst_executor.version import __version__

__all__ = ["COMMANDS", "Failed", "run", "starburst"]

# name: module in `cli` and its command, in the order of `starburst --help`
COMMANDS = {
    "setup": "setup:setup",
    "doctor": "doctor:doctor",
    "teardown": "teardown:teardown",
    "sessions": "session:sessions",
    "status": "session:status",
    "logs": "logs:logs",
    "cleanup": "session:cleanup",
    "key": "key:key",
    "image": "image:image",
    "quota": "quota:quota",
    "shell": "shell:shell",
}


class Failed(click.ClickException):
    """A failure: one line on standard error, exit status 3."""

    exit_code = EXIT_FAILED

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
        command: click.Command = getattr(importlib.import_module(f"starburst_executor.cli.{module}"), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StarburstError as error:
            raise Failed(str(error)) from error


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`starburst worker URL` runs one worker of a session: see `starburst worker --help`.",
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
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return status if isinstance(status, int) else 0
