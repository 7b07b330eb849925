"""How a running trial decides whether to stop early: by the median of ended trials, or by a pruner of Optuna.

Trial.report ──► curve ──should_prune──► `MedianPruning`: curves/<stage>.<edition>, which the driver writes
                                     └──► `OptunaPruning`: reports/<stage>.<edition>/, which all trials write (`reports.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Protocol

import msgpack

from starburst_executor.clock import Clock
from starburst_executor.errors import ObjectNotFound
from starburst_executor.store.base import ObjectStore
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.spec import TrialSpec

__all__ = ["Curve", "Looks", "MedianPruning", "OpenStore", "Pruning", "pruning_of"]

_LOOK_S = 2.0  # between two looks at how other trials do

Curve = Sequence[tuple[int, Mapping[str, float]]]
OpenStore = Callable[[], AbstractContextManager[ObjectStore]]


class Pruning(Protocol):
    """The rule of one trial. Not thread-safe."""

    def says(self, curve: Curve) -> bool:
        """Return whether a trial that has reported this is to stop."""

    def end(self, curve: Curve, metrics: Mapping[str, float], *, is_pruned: bool) -> None:
        """Let other trials know how this one ended. A second call is harmless."""


def pruning_of(spec: TrialSpec, index: int, clock: Clock, open_store: OpenStore) -> Pruning | None:
    """Return the rule of a trial; None if its stage has none."""
    if spec.prune is None:
        return None
    if isinstance(spec.prune, tuple):
        return MedianPruning(spec, spec.prune[0], clock, open_store)
    from starburst_executor.study.pruning_optuna import OptunaPruning

    return OptunaPruning(spec, spec.prune, index, clock, open_store)


class Looks:
    """When it is time to look again at how other trials do: at once, then not more often than every two seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looked_at: float | None = None

    def begin(self) -> bool:
        """Begin a look if it is time, and return whether it is; the time to the next one counts from here."""
        now = self._clock.monotonic()
        if self._looked_at is not None and now - self._looked_at < _LOOK_S:
            return False
        self._looked_at = now
        return True


class MedianPruning:
    """A trial stops if its last value is worse than the median of ended trials at that step. Store: 1 GET, at most one in two seconds."""

    def __init__(self, spec: TrialSpec, metric: str, clock: Clock, open_store: OpenStore) -> None:
        self._key = StudyKeys(spec.study).curves(spec.stage, spec.edition)
        self._metric = metric
        self._is_min = spec.direction(metric) == "min"
        self._looks = Looks(clock)
        self._open_store = open_store
        self._medians: Mapping[str, float] = {}

    def says(self, curve: Curve) -> bool:
        step, values = curve[-1]
        if self._metric not in values:
            return False
        if self._looks.begin():
            with self._open_store() as store, suppress(ObjectNotFound):
                self._medians = msgpack.unpackb(store.get(self._key).body)
        median = self._medians.get(str(step))
        if median is None:
            return False
        return values[self._metric] > median if self._is_min else values[self._metric] < median

    def end(self, curve: Curve, metrics: Mapping[str, float], *, is_pruned: bool) -> None:
        """Do nothing: the driver takes the curve from the outcome."""
