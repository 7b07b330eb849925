"""What a status object holds of single tasks besides their outcomes: labels, and the errors of earlier tries.

A collector passes them on with the outcomes that it reads. For a task that has not ended, `TaskFacts` reads its status object.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from starburst_executor.errors import ObjectNotFound, RecordInvalid, VersionMismatch
from starburst_executor.protocol.attempts import Attempt, attempts_of
from starburst_executor.protocol.labels import labels_of
from starburst_executor.protocol.spans.record import Status
from starburst_executor.session.store import SessionStore

__all__ = ["TaskFacts", "known_facts"]

_KEPT = 64  # status objects whose labels are kept


def known_facts(status: Status) -> tuple[tuple[str, ...], Mapping[int, Sequence[Attempt]]]:
    """Return the labels of an object's tasks, or nothing, and by position the errors of earlier tries, as far as they can be read."""
    try:
        labels = labels_of(status)
    except RecordInvalid:
        labels = ()
    return labels, attempts_of(status)


class TaskFacts:
    """Reads labels and errors of single tasks. Thread-safe."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session
        self._lock = threading.Lock()  # guards: _labels
        # By ordinal and first index: the number of tasks, and the labels.
        self._labels: OrderedDict[tuple[int, int], tuple[int, tuple[str, ...]]] = OrderedDict()

    def of(self, ordinal: int, index: int, *, now: bool = False) -> tuple[str, Sequence[Attempt]]:
        """Return a task's label and the errors of its earlier tries.

        Args:
            now: Read the errors as they are now; otherwise they may be missing.

        Store: nothing if the labels of its status object are kept, unless `now`; otherwise 1 GET, 1 LIST for each epoch of its submitter up
        to the task's, 1 GET.
        """
        if not now and (label := self._kept(ordinal, index)) is not None:
            return label, ()
        found = self._read(ordinal, index)
        if found is None:
            return "", ()
        labels, attempts = known_facts(found)
        with self._lock:
            self._labels[ordinal, found.first] = (found.n_tasks, labels)
            self._labels.move_to_end((ordinal, found.first))
            while len(self._labels) > _KEPT:
                self._labels.popitem(last=False)
        position = index - found.first
        return labels[position] if labels else "", attempts.get(position, ())

    def _kept(self, ordinal: int, index: int) -> str | None:
        with self._lock:
            for (owner, first), (n_tasks, labels) in self._labels.items():
                if owner == ordinal and first <= index < first + n_tasks:
                    return labels[index - first] if labels else ""
        return None

    def _read(self, ordinal: int, index: int) -> Status | None:
        session = self._session
        submitters = session.manifest.refresh().submitters
        for epoch in range(submitters[ordinal].epochs if ordinal < len(submitters) else 0):
            for listed in session.statuses.of_epochs([(ordinal, epoch)]):
                if listed.ref.first <= index < listed.ref.first + listed.ref.n_tasks:
                    try:
                        return session.statuses.read(listed.key).status
                    except (ObjectNotFound, RecordInvalid, VersionMismatch):
                        return None
        return None
