"""Figures of the stages of a study: the funnel, metrics by stage, time, failures."""

from __future__ import annotations

from collections import Counter
from typing import Any

from starburst_executor.report.charts.durations import axis_ticks
from starburst_executor.report.charts.ticks import seconds_text, time_text, time_ticks
from starburst_executor.report.study.facts import StageFacts, StudyFacts
from starburst_executor.report.study.figure import Figure
from starburst_executor.report.study.style import (
    COLUMN,
    MOST_MARKS,
    PAGE,
    QUALITATIVE,
    STATE_COLOURS,
    Theme,
    is_drawn,
    label,
)

__all__ = ["failures", "funnel", "metrics", "times"]

_MOST_STAGES = 24
_MOST_METRICS = 4
_MOST_DOTS = 400  # of one stage and metric
_MOST_KINDS = 12


def funnel(facts: StudyFacts) -> Figure | None:
    """Trials by outcome, and survivors, for each stage."""
    stages = facts.status.stages[:_MOST_STAGES]
    parts = ("completed", "failed", "cancelled")

    def draw(canvas: Any, theme: Theme) -> None:
        axis = canvas.subplots()
        names = [label(stage.name, 20) for stage in stages]
        left = [0] * len(stages)
        used = []
        for part in parts:
            counts = [getattr(stage, part) for stage in stages]
            if any(counts):
                used.append(part)
                axis.barh(range(len(stages)), counts, left=left, height=0.62, color=STATE_COLOURS[part], label=part)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        rest = [max(0, stage.trials - n) for stage, n in zip(stages, left, strict=True)]
        if any(rest):
            axis.barh(
                range(len(stages)),
                rest,
                left=left,
                height=0.62,
                color="none",
                edgecolor=theme.quiet,
                linewidth=0.6,
                label="not ended",
            )
        most = max((stage.trials for stage in stages), default=1)
        for i, stage in enumerate(stages):
            if stage.completed_at is not None:
                n = len(stage.survivors)
                axis.plot(
                    [n, n], [i - 0.41, i + 0.41], color=theme.ink, linewidth=1.4, label="survivors" if i == 0 else None
                )
            words = f"{stage.trials:,}" + (
                f", {len(stage.survivors):,} survive" if stage.completed_at is not None else f", {stage.state}"
            )
            axis.annotate(
                words, (stage.trials, i), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5
            )
        axis.set_yticks(range(len(stages)), names)
        axis.set_ylim(len(stages) - 0.4, -0.6)
        axis.set_xlim(0, most * 1.35)
        axis.set_xlabel("trials")
        ticks = [tick for tick in _ticker().MaxNLocator(5, integer=True).tick_values(0, most) if tick <= most]
        axis.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        canvas.legend(loc="outside upper left", ncols=5, handlelength=0.9, columnspacing=1.0)

    rows = [
        (s.name, s.state, s.trials, s.completed, s.failed, s.cancelled, len(s.survivors)) for s in facts.status.stages
    ]
    return Figure(
        "funnel", "Funnel of stages", "Trials of each stage by outcome. The line across a bar is the number of survivors, which are the cases of later stages.",
        (PAGE, 0.75 + 0.27 * len(stages)), draw, ("stage", "state", "trials", "completed", "failed", "cancelled", "survivors"), rows,
    )  # fmt: skip


