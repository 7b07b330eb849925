"""Figures of parameters against metrics: how much each explains, parallel coordinates, contours of a metric over two parameters."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starburst_executor.report.study.facts import StageFacts, StudyFacts
from starburst_executor.report.study.figure import Figure
from starburst_executor.report.study.style import (
    COLUMN,
    MOST_MARKS,
    PAGE,
    QUALITATIVE,
    Theme,
    is_drawn,
    label,
    number_text,
)
from starburst_executor.study.tables import TrialRow

__all__ = ["contours", "influence", "parallel"]

_LEAST_TRIALS = 5
_MOST_PARAMS = 10
_MOST_METRICS = 6
_MOST_AXES = 8
_MOST_LINES = 600
_MOST_WORDS = 12  # different texts of a parameter that can still be an axis
_FIELDS = 48  # of a side of the contours
_BANDWIDTH = 0.06  # of a side: what a trial says about its neighbourhood
_MOST_NEIGHBOURS = 4000
_PARTS = 8
_DARK_FIELD = 0.55  # up to here the colour of a share needs white text
_ORDERED = 2  # an order of more texts means nothing
_CLEAR = 0.3  # a rank correlation that is worth an arrow
_CHARACTER = 0.06  # inches, of a label at an axis
_BAR = 0.65  # inches, of the bar of colours and what stands at it
_MOST_DECADES = 8  # that have a text at an axis
_SPREAD = 30  # of the ninth decile to the first; that of a uniform choice from 0 on is 9


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A parameter as numbers.

    Attributes:
        words: The texts that stand for 0, 1, …; empty for a number.
        is_log: Whether its values are positive and span more than two decades.
    """

    name: str
    values: Sequence[float]
    words: tuple[str, ...] = ()
    is_log: bool = False

    def text(self, value: float) -> str:
        if self.words:
            place = round(value)
            return self.words[place] if 0 <= place < len(self.words) and abs(value - place) < 0.01 else ""  # noqa: PLR2004 - rounding
        return number_text(value)


@dataclass(frozen=True, slots=True)
class Varied:
    """The completed trials of a stage that varies parameters, with one metric to judge them by."""

    stage: StageFacts
    rows: Sequence[TrialRow]
    metric: str
    values: Sequence[float]
    is_min: bool
    unit: str
    params: Sequence[Coordinate]


def varied(facts: StudyFacts) -> Varied | None:
    """Return the stage with the most completed trials of those that vary a parameter; None if no stage does."""
    best: Varied | None = None
    for stage in facts.stages:
        metric = facts.objective(stage)
        if metric is None:
            continue
        rows = [row for row in stage.rows if row.is_completed and is_drawn(row.metrics.get(metric))]
        if len(rows) < _LEAST_TRIALS or (best is not None and len(rows) <= len(best.rows)):
            continue
        found = [one for name in stage.params()[: 4 * _MOST_PARAMS] if (one := coordinate(name, rows)) is not None]
        if found:
            measure = facts.measure(metric)
            values = [row.metrics[metric] for row in rows]
            chosen = sorted(found, key=lambda one: -explained(one, values))[:_MOST_PARAMS]
            best = Varied(stage, rows, metric, values, measure.direction == "min", measure.unit, chosen)
    return best


def coordinate(name: str, rows: Sequence[TrialRow]) -> Coordinate | None:
    """Return a parameter as numbers; None if it is not one of all trials, or has too many different texts."""
    values = [row.params.get(name) for row in rows]
    numbers = [float(value) for value in values if is_drawn(value) and type(value) is not bool]
    if len(numbers) == len(values):
        return Coordinate(name, numbers, is_log=_spans_decades(numbers)) if min(numbers) < max(numbers) else None
    texts = [label(value, 16) for value in values]
    words = tuple(sorted(set(texts)))
    if not 1 < len(words) <= _MOST_WORDS:
        return None
    return Coordinate(name, [float(words.index(text)) for text in texts], words)


