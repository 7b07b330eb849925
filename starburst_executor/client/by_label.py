"""The tasks of a session, counted by their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starburst_executor.client.reading import Block, Reading
from starburst_executor.client.task_facts import known_facts
from starburst_executor.protocol.spans.record import ENDED, State, Status

__all__ = ["LabelStatus", "status_by_label"]

_STATES = tuple(State)


@dataclass(frozen=True, slots=True)
class LabelStatus:
    """The tasks of one label at one moment.

    Attributes:
        label: Empty for tasks without one.
        total: Their number: pending, claimed, completed, failed and cancelled.
    """

    label: str
    total: int
    pending: int
    claimed: int
    completed: int
    failed: int
    cancelled: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def status_by_label(reading: Reading) -> dict[str, LabelStatus]:
    """Count a session's tasks by label, in the order in which labels were first submitted. Needs no key.

    Memory grows with the number of labels, not of tasks.
    Store: 1 GET, 1 LIST an epoch, 1 GET for each status object (up to 2,048 tasks), several at a time.
    """
    counts: dict[str, Counter[State]] = {}
    for block in reading.all():
        for state, labels in _labels_by_state(block):
            for label, n_tasks in Counter(labels).items():
                counts.setdefault(label, Counter())[state] += n_tasks
    return {
        label: LabelStatus(label, sum(of_label.values()), *(of_label[state] for state in _STATES))
        for label, of_label in counts.items()
    }


def _labels_by_state(block: Block) -> Iterator[tuple[State, list[str] | tuple[str, ...]]]:
    stored = block.stored
    if stored is None:
        yield State.FAILED, [""] * len(block.tasks)
        return
    labels, _ = known_facts(stored)
    labels = labels or ("",) * stored.n_tasks
    failed = _failed_in_order(stored)
    for start, span in stored.placed():
        of_span = labels[start : start + span.n]
        if span.state != ENDED or not failed:
            yield _STATES[span.state], of_span
            continue
        yield State.FAILED, [labels[i] for i in range(start, start + span.n) if i in failed]
        yield State.COMPLETED, [labels[i] for i in range(start, start + span.n) if i not in failed]


def _failed_in_order(stored: Status) -> frozenset[int]:
    return frozenset(stored.failed())
