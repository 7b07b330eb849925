"""How figures of a study look: sizes of a journal's column and page, fonts, and colours for print and for colour-blind readers.

A figure is drawn for a page, where its ink follows the reader's theme, or for a file, where ink is black.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeGuard

from starburst_executor.errors import ConfigError
from starburst_executor.texts import shortened

__all__ = [
    "COLUMN", "DARK", "LIGHT", "MOST_MARKS", "PAGE", "PRINT", "QUALITATIVE", "SIGNS", "STATE_COLOURS", "WITHOUT", "Theme", "can_draw", "is_drawn", "label", "number_text", "styled",
]  # fmt: skip

# Inches: a column and the width of a page of Nature, Science and IEEE (85 to 89 mm, 178 to 183 mm).
COLUMN, PAGE = 3.4, 7.1
# Okabe and Ito, https://jfly.uni-koeln.de/color/, without black and yellow, which vanish on one of both themes.
QUALITATIVE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")
STATE_COLOURS = {
    "completed": "#0072b2",
    "failed": "#d55e00",
    "cancelled": "#cc79a7",
    "running": "#009e73",
    "pending": "#9aa0a8",
}
# Dots or lines of one kind that a vector file draws one by one; more are one picture in it.
MOST_MARKS = 200
_MOST_CHARACTERS = 28
_MOST_DRAWN = 1e100  # squares of such numbers, sums and the room around them are still numbers
WITHOUT = "figures need matplotlib: pip install 'starburst-executor[report]'"


class Theme(NamedTuple):
    """The colours of text and lines, of secondary lines, of the ground, and of dots, which are small and lie over each other."""

    ink: str
    quiet: str
    paper: str
    dots: str


PRINT = Theme("#000000", "#666666", "#ffffff", "#0072b2")
LIGHT = Theme("#1b1f24", "#59636e", "#ffffff", "#0072b2")
DARK = Theme("#e6e9ee", "#9aa4b0", "#14171c", "#56b4e9")
# Signs that a page's own colours take the place of; its dots are part of pictures, so they have a colour for both.
SIGNS = Theme("#010203", "#595b5d", "#fdfcfb", "#2f8fcf")

_lock = threading.Lock()  # matplotlib's settings are of the whole process


def _settings(name: str, theme: Theme) -> dict[str, Any]:
    return {
        "font.size": 7,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica", "sans-serif"],
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
        "axes.labelsize": 7,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "legend.fontsize": 6.5,
        "legend.frameon": False,
        "legend.handlelength": 1.2,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "lines.linewidth": 1.0,
        "grid.linewidth": 0.4,
        "grid.alpha": 0.25,
        "grid.color": theme.ink,
        "axes.axisbelow": True,
        "text.color": theme.ink,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.ink,
        "axes.titlecolor": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        # Names of users are text, also with a dollar sign in them.
        "text.parse_math": False,
        "axes.formatter.use_mathtext": False,
        "axes.unicode_minus": True,
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "image.cmap": "cividis",
    }


def can_draw() -> bool:
    """Return whether the libraries that draw are installed."""
    return all(find_spec(name) is not None for name in ("matplotlib", "numpy"))


@contextmanager
def styled(name: str, theme: Theme) -> Iterator[Any]:
    """Let one thread draw; yield matplotlib. Raises: ConfigError if it is not installed."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError as error:
        raise ConfigError(WITHOUT) from error
    with _lock, matplotlib.rc_context(_settings(name, theme)), warnings.catch_warnings():
        # A name may have letters that no font has: a box is drawn for each.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        yield matplotlib


def is_drawn(value: object) -> TypeGuard[float]:
    """Return whether a value of a metric or of a parameter has a place in a figure: a finite number below 1e100, either way."""
    return isinstance(value, (int, float)) and abs(value) < _MOST_DRAWN


def label(text: object, most: int = _MOST_CHARACTERS) -> str:
    """Return a name as a label: printable, on one line, and short."""
    plain = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(text))
    return shortened(plain, most)


def number_text(value: float) -> str:
    """Return a number with four digits, as people write it."""
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
