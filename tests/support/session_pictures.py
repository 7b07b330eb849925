"""Sessions in memory whose tasks ran at known times, for tests of what is drawn of them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.client.report import SessionStatus
from starburst_executor.protocol.labels import packed_labels
from starburst_executor.protocol.spans.record import BLOCK_TASKS, ENDED, OutcomeBlock, Span, State, Status
from starburst_executor.report.gathering import Gathering, Overview
from tests.support.session_rig import Rig

__all__ = ["gathered", "ran"]


def ran(
    rig: Rig,
    key: str,
    worker: str,
    end: float,
    seconds: Sequence[float],
    *,
    states: Sequence[State] = (),
    submitted_at: float = 0.0,
    labels: Sequence[str] = (),
) -> None:
    """One commit of this worker ended all tasks of a status object."""
    kinds = states or [State.COMPLETED] * len(seconds)

    def step(current: Status) -> Status:
        claim = f"{worker}.1"
        assert len(seconds) == current.n_tasks
        found = []
        for first in range(0, len(seconds), BLOCK_TASKS):
            of_block = range(first, min(first + BLOCK_TASKS, len(seconds)))
            failed = tuple(i - first for i in of_block if kinds[i] == State.FAILED)
            lengths = array("f", [seconds[i] for i in of_block]).tobytes()
            found.append(OutcomeBlock(first, len(of_block), 1, 1, claim, b"", failed, seconds=lengths))
        spans = (Span(len(seconds), ENDED, attempt=1, claim=claim, at=end),)
        return replace(
            current, spans=spans, outcomes=tuple(found), submitted_at=submitted_at, more=packed_labels(labels) or None
        )

    rig.write(key, step)


def gathered(rig: Rig) -> tuple[Overview, SessionStatus]:
    """Everything that is stored about a session's tasks."""
    reading = Reading(rig.session)
    gathering = Gathering(reading, rig.session.manifest.current.created_at)
    looks = Looks(rig.session, take=gathering.add)
    status = looks.look()
    gathering.read_all(looks.listing)
    return gathering.overview(looks.listing, status), status
