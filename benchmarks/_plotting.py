"""How plots look and how they are written: the same bytes for the same rows.

The colours are those of Okabe and Ito, which people with colour blindness can distinguish. Colour alone has no meaning:
every line and bar is labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

__all__ = ["BLACK", "COLOURS", "GREY", "OURS", "end_notes", "figure", "log_axis", "note_on", "plain", "save"]

OURS = "#0072B2"
GREY = "#8C8C8C"
BLACK = "#222222"
_LINE = 11.0  # points
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

mpl.rcParams.update(
    {
        "svg.hashsalt": "starburst",
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.labelcolor": BLACK,
        "xtick.color": BLACK,
        "ytick.color": BLACK,
        "grid.color": "#DDDDDD",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
    }
)


def figure(title: str, n_rows: int = 1, n_columns: int = 1, *, height: float = 3.6) -> tuple[Any, Any]:
    """Return a figure whose title states the result, and its axes."""
    fig, axes = plt.subplots(
        n_rows, n_columns, figsize=(9.2, 0.6 + height * n_rows), squeeze=False, layout="constrained"
    )
    fig.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=BLACK)
    for ax in axes.flat:
        ax.grid(visible=True, axis="both", zorder=0)
        ax.set_axisbelow(True)
    return fig, axes


def plain(value: float, _: object = None) -> str:
    """Return a number as people write it."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def log_axis(axis: Any) -> None:
    """Make an axis logarithmic, with plain numbers."""
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_formatter(FuncFormatter(_short))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", length=0)


def _short(value: float, _: object) -> str:
    """Return a short form of a number: 10k, 1M."""
    for unit, words in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * unit or value == unit == 1e6:
            return f"{value / unit:g}{words}"
    return plain(value)


def end_notes(ax: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write labels at the ends of lines, given as x, y, text and colour, without overlaps."""
    ax.figure.draw_without_rendering()  # so that the axes have their final positions
    taken = float("-inf")
    for x, y, words, colour in sorted(ends, key=lambda end: end[1]):
        at = ax.transData.transform((x, y))[1] * 72 / ax.figure.dpi
        taken = max(at, taken + _LINE)
        note_on(ax, x, y, words, colour, xytext=(6, taken - at))


def note_on(ax: Any, x: float, y: float, words: str, colour: str, **how: Any) -> None:
    """Write a label beside a point."""
    options = {"xytext": (6, 0), "va": "center", "ha": "left", "fontsize": 9, **how}
    ax.annotate(words, (x, y), textcoords="offset points", color=colour, annotation_clip=False, **options)


def save(fig: Any, stem: Path) -> None:
    """Write a figure as PNG and SVG, without a date, so that a plot changes only if its rows do."""
    fig.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    fig.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    plt.close(fig)
