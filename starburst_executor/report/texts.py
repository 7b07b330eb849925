"""Durations as text, with three digits."""

from __future__ import annotations

import math

__all__ = ["span_text"]


def span_text(seconds: float | None) -> str:
    """Return a duration with three digits: `12.3 ms`, `4.56 s`, `1 min 30 s`, `2 h 5 min`, `3.4 d`."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms" if seconds > 0 else "0 s"
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{seconds / 86_400:.3g} d"  # noqa: PLR2004 - two days
