"""What `run` makes calls of: ranges, lines, tables, files. One input is one call; they are read as they are submitted."""

from __future__ import annotations

import csv
import glob
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from starburst_executor.errors import ConfigError
from starburst_executor.texts import shortened

__all__ = ["Call", "Inputs", "calls_of", "check_call", "named_values", "program_call", "short"]

# No number is longer than Python reads: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
_RANGE = re.compile(r"(-?\d{1,100})(?::(-?\d{1,100})(?::(-?\d{1,100}))?)?", re.ASCII)
# As JSON writes numbers: what has leading zeros or a plus, such as a postcode or a telephone number, is text.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,4000})(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_SHOWN_CHARACTERS = 80
_PLACE = re.compile(r"\{(\w*)\}")


class Call(NamedTuple):
    """The arguments of one call, and its label, empty without one."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    label: str = ""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the calls come from: one of these, or none for a single call.

    Attributes:
        constants: `name=value`, for every call.
        limit: The most calls.
    """

    range_: str | None = None
    lines: str | None = None
    csv: str | None = None
    jsonl: str | None = None
    files: str | None = None
    constants: tuple[str, ...] = ()
    limit: int | None = None


def calls_of(inputs: Inputs, function: Callable[..., Any] | None) -> Iterator[Call]:
    """Yield the calls.

    Args:
        function: Texts are converted to the types with which its parameters are annotated; None for a program.
    Raises:
        ConfigError: an input cannot be read; it names the line.
    """
    kinds = {} if function is None else _annotations(function)
    constants = dict(_constant(text, kinds) for text in inputs.constants)
    named = {
        name: value
        for name, value in zip(
            ("range", "lines", "csv", "jsonl", "files"),
            (inputs.range_, inputs.lines, inputs.csv, inputs.jsonl, inputs.files),
            strict=True,
        )
        if value is not None
    }
    if len(named) > 1:
        raise ConfigError(f"one kind of input at a time: {' and '.join('--' + name for name in named)} were given")
    source = {"range": _of_range, "lines": _of_lines, "csv": _of_csv, "jsonl": _of_jsonl, "files": _of_files}
    if named:
        ((name, text),) = named.items()
        found = source[name](text, kinds)
    else:
        found = iter([Call((), {})])
    for call in islice(found, inputs.limit):
        doubled = call.kwargs.keys() & constants.keys()
        if doubled:
            raise ConfigError(f"--arg {min(doubled)}: the inputs have a column of that name")
        yield Call(call.args, {**call.kwargs, **constants})


def check_call(function: Callable[..., Any], call: Call) -> None:
    """Raise ConfigError if the function does not accept this call."""
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(*call.args, **call.kwargs)
    except TypeError as error:
        name = getattr(function, "__name__", "the function")
        given = ", ".join([*(["a value"] * len(call.args)), *call.kwargs]) or "nothing"
        raise ConfigError(
            f"{name}{signature} cannot be called with these inputs: {error}; they give {given}"
        ) from error


def named_values(call: Call, function: Callable[..., Any] | None) -> dict[str, Any]:
    """Return the values of one input by the names that users give them: of columns and keys; those of a function's first parameter, for a
    program `line`, `file` or `value`, and none, for what has no name.
    """
    first = list(_annotations(function))[:1] if function is not None else ["", "line", "file", "value"]
    return {**call.kwargs, **dict.fromkeys(first, *call.args)} if call.args else dict(call.kwargs)


def program_call(words: Sequence[str], call: Call, outputs: Sequence[str]) -> Call:
    """Return the call of `run_program` for one input: `{}` is its value, `{name}` its column or key.

    Raises: ConfigError: there is no such column or key.
    """
    values = named_values(call, None)

    def fill(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values) or "none"
            raise ConfigError(f"the inputs have no {match[0]}; they have {known}")
        return str(values[match[1]])

    return Call(([_PLACE.sub(fill, word) for word in words], list(outputs)), {})


# --- sources ----------------------------------------------------------------------------------------------------------


def _of_range(text: str, _: Mapping[str, Any]) -> Iterator[Call]:
    match = _RANGE.fullmatch(text)
    if match is None or (match[3] and not int(match[3])):
        raise ConfigError(f"--range {short(text)}: write 100, 0:100, or 0:100:10")
    if match[2] is None:
        return (Call((i,), {}) for i in range(int(match[1])))
    return (Call((i,), {}) for i in range(int(match[1]), int(match[2]), int(match[3] or 1)))


