"""The outcomes that running stages have so far, for people who look: an object for each such stage, which its driver writes now and then.

    driver ──put──► live/<stage>.<edition> ──► figures of the dashboard and of reports

Nothing is decided by it, and it is not sealed: the outcomes that count are in the session. It may be old, missing, or of a driver that is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import RUNNING, StageRecord, StudyRecord
from starburst_executor.study.tables import TrialRow, decode_table, encode_table

__all__ = ["Live", "LiveRows", "read_live"]

_T = TypeVar("_T")

_MOST_ROWS = 2_000  # of more an even choice
_MOST_POINTS = 50  # of a learning curve, likewise
_SHARE = 10  # written when a tenth more trials have ended: for 5,000 trials some 80 times


class LiveRows(NamedTuple):
    """The rows of a running stage as they were read."""

    etag: str
    rows: Sequence[TrialRow]


class Live:
    """What a driver has written of its running stages. Not thread-safe."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, int], int] = {}

    def publish(self, objects: StudyObjects, stages: Iterable[tuple[StageRecord, Mapping[int, TrialRow]]]) -> None:
        """Write the rows of these stages, where a tenth more have ended since. Store: 1 put each."""
        for stage, rows in stages:
            key = (stage.name, stage.edition)
            n_written = self._written.get(key, 0)
            if len(rows) < n_written + max(1, n_written // _SHARE):
                continue
            self._written[key] = len(rows)
            chosen = [_short(rows[index]) for index in _even(sorted(rows), _MOST_ROWS)]
            objects.store.put(objects.keys.live(*key), encode_table(stage.name, chosen)[1])


def read_live(
    objects: StudyObjects, record: StudyRecord, known: Mapping[str, LiveRows] | None = None
) -> dict[str, LiveRows]:
    """Return the rows of running stages so far, by stage; those that cannot be read are left out.

    Args:
        known: What was returned before, which is not read again if it has not changed.
    Store: 1 GET for each running stage, a 304 if it has not changed.
    """
    found = {}
    for stage in record.stages:
        if stage.state != RUNNING:
            continue
        before = (known or {}).get(stage.name, LiveRows("", ()))
        key = objects.keys.live(stage.name, stage.edition)
        try:
            stored = objects.store.get_if_changed(key, before.etag) if before.etag else objects.store.get(key)
            if stored is None:
                found[stage.name] = before
            else:
                rows = decode_table(stored.body, hashlib.sha256(stored.body).hexdigest())
                found[stage.name] = LiveRows(stored.etag, rows)
        except (ObjectNotFound, RecordInvalid, VersionMismatch):
            continue
    return found


def _short(row: TrialRow) -> TrialRow:
    return replace(row, curve=tuple(_even(row.curve, _MOST_POINTS)))


def _even(values: Sequence[_T], most: int) -> Sequence[_T]:
    if len(values) <= most:
        return values
    return [values[i * (len(values) - 1) // (most - 1)] for i in range(most)]
