"""A report as one figure for print: PNG or PDF, drawn by matplotlib, with text that stays text in a PDF."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from starburst_executor.errors import ConfigError
from starburst_executor.report.charts.durations import axis_ticks
from starburst_executor.report.charts.palette import LIGHT, STATES
from starburst_executor.report.charts.ticks import count_text, seconds_text, time_text, time_ticks
from starburst_executor.report.charts.workers import sample_of
from starburst_executor.report.facts import Facts
from starburst_executor.report.lanes import rows_of
from starburst_executor.report.texts import span_text

__all__ = ["figure_of"]

_SIZE_INCHES = (7.2, 8.6)  # the width of a page of a journal
_DPI = 200
_LANES = 32
# The share of the time axis that the thinnest bar takes.
_THINNEST = 600
_MOST_ROWS = 100
_STYLE = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


def figure_of(facts: Facts, kind: str) -> bytes:
    """Return the figure as `png` or `pdf`. Raises: ConfigError if matplotlib is not installed."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ConfigError("PNG and PDF need matplotlib: pip install 'starburst-executor[report]'") from error
    out = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.subplot_mosaic(
            [["states", "states"], ["lanes", "lanes"], ["ends", "slots"], ["waiting", "durations"]],
            height_ratios=[1.2, 1.5, 1, 1],
        )
        status = facts.status
        figure.suptitle(
            f"{status.name + ', session' if status.name else 'Session'} {status.id}: {status.total:,} tasks, {status.completed:,} completed, {status.failed:,} failed, "
            f"{span_text(facts.wall_s)}",
            fontsize=9,
            x=0.01,
            ha="left",
        )
        _states(axes["states"], facts)
        _lanes(axes["lanes"], facts)
        _ends(axes["ends"], facts)
        _slots(axes["slots"], facts)
        _waiting(axes["waiting"], facts)
        _durations(axes["durations"], facts)
        # Without the date, the same facts give the same bytes.
        metadata: dict[str, Any] = {"CreationDate": None} if kind == "pdf" else {}
        figure.savefig(out, format=kind, dpi=_DPI, metadata=metadata)
    return out.getvalue()


def _edges(facts: Facts) -> list[float]:
    return [at - facts.overview.times[0] for at in facts.overview.times]


def _time_axis(axis: Any, span_s: float, n: int) -> None:
    ticks = time_ticks(span_s, n)
    axis.set_xlim(0, span_s)
    axis.set_xticks(ticks, [time_text(tick, span_s) for tick in ticks])


def _counts(axis: Any, *, are_whole: bool = True) -> None:
    if are_whole:
        axis.yaxis.get_major_locator().set_params(integer=True)
    axis.yaxis.set_major_formatter(lambda value, _: count_text(value) if value >= 0 else "")


def _states(axis: Any, facts: Facts) -> None:
    overview, edges = facts.overview, _edges(facts)
    ended = [sum(at) for at in zip(overview.completed, overview.failed, overview.cancelled, strict=True)]
    left = [max(0.0, s - e) for s, e in zip(overview.submitted, ended, strict=True)]
    running = [min(r, n) for r, n in zip(overview.running, left, strict=True)]
    layers: dict[str, Sequence[float]] = {
        "failed": overview.failed,
        "cancelled": overview.cancelled,
        "completed": overview.completed,
        "running": running,
        "waiting": [n - r for n, r in zip(left, running, strict=True)],
    }
    used = [state for state in STATES if any(layers[state])]
    if used:
        axis.stackplot(
            edges,
            *([0.0, *layers[state]] for state in used),
            colors=[LIGHT[state] for state in used],
            labels=used,
            linewidth=0,
        )
    axis.set_title("a  Tasks by state")
    axis.set_ylim(0)
    _counts(axis)
    _time_axis(axis, edges[-1], 10)
    if used:
        axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(used), borderaxespad=0.2, handlelength=1)


