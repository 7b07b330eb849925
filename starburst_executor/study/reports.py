"""What trials report while they run, in the store: each writes its own object, and reads those of the others, for a pruner of Optuna.

    trial ──put──► reports/<stage>.<edition>/<index> ──driver, of trials that ended──► reports/<stage>.<edition>/ended
                              │                                                              │
                              └───────────────── LIST, GET what changed ◄────────────────────┘ another trial, on any machine

`ended` repeats the reports of trials that ended, each with the ETag of the object that it was read from: it saves requests, and is never needed.
Guarantee: reading never runs code. A report that is missing is one that was not made yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgpack

from starburst_executor.errors import ObjectNotFound, RecordInvalid
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.keys import StudyKeys

__all__ = ["COMPLETED", "PRUNED", "RUNNING", "Ended", "Reports", "TrialReport", "points_of"]

COMPLETED, PRUNED, RUNNING = "completed", "pruned", "running"
_STATES = (COMPLETED, PRUNED, RUNNING)
_ENDED = "ended"
_FEW = 8  # reports that are read one by one
_SHARE = 8  # likewise: one in this number of those that are in `ended`


class TrialReport(NamedTuple):
    """How one trial does.

    Attributes:
        state: `completed`, `pruned` or `running`. A trial that fails stays as it last reported.
        value: The metric that it returned, if it completed.
        points: The metric by step; of several reports of one step the first.
        attributes: What the pruner keeps of the trial.
    """

    state: str
    value: float | None
    points: Mapping[int, float]
    attributes: Mapping[str, Any]


def points_of(curve: Iterable[tuple[int, Mapping[str, float]]], metric: str) -> dict[int, float]:
    """Return a metric by step; of several reports of one step the first, as Optuna has it."""
    points: dict[int, float] = {}
    for step, metrics in curve:
        if metric in metrics:
            points.setdefault(step, float(metrics[metric]))
    return points


class Reports:
    """The reports of one stage, as one of its trials sees them. Not thread-safe.

    Attributes:
        by_index: The reports of the other trials, as they were at the last look.
    """

    def __init__(self, keys: StudyKeys, stage: str, edition: int, index: int) -> None:
        self.by_index: dict[int, TrialReport] = {}
        self._folder = keys.reports(stage, edition)
        self._index = index
        self._etags: dict[str, str] = {}
        self._ended: dict[int, tuple[str, TrialReport]] = {}

    def look(self, store: ObjectStore) -> None:
        """Read what has changed. Raises: RecordInvalid. Store: 1 LIST per 1,000 reports, 1 GET for each new or changed one that is not in `ended`."""
        etags = {one.key.removeprefix(self._folder): one.etag for one in store.list(self._folder)}
        if etags.get(_ENDED) != self._etags.get(_ENDED):
            self._ended = _read_ended(store, f"{self._folder}{_ENDED}")
        for name, etag in etags.items():
            if not name.isdecimal() or int(name) == self._index or self._etags.get(name) == etag:
                continue
            known = self._ended.get(int(name))
            if known is not None and known[0] == etag:
                self.by_index[int(name)] = known[1]
            else:
                with suppress(ObjectNotFound):
                    self.by_index[int(name)] = _decoded(store.get(f"{self._folder}{name}").body)
        self._etags = etags

    def write(self, store: ObjectStore, report: TrialReport) -> None:
        """Write the report of this trial. Store: 1 put."""
        store.put(f"{self._folder}{self._index}", msgpack.packb(tuple(report)))


class Ended:
    """The reports of a stage's ended trials in their driver, which keeps them in one object. Not thread-safe."""

    def __init__(self) -> None:
        self._fresh: set[int] = set()
        self._known: dict[int, tuple[str, TrialReport]] | None = None

    def take(self, indexes: Iterable[int]) -> None:
        """Take note of trials that ended."""
        self._fresh.update(indexes)

    def publish(self, store: ObjectStore, folder: str) -> None:
        """Write those that ended, if they are several. Store: 1 GET for each, 1 put; the first time 1 GET more."""
        n_known = 0 if self._known is None else len(self._known)
        if len(self._fresh) < max(_FEW, n_known // _SHARE):
            return
        if self._known is None:
            self._known = _read_ended(store, f"{folder}{_ENDED}")
        for index in sorted(self._fresh):
            with suppress(ObjectNotFound):  # one that reported nothing
                stored = store.get(f"{folder}{index}")
                self._known[index] = stored.etag, _decoded(stored.body)
        self._fresh.clear()
        plain = {index: (etag, *report) for index, (etag, report) in self._known.items()}
        store.put(f"{folder}{_ENDED}", msgpack.packb(plain))


def _read_ended(store: ObjectStore, key: str) -> dict[int, tuple[str, TrialReport]]:
    try:
        plain = _unpacked(store.get(key).body)
        return {int(index): (str(etag), _checked(fields)) for index, (etag, *fields) in plain.items()}
    except ObjectNotFound:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordInvalid(f"the reports of trials cannot be read: {key}") from error


def _decoded(body: bytes) -> TrialReport:
    try:
        return _checked(_unpacked(body))
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordInvalid(f"the report of a trial cannot be read: {type(error).__name__}: {error}") from error


def _unpacked(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, strict_map_key=False)
    except msgpack.UnpackException as error:
        raise ValueError("not msgpack") from error


def _checked(fields: Any) -> TrialReport:
    state, value, points, attributes = fields
    if state not in _STATES or not isinstance(attributes, dict):
        raise ValueError(f"state={state!r}")
    numbers = {int(step): float(number) for step, number in points.items()}
    return TrialReport(state, None if value is None else float(value), numbers, attributes)
