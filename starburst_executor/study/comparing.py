"""What differs between two studies: metrics by stage, configuration and code, survivors side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from starburst_executor.study.baselines import directions_of, mean_of, median_of
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import StageRecord, StudyRecord
from starburst_executor.study.tables import TrialRow
from starburst_executor.study.wording import shown

__all__ = ["Difference", "MetricPair", "Side", "StageComparison", "StudyComparison", "Summary", "compared", "side_of"]

_WINNERS = 5  # of a stage, in what people read


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two studies: its record, and the tables of its decided stages by name."""

    record: StudyRecord
    tables: Mapping[str, Sequence[TrialRow]]


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric of the completed trials of one stage: their number, the best, mean and median value."""

    n: int
    best: float
    mean: float
    median: float


@dataclass(frozen=True, slots=True)
class MetricPair:
    """One metric of a stage in both studies; None where no completed trial has it."""

    metric: str
    direction: str
    a: Summary | None
    b: Summary | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs: `configuration` or `code`; None where a study does not have it."""

    kind: str
    what: str
    a: str | None
    b: str | None


@dataclass(frozen=True, slots=True)
class StageComparison:
    """One stage.

    Attributes:
        name: Its name.
        states: Its state in each study; None where it is not there.
        metrics: Those of either study.
        differences: Of configuration and code.
        winners: The survivors of each study, the best first: name, metrics and params.
    """

    name: str
    states: tuple[str | None, str | None]
    metrics: tuple[MetricPair, ...]
    differences: tuple[Difference, ...]
    winners: tuple[tuple[Mapping[str, Any], ...], tuple[Mapping[str, Any], ...]]


@dataclass(frozen=True, slots=True)
class StudyComparison:
    """Two studies; `str()` gives a summary for people.

    Attributes:
        a: The name of the first.
        b: The name of the second.
        differences: Of the studies as a whole: seed and version of the library.
        stages: Those of either, in their order.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]
    stages: tuple[StageComparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {"format": 1, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def side_of(objects: StudyObjects) -> Side:
    """Read a study. Store: 1 GET, 1 GET for each decided stage."""
    record = objects.read()
    return Side(record, {one.name: objects.read_table(one.table) for one in record.stages if one.table is not None})


def compared(a: Side, b: Side) -> StudyComparison:
    """Compare two studies. Pure."""
    names = dict.fromkeys([*a.record.names, *b.record.names])
    whole = [("seed", str(a.record.seed), str(b.record.seed)), ("library", a.record.library, b.record.library)]
    return StudyComparison(
        a.record.name,
        b.record.name,
        tuple(Difference("configuration", what, one, other) for what, one, other in whole if one != other),
        tuple(_stage(name, a, b) for name in names),
    )


def _stage(name: str, a: Side, b: Side) -> StageComparison:
    one, other = (side.record.stage(name) if name in side.record.names else None for side in (a, b))
    rows = [side.tables.get(name, ()) for side in (a, b)]
    directions = {**({} if one is None else directions_of(one)), **({} if other is None else directions_of(other))}
    metrics = sorted({metric for table in rows for row in table if row.is_completed for metric in row.metrics})
    return StageComparison(
        name,
        (None if one is None else one.state, None if other is None else other.state),
        tuple(_pair(metric, directions.get(metric, "max"), rows) for metric in metrics),
        () if one is None or other is None else tuple(_differences(one, other)),
        (_winners(one), _winners(other)),
    )


def _pair(metric: str, direction: str, rows: Sequence[Sequence[TrialRow]]) -> MetricPair:
    found = []
    for table in rows:
        values = [float(row.metrics[metric]) for row in table if row.is_completed and metric in row.metrics]
        values = [value for value in values if not math.isnan(value)]
        best = min if direction == "min" else max
        found.append(Summary(len(values), best(values), mean_of(values), median_of(values)) if values else None)
    return MetricPair(metric, direction, found[0], found[1])


def _differences(one: StageRecord, other: StageRecord) -> Iterator[Difference]:
    for kind, before, after in (("configuration", one.config, other.config), ("code", one.code, other.code)):
        for what in dict.fromkeys([*before, *after]):
            if before.get(what) != after.get(what):
                yield Difference(kind, what, before.get(what), after.get(what))


def _winners(stage: StageRecord | None) -> tuple[Mapping[str, Any], ...]:
    survivors = () if stage is None else stage.survivors
    return tuple({"name": one.name, "metrics": dict(one.metrics), "params": dict(one.params)} for one in survivors)


def _lines(found: StudyComparison) -> Iterator[str]:
    yield f"{found.a} and {found.b}"
    for one in found.differences:
        yield f"  {_said(one)}"
    for stage in found.stages:
        states = " / ".join(state or "not there" for state in stage.states)
        yield f"stage {stage.name}: {states}"
        for pair in stage.metrics:
            yield f"  {shown(pair.metric)} ({pair.direction}): {_summary(pair.a)} / {_summary(pair.b)}{_change(pair)}"
        for one in stage.differences:
            yield f"  {_said(one)}"
        if not stage.differences and None not in stage.states:
            yield "  configuration and code are the same"
        for number in range(min(_WINNERS, max(map(len, stage.winners)))):
            sides = [winners[number] if number < len(winners) else None for winners in stage.winners]
            yield f"  {number + 1}. {_winner(sides[0])} / {_winner(sides[1])}"


def _said(one: Difference) -> str:
    return f"{one.kind}: {one.what}: {'none' if one.a is None else one.a} / {'none' if one.b is None else one.b}"


def _summary(one: Summary | None) -> str:
    return "none" if one is None else f"best {one.best:.6g}, mean {one.mean:.6g}, median {one.median:.6g}, n={one.n}"


def _change(pair: MetricPair) -> str:
    if pair.a is None or pair.b is None or not pair.a.mean or not all(map(math.isfinite, (pair.a.mean, pair.b.mean))):
        return ""
    return f" ({(pair.b.mean - pair.a.mean) / abs(pair.a.mean) * 100:+.2f} % of the mean)"


def _winner(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return "none"
    values = [
        f"{shown(name)}={shown(_short(value))}"
        for part in ("metrics", "params")
        for name, value in sorted(one[part].items())
    ]
    return f"{one['name']} ({', '.join(values)})"


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
