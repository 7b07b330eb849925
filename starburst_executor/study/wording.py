"""What a driver reports, in words. Pure."""

from __future__ import annotations

from datetime import datetime, timezone

from starburst_executor.study.fetching import Cleaned
from starburst_executor.study.record import StageRecord
from starburst_executor.study.tables import Counts

__all__ = ["cleaned", "decided", "progress", "shown", "skipped"]


def skipped(stage: StageRecord, *, failed: bool) -> str:
    """Say that a stage was decided before, and when.

    Args:
        failed: Whether failed trials were asked to run again, which those of a decided stage do not.
    """
    at = datetime.fromtimestamp(stage.completed_at or 0.0, timezone.utc)
    text = f"stage {stage.name} is skipped: decided at {at:%Y-%m-%d %H:%M:%S} UTC, {len(stage.survivors):,} survive"
    if failed and stage.failed:
        text += (
            f"; its {stage.failed:,} failed trials do not run again after that: restart={stage.name!r} (--restart {stage.name}) "
            "starts it over"
        )
    return text


def cleaned(done: Cleaned) -> str:
    """Return what a cleanup at the end of a study removed."""
    return f"artefacts that no stage keeps: {done.removed:,} objects removed, {done.removed_bytes:,} bytes"


def decided(stage: StageRecord) -> str:
    """Say how the trials of a stage ended, and how many survive."""
    return (
        f"stage {stage.name}: {stage.completed:,} completed, {stage.failed:,} failed, {stage.cancelled:,} cancelled; "
        f"{len(stage.survivors):,} survive: {stage.reason}"
    )


def progress(name: str, counts: Counts, trials: int) -> str:
    """Say how far a running stage is."""
    parts = ", ".join(f"{n:,} {state}" for state, n in counts._asdict().items() if n)
    return f"stage {name}: {counts.ended:,} of {trials:,} trials ended{f' ({parts})' if parts else ''}"


def shown(text: str) -> str:
    """Return text of a user as one line: line ends, other controls and bytes that are no text become what Python writes for them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
