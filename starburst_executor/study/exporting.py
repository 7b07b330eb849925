"""A study as readable JSON, and back: its record, the tables of its trials, and the logs of its searches, which stay sealed.

Numbers that JSON does not have are `{"float": "nan"}`, `"inf"` or `"-inf"`; bytes are `{"base64": …}`; a map that looks like one of these is
`{"map": …}`. Everything else is as in the
record (docs/design/0013-studies.md).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.study.record import StudyRecord
from starburst_executor.study.record_form import FORMAT, from_plain, to_plain
from starburst_executor.study.tables import TrialRow, encode_table, row_of

__all__ = ["from_json", "plain_json", "plain_value", "to_json"]

_MARKS = ("float", "base64", "map")  # the only key of a map that stands for something else


def to_json(
    record: StudyRecord, tables: Mapping[str, Sequence[TrialRow]], searches: Mapping[str, Sequence[bytes]]
) -> str:
    """Return a study as JSON.

    Args:
        tables: The rows of each table that the record names, by digest.
        searches: The entries of the log of each stage's search, as they are stored, by stage.
    """
    whole = {
        "format": FORMAT,
        "study": plain_value(to_plain(record)),
        "tables": {digest: [plain_json(row) for row in rows] for digest, rows in tables.items()},
        "searches": plain_value(searches),
    }
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def plain_json(row: TrialRow) -> dict[str, Any]:
    """Return a trial as values that JSON has."""
    return {
        "trial": row.name,
        "state": row.state,
        "kind": row.kind,
        "error": row.error,
        "metrics": plain_value(row.metrics),
        "params": plain_value(row.params),
        "artefacts": dict(row.artefacts),
        "curve": [[step, plain_value(metrics)] for step, metrics in row.curve],
        "seconds": row.seconds,
    }


def from_json(text: str) -> tuple[StudyRecord, dict[str, list[TrialRow]], dict[str, list[bytes]]]:
    """Return the record, the tables and the logs of searches of an exported study. Raises: RecordInvalid: it names the field; VersionMismatch."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(f"not an exported study: {error}") from error
    if not isinstance(whole, dict) or type(whole.get("format")) is not int:
        raise RecordInvalid("not an exported study: it has no format")
    if whole["format"] > FORMAT:
        raise VersionMismatch(f"the exported study has a newer format: format={whole['format']}, known={FORMAT}")
    if whole["format"] < FORMAT:
        raise VersionMismatch(f"the exported study has an older format: format={whole['format']}, known={FORMAT}")
    study = whole.get("study")
    if not isinstance(study, dict):
        raise RecordInvalid("not an exported study: field study")
    record = from_plain(_read(study))
    tables = whole.get("tables")
    if not isinstance(tables, dict):
        raise RecordInvalid("not an exported study: field tables")
    searches = _read(whole.get("searches"))
    if not isinstance(searches, dict) or not all(
        name in record.names and isinstance(log, list) and all(isinstance(entry, bytes) for entry in log)
        for name, log in searches.items()
    ):
        raise RecordInvalid("not an exported study: field searches")
    return record, {digest: _table(digest, rows) for digest, rows in tables.items()}, searches


def _table(digest: str, rows: Any) -> list[TrialRow]:
    if not isinstance(rows, list):
        raise RecordInvalid(f"an exported study is malformed: field tables.{digest}: must be a list")
    found = [_row(one, f"tables.{digest}[{i}]") for i, one in enumerate(rows)]
    try:
        own_digest, _ = encode_table(found[0].stage if found else "", found)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordInvalid(f"an exported study is malformed: field tables.{digest}: {error}") from error
    if own_digest != digest:
        raise RecordInvalid(f"an exported study is malformed: field tables.{digest}: it has another digest")
    return found


def _row(one: Any, where: str) -> TrialRow:
    try:
        stage, _, index = one["trial"].rpartition("/")
        return row_of(
            stage, int(index), one["state"], one["kind"], one["error"], _read(one["metrics"]), _read(one["params"]),
            one["artefacts"], [(step, _read(metrics)) for step, metrics in one["curve"]], one["seconds"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordInvalid(
            f"an exported study is malformed: field {where}: {type(error).__name__}: {error}"
        ) from error


def plain_value(value: Any) -> Any:
    """Return a value with what JSON does not have, numbers that are not finite and bytes, as maps."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        plain = {key: plain_value(one) for key, one in value.items()}
        return {"map": plain} if len(plain) == 1 and next(iter(plain)) in _MARKS else plain
    return [plain_value(one) for one in value] if isinstance(value, (list, tuple)) else value


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RecordInvalid(f"an exported study is malformed: {text[:40]!r} is not base64: {error}") from error


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"base64"} and isinstance(value["base64"], str):
            return _bytes(value["base64"])
        if set(value) == {"map"} and isinstance(value["map"], dict):
            return {key: _read(one) for key, one in value["map"].items()}
        if set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: _read(one) for key, one in value.items()}
    return [_read(one) for one in value] if isinstance(value, list) else value
