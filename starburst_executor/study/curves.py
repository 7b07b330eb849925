"""How ended trials did at each step, for `Trial.should_prune`: one object a stage, which running trials read.

With a pruner of Optuna it is what they reported (`reports.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgpack

from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.reports import Ended
from starburst_executor.study.stage import Stage
from starburst_executor.study.tables import TrialRow

__all__ = ["Curves"]


class Curves:
    """The reported values of ended trials, by stage and step. Not thread-safe."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int], dict[int, list[float]]] = {}
        self._least: dict[tuple[str, int], int] = {}
        self._ended: dict[tuple[str, int], Ended] = {}
        self._changed: set[tuple[str, int]] = set()

    def take(self, stage: Stage, edition: int, rows: Iterable[TrialRow]) -> None:
        """Take the curves of trials that ended; nothing for a stage without `prune`."""
        key = (stage.name, edition)
        if stage.prune is None:
            return
        if not isinstance(stage.prune, tuple):
            self._ended.setdefault(key, Ended()).take(row.index for row in rows)
            return
        metric, least = stage.prune
        self._least[key] = least
        values = self._values.setdefault(key, {})
        for row in rows:
            for step, metrics in row.curve:
                if metric in metrics:
                    values.setdefault(step, []).append(metrics[metric])
                    self._changed.add(key)

    def medians(self, stage: str, edition: int) -> dict[str, float]:
        """Return the median of each step that enough trials have reported."""
        key = (stage, edition)
        least = self._least.get(key, 1)
        return {
            str(step): _median(values) for step, values in self._values.get(key, {}).items() if len(values) >= least
        }

    def publish(self, objects: StudyObjects) -> None:
        """Write what has changed. Store: 1 put for each changed stage; with a pruner of Optuna 1 GET for each trial that ended, and now and then 1 put."""
        for (stage, edition), ended in self._ended.items():
            ended.publish(objects.store, objects.keys.reports(stage, edition))
        for stage, edition in sorted(self._changed):
            objects.store.put(objects.keys.curves(stage, edition), msgpack.packb(self.medians(stage, edition)))
        self._changed.clear()


def _median(values: list[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
