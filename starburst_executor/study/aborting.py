"""Decides whether a running stage aborts its study. Pure."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping

from starburst_executor.study.batch import Batch
from starburst_executor.study.events import StageProgress
from starburst_executor.study.record import StudyRecord, Survivor
from starburst_executor.study.stage import AbortRules
from starburst_executor.study.tables import FAILED

__all__ = ["NO_RULES", "progress_of", "reason_to_abort"]

NO_RULES = AbortRules()
_log = logging.getLogger(__name__)


def progress_of(
    name: str, batch: Batch, record: StudyRecord, directions: Mapping[str, str], *, idle_s: float, cost_usd: float
) -> StageProgress:
    """Return how far a running stage is."""
    survivors = [survivor for stage in record.stages for survivor in stage.survivors]
    kinds = Counter(row.kind for row in batch.rows.values() if row.state == FAILED) if batch.counts.failed else {}
    return StageProgress(
        name, batch.trials, *batch.counts, idle_s=idle_s, cost_usd=cost_usd, kinds=dict(kinds),
        budget_usd=record.settings.get("budget_usd"), outcomes=batch.rows, directions=directions,
        inputs=tuple(one.metrics for one in batch.spec.inputs), best=_best(survivors, directions),
    )  # fmt: skip


def _best(survivors: Iterable[Survivor], directions: Mapping[str, str]) -> dict[str, float]:
    best: dict[str, float] = {}
    for survivor in survivors:
        for name, value in survivor.metrics.items():
            better = min if directions.get(name, "max") == "min" else max
            if not math.isnan(value):
                best[name] = better(best.get(name, value), value)
    return best


def reason_to_abort(rules: AbortRules, progress: StageProgress) -> str:
    """Return why the study is to be aborted, also if the user's function raises; empty if it is not."""
    try:
        return _reason(rules, progress)
    except Exception as error:  # user code
        _log.warning("abort_if of a stage raised: stage=%s", progress.stage, exc_info=True)
        return f"abort_if of stage {progress.stage} raised {type(error).__name__}: {error}"


def _reason(rules: AbortRules, progress: StageProgress) -> str:
    ended, failed = progress.ended, progress.failed
    if rules.failed is not None and ended >= max(rules.after, 1) and failed / ended > rules.failed:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(progress.kinds.items()))
        return (
            f"stage {progress.stage}: {failed} of {ended} ended trials failed ({kinds}), more than {rules.failed:.0%}"
        )
    if rules.no_progress is not None and progress.idle_s > rules.no_progress:
        return f"stage {progress.stage}: no trial has ended for {progress.idle_s:.0f} s, allowed are {rules.no_progress:g} s"
    if rules.budget_usd is not None and progress.cost_usd > rules.budget_usd:
        return f"stage {progress.stage}: the session has cost ${progress.cost_usd:.2f}, allowed are ${rules.budget_usd:.2f}"
    if rules.function is not None and (said := rules.function(progress)):
        return f"stage {progress.stage}: {said if isinstance(said, str) else 'its abort_if says so'}"
    for policy in rules.policies:
        if said := policy(progress):
            return f"stage {progress.stage}: {said}"
    return ""
