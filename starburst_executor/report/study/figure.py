"""A figure of a study: what draws it, its caption, and its numbers as CSV; as SVG, PNG or PDF, for a page or a file."""

from __future__ import annotations

import csv
import importlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starburst_executor.report.study.style import PRINT, SIGNS, Theme, styled

__all__ = ["KINDS", "Figure"]

KINDS = ("png", "svg", "pdf")
_DPI = 450  # of a file; dots of a scatter and fields of a map in a vector file have 300
_DPI_PAGE = 150
_Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: Part of a file's name: `funnel`, `parallel` and so on.
        title: A few words.
        caption: What it shows, and how to read it.
        size: Width and height in inches.
        draw: Draws into an empty figure of matplotlib.
        header: The columns of its data.
        rows: Its data, as drawn.
    """

    name: str
    title: str
    caption: str
    size: tuple[float, float]
    draw: Callable[[Any, Theme], None]
    header: tuple[str, ...]
    rows: Sequence[_Row] = field(repr=False, default=())

    def to_csv(self, most: int | None = None) -> str:
        """Return its data as CSV; evenly chosen rows if it has more than `most`."""
        rows = self.rows
        if most is not None and len(rows) > most:
            rows = [rows[i * len(rows) // most] for i in range(most)]
        written = io.StringIO()
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow([_cell(name) for name in self.header])
        writer.writerows([_cell(value) for value in row] for row in rows)
        return written.getvalue().encode("utf-8", "backslashreplace").decode()  # names of files may be any bytes

    def to_bytes(self, kind: str) -> bytes:
        """Return it for a file, as `png`, `svg` or `pdf`: black on white. Raises: ConfigError without matplotlib."""
        return self._drawn(kind, _DPI if kind == "png" else 300, PRINT)

    def to_image(self, theme: Theme) -> bytes:
        """Return it as SVG on a transparent ground, for a page that shows it as an image. Raises: as `to_bytes`."""
        return self._drawn("svg", _DPI_PAGE, theme)

    def to_page(self) -> str:
        """Return it as an element of a page with the colours `--ink`, `--quiet` and `--paper`. Raises: as `to_bytes`."""
        return _inlined(self._drawn("svg", _DPI_PAGE, SIGNS).decode())

    def _drawn(self, kind: str, dpi: int, theme: Theme) -> bytes:
        written = io.BytesIO()
        with styled(self.name, theme):
            figures: Any = importlib.import_module("matplotlib.figure")
            canvas = figures.Figure(figsize=self.size, layout="constrained")
            self.draw(canvas, theme)
            # Without a date, the same study gives the same bytes.
            metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            ground = "white" if kind == "png" else "none"
            canvas.savefig(written, format=kind, dpi=dpi, metadata=metadata, facecolor=ground)
        return written.getvalue()


def _inlined(svg: str) -> str:
    """Return the element alone, without what only a file needs, in the colours of the page."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for name in ("ink", "quiet", "paper"):
        svg = svg.replace(getattr(SIGNS, name), f"var(--{name})")
    return svg


def _cell(value: object) -> object:
    """Return a value that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
