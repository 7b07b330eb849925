"""A report as one HTML file: style and charts are in it, it runs nothing and loads nothing."""

from __future__ import annotations

import functools
import html
import re
from typing import Any

from starburst_executor.client.cleanup import utc
from starburst_executor.client.report import WorkerReport
from starburst_executor.report import charts
from starburst_executor.report.charts.workers import sample_of
from starburst_executor.report.facts import Facts
from starburst_executor.report.templating import environment, markup, visible
from starburst_executor.report.texts import span_text
from starburst_executor.texts import shortened, usd_text
from starburst_executor.version import __version__

__all__ = ["page_of", "template"]

_SHOWN_WORKERS = 200
_CHART_LANES = 40
_MOST_CHARACTERS = 6000
_MOST_NAME = 40
_MOST_VALUE = 80


def page_of(facts: Facts) -> str:
    """Return the HTML. Raises: ConfigError if Jinja2 is not installed."""
    overview, status = facts.overview, facts.status
    drawn = {
        "states": charts.states(overview),
        "workers": charts.workers(overview, status.members, most=_CHART_LANES),
        "durations": charts.durations(overview.durations),
        "labels": charts.labels(overview.by_label.rows()),
        "waiting": charts.waiting(overview),
        "completions": charts.completions(overview),
        "utilisation": charts.utilisation(overview),
    }
    return str(
        template("report.html").render(
            facts=facts,
            status=status,
            overview=overview,
            is_over=status.is_over,
            has_bars=any(lane.bars for lane in overview.lanes),
            charts={name: markup(svg) for name, svg in drawn.items()},
            chart_css=markup(charts.CSS),
            members=_members(facts),
            ended={lane.worker: sum(lane.counts.values()) for lane in overview.lanes},
            requests=_requests(facts),
            settings=[*facts.settings.items(), ("store", facts.store), *facts.versions.items()],
            version=__version__,
        )
    )


@functools.cache
def template(name: str) -> Any:
    """Return a template of this package; it escapes all values. Raises: ConfigError if Jinja2 is not installed."""
    found = environment("starburst_executor.report")
    found.filters.update(
        utc=lambda at: f"{utc(at):%Y-%m-%d %H:%M:%S} UTC",
        count=lambda n: f"{n:,}",
        seconds=span_text,
        dollars=usd_text,
        percent=lambda share: "–" if share is None else f"{share:.0%}",
        share=lambda n, total: f"{n / total:.1%}" if total else "–",
        bytes=_bytes_text,
        number=lambda value: f"{value:.4g}",
        short=lambda text: shortened(text, _MOST_NAME),
        value=_value_text,
        breaks=_breaks,
        rate=lambda rate: f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}",  # noqa: PLR2004 - three digits
        cut=lambda text: text if len(text) <= _MOST_CHARACTERS else f"…{text[-_MOST_CHARACTERS:]}",
    )
    return found.get_template(name)


def _members(facts: Facts) -> list[tuple[int | None, WorkerReport]]:
    """Return workers with their numbers in the chart; all that are in it, and of the others some."""
    numbers = {lane.worker: i for i, lane in enumerate(sample_of(facts.overview.lanes, _CHART_LANES), 1)}
    numbered = [(numbers.get(worker.id), worker) for worker in facts.status.members]
    if len(numbered) <= _SHOWN_WORKERS:
        return numbered
    others = [pair for pair in numbered if pair[0] is None]
    n = _SHOWN_WORKERS - len(numbers)
    chosen = {others[i * len(others) // n][1].id for i in range(n)}
    return [pair for pair in numbered if pair[0] is not None or pair[1].id in chosen]


def _requests(facts: Facts) -> list[tuple[str, str, str]]:
    total = facts.status.total
    rows = []
    for kind, n in facts.status.requests.items():
        if kind.startswith("bytes"):
            rows.append((kind.replace("_", " "), _bytes_text(n), _bytes_text(n / total) if total else ""))
        elif not kind.endswith("_us"):
            rows.append((kind.replace("_", " "), f"{n:,}", f"{n / total:.3g}" if total else ""))
    return rows


def _bytes_text(n: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f} B"


def _value_text(value: object) -> str:
    """Return a parameter or a setting as a short text."""
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else repr(value)
    return shortened(text, _MOST_VALUE)


def _breaks(text: str) -> Any:
    """Return a name that may be broken after the signs that join its words."""
    return markup(re.sub(r"(?<=[_./-])", "<wbr>", html.escape(visible(text))))
