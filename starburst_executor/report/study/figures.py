"""All figures that a study has something for, in the order of a report."""

from __future__ import annotations

from collections.abc import Iterator

from starburst_executor.errors import ConfigError
from starburst_executor.report.study import parameters, stages, trials
from starburst_executor.report.study.facts import StudyFacts
from starburst_executor.report.study.figure import Figure
from starburst_executor.report.study.style import WITHOUT, can_draw

__all__ = ["figures_of"]


def figures_of(facts: StudyFacts) -> list[Figure]:
    """Return the figures of a study; those without data are left out. Raises: ConfigError: matplotlib or NumPy is not installed."""
    if not can_draw():
        raise ConfigError(WITHOUT)
    return [figure for figure in _all(facts) if figure is not None]


def _all(facts: StudyFacts) -> Iterator[Figure | None]:
    yield stages.funnel(facts)
    yield stages.metrics(facts)
    yield trials.lineage(facts)
    found = parameters.varied(facts)
    if found is not None:
        yield parameters.influence(found)
        yield parameters.contours(found)
        yield parameters.parallel(found)
    yield trials.fronts(facts)
    yield trials.curves(facts)
    yield stages.failures(facts)
    yield stages.times(facts)
