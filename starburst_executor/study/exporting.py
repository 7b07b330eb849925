"""A study as readable JSON, and back: its record, and the tables of its trials.

Numbers that JSON does not have are `{"float": "nan"}`, `"inf"` or `"-inf"`; bytes are `{"base64": …}`. Everything else is as in the
record (docs/design/0013-studies.md).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.study.record import FORMAT, StudyRecord, from_plain, to_plain
from starburst_executor.study.tables import STATES, TrialRow

__all__ = ["from_json", "to_json"]


def to_json(record: StudyRecord, tables: Mapping[str, Sequence[TrialRow]]) -> str:
    """Return a study as JSON. `tables` has the rows of each table that the record names, by digest."""
    whole = {
        "format": FORMAT,
        "study": _written(to_plain(record)),
        "tables": {
            digest: [
                {
                    "trial": row.name,
                    "state": row.state,
                    "kind": row.kind,
                    "error": row.error,
                    "metrics": _written(row.metrics),
                    "params": _written(row.params),
                    "artefacts": dict(row.artefacts),
                    "curve": [[step, _written(metrics)] for step, metrics in row.curve],
                    "seconds": row.seconds,
                }
                for row in rows
            ]
            for digest, rows in tables.items()
        },
    }
    return json.dumps(whole, indent=1, allow_nan=False) + "\n"


def from_json(text: str) -> tuple[StudyRecord, dict[str, list[TrialRow]]]:
    """Return the record and the tables of an exported study. Raises: RecordInvalid: it names the field; VersionMismatch."""
    try:
        whole = json.loads(text)
    except ValueError as error:
        raise RecordInvalid(f"not an exported study: {error}") from error
    if not isinstance(whole, dict) or type(whole.get("format")) is not int:
        raise RecordInvalid("not an exported study: it has no format")
    if whole["format"] > FORMAT:
        raise VersionMismatch(f"the exported study has a newer format: format={whole['format']}, known={FORMAT}")
    study = whole.get("study")
    if not isinstance(study, dict):
        raise RecordInvalid("not an exported study: field study")
    record = from_plain(_read(study))
    tables = whole.get("tables")
    if not isinstance(tables, dict):
        raise RecordInvalid("not an exported study: field tables")
    return record, {
        digest: [_row(one, f"tables.{digest}[{i}]") for i, one in enumerate(rows)] for digest, rows in tables.items()
    }


def _row(one: Any, where: str) -> TrialRow:
    try:
        stage, _, index = one["trial"].rpartition("/")
        if one["state"] not in STATES:
            raise ValueError(f"state {one['state']!r}")
        return TrialRow(
            stage,
            int(index),
            one["state"],
            one["kind"],
            one["error"],
            _read(one["metrics"]),
            _read(one["params"]),
            dict(one["artefacts"]),
            tuple((step, _read(metrics)) for step, metrics in one["curve"]),
            one["seconds"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordInvalid(
            f"an exported study is malformed: field {where}: {type(error).__name__}: {error}"
        ) from error


def _written(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        return {key: _written(one) for key, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, (list, tuple)) else value


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"base64"} and isinstance(value["base64"], str):
            return base64.b64decode(value["base64"])
        if set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: _read(one) for key, one in value.items()}
    return [_read(one) for one in value] if isinstance(value, list) else value