def _spans_decades(numbers: Sequence[float]) -> bool:
    """Whether numbers are spread over orders of magnitude; a uniform choice that happens to come near 0 is not."""
    ordered = sorted(numbers)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    return ordered[0] > 0 and high / low > _SPREAD


def explained(one: Coordinate, ys: Sequence[float]) -> float:
    """Return the share of the variance of `ys` that the means over eighths of a parameter explain, 0 to 1: also where it rises and falls.

    Of a text, the means over its words.
    """
    numpy = _numpy()
    x, y = numpy.asarray(one.values, dtype=float), numpy.asarray(ys, dtype=float)
    edges = numpy.quantile(x, numpy.linspace(0, 1, _PARTS + 1)[1:-1])
    parts = x if one.words else numpy.searchsorted(edges, x, side="left")
    total = float(((y - y.mean()) ** 2).sum())
    means = [(float((parts == part).sum()), float(y[parts == part].mean())) for part in numpy.unique(parts)]
    found = sum(n * (mean - float(y.mean())) ** 2 for n, mean in means)
    return min(1.0, found / total) if total else 0.0


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the rank correlation, -1 to 1; 0 if one of both does not vary."""
    numpy = _numpy()
    a, b = _ranks(numpy, xs), _ranks(numpy, ys)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale else 0.0


def _ranks(numpy: Any, values: Sequence[float]) -> Any:
    """Return mean ranks, so that ties have the same."""
    _, inverse, counts = numpy.unique(numpy.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    return (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]


def _numpy() -> Any:
    return importlib.import_module("numpy")


def influence(found: Varied) -> Figure:
    """How much of each metric each parameter explains."""
    metrics = [
        name for name in found.stage.drawn_metrics() if all(is_drawn(row.metrics.get(name)) for row in found.rows)
    ]
    metrics = metrics[:_MOST_METRICS]
    columns = {name: [row.metrics[name] for row in found.rows] for name in metrics}
    shares = [[explained(one, columns[name]) for name in metrics] for one in found.params]
    ranks = [
        [0.0 if len(one.words) > _ORDERED else spearman(one.values, columns[name]) for name in metrics]
        for one in found.params
    ]

    def draw(canvas: Any, theme: Theme) -> None:
        axis = canvas.subplots()
        image = axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                rank = ranks[i][j]
                arrow = "" if abs(rank) < _CLEAR else " \N{UPWARDS ARROW}" if rank > 0 else " \N{DOWNWARDS ARROW}"
                axis.text(
                    j,
                    i,
                    f"{share:.0%}{arrow}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if share < _DARK_FIELD else "black",
                )
        names, params = [label(name, 16) for name in metrics], [label(one.name, 18) for one in found.params]
        room = (COLUMN - _BAR - _CHARACTER * max(map(len, params))) / len(names)
        if _CHARACTER * (1 + max(map(len, names))) < room:
            axis.set_xticks(range(len(names)), names)
        else:
            axis.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(params)), params)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        bar = canvas.colorbar(image, ax=axis, ticks=[0, 0.5, 1], aspect=18, pad=0.02)
        bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
        bar.outline.set_edgecolor(theme.ink)
        bar.outline.set_linewidth(0.4)
        bar.set_label("variance explained")

    rows = [
        (one.name, metric, f"{shares[i][j]:.6f}", f"{ranks[i][j]:.6f}")
        for i, one in enumerate(found.params)
        for j, metric in enumerate(metrics)
    ]
    return Figure(
        "influence", "Parameters against metrics",
        f"Share of a metric's variance that the means over eighths of a parameter's values explain, over {len(found.rows):,} completed trials of stage "
        f"{label(found.stage.name)}. An arrow shows that the metric rises or falls with the parameter.",
        (COLUMN, 0.85 + 0.26 * len(found.params)), draw, ("parameter", "metric", "explained", "spearman"), rows,
    )  # fmt: skip


def parallel(found: Varied) -> Figure | None:
    """One line a trial through its parameters and its metric; blue is the best, yellow the worst."""
    axes = [*found.params[: _MOST_AXES - 1], Coordinate(found.metric, found.values)]
    if len(axes) < 3:  # noqa: PLR2004 - two are a scatter
        return None
    worst_first = sorted(range(len(found.rows)), key=lambda i: found.values[i], reverse=found.is_min)
    n = len(worst_first)
    # All of the best tenth, and of the others an even choice.
    shown = worst_first
    if n > _MOST_LINES:
        best = worst_first[-_MOST_LINES // 3 :]
        others = worst_first[: n - len(best)]
        room = _MOST_LINES - len(best)
        shown = [others[i * len(others) // room] for i in range(room)] + best
    survivors = found.stage.survivors

    def draw(canvas: Any, theme: Theme) -> None:
        numpy = _numpy()
        axis = canvas.subplots()
        columns = [_scaled(numpy, one) for one in axes]
        colours = importlib.import_module("matplotlib").colormaps["cividis"]
        ranks = {i: place / max(1, n - 1) for place, i in enumerate(worst_first)}
        for i in shown:
            is_chosen = found.rows[i].name in survivors
            axis.plot(
                range(len(axes)), [column[i] for column in columns], color=colours(0.85 - 0.65 * ranks[i]),
                linewidth=1.1 if is_chosen else 0.5, alpha=0.95 if is_chosen else 0.35 + 0.3 * ranks[i], rasterized=len(shown) > MOST_MARKS,
            )  # fmt: skip
        for place, one in enumerate(axes):
            axis.axvline(place, color=theme.ink, linewidth=0.6)
            for height, text in _marks(one):
                axis.text(
                    place + 0.03,
                    height,
                    text,
                    fontsize=6,
                    va="center",
                    bbox={"facecolor": theme.paper, "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
                )
        room = int(PAGE / len(axes) / _CHARACTER)
        names = [label(one.name, room) + ("\n(log)" if one.is_log else "") for one in axes]
        axis.set_xticks(range(len(axes)), names)
        axis.set_xlim(-0.1, len(axes) - 0.45)
        axis.set_ylim(-0.04, 1.04)
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.tick_params(length=0)

    rows = [
        (
            found.rows[i].name,
            found.rows[i].name in survivors,
            *(found.rows[i].params.get(one.name) for one in axes[:-1]),
            found.values[i],
        )
        for i in worst_first
    ]
    some = "" if len(shown) == n else f" {len(shown):,} of {n:,} trials are drawn, with all of the best."
    return Figure(
        "parallel", "Parallel coordinates", f"Each line is a trial of stage {label(found.stage.name)}: blue has the best {label(found.metric)}, yellow the worst; thick lines are survivors.{some}",
        (PAGE, 2.7), draw, ("trial", "survivor", *(one.name for one in axes)), rows,
    )  # fmt: skip


def _scaled(numpy: Any, one: Coordinate) -> Any:
    values = numpy.asarray(one.values, dtype=float)
    values = numpy.log10(values) if one.is_log else values
    least, most = values.min(), values.max()
    return (values - least) / (most - least) if most > least else values * 0 + 0.5


def _marks(one: Coordinate) -> list[tuple[float, str]]:
    """Return heights of 0 to 1 and texts for an axis."""
    if one.words:
        last = max(1, len(one.words) - 1)
        return [(place / last, word) for place, word in enumerate(one.words)]
    least, most = min(one.values), max(one.values)
    if one.is_log:
        low, high = math.log10(least), math.log10(most)
        every = max(1, math.ceil((high - low) / _MOST_DECADES))
        decades = range(math.ceil(low), math.floor(high) + 1, every)
        return [((k - low) / (high - low), number_text(10.0**k)) for k in decades]
    if least == most:
        return [(0.5, number_text(least))]
    ticks = importlib.import_module("matplotlib.ticker").MaxNLocator(5).tick_values(least, most)
    return [((tick - least) / (most - least), number_text(float(tick))) for tick in ticks if least <= tick <= most]


def contours(found: Varied) -> Figure | None:
    """A metric over the two parameters that go with it most."""
    numbers = [one for one in found.params if not one.words]
    if len(numbers) < 2:  # noqa: PLR2004 - a plane
        return None
    x, y = numbers[:2]

    def draw(canvas: Any, theme: Theme) -> None:
        numpy = _numpy()
        axis = canvas.subplots()
        px, py = _scaled(numpy, x), _scaled(numpy, y)
        centres, heights = _surface(numpy, px, py, numpy.asarray(found.values, dtype=float))
        xs, ys = _back(numpy, x, centres), _back(numpy, y, centres)
        image = axis.contourf(xs, ys, heights, levels=12, cmap="cividis_r" if found.is_min else "cividis")
        axis.contour(xs, ys, heights, levels=image.levels[::2], colors="white", linewidths=0.3, alpha=0.6)
        axis.plot(
            x.values,
            y.values,
            ".",
            markersize=2,
            markeredgewidth=0,
            color="black",
            alpha=0.35,
            rasterized=len(found.rows) > MOST_MARKS,
        )
        chosen = [i for i, row in enumerate(found.rows) if row.name in found.stage.survivors]
        axis.plot(
            [x.values[i] for i in chosen],
            [y.values[i] for i in chosen],
            "D",
            markersize=3,
            markeredgecolor="white",
            markeredgewidth=0.5,
            color=QUALITATIVE[3],
        )
        for one, put, part in ((x, axis.set_xscale, axis.xaxis), (y, axis.set_yscale, axis.yaxis)):
            if one.is_log:
                put("log")
                part.set_major_formatter(lambda value, _: number_text(value))
                part.set_minor_formatter(lambda *_: "")
        axis.set_xlabel(label(x.name))
        axis.set_ylabel(label(y.name))
        bar = canvas.colorbar(image, ax=axis, aspect=20, pad=0.02)
        bar.outline.set_edgecolor(theme.ink)
        bar.outline.set_linewidth(0.4)
        bar.set_label(f"{label(found.metric)}{f' ({label(found.unit, 10)})' if found.unit else ''}")

    rows = [
        (row.name, row.name in found.stage.survivors, a, b, value)
        for row, a, b, value in zip(found.rows, x.values, y.values, found.values, strict=True)
    ]
    return Figure(
        "contours", f"{label(found.metric)} over two parameters", f"Stage {label(found.stage.name)}: weighted means of neighbouring trials. Dots are trials, diamonds survivors. Ground without trials near it stays empty.",
        (COLUMN, 2.7), draw, ("trial", "survivor", x.name, y.name, found.metric), rows,
    )  # fmt: skip


def _surface(numpy: Any, px: Any, py: Any, values: Any) -> tuple[Any, Any]:
    """Return places of a grid, 0 to 1, and the weighted mean of the values around each field; empty far from every trial."""
    if len(values) > _MOST_NEIGHBOURS:
        step = numpy.linspace(0, len(values) - 1, _MOST_NEIGHBOURS).astype(int)
        px, py, values = px[step], py[step], values[step]
    width = max(_BANDWIDTH, 0.45 / math.sqrt(len(values)))
    centres = numpy.linspace(0, 1, _FIELDS)
    wx = numpy.exp(-0.5 * ((centres[:, None] - px[None, :]) / width) ** 2)
    wy = numpy.exp(-0.5 * ((centres[:, None] - py[None, :]) / width) ** 2)
    weights = wy @ wx.T
    heights = (wy * values[None, :]) @ wx.T / numpy.maximum(weights, 1e-12)
    return centres, numpy.ma.masked_where(weights < math.exp(-3), heights)


def _back(numpy: Any, one: Coordinate, shares: Any) -> Any:
    least, most = min(one.values), max(one.values)
    if one.is_log:
        low, high = numpy.log10(least), numpy.log10(most)
        return 10 ** (low + shares * (high - low))
    return least + shares * (most - least)
