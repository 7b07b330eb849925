"""Shows tables, JSON and progress: in colours on a terminal, line by line elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from starburst_executor.client.report import SessionStatus, amount, duration

if TYPE_CHECKING:
    from rich.console import JustifyMethod

__all__ = [
    "FORMAT",
    "Progress",
    "age",
    "is_terminal",
    "line_of",
    "printable",
    "say",
    "show_json",
    "show_status",
    "show_table",
    "to_json",
    "utc",
]

# The format of everything that `--json` prints. It changes when a field is taken away or changes its meaning.
FORMAT = 1
_WORD = 26  # characters; an id has 24
_GAP = 2  # between columns
_ECHOED = len("^C")
_LINE_S = 60.0  # between two lines of progress where there is no terminal
_COLOURS = {
    "open": "green",
    "working": "green",
    "completed": "green",
    "failed": "red",
    "broken": "red",
    "lost": "red",
    "expired": "yellow",
    "cancelled": "yellow",
}


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def say(line: str) -> None:
    """Print a line about what is being done, on standard error."""
    click.echo(line, err=True)


def show_json(**fields: Any) -> None:
    """Print one line of JSON, with the number of the format."""
    click.echo(_numbered(fields))


def show_json_array(items: Iterable[Mapping[str, Any]]) -> None:
    """Print an array of JSON objects, each in a line of its own and with the number of the format."""
    click.echo("[" + ",\n".join(map(_numbered, items)) + "]")


def _numbered(fields: Mapping[str, Any]) -> str:
    return to_json({"format": FORMAT, **fields})


def to_json(value: Any) -> str:
    """Return one line of JSON. Numbers that JSON does not have are as in an exported study: `{"float": "nan"}`."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        from starburst_executor.study.exporting import plain_value

        return json.dumps(plain_value(value), default=str, allow_nan=False)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print a table.

    Args:
        right: Headings of columns of numbers.
    """
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    if is_terminal():
        _show_rich(headings, texts, right)
        return
    widths = [max([len(heading), *(len(row[i]) for row in texts)]) for i, heading in enumerate(headings)]
    for row in [list(headings), *texts]:
        cells = [
            cell.rjust(width) if heading in right else cell.ljust(width)
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _show_rich(headings: Sequence[str], texts: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    least = _least_widths(headings, texts)
    is_narrow = sum(least) + _GAP * (len(least) - 1) > console.width
    if texts and is_narrow:  # each row as lines of its own
        table = Table(box=None, pad_edge=False, show_header=False)
        for i, row in enumerate(texts):
            if i:
                table.add_row()
            for heading, cell in zip(headings, row, strict=True):
                table.add_row(Text(heading, style="bold"), Text(cell, style=_COLOURS.get(cell, ""), overflow="fold"))
        console.print(table)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, width in zip(headings, least, strict=True):
        # An id that is cut cannot be copied.
        justify: JustifyMethod = "right" if heading in right else "left"
        table.add_column(heading, justify=justify, overflow="fold", min_width=None if is_narrow else width)
    for row in texts:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console.print(table)


def _least_widths(headings: Sequence[str], texts: Sequence[Sequence[str]]) -> list[int]:
    """Return how narrow each column may be: its heading stays whole, and words as long as an id; longer ones, such as paths, fold."""
    longest = [[max(map(len, text.split()), default=0) for text in (heading, *column)]
               for heading, *column in zip(headings, *texts, strict=True)]  # fmt: skip
    return [max(words[0], max((n for n in words if n <= _WORD), default=0)) for words in longest]


def show_status(status: SessionStatus) -> None:
    """Print a session's state, once."""
    if is_terminal():
        from rich.console import Console

        Console().print(_panel(status))
    else:
        click.echo(str(status))


def _panel(status: SessionStatus) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    title = Text(status.title, style=f"bold {_COLOURS.get(status.state, '')}".strip())
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("", ProgressBar(total=max(1, status.total), completed=status.ended, width=60))
    for heading, words in status.rows():
        table.add_row(heading, Text(words, style="red" if heading == "failures" else ""))
    return Group(title, table)


def line_of(status: SessionStatus) -> str:
    """Return a session's state in one line."""
    parts = [f"{status.ended:,} of {status.total:,} ended"]
    parts += [f"{status.failed:,} failed"] if status.failed else []
    parts += [
        f"{status.running:,} running",
        f"{status.per_s:,.1f} tasks/s",
        amount(status.workers, "worker"),
    ]
    parts += [f"about {duration(status.seconds_left)} left"] if status.seconds_left is not None else []
    parts += [status.trouble] if status.trouble else []
    return f"{utc(status.at)}  {', '.join(parts)}"


def _is_dumb() -> bool:
    """Whether the terminal, as some in editors, cannot move its cursor."""
    from rich.console import Console

    return Console(stderr=True).is_dumb_terminal


class Progress:
    """Shows a session's state again and again, on standard error: a panel on a terminal, else a line a minute."""

    def __init__(self) -> None:
        self._live: Any = None
        self._shown_at = float("-inf")
        self._shown = ""
        self._is_live = sys.stderr.isatty() and not _is_dumb()

    def __enter__(self) -> Progress:
        if self._is_live:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, status: SessionStatus, *, is_last: bool = False) -> None:
        if self._live is not None:
            from rich.constrain import Constrain

            # A ^C is echoed at the end of the last line: if it wrapped, the terminal would have a line more than rich counts.
            self._live.update(Constrain(_panel(status), self._live.console.width - _ECHOED), refresh=True)
        elif is_last or status.at - self._shown_at >= _LINE_S:
            self._shown_at = status.at
            say(line_of(status))

    def print(self, line: str) -> None:
        """Print a line on standard output, above the panel."""
        if self._live is not None and sys.stdout.isatty():
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(line)

    def pause(self) -> None:
        """Take the panel off, for a question."""
        self.__exit__()

    def go_on(self) -> None:
        """Show the panel again."""
        self.__enter__()


def utc(at: float) -> str:
    """Return a time for people; a dash for one that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # of a clock that is wrong, or a forged record
        return "-"


def printable(text: str) -> str:
    """Return text of a task as one line that changes no terminal: line ends and other controls become what Python writes for them."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)


def age(seconds: float) -> str:
    """Return how long ago something was."""
    return f"{duration(max(0.0, seconds))} ago"
