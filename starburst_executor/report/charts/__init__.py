"""Charts as SVG text, made on the server: no script, no inline style, no library.

Each chart is one `<svg>` element with `role="img"`, a title and a description in words, for pages of any kind. Colours are CSS variables
(`palette.CSS`), with the colours of the light palette as attributes for pages without that style. Blue, green, vermilion and purple are those
of Okabe and Ito, which colour-blind readers can distinguish.

    from starburst_executor.report import charts
    svg = charts.states(overview)                    # width=720 units wide; scales with the page
"""

from __future__ import annotations

from starburst_executor.report.charts.durations import durations
from starburst_executor.report.charts.labels import labels
from starburst_executor.report.charts.palette import CSS, STATES
from starburst_executor.report.charts.series import completions, states, utilisation, waiting
from starburst_executor.report.charts.workers import workers

__all__ = ["CSS", "STATES", "completions", "durations", "labels", "states", "utilisation", "waiting", "workers"]
