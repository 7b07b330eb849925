"""Writes outcomes of tasks to a file, a folder or standard output, one by one."""

from __future__ import annotations

import base64
import csv
import dataclasses
import json
import math
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from starburst_executor.cli.render import FORMAT
from starburst_executor.client.results import Outcome
from starburst_executor.errors import ConfigError
from starburst_executor.programs import PROGRAM_FAILED, ProgramFailed
from starburst_executor.protocol.spans.record import State

__all__ = ["FORMATS", "as_json", "write_all"]

FORMATS = ("jsonl", "csv", "pickle", "parquet")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".parquet": "parquet",
}
_ROWS_AT_ONCE = 10_000
_FACTS = ("task", "index", "state")


def format_for(out: Path | None, named: str | None) -> str:
    """Return the format: the named one, else that of the file's suffix, else jsonl."""
    return named or _SUFFIXES.get("" if out is None else out.suffix.lower(), "jsonl")


def write_all(outcomes: Iterable[Outcome], out: Path | None, kind: str) -> None:
    """Write outcomes in order: into a folder a file each; else into one file, which is there only once it is complete.

    Raises: ConfigError: they cannot be written there or in this format.
    """
    if out is not None and out.is_dir():
        _write_each(outcomes, out, kind)
        return
    if kind == "parquet":
        _write_parquet(outcomes, out)
        return
    with _opened(out, is_binary=kind == "pickle") as file:
        if kind == "pickle":
            for outcome in outcomes:
                pickle.dump(_as_record(outcome), file)
        elif kind == "csv":
            _write_csv(outcomes, file)
        else:
            for outcome in outcomes:
                file.write(as_json(outcome, getattr(file, "encoding", None) or "utf-8") + "\n")


@contextmanager
def _opened(out: Path | None, *, is_binary: bool) -> Iterator[IO[Any]]:
    if out is None:
        if is_binary and sys.stdout.isatty():
            raise ConfigError("pickles are not for a terminal: name a file with --out")
        yield sys.stdout.buffer if is_binary else sys.stdout
        return
    draft = out.with_name(f".{out.name}.part")
    try:
        with (
            draft.open("wb")
            if is_binary
            else draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file
        ):
            yield file
        draft.replace(out)
    except OSError as error:
        raise ConfigError(f"results cannot be written: {error.strerror}: file={out}") from error
    finally:
        draft.unlink(missing_ok=True)


def _write_each(outcomes: Iterable[Outcome], folder: Path, kind: str) -> None:
    if kind not in ("jsonl", "pickle"):
        raise ConfigError(f"a folder gets a file for each task, as jsonl or pickle: format={kind}")
    for outcome in outcomes:
        suffix = "pkl" if kind == "pickle" else "json"
        with _opened(folder / f"{outcome.task.id}.{suffix}", is_binary=kind == "pickle") as file:
            if kind == "pickle":
                pickle.dump(_as_record(outcome), file)
            else:
                file.write(as_json(outcome) + "\n")


# --- one outcome ------------------------------------------------------------------------------------------------------


def _facts(outcome: Outcome) -> dict[str, Any]:
    task = outcome.task
    facts = dict(zip(_FACTS, (task.id, task.sequence, task.state.name.lower()), strict=True))
    if outcome.label:
        facts["label"] = outcome.label
    if outcome.attempts:
        facts["attempts"] = [
            {**dataclasses.asdict(attempt), "error": attempt.error.encode("utf-8", "backslashreplace").decode()}
            for attempt in outcome.attempts
        ]
    return facts


