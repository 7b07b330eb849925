"""A trial that a pruner of Optuna stops, on the worker that runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from starburst_executor.clock import Clock
from starburst_executor.study.keys import StudyKeys
from starburst_executor.study.pruners import Judge, OptunaPruner
from starburst_executor.study.pruning import Curve, Looks, OpenStore
from starburst_executor.study.reports import COMPLETED, PRUNED, RUNNING, Reports, TrialReport, points_of
from starburst_executor.study.spec import TrialSpec

__all__ = ["OptunaPruning"]


class OptunaPruning:
    """A trial stops if a pruner of Optuna says so, over what all trials of its stage have reported. Not thread-safe.

    Store: at most once in two seconds 1 LIST per 1,000 reports, 1 GET for each report that is new or has changed, 1 put; 1 put at the trial's end.
    """

    def __init__(self, spec: TrialSpec, pruner: OptunaPruner, index: int, clock: Clock, open_store: OpenStore) -> None:
        self._metric = pruner.metric
        self._judge = Judge(pruner, spec.direction(pruner.metric), index)
        self._reports = Reports(StudyKeys(spec.study), spec.stage, spec.edition, index)
        self._looks = Looks(clock)
        self._open_store = open_store

    def says(self, curve: Curve) -> bool:
        if self._metric not in curve[-1][1]:
            return False
        points = points_of(curve, self._metric)
        if not self._looks.begin():
            return self._judge.says(points)
        with self._open_store() as store:
            self._reports.look(store)
            self._judge.learn(self._reports.by_index)
            says = self._judge.says(points)
            # Crash here: the trial runs again from its beginning, and reports again.
            self._reports.write(store, TrialReport(RUNNING, None, points, self._judge.attributes))
        return says

    def end(self, curve: Curve, metrics: Mapping[str, float], *, is_pruned: bool) -> None:
        points = points_of(curve, self._metric)
        if not points:
            return
        value = metrics.get(self._metric, math.nan)
        is_completed = not is_pruned and not math.isnan(value)
        state = PRUNED if is_pruned else COMPLETED if is_completed else RUNNING
        report = TrialReport(state, value if is_completed else None, points, self._judge.attributes)
        with self._open_store() as store:
            self._reports.write(store, report)