def metrics(facts: StudyFacts) -> Figure | None:
    """The distribution of up to four metrics over the stages that have them."""
    names = list(dict.fromkeys(name for stage in facts.stages for name in stage.drawn_metrics()))[:_MOST_METRICS]
    stages = [stage for stage in facts.stages if stage.rows][:_MOST_STAGES]
    if not names:
        return None

    def draw(canvas: Any, theme: Theme) -> None:
        axes = canvas.subplots(1, len(names), squeeze=False)[0]
        for axis, metric in zip(axes, names, strict=True):
            shown = [(stage, values_of(stage, metric)) for stage in stages]
            shown = [(stage, values) for stage, values in shown if values]
            for i, (stage, values) in enumerate(shown):
                kept = values[:: -(-len(values) // _MOST_DOTS)]
                xs = [i + ((k * 0.618) % 1 - 0.5) * 0.5 for k in range(len(kept))]
                axis.plot(
                    xs,
                    kept,
                    ".",
                    markersize=2.2,
                    markeredgewidth=0,
                    alpha=0.6,
                    color=theme.dots,
                    rasterized=len(kept) > MOST_MARKS,
                )
                chosen = [s.metrics[metric] for s in stage.record.survivors if is_drawn(s.metrics.get(metric))]
                chosen = chosen[:_MOST_DOTS]
                axis.plot(
                    [i] * len(chosen),
                    chosen,
                    "D",
                    markersize=2.6,
                    markeredgewidth=0.4,
                    markeredgecolor=theme.paper,
                    color=QUALITATIVE[3],
                )
            axis.boxplot(
                [values for _, values in shown], positions=range(len(shown)), widths=0.62, showfliers=False, whis=(5, 95),
                boxprops={"linewidth": 0.7}, whiskerprops={"linewidth": 0.7}, capprops={"linewidth": 0.7},
                medianprops={"linewidth": 1.3, "color": theme.ink},
            )  # fmt: skip
            for line in axis.lines[-6 * len(shown) :]:
                line.set_color(theme.ink)
            axis.set_xticks(range(len(shown)), [label(stage.name, 14) for stage, _ in shown], rotation=35, ha="right")
            axis.grid(axis="y")
            measure = facts.measure(metric)
            arrow = "\N{UPWARDS ARROW}" if measure.direction == "max" else "\N{DOWNWARDS ARROW}"
            axis.set_ylabel(f"{label(metric)}{f' ({label(measure.unit, 10)})' if measure.unit else ''} {arrow}")

    rows = [
        (row.name, row.state, row.name in survivors, *(row.metrics.get(name, "") for name in names))
        for stage in stages
        for survivors in [stage.survivors]
        for row in stage.rows
    ]
    return Figure(
        "metrics", "Metrics by stage", "Box: quartiles and median; whiskers: 5 % and 95 %. Dots are completed trials, diamonds survivors. The arrow shows which values are better.",
        (PAGE if len(names) > 1 else COLUMN, 2.5), draw, ("trial", "state", "survivor", *names), rows,
    )  # fmt: skip


def values_of(stage: StageFacts, metric: str) -> list[float]:
    """Return the values of a metric in completed trials, of those that can be drawn."""
    return [row.metrics[metric] for row in stage.rows if row.is_completed and is_drawn(row.metrics.get(metric))]


def times(facts: StudyFacts) -> Figure | None:
    """How long trials ran, and each stage in all."""
    stages = [stage for stage in facts.stages if any(row.seconds > 0 for row in stage.rows)][:_MOST_STAGES]
    if not stages:
        return None

    def draw(canvas: Any, theme: Theme) -> None:
        left, right = canvas.subplots(1, 2, sharey=True)
        spans = [[row.seconds for row in stage.rows if row.seconds > 0] for stage in stages]
        left.boxplot(
            spans, positions=range(len(stages)), widths=0.6, orientation="horizontal", whis=(5, 95), showfliers=False,
            boxprops={"color": theme.ink}, whiskerprops={"color": theme.ink}, capprops={"color": theme.ink},
            medianprops={"color": QUALITATIVE[3], "linewidth": 1.4},
        )  # fmt: skip
        left.set_xscale("log")
        shortest, longest = min(map(min, spans)), max(map(max, spans))
        ticks = axis_ticks(shortest, longest)
        left.set_xticks(ticks, [seconds_text(tick) for tick in ticks])
        left.set_xticks([], minor=True)
        left.set_title("a  A trial")
        left.grid(axis="x")
        work = [stage.work_s for stage in stages]
        wall = [stage.wall_s or 0.0 for stage in stages]
        places = range(len(stages))
        right.barh([i - 0.2 for i in places], work, height=0.36, color=QUALITATIVE[0], label="all trials together")
        right.barh([i + 0.2 for i in places], wall, height=0.36, color=QUALITATIVE[1], label="start to decision")
        most = max([*work, *wall])
        ticks = time_ticks(most, 5)
        right.set_xticks(ticks, [time_text(tick, most) for tick in ticks])
        right.set_title("b  A stage")
        right.grid(axis="x")
        left.set_yticks(list(places), [label(stage.name, 16) for stage in stages])
        left.set_ylim(len(stages) - 0.4, -0.6)
        canvas.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=2)

    rows = [
        (stage.name, len(stage.rows), f"{stage.work_s:.6g}", "" if stage.wall_s is None else f"{stage.wall_s:.6g}")
        for stage in stages
    ]
    return Figure(
        "times", "Time", "Left: seconds of the trials that returned; box: quartiles, whiskers: 5 % and 95 %. Right: each stage in all.",
        (PAGE, 1.1 + 0.27 * len(stages)), draw, ("stage", "trials", "work_s", "wall_s"), rows,
    )  # fmt: skip


def _ticker() -> Any:
    from importlib import import_module

    return import_module("matplotlib.ticker")


def failures(facts: StudyFacts) -> Figure | None:
    """Failed and cancelled trials by kind and stage."""
    found = facts.failures()
    if not found:
        return None
    total: Counter[str] = Counter()
    for one in found:
        total[one.kind] += one.n
    kinds = [kind for kind, _ in total.most_common(_MOST_KINDS)]
    stages = [stage.name for stage in facts.stages if any(one.stage == stage.name for one in found)][: len(QUALITATIVE)]

    def draw(canvas: Any, theme: Theme) -> None:  # noqa: ARG001 - of every figure
        axis = canvas.subplots()
        left = [0] * len(kinds)
        for colour, name in zip(QUALITATIVE, stages, strict=False):
            counts = [sum(one.n for one in found if (one.stage, one.kind) == (name, kind)) for kind in kinds]
            axis.barh(range(len(kinds)), counts, left=left, height=0.62, color=colour, label=label(name, 16))
            left = [a + b for a, b in zip(left, counts, strict=True)]
        for i, kind in enumerate(kinds):
            axis.annotate(
                f"{total[kind]:,}",
                (total[kind], i),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
            )
        axis.set_yticks(range(len(kinds)), [label(kind) for kind in kinds])
        axis.set_ylim(len(kinds) - 0.4, -0.6)
        axis.set_xlim(0, max(total.values()) * 1.15)
        axis.set_xlabel("trials")
        canvas.legend(loc="outside upper left", ncols=3, handlelength=0.9)

    return Figure(
        "failures", "Failures by kind", "Trials that failed or were cancelled, by kind and stage.",
        (COLUMN, 0.9 + 0.24 * len(kinds)), draw, ("stage", "kind", "trials", "error", "first trials"),
        [(one.stage, one.kind, one.n, one.error, " ".join(one.trials)) for one in found],
    )  # fmt: skip