def _lanes(axis: Any, facts: Facts) -> None:
    overview, t0 = facts.overview, facts.overview.times[0]
    lanes = sample_of(overview.lanes, _LANES)
    slots = {worker.id: worker.slots for worker in facts.status.members}
    rows = [rows_of(lane.bars, slots.get(lane.worker, 0)) for lane in lanes if lane.bars is not None]
    note = (
        ""
        if len(lanes) == len(overview.lanes)
        else f" ({len(lanes)} of {len(overview.lanes):,} workers, evenly chosen)"
    )
    axis.set_title(f"b  Tasks over workers{note}")
    if lanes and len(rows) == len(lanes) and sum(map(len, rows)) <= _MOST_ROWS:
        y, middles = 0, []
        # A bar as thin as a hair is seen, and a light edge would cover it.
        least_s = (overview.times[-1] - t0) / _THINNEST
        for own in rows:
            middles.append(y + (len(own) - 1) / 2)
            for row in own:
                axis.broken_barh(
                    [(bar.start - t0, max(least_s, bar.end - bar.start)) for bar in row],
                    (y - 0.4, 0.8),
                    facecolors=[LIGHT[bar.state] for bar in row],
                    edgecolor="white",
                    linewidth=[0.2 if bar.end - bar.start > 3 * least_s else 0.0 for bar in row],
                )
                y += 1
            y += 1
        axis.set_yticks(middles, [str(i) for i in range(1, len(lanes) + 1)])
        axis.set_ylim(max(1, y) - 1, -0.8)
        axis.set_ylabel("worker")
    elif lanes:
        shares = [[min(1.0, n / max(1, slots.get(lane.worker, 1))) for n in lane.busy] for lane in lanes]
        image = axis.pcolormesh(
            _edges(facts),
            [i + 0.5 for i in range(len(lanes) + 1)],
            shares,
            cmap="Blues",
            vmin=0,
            vmax=1,
            rasterized=True,
        )
        axis.figure.colorbar(image, ax=axis, label="share of slots that are busy", pad=0.01, aspect=15)
        axis.invert_yaxis()
        axis.yaxis.get_major_locator().set_params(
            integer=True, min_n_ticks=1
        )  # a worker's number is in the middle of its row
        axis.set_ylabel("worker")
    axis.grid(visible=False)
    _time_axis(axis, _edges(facts)[-1], 10)


def _joined(facts: Facts, values: Sequence[float], most: int = 60) -> tuple[list[float], list[float]]:
    edges = _edges(facts)
    step = max(1, -(-len(values) // most))
    starts = range(0, len(values), step)
    shown = [*(edges[i] for i in starts), edges[-1]]
    widths = [b - a for a, b in pairwise(shown)]
    return shown, [sum(values[i : i + step]) / width for i, width in zip(starts, widths, strict=True)]


def _ends(axis: Any, facts: Facts) -> None:
    edges, rates = _joined(facts, facts.overview.ends)
    failed = facts.overview.failed
    _, failing = _joined(facts, [b - a for a, b in zip([0.0, *failed], failed, strict=False)])
    axis.stairs(rates, edges, fill=True, color=LIGHT["completed"])
    axis.stairs(failing, edges, fill=True, color=LIGHT["failed"])
    axis.set_title("c  Tasks that end, per second")
    axis.set_ylim(0)
    _counts(axis, are_whole=False)
    _time_axis(axis, edges[-1], 5)


def _slots(axis: Any, facts: Facts) -> None:
    edges, overview = _edges(facts), facts.overview
    axis.stairs(overview.slots, edges, fill=True, color=LIGHT["waiting"], label="slots")
    running = [min(a, b or a) for a, b in zip(overview.running, overview.slots, strict=True)]
    axis.stairs(running, edges, fill=True, color=LIGHT["running"], label="running tasks")
    used = facts.overview.shown_utilisation
    share = "" if used is None else f": {used:.0%} of slots used"
    axis.set_title(f"d  Running tasks and slots{share}")
    axis.set_ylim(0)
    _counts(axis)
    _time_axis(axis, edges[-1], 5)
    axis.legend(loc="lower center", ncols=2, handlelength=1, frameon=True, framealpha=0.9, edgecolor="none")


def _waiting(axis: Any, facts: Facts) -> None:
    edges = _edges(facts)
    axis.fill_between(edges, [0.0, *facts.overview.waiting], color=LIGHT["waiting"], linewidth=0)
    axis.set_title("e  Waiting tasks")
    axis.set_xlabel("time since the session was created")
    axis.set_ylim(0)
    _counts(axis)
    _time_axis(axis, edges[-1], 5)


def _durations(axis: Any, facts: Facts) -> None:
    durations = facts.overview.durations
    bars = durations.histogram()
    axis.set_title("f  Durations")
    if not bars:
        return
    edges = [start for start, _, _ in bars] + [bars[-1][1]]
    axis.stairs([n for _, _, n in bars], edges, fill=True, color=LIGHT["completed"])
    axis.set_xscale("log")
    shown = axis_ticks(edges[0], edges[-1])
    axis.set_xticks(shown, [seconds_text(tick) for tick in shown])
    axis.set_xticks([], minor=True)
    _counts(axis)
    for share, name, side in ((0.5, "median", "right"), (0.99, "99 %", "left")):
        value = durations.quantile(share)
        if value is not None:
            axis.axvline(value, color="black", linewidth=0.7, linestyle="--")
            words = f" {name} {seconds_text(value)} "
            axis.annotate(words, (value, 0.94), xycoords=("data", "axes fraction"), fontsize=7, ha=side)
    axis.set_xlim(edges[0] * 0.8, edges[-1] * 1.6)
    axis.set_xlabel("duration, logarithmic")
