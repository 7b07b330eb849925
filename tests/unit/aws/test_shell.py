"""`starburst shell`: from a worker's id to AWS's plugin, with what ECS answers; a plugin of the test's own writes it down."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starburst_executor.aws.shell import open_shell
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.errors import ConfigError, LaunchError

STACK = Stack(
    name="starburst", region="eu-west-1", account_id="1", bucket="b", cluster="c", subnets=("s",), security_group="g",
    execution_role_arn="e", worker_role_arn="w", repository_uri="r/starburst", log_group="l", parameter_prefix="/p/",
    task_family_prefix="starburst_", client_policy_arn="p", has_shell=True,
)  # fmt: skip
TASK = "arn:aws:ecs:eu-west-1:1:task/c/0123456789abcdef0123456789abcdef"
WORKER = "0190a0b0c0d-0123456789abcdef"


class Ecs:
    """ECS with one task, and the endpoint of Systems Manager."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.meta = self
        self.endpoint_url = "https://ssm.eu-west-1.amazonaws.com"

    def get(self, _: str) -> Ecs:
        return self

    def get_paginator(self, _: str) -> Ecs:
        return self

    def paginate(self, **_: str) -> list[dict[str, Any]]:
        return [{"taskArns": ["arn:aws:ecs:eu-west-1:1:task/c/ffff"]}, {"taskArns": [TASK]}]

    def describe_tasks(self, **_: Any) -> dict[str, Any]:
        other = {"name": "aws-guardduty-agent", "runtimeId": "other"}
        return {"tasks": [{"containers": [other, {"name": "worker", "runtimeId": "0123-99"}]}]}

    def execute_command(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        return {"session": {"sessionId": "s", "streamUrl": "wss://x", "tokenValue": "t"}}


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the plugin writes its arguments, a line each."""
    plugin, told = tmp_path / "session-manager-plugin", tmp_path / "told"
    plugin.write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word" >> \'{told}\'; done\nexit 7\n')
    plugin.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return told


def test_the_plugin_gets_what_ecs_answers(told: Path) -> None:
    ecs: Any = Ecs()
    assert open_shell(ecs, STACK, WORKER, "/bin/sh") == 7
    wanted = {"cluster": "c", "task": TASK, "container": "worker", "command": "/bin/sh", "interactive": True}
    assert ecs.asked == wanted
    session, region, action, profile, target, endpoint = told.read_text().splitlines()
    assert json.loads(session)["tokenValue"] == "t"
    assert (region, action, profile, endpoint) == ("eu-west-1", "StartSession", "", ecs.endpoint_url)
    task_id = TASK.rpartition("/")[2]
    assert json.loads(target) == {"Target": f"ecs:c_{task_id}_0123-99"}


QUEUE = "arn:aws:batch:eu-west-1:1:job-queue/fargate"
ON_BATCH = "arn:aws:ecs:eu-west-1:1:task/BatchFargate_Batch_0a1b/89abcdef"
JOB, ARRAY = "0a1b2c3d-0000-4000-8000-000000000000", "0a1b2c3e-0000-4000-8000-000000000000"


class Batch(Ecs):
    """ECS and Batch: a plain job in its second attempt, and an array with two children; ECS tasks in Batch's own cluster."""

    def get_paginator(self, operation: str) -> Any:
        self.operation = operation
        return self

    def paginate(self, **asked: str) -> list[dict[str, Any]]:
        if self.operation == "list_tasks":
            return [{"taskArns": []}]
        assert asked["jobQueue"] == QUEUE
        running = [{"jobId": "ffff"}, {"jobId": JOB}]
        pending = [{"jobId": ARRAY, "arrayProperties": {"size": 2}}]
        return [{"jobSummaryList": running if asked["jobStatus"] == "RUNNING" else pending}]

    def describe_jobs(self, jobs: list[str]) -> dict[str, Any]:
        (job_id,) = jobs
        ended = [{"stoppedAt": 1}] if job_id == JOB else []
        status = "RUNNABLE" if job_id.endswith(":1") else "RUNNING"
        return {"jobs": [{"jobId": job_id, "status": status, "attempts": ended, "container": {"taskArn": ON_BATCH}}]}

    def describe_tasks(self, **asked: Any) -> dict[str, Any]:
        assert asked["cluster"] == "BatchFargate_Batch_0a1b"
        other = {"name": "aws-guardduty-agent", "runtimeId": "other"}
        return {"tasks": [{"containers": [other, {"name": "default", "runtimeId": "0123-99"}]}]}


@pytest.mark.parametrize("digits", ["0a1b2c3d000002", "0a1b2c3e000001"])
def test_a_worker_on_batch_is_found_by_its_job(told: Path, digits: str) -> None:
    batch: Any = Batch()
    stack = replace(STACK, batch_fargate_queue=QUEUE)
    assert open_shell(batch, stack, f"0190a0b0c0d-{digits}", "/bin/sh") == 7
    cluster = "BatchFargate_Batch_0a1b"
    assert (batch.asked["cluster"], batch.asked["task"], batch.asked["container"]) == (cluster, ON_BATCH, "default")
    assert json.loads(told.read_text().splitlines()[4]) == {"Target": f"ecs:{cluster}_89abcdef_0123-99"}


# Its first attempt has ended, the second child waits, no such job.
@pytest.mark.parametrize("digits", ["0a1b2c3d000001", "0a1b2c3e000101", "0a1b2c3f000001"])
def test_no_shell_opens_in_another_attempt_of_a_job(told: Path, digits: str) -> None:
    batch: Any = Batch()
    with pytest.raises(LaunchError, match="no such worker runs on ECS or on Batch now"):
        open_shell(batch, replace(STACK, batch_fargate_queue=QUEUE), f"0190a0b0c0d-{digits}", "/bin/sh")
    assert not batch.asked
    assert not told.exists()


def test_what_is_missing_is_said(told: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ecs: Any = Ecs()
    with pytest.raises(ConfigError, match="allow them with `starburst setup --shell`"):
        open_shell(ecs, replace(STACK, has_shell=False), WORKER, "sh")
    for worker in ("0190a0b0c0d-9999", "0190a0b0c0d-", ""):
        with pytest.raises(LaunchError, match="no such worker runs on ECS or on Batch now"):
            open_shell(ecs, STACK, worker, "sh")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="session-manager-plugin is not installed"):
        open_shell(ecs, STACK, WORKER, "sh")
    assert not ecs.asked
    assert not told.exists()
