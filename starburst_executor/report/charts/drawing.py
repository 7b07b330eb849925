"""One SVG element, built of rectangles, paths and texts; everything that is not a number is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from starburst_executor.report.charts.palette import LIGHT
from starburst_executor.report.charts.ticks import count_text, number_ticks, time_text, time_ticks

__all__ = ["Drawing", "Plot", "number"]

LEFT, RIGHT, TOP, BOTTOM = 52.0, 16.0, 26.0, 24.0
_CHARACTER = 6.2  # the width of a letter, about


def number(value: float) -> str:
    """Return a coordinate in as few characters as its tenth needs."""
    return f"{value:.1f}".removesuffix(".0")


class Drawing:
    """An `<svg>` element.

    Args:
        title: The chart's name, for screen readers and tooltips.
        words: What it shows, in a sentence.
    """

    def __init__(self, width: float, height: float, title: str, words: str) -> None:
        self.width, self.height = width, height
        head = (
            f'<svg class="sb-chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {number(width)} {number(height)}" '
            f'role="img" fill="none" font-family="system-ui, sans-serif" font-size="11"><title>{escape(title)}</title>'
            f"<desc>{escape(words)}</desc>"
        )
        self._parts = [head]

    def __str__(self) -> str:
        return "".join([*self._parts, "</svg>"])

    def area(self, state: str, path: str, *, opacity: float = 1.0) -> None:
        """Fill a path with the colour of a state."""
        extra = "" if opacity >= 1 else f' fill-opacity="{opacity:.2f}"'
        self._parts.append(f'<path class="sb-{state}" fill="{LIGHT[state]}"{extra} d="{path}"/>')

    def line(self, state: str, path: str) -> None:
        """Stroke a path with the colour of a state."""
        self._parts.append(
            f'<path class="sb-line-{state}" stroke="{LIGHT[state]}" stroke-width="1.8" stroke-linejoin="round" d="{path}"/>'
        )

    def rule(self, kind: str, path: str) -> None:
        """Stroke a path as `grid`, `axis` or `mark`."""
        dashes = ' stroke-dasharray="3 3"' if kind == "mark" else ""
        opacity = {"grid": 0.15, "axis": 0.5}.get(kind, 1.0)
        self._parts.append(
            f'<path class="sb-{kind}" stroke="currentColor" stroke-opacity="{opacity}"{dashes} d="{path}"/>'
        )

    def rect(self, state: str, x: float, y: float, width: float, height: float, tip: str = "") -> None:
        """Fill a rectangle; `tip` shows while a pointer is over it."""
        inside = f"<title>{escape(tip)}</title>" if tip else ""
        self._parts.append(
            f'<rect class="sb-{state}" fill="{LIGHT[state]}" x="{number(x)}" y="{number(y)}" width="{number(width)}" '
            f'height="{number(height)}"' + (f">{inside}</rect>" if inside else "/>")
        )

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", quiet: bool = False) -> None:
        """Write words; `anchor` as in SVG. Words around a place near an edge are moved until they are inside."""
        if anchor == "middle":
            half = len(words) * _CHARACTER / 2
            x = max(half, min(self.width - half, x))
        kind = ' class="sb-quiet"' if quiet else ""
        anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self._parts.append(
            f'<text{kind} fill="currentColor"{anchored} x="{number(x)}" y="{number(y)}">{escape(words)}</text>'
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Write the meaning of colours in a line: pairs of a state and its words."""
        for state, words in entries:
            self.rect(state, x, y - 9, 10, 10)
            self.text(x + 14, y, words)
            x += 14 + len(words) * _CHARACTER + 16


class Plot:
    """A drawing with a frame, an axis of time and an axis of numbers.

    Args:
        span_s: The seconds that the axis of time shows.
        most: The number that the other axis shows at least.
        is_share: Whether it shows percentages of 1.
    """

    def __init__(
        self, title: str, words: str, *, width: float, height: float, span_s: float, most: float, is_share: bool = False
    ) -> None:
        self.drawing = Drawing(width, height, title, words)
        self.span_s = max(span_s, 1e-3)
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else number_ticks(most)
        self.top = ticks[-1]
        self.left, self.right, self.y_top, self.y_bottom = LEFT, width - RIGHT, TOP, height - BOTTOM
        for tick in ticks:
            y = self.y(tick)
            self.drawing.rule("grid", f"M{number(self.left)} {number(y)}H{number(self.right)}")
            words = f"{tick:.0%}" if is_share else count_text(tick)
            self.drawing.text(self.left - 6, y + 4, words, anchor="end", quiet=True)
        time_axis(self.drawing, self.left, self.right, self.y_bottom, self.span_s)

    def x(self, seconds: float) -> float:
        """Return the place of a time, in seconds since the begin."""
        return self.left + (self.right - self.left) * min(1.0, max(0.0, seconds / self.span_s))

    def y(self, value: float) -> float:
        """Return the place of a number."""
        return self.y_bottom - (self.y_bottom - self.y_top) * min(1.0, max(0.0, value / self.top))

    def steps(self, edges_s: Sequence[float], values: Sequence[float], floor: Sequence[float] | None = None) -> str:
        """Return the path of an area of steps, one for each bin, from the floor (0 if not given) to the values."""
        floors = floor or [0.0] * len(values)
        return f"{self._along(edges_s, values, forward=True)}{self._along(edges_s, floors, forward=False)}Z"

    def curve(self, points: Sequence[tuple[float, float]]) -> str:
        """Return the path of a line through points of seconds and value."""
        return "M" + "L".join(f"{number(self.x(s))} {number(self.y(value))}" for s, value in points)

    def band(self, points: Sequence[tuple[float, float, float]]) -> str:
        """Return the path of an area between two lines: points of seconds, lower value and upper value."""
        upper = [f"{number(self.x(s))} {number(self.y(high))}" for s, _, high in points]
        lower = [f"{number(self.x(s))} {number(self.y(low))}" for s, low, _ in reversed(points)]
        return "M" + "L".join([*upper, *lower]) + "Z"

    def _along(self, edges_s: Sequence[float], values: Sequence[float], *, forward: bool) -> str:
        parts: list[str] = []
        order = range(len(values)) if forward else range(len(values) - 1, -1, -1)
        last = None
        for i in order:
            y = number(self.y(values[i]))
            if y != last:
                start = edges_s[i] if forward else edges_s[i + 1]
                move = "M" if forward and not parts else "L"
                parts.append(
                    f"{move}{number(self.x(start))} {y}"
                    if move == "M" or not parts
                    else f"H{number(self.x(start))}V{y}"
                )
                last = y
        parts.append(f"H{number(self.x(edges_s[-1] if forward else edges_s[0]))}")
        return "".join(parts)


def time_axis(drawing: Drawing, left: float, right: float, y: float, span_s: float) -> None:
    """Draw an axis of time from 0 to `span_s`."""
    drawing.rule("axis", f"M{number(left)} {number(y)}H{number(right)}")
    width = right - left
    for seconds in time_ticks(span_s, max(2, int(width / 80))):
        x = left + width * seconds / span_s
        drawing.rule("axis", f"M{number(x)} {number(y)}v4")
        drawing.text(x, y + 16, time_text(seconds, span_s), anchor="middle", quiet=True)
