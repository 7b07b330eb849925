"""Figures of trials: the Pareto front, learning curves, the lineage of the winner."""

from __future__ import annotations

import importlib
import math
from typing import Any

from starburst_executor.report.study.facts import StageFacts, StudyFacts
from starburst_executor.report.study.figure import Figure
from starburst_executor.report.study.style import COLUMN, MOST_MARKS, PAGE, QUALITATIVE, Theme, is_drawn, label

__all__ = ["curves", "fronts", "lineage"]

_MOST_FRONTS = 2
_MOST_CURVES = 80
_MOST_KIN = 200  # survivors of one stage that are drawn
_MOST_STEPS = 200
_LEAST_TRIALS = 3


def fronts(facts: StudyFacts) -> Figure | None:
    """Two metrics against each other, and the trials that no other trial beats in both."""
    stage, names = _with_two_metrics(facts)
    if stage is None:
        return None
    pairs = [(names[0], name) for name in names[1 : 1 + _MOST_FRONTS]]
    rows = [row for row in stage.rows if row.is_completed and all(is_drawn(row.metrics.get(name)) for name in names)]
    signs = {name: -1 if facts.measure(name).direction == "max" else 1 for name in names}
    best: dict[tuple[str, str], list[int]] = {}
    for a, b in pairs:
        best[a, b] = pareto([(signs[a] * row.metrics[a], signs[b] * row.metrics[b]) for row in rows])

    def draw(canvas: Any, theme: Theme) -> None:
        axes = canvas.subplots(1, len(pairs), squeeze=False)[0]
        for axis, (a, b) in zip(axes, pairs, strict=True):
            xs, ys = [row.metrics[a] for row in rows], [row.metrics[b] for row in rows]
            axis.plot(
                xs,
                ys,
                ".",
                markersize=3,
                markeredgewidth=0,
                alpha=0.6,
                color=theme.dots,
                rasterized=len(rows) > MOST_MARKS,
                label="trials",
            )
            front = best[a, b]
            # From one to the next the front goes along the worse of both values.
            axis.step(
                [xs[i] for i in front],
                [ys[i] for i in front],
                where="post" if signs[a] > 0 else "pre",
                color=theme.ink,
                linewidth=0.9,
                label="Pareto front",
            )
            chosen = [row for row in rows if row.name in stage.survivors]
            axis.plot(
                [row.metrics[a] for row in chosen],
                [row.metrics[b] for row in chosen],
                "D",
                markersize=2.8,
                markeredgewidth=0.4,
                markeredgecolor=theme.paper,
                color=QUALITATIVE[3],
                label="survivors",
            )
            for name, put in ((a, axis.set_xlabel), (b, axis.set_ylabel)):
                measure = facts.measure(name)
                put(
                    f"{label(name)}{f' ({label(measure.unit, 10)})' if measure.unit else ''}, {'lower' if measure.direction == 'min' else 'higher'} is better"
                )
            axis.grid(visible=True)
        canvas.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)

    on_front = {pair: set(front) for pair, front in best.items()}
    data = [
        (
            row.name,
            row.name in stage.survivors,
            *(i in on_front[pair] for pair in pairs),
            *(row.metrics[name] for name in names),
        )
        for i, row in enumerate(rows)
    ]
    return Figure(
        "fronts", "Pareto front", f"Completed trials of stage {label(stage.name)}. On the line no trial is better in both metrics.",
        (PAGE if len(pairs) > 1 else COLUMN, 2.7), draw,
        ("trial", "survivor", *(f"on front of {a} and {b}" for a, b in pairs), *names), data,
    )  # fmt: skip


def _with_two_metrics(facts: StudyFacts) -> tuple[StageFacts | None, list[str]]:
    best: tuple[StageFacts | None, list[str]] = (None, [])
    most = _LEAST_TRIALS - 1
    for stage in facts.stages:
        names = stage.drawn_metrics()[: 1 + _MOST_FRONTS]
        n = sum(row.is_completed and all(is_drawn(row.metrics.get(name)) for name in names) for row in stage.rows)
        if len(names) > 1 and n > most:
            best, most = (stage, names), n
    return best


def pareto(costs: list[tuple[float, float]]) -> list[int]:
    """Return the indexes of the pairs that no other pair dominates, by the first cost. Equal ones are all in it."""
    front: list[int] = []
    least = math.inf
    for i in sorted(range(len(costs)), key=lambda i: costs[i]):
        if costs[i][1] < least or (front and costs[front[-1]] == costs[i]):
            front.append(i)
            least = min(least, costs[i][1])
    return front


