"""Reads measured rows, from which plots and tables are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Found", "MissingRowsError", "Rows", "chosen", "is_ratio", "needed", "newest"]

Rows = list[dict[str, Any]]


class MissingRowsError(Exception):
    """The rows of a plot were not measured."""


class Found(dict[str, Rows]):
    """The rows of each benchmark."""

    def __missing__(self, name: str) -> Rows:
        raise MissingRowsError(f"no rows of {name}")


def newest(folder: Path) -> Found:
    """Return the rows of each benchmark's newest file that has rows."""
    found = Found()
    for file in sorted(folder.glob("*-????-??-??.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if rows:
            found[file.stem[:-11]] = rows
    return found


def chosen(rows: Rows, **wanted: Any) -> Rows:
    """Return the measured rows with these conditions."""
    return [
        row
        for row in rows
        if row["value"] is not None and all(row["conditions"].get(name) == value for name, value in wanted.items())
    ]


def needed(rows: Rows, **wanted: Any) -> Rows:
    """Return the rows of `chosen`. Raises: MissingRowsError if there are none."""
    found = chosen(rows, **wanted)
    if not found:
        raise MissingRowsError(f"no rows with {wanted}")
    return found


def is_ratio(row: dict[str, Any]) -> bool:
    """Whether a row of `throughput` compares two libraries."""
    return "ours_over" in row["conditions"]
