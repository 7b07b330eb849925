"""Groups of commands: their help has a whole sentence for each command, under headings, and a wrong command is answered with the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["CommandGroup"]

_SENTENCE = 300  # no first sentence of a command's help is longer


class CommandGroup(click.Group):
    """A group of commands.

    Args:
        headings: The heading above a command and those after it, by the command's name; one for all if not given.
    """

    def __init__(self, *args: Any, headings: Mapping[str, str] | None = None, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._headings = headings or {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of its commands, in the order of their help."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if near:
                raise click.UsageError(f"no such command: {args[0]!r}, did you mean {near[0]}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        heading = "Commands"
        for name in self.list_commands(ctx):
            heading = self._headings.get(name, heading)
            command = self.get_command(ctx, name)
            if command is not None:
                rows.setdefault(heading, []).append((name, command.get_short_help_str(_SENTENCE)))
        for title, listed in rows.items():
            with formatter.section(title):
                formatter.write_dl(listed)