def _of_lines(name: str, kinds: Mapping[str, Any]) -> Iterator[Call]:
    with _opened(name, "--lines") as file:
        for number, line in enumerate(file, 1):
            yield Call((_typed_first(line.rstrip("\r\n"), kinds, f"--lines {name}, line {number}"),), {})


def _of_csv(name: str, kinds: Mapping[str, Any]) -> Iterator[Call]:
    with _opened(name, "--csv") as file:
        reader = csv.DictReader(file, restval=None)
        try:
            columns = reader.fieldnames or ()
            for i, column in enumerate(columns):
                if column in columns[:i]:
                    raise ConfigError(f"--csv {name}: two columns are called {column!r}")
            for row in reader:
                if None in row or None in row.values():
                    raise ConfigError(f"--csv {name}, line {reader.line_num}: not as many cells as columns")
                yield Call(
                    (),
                    {
                        column: _typed(cell, kinds.get(column), f"{name}, line {reader.line_num}, column {column}")
                        for column, cell in row.items()
                    },
                )
        except csv.Error as error:
            raise ConfigError(f"--csv {name}, line {reader.line_num}: {error}") from error


def _of_jsonl(name: str, _: Mapping[str, Any]) -> Iterator[Call]:
    with _opened(name, "--jsonl") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"--jsonl {name}, line {number}: {error}") from error
            yield Call((), value) if isinstance(value, dict) else Call((value,), {})


def _of_files(pattern: str, kinds: Mapping[str, Any]) -> Iterator[Call]:
    # `Path.glob` refuses absolute patterns.
    names = sorted(name for name in glob.iglob(pattern, recursive=True) if Path(name).is_file())  # noqa: PTH207
    if not names:
        if Path(pattern).is_dir():
            raise ConfigError(f"--files {pattern!r}: a folder; for the files in it write {str(Path(pattern) / '*')!r}")
        raise ConfigError(f"--files {pattern!r}: no such files; quote the pattern, so that the shell leaves it alone")
    # Absolute: a worker's current folder is another one.
    return (Call((_typed_first(str(Path(name).absolute()), kinds, f"--files {name}"),), {}) for name in names)


@contextmanager
def _opened(name: str, option: str) -> Iterator[IO[str]]:
    try:
        if name == "-":
            yield sys.stdin
            return
        with Path(name).open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{option} {name}: cannot be read: {reason}") from error


# --- types ------------------------------------------------------------------------------------------------------------


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    signature = _signature(function)
    return {} if signature is None else {one.name: one.annotation for one in signature.parameters.values()}


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """Return a function's signature, with annotations as the types that they name; None if it does not tell, as some builtins."""
    with suppress(Exception):  # user code runs here: annotations
        return inspect.signature(function, eval_str=True)
    with suppress(TypeError, ValueError):
        return inspect.signature(function)
    return None


def _constant(text: str, kinds: Mapping[str, Any]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"--arg {text!r}: write name=value")
    return name, _typed(value, kinds.get(name), f"--arg {name}")


def short(text: str) -> str:
    """Return what was typed, for a message."""
    return repr(shortened(text, _SHOWN_CHARACTERS))


def _typed_first(text: str, kinds: Mapping[str, Any], where: str) -> Any:
    """Return a line or a file's name as the first parameter has it: by its annotation; without one it stays a text."""
    return _typed(text, next(iter(kinds.values()), str), where, numbers=False)


def _typed(text: str, kind: Any, where: str, *, numbers: bool = True) -> Any:
    """Return a text as its parameter has it: by its annotation; without one, with `numbers`, numbers become numbers."""
    if kind in (int, float, Path):
        try:
            return kind(text)
        except ValueError as error:
            raise ConfigError(f"{where}: {short(text)} is no {kind.__name__}") from error
    if kind is bool:
        known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in known:
            raise ConfigError(f"{where}: {short(text)} is neither true nor false")
        return known[text.lower()]
    if numbers and kind is not str and (match := _NUMBER.fullmatch(text)) is not None:
        return int(text) if match[2] is None and match[3] is None else float(text)
    return text
