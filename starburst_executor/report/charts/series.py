"""Charts of an overview over time: states, waiting tasks, completions, utilisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from starburst_executor.report.charts.drawing import Plot
from starburst_executor.report.charts.palette import STATES
from starburst_executor.report.charts.ticks import seconds_text
from starburst_executor.report.gathering import Overview

__all__ = ["completions", "states", "utilisation", "waiting"]


def _edges(overview: Overview) -> list[float]:
    """Return the edges of the bins in seconds since the first."""
    return [at - overview.times[0] for at in overview.times]


def states(overview: Overview, *, width: float = 720, height: float = 220) -> str:
    """Return the chart of how many tasks were in each state over time, stacked."""
    edges = _edges(overview)
    running = [
        min(r, max(0.0, s - e)) for r, s, e in zip(overview.running, overview.submitted, _ended(overview), strict=True)
    ]
    waits = [max(0.0, s - e - r) for s, e, r in zip(overview.submitted, _ended(overview), running, strict=True)]
    layers = {
        "failed": overview.failed,
        "cancelled": overview.cancelled,
        "completed": overview.completed,
        "running": running,
        "waiting": waits,
    }
    last = {state: values[-1] for state, values in layers.items()}
    words = f"Of {overview.n_tasks:,} tasks, at the end " + ", ".join(
        f"{round(last[s]):,} {s}" for s in STATES if round(last[s])
    )
    plot = Plot(
        "Tasks by state over time", words, width=width, height=height, span_s=edges[-1], most=max(overview.submitted)
    )
    # The values are those at the end of each bin; nothing was there at the beginning.
    thin = _thinned(len(edges))
    floor = [0.0] * len(thin)
    for state in STATES:
        values = [0.0, *layers[state]]
        top = [low + values[i] for low, i in zip(floor, thin, strict=True)]
        if any(layers[state]):
            plot.drawing.area(state, plot.band(list(zip([edges[i] for i in thin], floor, top, strict=True))))
        floor = top
    plot.drawing.legend(plot.left, 14, [(s, s) for s in STATES if any(layers[s])])
    return str(plot.drawing)


def _ended(overview: Overview) -> list[float]:
    return [sum(at) for at in zip(overview.completed, overview.failed, overview.cancelled, strict=True)]


def waiting(overview: Overview, *, width: float = 720, height: float = 160) -> str:
    """Return the chart of how many tasks waited for a worker over time."""
    edges, values = _edges(overview), overview.waiting
    words = f"At most {max(values):,.0f} tasks waited at the same time."
    plot = Plot("Waiting tasks over time", words, width=width, height=height, span_s=edges[-1], most=max(values))
    ends = [0.0, *values]
    plot.drawing.area("waiting", plot.band([(edges[i], 0.0, ends[i]) for i in _thinned(len(edges))]))
    plot.drawing.text(plot.left, 14, "tasks that wait for their start")
    return str(plot.drawing)


def completions(overview: Overview, *, width: float = 720, height: float = 160) -> str:
    """Return the chart of how many tasks ended per second over time; those that failed below."""
    edges = _edges(overview)
    # Bins that a person can see, rather than every commit.
    edges, ended = _joined(edges, overview.ends)
    _, failed = _joined(_edges(overview), _differences(overview.failed))
    widths = [b - a for a, b in pairwise(edges)]
    rates = [n / w for n, w in zip(ended, widths, strict=True)]
    failing = [n / w for n, w in zip(failed, widths, strict=True)]
    words = f"At most {max(rates):,.3g} tasks ended in a second, over {seconds_text(widths[0])}."
    plot = Plot("Tasks ended per second", words, width=width, height=height, span_s=edges[-1], most=max(rates))
    plot.drawing.area("completed", plot.steps(edges, rates, failing))
    entries = [("completed", "tasks that ended, per second")]
    if any(failing):
        plot.drawing.area("failed", plot.steps(edges, failing))
        entries.append(("failed", "of these failed"))
    plot.drawing.legend(plot.left, 14, entries)
    return str(plot.drawing)


def utilisation(overview: Overview, *, width: float = 720, height: float = 160) -> str:
    """Return the chart of running tasks and slots over time: the space between them is idle."""
    edges = _edges(overview)
    most = max([*overview.slots, *overview.running])
    share = "no" if overview.shown_utilisation is None else f"{overview.shown_utilisation:.0%} of"
    words = f"Of the slots' time, tasks used {share} it; at most {max(overview.slots):,.3g} slots at the same time."
    plot = Plot("Running tasks and slots", words, width=width, height=height, span_s=edges[-1], most=most)
    plot.drawing.area("waiting", plot.steps(edges, overview.slots), opacity=0.55)
    plot.drawing.area(
        "running", plot.steps(edges, [min(a, b or a) for a, b in zip(overview.running, overview.slots, strict=True)])
    )
    plot.drawing.legend(plot.left, 14, [("running", "running tasks"), ("waiting", "idle slots")])
    return str(plot.drawing)


_SHOWN_BINS = 80
_SHOWN_POINTS = 120


def _thinned(n: int) -> list[int]:
    """Return at most about 120 of the numbers up to `n`, always the first and the last."""
    step = -(-n // _SHOWN_POINTS)
    return [*range(0, n - 1, step), n - 1]


def _joined(edges: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return fewer, wider bins."""
    step = max(1, -(-len(values) // _SHOWN_BINS))
    starts = range(0, len(values), step)
    return [*(edges[i] for i in starts), edges[-1]], [sum(values[i : i + step]) for i in starts]


def _differences(cumulative: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip([0.0, *cumulative], cumulative, strict=False)]
