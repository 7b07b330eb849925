"""Numbers for people: where an axis has its ticks, and how they are written."""

from __future__ import annotations

import math

__all__ = ["count_text", "number_ticks", "seconds_text", "time_text", "time_ticks"]

_STEPS_S = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60, 120, 300, 600, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000),
)
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def number_ticks(most: float, n: int = 4) -> list[float]:
    """Return about `n` round numbers from 0 to at least `most`."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / n
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    return [i * step for i in range(math.ceil(most / step * 0.999) + 1)]


def time_ticks(span_s: float, n: int = 8) -> list[float]:
    """Return up to about `n` round times from 0 to `span_s`, in seconds."""
    step = next((step for step in _STEPS_S if span_s / step <= n), math.ceil(span_s / n / _DAY_S) * _DAY_S)
    return [i * step for i in range(int(span_s / step + 1e-9) + 1)]


def seconds_text(seconds: float) -> str:
    """Return a duration as a tick's label: `0`, `50 ms`, `20 s`, `1.5 min`, `2 h`, `3 d`."""
    if seconds <= 0:
        return "0"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"  # noqa: PLR2004 - a millisecond
    for unit_s, unit in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= unit_s * (2 if unit == "d" else 1):
            return f"{seconds / unit_s:.3g} {unit}"
    return f"{seconds:.3g} s"


def time_text(seconds: float, span_s: float) -> str:
    """Return a time since the begin as a tick's label, on an axis of `span_s` seconds: `20 s`, `1:20 min`, `2:30 h`, `3 d`."""
    if seconds <= 0:
        return "0"
    if span_s <= 2 * _MINUTE_S:
        return seconds_text(seconds) if seconds < _MINUTE_S else f"{seconds:.3g} s"
    if span_s <= 2 * _HOUR_S:
        return f"{int(seconds // 60)}:{int(seconds % 60):02} min" if seconds % 60 else f"{int(seconds // 60)} min"
    if span_s <= 4 * _DAY_S:
        minutes = round(seconds / 60)
        return f"{minutes // 60}:{minutes % 60:02} h" if minutes % 60 else f"{minutes // 60} h"
    return f"{seconds / _DAY_S:.3g} d"


def count_text(number: float) -> str:
    """Return a number as a tick's label: `0`, `0.5`, `1,000`, `2.5 M`."""
    if number >= 1e6:  # noqa: PLR2004 - a million
        return f"{number / 1e6:.3g} M"
    return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.3g}"  # noqa: PLR2004 - two digits
