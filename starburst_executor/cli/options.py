"""Options and arguments that several commands share: SESSION, stores, stacks, durations, `--json`."""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from starburst_executor import config
from starburst_executor.client.finding import LAST, Visit, find_url, known_ids, known_names, visit
from starburst_executor.clock import SystemClock
from starburst_executor.errors import KeyNotFound, StarburstError

__all__ = [
    "DURATION",
    "OUT",
    "examples",
    "json_option",
    "looked_up",
    "notify_option",
    "opened",
    "optional_session_argument",
    "session_argument",
    "stack_options",
    "store_option",
    "stores_of",
]

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}

store_option = click.option(
    "--store",
    metavar="URL",
    help="The store to search.  [default: STARBURST_STORE, the config file, the embedded store]",
)
notify_option = click.option(
    "--notify",
    metavar="URL",
    multiple=True,
    help="Send messages there: at the first failure, and when it ends. A URL of Apprise, such as mailto://user:password@example.org.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # older versions of click have no parameter for it
    _ParamType = click.ParamType


class _Duration(_ParamType):
    """Seconds, or a number with a unit: 90, 30m, 12h, 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is no duration; write seconds, or 30m, 12h, 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


DURATION = _Duration()


class _Out(click.Path):
    """A file that is written, or a folder in which files are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if str(value).endswith(os.sep) and not Path(value).is_dir():
            self.fail(f"there is no folder {str(value)!r}: make it first", param, ctx)
        return Path(str(value))


OUT = _Out()


class _Session(_ParamType):
    """A session as users name it; `looked_up` finds it."""

    name = "session"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002 - click's signature
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's signature
        store = ctx.params.get("store")
        clock = SystemClock()
        try:
            stores = stores_of(store)
            names = [*known_ids(stores, clock), *reversed(known_names(stores, clock))]
        except StarburstError:  # a shell cannot show errors while it completes a word
            names = []
        # Names first, then the newest: they are the likeliest.
        return [CompletionItem(name) for name in [LAST, *reversed(names)] if name.startswith(incomplete)]


def session_argument(command: F) -> F:
    """SESSION and `--store`; the command gets `session` and `store`."""
    return click.argument("session", type=_Session())(store_option(command))


def optional_session_argument(command: F) -> F:
    """As `session_argument`, for a command that does without."""
    return click.argument("session", type=_Session(), required=False)(store_option(command))


def stores_of(named: str | None) -> list[str]:
    """Return where sessions may be: in the named store, else in the configured one and in those of the stack that was set up."""
    own = config.store_to_read(named)
    if named is not None or own != config.default_store_to_read()[0] or not config.has_stack():
        return [own]
    from starburst_executor.aws.clients import Clients  # loads boto3, which is needed only with a stack
    from starburst_executor.aws.stack.outputs import stores_of as stores_of_stack

    return [own, *stores_of_stack(Clients(config.resolve_aws()))]


def looked_up(session: str, store: str | None) -> str:
    """Return the URL of the session that a user means. Raises: SessionNotFound, ConfigError."""
    return find_url(
        session, stores_of(store) if "://" not in session else [], SystemClock(), is_given=store is not None
    )


@contextmanager
def opened(session: str, store: str | None, *, needs_key: bool = False) -> Iterator[Visit]:
    """Open the session that a user means, to read it.

    Raises: KeyNotFound if it needs the key and there is none.
    """
    url = looked_up(session, store)
    with visit(url, SystemClock()) as visited:
        if needs_key and not visited.session.sealer.has_key:
            raise KeyNotFound(
                f"this needs the session's key: type `starburst key export {visited.session.session_id}` on the machine that "
                f"started it, and `starburst key import {shlex.quote(visited.url)}` here"
            )
        yield visited


def examples(*lines: str) -> str:
    """Return the end of a command's help: what users type."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def stack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--stack`, `--region` and `--profile`; the command gets `clients` instead of them."""

    @click.option("--stack", "--name", "stack", metavar="NAME", help="The stack's name.  [default: starburst]")
    @click.option("--region", metavar="REGION", help="Its AWS region.  [default: that of the AWS tools]")
    @click.option("--profile", metavar="NAME", help="A profile of the AWS config files.")
    @functools.wraps(command)
    def wrapped(stack: str | None, region: str | None, profile: str | None, **others: Any) -> Any:
        from starburst_executor.aws.clients import Clients  # loads boto3, which only commands that call AWS need

        click.get_current_context().meta["in_account"] = True
        settings = config.resolve_aws(stack=stack, region=region, profile=profile)
        return command(clients=Clients(settings), **others)

    return wrapped
