"""The table of a stage's trials: one row a trial, as selections see it and as it is stored.

Guarantee: equal rows have equal bytes, so a table is named by its digest and writing it twice is harmless. Reading never runs code
and raises only `RecordInvalid` or `VersionMismatch`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from starburst_executor.errors import RecordInvalid, VersionMismatch
from starburst_executor.study.artefacts import Artefact, of_plain

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "STATES",
    "Counts",
    "TrialRow",
    "counted",
    "decode_table",
    "encode_table",
    "row_of",
]

COMPLETED, FAILED, CANCELLED = "completed", "failed", "cancelled"
STATES = (COMPLETED, FAILED, CANCELLED)
FORMAT = 2  # 1 had artefacts without their size and kind
_NUMBERS = (int, float)


@dataclass(frozen=True, slots=True)
class TrialRow:
    """The outcome of one trial.

    Attributes:
        stage: The stage that it belongs to.
        index: Its number in the stage, from 0.
        state: `completed`, `failed` or `cancelled`; a pruned trial is cancelled.
        kind: Why, unless completed: `raised`, `crashed`, `timed out`, `memory`, `disk full`, `lost`, `payload`, `pruned`, `cancelled`.
        error: The first line of its error.
        metrics: What it returned, by name.
        params: Its parameters, including those that it set itself.
        artefacts: What it saved, by name.
        curve: What it reported: pairs of a step and its metrics.
        seconds: How long it ran.
    """

    stage: str
    index: int
    state: str
    kind: str = ""
    error: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    artefacts: Mapping[str, Artefact] = field(default_factory=dict)
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The trial's name: `stage/index`."""
        return f"{self.stage}/{self.index}"

    @property
    def is_completed(self) -> bool:
        return self.state == COMPLETED


class Counts(NamedTuple):
    """The number of trials by state."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def ended(self) -> int:
        return self.completed + self.failed + self.cancelled


def counted(rows: Iterable[TrialRow]) -> Counts:
    """Count rows by state."""
    by_state = Counter(row.state for row in rows)
    return Counts(by_state[COMPLETED], by_state[FAILED], by_state[CANCELLED])


def encode_table(stage: str, rows: Sequence[TrialRow]) -> tuple[str, bytes]:
    """Return the digest and the bytes of a table. The rows must be sorted by index."""
    plain = [
        (row.index, row.state, row.kind, row.error, dict(row.metrics), dict(row.params), dict(row.artefacts),
         [(step, dict(metrics)) for step, metrics in row.curve], row.seconds)
        for row in rows
    ]  # fmt: skip
    body: bytes = msgpack.packb({"format": FORMAT, "stage": stage, "rows": plain}, unicode_errors="surrogateescape")
    return hashlib.sha256(body).hexdigest(), body


def decode_table(body: bytes, digest: str) -> list[TrialRow]:
    """Read a table. Raises: RecordInvalid: it has another digest, or is no table; VersionMismatch."""
    if hashlib.sha256(body).hexdigest() != digest:
        raise RecordInvalid(f"a table of trials has been changed: it has another digest than its name: digest={digest}")
    try:
        whole = msgpack.unpackb(body, unicode_errors="surrogateescape", strict_map_key=False)
        if whole["format"] != FORMAT:
            raise VersionMismatch(f"a table of trials of another format: format={whole['format']}, known={FORMAT}")
        stage = whole["stage"]
        return [row_of(stage, *fields) for fields in whole["rows"]]
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise RecordInvalid(f"not a table of trials: {type(error).__name__}: {error}: digest={digest}") from error


def row_of(
    stage: Any, index: Any, state: Any, kind: Any, error: Any, metrics: Any, params: Any, artefacts: Any, curve: Any,
    seconds: Any,
) -> TrialRow:  # fmt: skip
    """Return the row of stored values. Raises: TypeError, ValueError: they are none."""
    if type(index) is not int or index < 0 or state not in STATES:
        raise ValueError(f"the index {index!r} and the state {state!r}")
    if not (type(stage) is str and type(kind) is str and type(error) is str and type(seconds) in _NUMBERS):
        raise ValueError(f"the stage, the kind, the error and the seconds {(stage, kind, error, seconds)!r}")
    if not (_are_numbers(metrics) and isinstance(params, Mapping) and all(type(name) is str for name in params)):
        raise ValueError(f"the metrics {metrics!r} and the parameters {params!r}")
    points = tuple((step, values) for step, values in curve)
    if not all(type(step) is int and _are_numbers(values) for step, values in points):
        raise ValueError(f"the curve {curve!r}")
    return TrialRow(stage, index, state, kind, error, metrics, params, of_plain(artefacts), points, seconds)


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Mapping) and all(
        type(name) is str and type(value) in _NUMBERS for name, value in values.items()
    )