def curves(facts: StudyFacts) -> Figure | None:
    """What trials reported while they ran: each one, the median, and the quartiles."""
    stage = max(facts.stages, key=lambda stage: sum(bool(row.curve) for row in stage.rows), default=None)
    rows = [] if stage is None else [row for row in stage.rows if row.curve]
    if stage is None or not rows:
        return None
    names = [
        name
        for name in [*stage.record.measures, *stage.drawn_metrics(), *rows[0].curve[0][1]]
        if any(name in metrics for _, metrics in rows[0].curve)
    ]
    if not names:
        return None
    metric = names[0]
    lines = {
        row.name: [(step, values[metric]) for step, values in row.curve if is_drawn(values.get(metric))] for row in rows
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return None
    chosen = [name for name in lines if name in stage.survivors][:_MOST_CURVES]
    others = [name for name in lines if name not in stage.survivors]
    others = (
        [others[i * len(others) // _MOST_CURVES] for i in range(_MOST_CURVES)] if len(others) > _MOST_CURVES else others
    )
    by_step: dict[int, list[float]] = {}
    for points in lines.values():
        for step, value in points:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    steps = (
        [steps[i * (len(steps) - 1) // (_MOST_STEPS - 1)] for i in range(_MOST_STEPS)]
        if len(steps) > _MOST_STEPS
        else steps
    )

    def draw(canvas: Any, theme: Theme) -> None:
        numpy = importlib.import_module("numpy")
        axis = canvas.subplots()
        many = len(others) * max(map(len, lines.values())) > 5000  # noqa: PLR2004 - points of a vector file
        for kind, colour, width, alpha, words in (
            (others, theme.quiet, 0.4, 0.45, "trials"),
            (chosen, QUALITATIVE[3], 0.9, 0.9, "survivors"),
        ):
            for i, name in enumerate(kind):
                axis.plot(
                    *zip(*lines[name], strict=True),
                    color=colour,
                    linewidth=width,
                    alpha=alpha,
                    rasterized=many,
                    label=None if i else words,
                )
        quartiles = numpy.array([numpy.percentile(by_step[step], (25, 50, 75)) for step in steps])
        axis.fill_between(
            steps, quartiles[:, 0], quartiles[:, 2], color=QUALITATIVE[0], alpha=0.25, linewidth=0, label="quartiles"
        )
        axis.plot(steps, quartiles[:, 1], color=QUALITATIVE[0], linewidth=1.5, label="median")
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(importlib.import_module("matplotlib.ticker").MaxNLocator(6, integer=True))
        unit = facts.measure(metric).unit
        axis.set_ylabel(f"{label(metric)}{f' ({label(unit, 10)})' if unit else ''}")
        axis.grid(visible=True)
        canvas.legend(loc="outside upper left", ncols=4)

    shown = [*chosen, *others]
    some = (
        ""
        if len(shown) == len(lines)
        else f" {len(shown):,} of {len(lines):,} trials are drawn; median and quartiles are of all."
    )
    data = [(name, step, value) for name in shown for step, value in lines[name]]
    return Figure(
        "curves", "Learning curves", f"{label(metric)} as trials of stage {label(stage.name)} reported it.{some}",
        (COLUMN, 2.5), draw, ("trial", "step", metric), data,
    )  # fmt: skip


def lineage(facts: StudyFacts) -> Figure | None:
    """Survivors of each stage, what each came from, and the winner's way."""
    winner = facts.winner()
    if winner is None:
        return None
    way = facts.lineage(winner.name)
    if not way:
        return None
    stages = [stage for stage in facts.stages if stage.record.survivors]
    metric = next(
        (name for name in facts.stage(winner.stage).drawn_metrics() if name in way[0].metrics), None
    ) or facts.objective(facts.stage(winner.stage))
    if metric is None or len(stages) < 2:  # noqa: PLR2004 - a way has two ends
        return None
    place = {stage.name: i for i, stage in enumerate(stages)}
    kin = {
        s.name: s.metrics[metric]
        for stage in stages
        for s in stage.record.survivors[:_MOST_KIN]
        if facts.has_trial(s.name) and is_drawn(s.metrics.get(metric))
    }
    pairs = [(parent, name) for name in kin if (parent := facts.parent(name)) in kin]
    steps = [one.trial for one in way if one.trial in kin]

    def x(name: str) -> int:
        return place[name.rpartition("/")[0]]

    def draw(canvas: Any, theme: Theme) -> None:
        axis = canvas.subplots()
        many = len(pairs) > MOST_MARKS
        for parent, name in pairs:
            axis.plot(
                [x(parent), x(name)],
                [kin[parent], kin[name]],
                color=theme.quiet,
                linewidth=0.4,
                alpha=0.5,
                rasterized=many,
            )
        axis.plot(
            [x(name) for name in kin],
            list(kin.values()),
            ".",
            markersize=3.5,
            markeredgewidth=0,
            color=theme.dots,
            label="survivors",
        )
        axis.plot(
            [x(name) for name in steps],
            [kin[name] for name in steps],
            "o-",
            markersize=4,
            linewidth=1.6,
            color=QUALITATIVE[3],
            label="way of the winner",
        )
        for name in steps:
            axis.annotate(
                label(name, 20), (x(name), kin[name]), xytext=(4, 5), textcoords="offset points", fontsize=6.5
            )
        axis.set_xticks(range(len(stages)), [label(stage.name, 16) for stage in stages])
        axis.set_xlim(-0.2, len(stages) - 0.55)
        axis.margins(y=0.12)
        measure = facts.measure(metric)
        axis.set_ylabel(f"{label(metric)}{f' ({label(measure.unit, 10)})' if measure.unit else ''}")
        axis.grid(axis="y")
        canvas.legend(loc="outside upper left", ncols=2)

    data = [(name, facts.parent(name) or "", name in steps, value) for name, value in kin.items()]
    return Figure(
        "lineage", "Lineage of the winner", f"Each line leads from a survivor to a survivor of a later stage whose case it was. The winner is {label(winner.name)}.",
        (PAGE, 2.7), draw, ("trial", "case", "leads to the winner", metric), data,
    )  # fmt: skip
