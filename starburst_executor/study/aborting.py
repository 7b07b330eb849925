"""Decides whether a running stage aborts its study. Pure."""

from __future__ import annotations

from starburst_executor.study.events import StageProgress
from starburst_executor.study.stage import AbortRules

__all__ = ["reason_to_abort"]


def reason_to_abort(rules: AbortRules, progress: StageProgress) -> str:
    """Return why the study is to be aborted; empty if it is not. Raises: what the user's function raises."""
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
    return ""
