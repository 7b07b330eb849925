"""A study as its report sees it, made up from a seed: three stages with failures, pruned trials, curves and artefacts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

from starburst_executor.report.study.facts import StudyFacts, facts_of
from starburst_executor.study.artefacts import Artefact
from starburst_executor.study.objects import StudyObjects
from starburst_executor.study.record import COMPLETE, DONE, Measure, StageRecord, StudyRecord, Survivor
from starburst_executor.study.status import status_of
from starburst_executor.study.tables import TrialRow, counted

__all__ = ["made_up", "stored"]

_T0 = 1_770_000_000.0


def made_up(
    sizes: Sequence[int] = (60, 20, 8),
    survivors: Sequence[int] = (6, 3, 1),
    *,
    seed: int = 1,
    odd: str = "",
    name: str = "vision",
) -> StudyFacts:
    """Return the facts of a complete study.

    Args:
        odd: A text that is also the name of a parameter, a metric and an artefact, the value of a parameter, and an error.
    """
    chance = random.Random(seed)
    names = ["coarse", "fine", "final", "last"][: len(sizes)]
    tables: dict[str, list[TrialRow]] = {}
    stages: list[StageRecord] = []
    at = _T0
    kept: tuple[Survivor, ...] = ()
    for number, (stage, n, k) in enumerate(zip(names, sizes, survivors, strict=True)):
        rows = [_trial(chance, stage, i, kept[i % len(kept)] if kept else None, odd) for i in range(n)]
        best = sorted((row for row in rows if row.is_completed), key=lambda row: row.metrics["loss"])[:k]
        kept = tuple(Survivor(row.name, row.metrics, row.params, row.artefacts) for row in best)
        tables[stage] = rows
        counts = counted(rows)
        stages.append(
            StageRecord(
                stage, DONE, n, started_at=at, completed_at=at + 4000, completed=counts.completed, failed=counts.failed,
                cancelled=counts.cancelled, survivors=kept, reason=f"the best {k} by loss", table="digest",
                depends_on=(names[number - 1],) if number else (), measures={"loss": Measure("min", ""), "latency": Measure("min", "ms")},
            )
        )  # fmt: skip
        at += 4000
    record = StudyRecord(name, state=COMPLETE, created_at=_T0, stages=tuple(stages))
    return facts_of(record, status_of(record, None), tables, store="s3://bucket/team", at=at)


def _trial(chance: random.Random, stage: str, index: int, case: Survivor | None, odd: str) -> TrialRow:
    if case is None:
        params = {
            "learning_rate": 10 ** chance.uniform(-5, -1),
            "depth": chance.randint(1, 12),
            "dropout": chance.uniform(0, 0.6),
            "optimiser": chance.choice(["adam", "sgd", "rmsprop"]),
        }
    else:
        params = {**case.params, "learning_rate": case.params["learning_rate"] * chance.lognormvariate(0, 0.2)}
    if odd:
        params |= {odd: chance.random(), "word": odd if chance.random() < 0.5 else "plain"}
    luck = chance.random()
    if luck < 0.05:
        kind = chance.choice(["raised", "raised", "memory", "timed out"])
        return TrialRow(stage, index, "failed", kind, f"ValueError: {odd or 'loss is nan'}", params=params)
    if luck < 0.09:
        return TrialRow(stage, index, "cancelled", "pruned", params=params, seconds=3)
    loss = (
        0.2
        + 0.08 * (math.log10(params["learning_rate"]) + 3) ** 2
        + 0.01 * (params["depth"] - 7) ** 2
        + 0.3 * (params["dropout"] - 0.25) ** 2
        + abs(chance.gauss(0, 0.02))
    )
    metrics = {"loss": loss, "latency": 2 + params["depth"] * 0.8 + chance.gauss(0, 0.4)}
    artefacts = {}
    if odd:
        metrics[odd] = chance.random()
    if index % 10 == 0:
        artefacts[odd or "model"] = Artefact(f"{chance.getrandbits(256):064x}", chance.randint(1000, 5_000_000))
    curve = tuple((step, {"loss": loss + math.exp(-step / 4)}) for step in range(20)) if index % 3 == 0 else ()
    seconds = chance.lognormvariate(1.5, 0.6)
    return TrialRow(stage, index, "completed", "", "", metrics, params, artefacts, curve, seconds)


def stored(facts: StudyFacts, objects: StudyObjects) -> StudyRecord:
    """Write a made-up study into a store, without the bytes of its artefacts."""
    stages = tuple(replace(stage.record, table=objects.write_table(stage.name, stage.rows)) for stage in facts.stages)
    return objects.create(replace(facts.record, stages=stages))
