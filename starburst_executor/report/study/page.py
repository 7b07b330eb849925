"""The report of a study as one HTML file: style, figures and their data are in it, it runs nothing and loads nothing."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from starburst_executor.report.page import template
from starburst_executor.report.study.facts import StudyFacts
from starburst_executor.report.study.figure import Figure
from starburst_executor.report.study.style import COLUMN
from starburst_executor.report.templating import markup
from starburst_executor.study.fetching import TrialArtefact
from starburst_executor.version import __version__

__all__ = ["artefacts_in", "study_page_of"]

_MOST_CSV_ROWS = 1000
_MOST_SURVIVORS = 25
_MOST_COLUMNS = 12  # of numbers, on paper
_MOST_METRICS = 8
_MOST_FAILURES = 30
_MOST_ARTEFACTS = 200


@dataclass(frozen=True, slots=True)
class ShownArtefacts:
    """Artefacts of a report: some of them, the number of all, and the bytes that they need in the store."""

    shown: list[TrialArtefact]
    total: int
    bytes: int


def artefacts_in(facts: StudyFacts) -> ShownArtefacts:
    """Return the artefacts of decided stages, those of survivors first."""
    found = [
        TrialArtefact(row.name, name, *artefact, is_survivor=row.name in survivors)
        for stage in facts.stages
        for survivors in [stage.survivors]
        for row in stage.rows
        for name, artefact in sorted(row.artefacts.items())
    ]
    size = sum({one.digest: one.size for one in found}.values())
    return ShownArtefacts(sorted(found, key=lambda one: not one.is_survivor)[:_MOST_ARTEFACTS], len(found), size)


def study_page_of(facts: StudyFacts, figures: list[Figure], no_figures: str = "") -> str:
    """Return the HTML. `no_figures` says why there are none. Raises: ConfigError if Jinja2 is not installed."""
    winner = facts.winner()
    return str(
        template("study.html").render(
            facts=facts,
            winner=winner,
            lineage=[] if winner is None else facts.lineage(winner.name),
            decided=sum(stage.record.is_decided for stage in facts.stages),
            stages=list(zip(facts.stages, facts.status.stages, strict=True)),
            survivors=[
                (
                    stage.name,
                    metrics,
                    stage.params()[: _MOST_COLUMNS - len(metrics)],
                    stage.record.survivors[:_MOST_SURVIVORS],
                    max(0, len(stage.record.survivors) - _MOST_SURVIVORS),
                )
                for stage in reversed(facts.stages)
                if stage.record.survivors
                for metrics in [stage.metrics()[:_MOST_METRICS]]
            ],
            failures=facts.failures()[:_MOST_FAILURES],
            artefacts=artefacts_in(facts),
            figures=[_shown(figure) for figure in figures],
            no_figures=no_figures or "There is nothing to draw yet.",
            settings=[
                *facts.record.settings.items(),
                ("store", facts.store),
                ("session", facts.record.session),
                ("created by version", facts.record.library),
            ],
            version=__version__,
        )
    )


def _shown(figure: Figure) -> dict[str, Any]:
    n = len(figure.rows)
    csv = base64.b64encode(figure.to_csv(_MOST_CSV_ROWS).encode()).decode()
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "is_wide": figure.size[0] > COLUMN,
        "svg": markup(figure.to_page()),
        "csv": f"data:text/csv;charset=utf-8;base64,{csv}",
        "n_rows": n,
        "n_shown": min(n, _MOST_CSV_ROWS),
        "is_cut": n > _MOST_CSV_ROWS,
    }
