"""Boxes of durations, one for each label, on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from starburst_executor.report.charts.drawing import RIGHT, Drawing, number
from starburst_executor.report.charts.durations import log_ticks
from starburst_executor.report.charts.ticks import seconds_text
from starburst_executor.report.durations import Durations
from starburst_executor.texts import shortened

__all__ = ["labels"]

_LEFT, _ROW, _TOP, _BOTTOM = 190.0, 22.0, 12.0, 24.0
_MOST_CHARACTERS = 26


def labels(rows: Sequence[tuple[str, Durations]], *, width: float = 720, title: str = "Durations by label") -> str:
    """Return a row for each pair of a name and durations: a line from the shortest to the longest, a box from the first quartile to the third, a mark at the median.

    An empty text if there are none.
    """
    shown = [(name, durations) for name, durations in rows if durations.n]
    if not shown:
        return ""
    height = _TOP + _ROW * len(shown) + _BOTTOM
    words = "; ".join(
        f"{shortened(name, _MOST_CHARACTERS)}: {of.n:,} tasks, median {seconds_text(of.quantile(0.5) or 0.0)}"
        for name, of in shown
    )
    drawing = Drawing(width, height, title, words)
    right, bottom = width - RIGHT, height - _BOTTOM
    low = math.log10(min(durations.least_s for _, durations in shown))
    high = math.log10(max(durations.most_s for _, durations in shown))
    if high - low < 0.3:  # noqa: PLR2004 - a factor of two
        low, high = low - 0.15, high + 0.15

    def x(seconds: float) -> float:
        return _LEFT + (right - _LEFT) * min(1.0, max(0.0, (math.log10(seconds) - low) / (high - low)))

    drawing.rule("axis", f"M{number(_LEFT)} {number(bottom)}H{number(right)}")
    ends_at = -1e9
    for tick in log_ticks(10**low, 10**high):
        if x(tick) - ends_at > 52:  # noqa: PLR2004 - the width of a label
            drawing.rule("grid", f"M{number(x(tick))} {number(_TOP)}V{number(bottom)}")
            drawing.text(x(tick), bottom + 16, seconds_text(tick), anchor="middle", quiet=True)
            ends_at = x(tick)
    for i, (name, durations) in enumerate(shown):
        middle = _TOP + _ROW * (i + 0.5)
        first, median, third = (durations.quantile(share) or 0.0 for share in (0.25, 0.5, 0.75))
        tip = (
            f"{shortened(name, _MOST_CHARACTERS)}: {durations.n:,} tasks, {seconds_text(durations.least_s)} to {seconds_text(durations.most_s)}, "
            f"median {seconds_text(median)}"
        )
        drawing.text(_LEFT - 8, middle + 4, shortened(name, _MOST_CHARACTERS), anchor="end")
        drawing.rule("axis", f"M{number(x(durations.least_s))} {number(middle)}H{number(x(durations.most_s))}")
        drawing.rect("completed", x(first), middle - 6, max(2.0, x(third) - x(first)), 12, tip)
        drawing.rule("median", f"M{number(x(median))} {number(middle - 9)}v18")
    return str(drawing)