def _as_record(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome with its value, or its exception, as they are."""
    value, error = outcome.loaded()
    return {**_facts(outcome), "value": value, "error": error}


def as_json(outcome: Outcome, encoding: str = "utf-8") -> str:
    """Return an outcome as a line of JSON; what this encoding lacks is escaped."""
    fields: dict[str, Any] = {"format": FORMAT, **_facts(outcome)}
    if outcome.task.state == State.COMPLETED and outcome.problem is None:
        try:
            fields["value"] = _plain(outcome.value())
            return _dumped(fields, encoding)
        except Exception as error:  # user code runs here: __setstate__, __repr__
            fields.pop("value", None)
            fields["error"] = {"type": type(error).__name__, "message": str(error), "traceback": ""}
            return _dumped(fields, encoding)
    failure = outcome.failure()
    if failure is not None:
        fields["error"] = {"type": failure.type_name, "message": failure.message, "traceback": failure.traceback}
        if failure.type_name == PROGRAM_FAILED:
            fields["error"].update(_of_program(outcome))
    return _dumped(fields, encoding)


def _of_program(outcome: Outcome) -> dict[str, Any]:
    """Return what is known of a program that failed."""
    _, error = outcome.loaded()
    if not isinstance(error, ProgramFailed):
        return {}
    return {"exit_status": error.returncode, "stdout": _text(error.stdout), "stderr": _text(error.stderr)}


def _dumped(fields: Mapping[str, Any], encoding: str) -> str:
    line = json.dumps(fields, ensure_ascii=False)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(fields)
    return line


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers that JSON lacks become null, arrays lists, other objects their `repr`."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    for method in ("tolist", "isoformat"):  # of numpy and of datetime
        if callable(getattr(value, method, None)):
            return _plain(getattr(value, method)())
    return _text(repr(value))


def _text(text: str) -> str:
    """Return text that every encoding of Unicode has: a file's name that is no UTF-8 is none."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


# --- tables -----------------------------------------------------------------------------------------------------------


def _row(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as a row: a mapping gives a column a key, anything else the column `value`."""
    fields = json.loads(as_json(outcome))
    row = {name: fields[name] for name in (*_FACTS, "label") if name in fields}
    error = fields.get("error")
    value = fields.get("value")
    row.update(value if isinstance(value, dict) else {"value": value} if error is None else {})
    row["error"] = None if error is None else f"{error['type']}: {error['message']}"
    return row


def _write_csv(outcomes: Iterable[Outcome], file: IO[str]) -> None:
    """Write a table whose columns are those of the first completed task; what others have more is in the column `more`."""
    left = iter(outcomes)
    # Failures before the first value wait for it, up to a bound: their rows have the columns of values too.
    head: list[dict[str, Any]] = []
    for outcome in islice(left, _ROWS_AT_ONCE):
        head.append(_row(outcome))
        if outcome.task.state == State.COMPLETED:
            break
    columns = [
        *_FACTS,
        *(dict.fromkeys(name for row in head for name in row if name not in (*_FACTS, "error"))),
        "error",
    ]
    if len(columns) == len(_FACTS) + 1:
        columns.insert(-1, "value")
    writer = csv.DictWriter(file, [*columns, "more"], lineterminator="\n")
    writer.writeheader()
    for row in head:
        writer.writerow(_cells(row, columns))
    for outcome in left:
        writer.writerow(_cells(_row(outcome), columns))


def _cells(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    known = set(columns)
    cells = {name: _cell(value) for name, value in row.items() if name in known}
    more = {name: value for name, value in row.items() if name not in known}
    return {**cells, "more": json.dumps(more, ensure_ascii=False) if more else ""}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _write_parquet(outcomes: Iterable[Outcome], out: Path | None) -> None:
    try:
        import pyarrow as pa  # type: ignore[import-not-found]  # not required: users of parquet have it
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"parquet needs pyarrow: type `{sys.executable} -m pip install pyarrow`, or choose --format jsonl or csv"
        ) from error
    if out is None:
        raise ConfigError("parquet needs a file: --out FILE")
    rows = (_row(outcome) for outcome in outcomes)
    with _opened(out, is_binary=True) as file:
        batch = list(islice(rows, _ROWS_AT_ONCE))
        schema = _schema(pa, batch)
        with parquet.ParquetWriter(file, schema) as writer:
            while batch:
                try:
                    writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                    raise ConfigError(
                        f"a column's values are of different types, which parquet refuses: {error}; choose --format jsonl or csv"
                    ) from error
                batch = list(islice(rows, _ROWS_AT_ONCE))


def _schema(pa: Any, batch: Sequence[Mapping[str, Any]]) -> Any:
    """Return the columns of the first batch, with the types of its values. One without any value holds texts."""
    names = [*dict.fromkeys(name for row in batch for name in row if name != "error"), "error"]
    if not batch:
        names = [*_FACTS, "value", "error"]
    # Arrow takes the columns from the first row alone.
    found = pa.Table.from_pylist([{name: row.get(name) for name in names} for row in batch] or [dict.fromkeys(names)])
    return pa.schema([(one.name, pa.string() if pa.types.is_null(one.type) else one.type) for one in found.schema])
