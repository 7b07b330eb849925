"""A study that is left to its workers on Fargate: the driver's task finds the session's key with its container's role, as workers do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor import ConfigError, Fargate, Stage, Study
from starburst_executor.launch.aws import ecs_placing, launches_seen
from tests.sessions import REMOTE, wait_until
from tests.support.aws_fakes.server import IMAGE, FakeAws


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """ECS is asked, and asked again, in fractions of seconds."""
    monkeypatch.setattr(launches_seen, "POLL_S", 0.2)
    for name, value in {"_PAUSE_S": 0.05, "_PAUSE_MOST_S": 0.2}.items():
        monkeypatch.setattr(ecs_placing, name, value)


def draw(trial: Any) -> dict[str, float]:
    trial.params["x"] = trial.rng().random()
    return {"score": trial.params["x"]}


@pytest.mark.stress  # twenty seconds of CPU
def test_workers_on_aws_drive_a_study_without_the_users_key(aws: FakeAws) -> None:
    stages = [Stage("first", draw, 4, select=("score", 2)), Stage("second", draw, 2, select=("score", 1))]
    study = Study("far", stages, workers=1, launcher=Fargate(image=IMAGE), timings=replace(REMOTE, launch_s=60.0))
    assert study.start().state == "open"
    wait_until(lambda: study.status().is_complete, 100)
    assert study.validate() == []
    assert len(aws.ecs.tasks) == 2
    study.delete()
    study.close()


def test_what_has_no_key_cannot_be_started() -> None:
    study = Study("near", [Stage("only", draw, 1)], key="5e" * 32, launcher="local")
    with pytest.raises(ConfigError, match="start\\(\\) on this machine needs the user's key file"):
        study.start()
    study.close()
    searching = Stage("only", draw, 4, search={"random": {"y": {"low": 0.0, "high": 1.0}}})
    study = Study("sought", [searching], launcher="fargate", store="s3://bucket/team")
    with pytest.raises(ConfigError, match="cannot drive stages with a search on AWS"):
        study.start()
    study.close()
