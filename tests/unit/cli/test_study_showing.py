"""What `starburst study status` says of a study."""

from __future__ import annotations

import json
import math

import pytest

from starburst_executor.cli.commands.study.showing import funnel
from starburst_executor.cli.render import show_json
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


def test_what_programs_read_is_json_whatever_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    show_json(metrics=[{"loss": math.nan, "gain": -math.inf, "n": 1}], path=pytest.__name__)

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert read == {
        "format": 1,
        "metrics": [{"loss": {"float": "nan"}, "gain": {"float": "-inf"}, "n": 1}],
        "path": "pytest",
    }
