"""What `starburst study status` says of a study."""

from __future__ import annotations

from starburst_executor.cli.commands.study.showing import funnel
from starburst_executor.study.record import DONE, OPEN, RUNNING, WAITING, StageRecord, StudyRecord, Survivor
from starburst_executor.study.status import status_of


def test_a_line_says_which_stage_waits_for_approval() -> None:
    kept = tuple(Survivor(f"s/{index}", {}, {}, {}) for index in range(2))
    stages = [
        StageRecord("coarse", DONE, 6, completed=5, failed=1, survivors=kept),
        StageRecord("fine", WAITING, 4, completed=4, survivors=kept),
        StageRecord("other", RUNNING, 4),
    ]
    record = StudyRecord("shapes", state=OPEN, stages=tuple(stages))
    assert funnel(status_of(record, None)) == "coarse 6/6 > 2, fine 4/4 > 2 (waits for approval), other 0/4"
