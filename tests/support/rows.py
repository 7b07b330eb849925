"""Rows of futures, as submits make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starburst_executor.client.future import StarburstFuture
from starburst_executor.client.rows import FutureRow, RowPart


def parts_of(futures: Sequence[StarburstFuture[Any]]) -> list[RowPart]:
    """Return futures of neighbouring tasks as a row, which is all of a status object."""
    row = FutureRow(futures[0].index)
    for i, future in enumerate(futures):
        row.add(i, future)
    return [RowPart(0, row, 0, len(futures))]
