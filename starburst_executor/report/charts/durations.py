"""The histogram of durations, on a logarithmic axis."""

from __future__ import annotations

import math

from starburst_executor.report.charts.drawing import BOTTOM, LEFT, RIGHT, TOP, Drawing, number
from starburst_executor.report.charts.ticks import count_text, number_ticks, seconds_text
from starburst_executor.report.durations import Durations

__all__ = ["axis_ticks", "durations", "log_ticks"]

_MARKS = ((0.5, "median"), (0.9, "90 %"), (0.99, "99 %"))
_LEAST_ROOM = 0.125  # of the axis, between two of its texts


def durations(
    gathered: Durations, *, width: float = 720, height: float = 190, title: str = "Durations of tasks"
) -> str:
    """Return the histogram; its axis of durations is logarithmic. An empty text if nothing was counted."""
    bars = gathered.histogram()
    if not bars or gathered.mean_s is None:
        return ""
    quantiles = [(name, gathered.quantile(share) or 0.0) for share, name in _MARKS]
    words = f"{gathered.n:,} tasks, mean {seconds_text(gathered.mean_s)}, " + ", ".join(
        f"{name} {seconds_text(value)}" for name, value in quantiles
    )
    drawing = Drawing(width, height, title, words)
    left, right, top, bottom = LEFT, width - RIGHT, TOP, height - BOTTOM
    low, high = math.log10(bars[0][0]), math.log10(bars[-1][1])
    if high - low < 0.3:  # noqa: PLR2004 - a factor of two
        low, high = low - 0.15, high + 0.15

    def x(seconds: float) -> float:
        return left + (right - left) * min(1.0, max(0.0, (math.log10(seconds) - low) / (high - low)))

    ticks = number_ticks(max(n for _, _, n in bars))
    for tick in ticks:
        y = bottom - (bottom - top) * tick / ticks[-1]
        drawing.rule("grid", f"M{number(left)} {number(y)}H{number(right)}")
        drawing.text(left - 6, y + 4, count_text(tick), anchor="end", quiet=True)
    for start, end, n in bars:
        if n:
            bar = (bottom - top) * n / ticks[-1]
            tip = f"{seconds_text(start)} to {seconds_text(end)}: {n:,} tasks"
            drawing.rect("completed", x(start) + 0.5, bottom - bar, max(1.0, x(end) - x(start) - 1), bar, tip)
    drawing.rule("axis", f"M{number(left)} {number(bottom)}H{number(right)}")
    shown_at = -1e9
    for tick in log_ticks(10**low, 10**high):
        if x(tick) - shown_at > 52:  # noqa: PLR2004 - the width of a label
            drawing.rule("axis", f"M{number(x(tick))} {number(bottom)}v4")
            drawing.text(x(tick), bottom + 16, seconds_text(tick), anchor="middle", quiet=True)
            shown_at = x(tick)
    ends_at = -1e9
    for name, value in quantiles:
        place = x(value)
        drawing.rule("mark", f"M{number(place)} {number(top - 4)}V{number(bottom)}")
        label = f"{name} {seconds_text(value)}"
        length = len(label) * 6.2
        begins_at = min(place, right - length)
        if begins_at > ends_at:
            drawing.text(begins_at, top - 10, label)
            ends_at = begins_at + length + 8
    return str(drawing)


def log_ticks(least: float, most: float) -> list[float]:
    """Return the round durations between these: 1, 2 and 5 times powers of ten below a minute, then minutes, hours and days."""
    ticks = [factor * 10.0**power for power in range(-7, 2) for factor in (1, 2, 5)]
    ticks += [60, 120, 300, 600, 1800, 3600, 7200, 18_000, 43_200, 86_400, 172_800, 604_800]
    if most / least > 1e4:  # noqa: PLR2004 - then powers of ten suffice
        ticks = [t for t in ticks if t >= 60 or abs(math.log10(t) - round(math.log10(t))) < 1e-9]  # noqa: PLR2004
    return sorted(t for t in set(ticks) if least <= t <= most)


def axis_ticks(least: float, most: float) -> list[float]:
    """Return what an axis is labelled with: at most six round durations, with room for their texts, or both ends if there is none between them."""
    ticks = log_ticks(least, most)
    kept: list[float] = []
    for tick in ticks[:: max(1, -(-len(ticks) // 6))]:
        if not kept or math.log(tick / kept[-1]) >= _LEAST_ROOM * math.log(most / least):
            kept.append(tick)
    return kept or [least, most]
