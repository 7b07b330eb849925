"""`starburst config` and `version`: what this machine is set to, and what it runs."""

from __future__ import annotations

import platform
import sys

import click

from starburst_executor import config
from starburst_executor.cli.groups import CommandGroup
from starburst_executor.cli.options import examples, json_option
from starburst_executor.cli.render import show_json, show_table
from starburst_executor.protocol.records import fields
from starburst_executor.protocol.spans import encoding
from starburst_executor.version import __version__

__all__ = ["configuration", "version"]


@click.group("config", cls=CommandGroup)
def configuration() -> None:
    """Settings of this machine."""


@configuration.command(epilog=examples("starburst config show", "starburst config show --json"))
@json_option
def show(as_json: bool) -> None:
    """Show every setting of detached sessions: its value, and whether it is a variable's, the config file's, or the default."""
    found = config.explained()
    if as_json:
        for name, (value, origin) in found.items():
            show_json(name=name, value=value, origin=origin)
        return
    rows = [[name, "none" if value is None else str(value), origin] for name, (value, origin) in found.items()]
    show_table(["setting", "value", "from"], rows)


@configuration.command(
    "set", epilog=examples("starburst config set store s3://bucket/team", "starburst config set workers none")
)
@click.argument("name")
@click.argument("value")
def set_(name: str, value: str) -> None:
    """Write a setting into the config file; `default` as the VALUE takes it out again. Other lines stay as they are."""
    path = config.write_setting(name, None if value == "default" else value)
    click.echo(f"{name} is {'the default' if value == 'default' else value} in {path}")


@click.command(epilog=examples("starburst version --json"))
@json_option
def version(as_json: bool) -> None:
    """Show the versions of the library and of Python, and the formats of stored records that it reads."""
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "records": fields.FORMAT,
        "status_objects": encoding.FORMAT,
    }
    if as_json:
        show_json(**facts)
        return
    for name, value in facts.items():
        click.echo(f"{name:<15}{value}")
