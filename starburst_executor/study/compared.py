"""What a study offers for comparing it: `check` against a baseline, `compare` with another study. They only read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starburst_executor.study.stored import StoredStudy

if TYPE_CHECKING:
    from starburst_executor.study.checking import CheckReport
    from starburst_executor.study.comparing import StudyComparison

__all__ = ["ComparedStudy"]


class ComparedStudy(StoredStudy):
    """The part of `Study` that compares it."""

    def check(
        self,
        baseline: ComparedStudy | str | Path,
        tolerance: Mapping[str, Any],
        *,
        direction: Mapping[str, str] | None = None,
        stage: str | None = None,
        by: Iterable[str] | None = None,
        confidence: float = 0.95,
    ) -> CheckReport:
        """Return whether metrics became worse than those of a baseline, by more than a tolerance.

        Args:
            baseline: Another study, or the path of a file that `starburst study check --update-baseline` wrote.
            tolerance: By metric: `"2%"` of the baseline, or a number in the metric's unit.
            direction: `max` or `min` of metrics that the stage does not declare.
            stage: The stage that is compared; the last one by default.
            by: The parameters by which trials are compared; all by default. Trials with equal ones are repeats.
            confidence: Of tests and intervals.

        Raises: ConfigError: they cannot be compared; the extra `check` is missing. Store: 2 GETs for each study.
        """
        from starburst_executor.study.baselines import measured, read_baseline
        from starburst_executor.study.checking import checked, tolerances_of

        names = None if by is None else tuple(by)
        current = measured(self._objects, stage, by=names)
        if isinstance(baseline, ComparedStudy):
            before = measured(baseline._objects, current.stage, by=names)  # noqa: SLF001 - of this class
            named = before.study
        else:
            before, named = read_baseline(Path(baseline)), str(baseline)
        return checked(
            current, before, tolerances_of(tolerance), directions=direction, confidence=confidence, named=named
        )

    def compare(self, other: ComparedStudy) -> StudyComparison:
        """Return what differs from another study: metrics by stage, configuration and code, survivors side by side.

        Raises: StudyNotFound, RecordInvalid. Store: 1 GET for each study, and 1 GET for each of its decided stages.
        """
        from starburst_executor.study.comparing import compared, side_of

        return compared(side_of(self._objects), side_of(other._objects))
