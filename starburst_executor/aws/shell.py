"""A shell in a worker, by ECS Exec. No port is open for it: the agent of the worker's ECS task connects to AWS.

    worker's id ──► ECS task ──ExecuteCommand──► a session's URL and token ──► session-manager-plugin, a program of AWS

On Fargate and EC2 the ECS task is found by its id, on AWS Batch by the job's. Batch runs its ECS tasks in clusters of its
own.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-exec.html,
https://docs.aws.amazon.com/batch/latest/APIReference/API_ContainerProperties.html, enableExecuteCommand
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, meaning
from starburst_executor.aws.logs import CONTAINER
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.errors import ConfigError, LaunchError

__all__ = ["open_shell"]

_PLUGIN = "session-manager-plugin"
# Of a job in a worker's id: eight digits of its id, the child's index, the attempt (`launch/aws/remote.py`).
_JOB_DIGITS, _WORKER_DIGITS = 8, 14


def open_shell(clients: Clients, stack: Stack, worker_id: str, command: str) -> int:
    """Run a command in a worker, connected to the terminal of this process; return its exit status.

    Args:
        worker_id: The id in `starburst logs` and in messages.
    Raises: ConfigError: the stack allows no shells, or the plugin is missing; LaunchError: there is no such worker, or AWS
        refuses. ECS: 1 per 100 running ECS tasks, and 2; Batch: 1 per 100 running jobs if it is none of these, and 1.
    """
    if not stack.has_shell:
        raise ConfigError(
            f"the stack {stack.name!r} allows no shells in workers: allow them with `starburst setup --shell`"
        )
    plugin = shutil.which(_PLUGIN)
    if plugin is None:
        raise ConfigError(
            f"{_PLUGIN} is not installed: "
            "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
        )
    task_arn = _task_of(clients, stack, worker_id)
    # arn:aws:ecs:region:account:task/cluster/id
    _, cluster, task_id = task_arn.rsplit("/", 2)
    ecs = clients.get("ecs")
    try:
        container = _container_of(ecs.describe_tasks(cluster=cluster, tasks=[task_arn])["tasks"][0])
        answer = ecs.execute_command(
            cluster=cluster, task=task_arn, container=container["name"], command=command, interactive=True
        )
    except FOREIGN as error:
        raise meaning(error, f"opening a shell in the worker {worker_id}") from error
    except (LookupError, StopIteration) as error:
        raise LaunchError(f"the worker has ended, or has not started: worker={worker_id}") from error
    session: dict[str, Any] = answer["session"]
    # The target as the AWS CLI names it, and the arguments that it passes; only the plugin gets the session's token.
    # Source: https://github.com/aws/aws-cli/blob/develop/awscli/customizations/ecs/executecommand.py
    target = json.dumps({"Target": f"ecs:{cluster}_{task_id}_{container['runtimeId']}"})
    arguments = [plugin, json.dumps(session), stack.region, "StartSession", "", target, _endpoint(clients)]
    return subprocess.run(arguments, check=False).returncode


def _container_of(task: dict[str, Any]) -> dict[str, Any]:
    """Return the worker's container; Batch names it itself, and services of AWS may add others. Raises: StopIteration."""
    containers = [container for container in task["containers"] if container.get("runtimeId")]
    named = [container for container in containers if container["name"] in (CONTAINER, "default")]
    found: dict[str, Any] = next(iter(named or containers[:1]))
    return found


def _task_of(clients: Clients, stack: Stack, worker_id: str) -> str:
    """Return the ARN of a worker's ECS task. Raises: LaunchError."""
    digits = worker_id.rpartition("-")[2]
    try:
        pages = clients.get("ecs").get_paginator("list_tasks").paginate(cluster=stack.cluster)
        arns = [str(arn) for page in pages for arn in page["taskArns"]]
        matching = [arn for arn in arns if digits and arn.rpartition("/")[2].replace("-", "").startswith(digits)]
        if not matching and len(digits) == _WORKER_DIGITS:
            matching = _task_of_job(clients, stack, digits)
    except FOREIGN as error:
        raise meaning(error, "looking for the worker's ECS task") from error
    if len(matching) != 1:
        raise LaunchError(f"no such worker runs on ECS or on Batch now: worker={worker_id}")
    return matching[0]


def _task_of_job(clients: Clients, stack: Stack, digits: str) -> list[str]:
    """Return the ARN of the ECS task of a job's present attempt, which is the worker with these digits; else nothing."""
    batch = clients.get("batch")
    for child in _children(batch, stack, digits):
        for job in batch.describe_jobs(jobs=[child])["jobs"]:
            # Attempts that have ended are listed; the present one is after them.
            attempt = 1 + sum("stoppedAt" in attempt for attempt in job.get("attempts", []))
            task_arn = job.get("container", {}).get("taskArn")
            if job["status"] == "RUNNING" and task_arn and f"{attempt:02x}" == digits[-2:]:
                return [str(task_arn)]
    return []


def _children(batch: Any, stack: Stack, digits: str) -> Iterator[str]:
    """Yield the running jobs that the digits may mean: plain jobs, and children of arrays, by number."""
    queues = (
        stack.batch_fargate_queue,
        stack.batch_fargate_spot_queue,
        stack.batch_ec2_queue,
        stack.batch_ec2_spot_queue,
    )
    job_digits, index = digits[:_JOB_DIGITS], int(digits[_JOB_DIGITS:-2], 16)
    for queue in filter(None, queues):
        # An array is PENDING while its children run.
        for status in ("RUNNING", "PENDING"):
            for page in batch.get_paginator("list_jobs").paginate(jobQueue=queue, jobStatus=status):
                for job in page["jobSummaryList"]:
                    if str(job["jobId"]).startswith(job_digits):
                        is_array = "arrayProperties" in job
                        yield f"{job['jobId']}:{index}" if is_array else str(job["jobId"])


def _endpoint(clients: Clients) -> str:
    return str(clients.get("ssm").meta.endpoint_url)
