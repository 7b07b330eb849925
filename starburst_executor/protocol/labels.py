"""The labels of a status object's tasks: one column of texts, deflated, in `Status.more["labels"]`.

A task without a label has an empty one; an object whose tasks all have none has no column. The column never changes, and transitions keep
it unread.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache

import msgpack

from starburst_executor.errors import RecordInvalid
from starburst_executor.protocol.options import MOST_LABEL
from starburst_executor.protocol.spans.record import MAX_TASKS, Status

__all__ = ["LABELS", "labels_of", "packed_labels", "unpacked_labels"]

LABELS = "labels"
# Four bytes a character at most, and what msgpack adds.
_MOST_BYTES = MAX_TASKS * (4 * MOST_LABEL + 5)


def packed_labels(labels: Iterable[str]) -> dict[str, bytes]:
    """Return the fields of `more` for the labels of all tasks of an object, in order; empty if there are none."""
    listed = list(labels)
    return {LABELS: zlib.compress(msgpack.packb(listed))} if any(listed) else {}


def labels_of(status: Status) -> tuple[str, ...]:
    """Return the labels of all tasks of an object, in order; empty if none has one. Raises: RecordInvalid."""
    stored = (status.more or {}).get(LABELS)
    return () if stored is None else unpacked_labels(stored, status.n_tasks)


def unpacked_labels(stored: object, n_tasks: int) -> tuple[str, ...]:
    """Return the labels of a column, in order. Raises: RecordInvalid: it is no column of this number of tasks."""
    labels = _unpacked(stored) if type(stored) is bytes else None
    if labels is None or len(labels) != n_tasks:
        raise RecordInvalid(f"labels that cannot be read: tasks={n_tasks}")
    return labels


@lru_cache(maxsize=32)
def _unpacked(stored: bytes) -> tuple[str, ...] | None:
    try:
        inflater = zlib.decompressobj()
        body = inflater.decompress(stored, _MOST_BYTES)
        labels = msgpack.unpackb(body, use_list=False)
    except (zlib.error, ValueError, msgpack.UnpackException):
        return None
    is_whole = type(labels) is tuple and all(type(label) is str and len(label) <= MOST_LABEL for label in labels)
    return labels if is_whole else None
