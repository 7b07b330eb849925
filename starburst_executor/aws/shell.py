"""A shell in a worker on ECS, by ECS Exec: for a look at what it does. Nothing listens for it: the worker's agent calls out.

    worker's id ──ListTasks──► ECS task ──ExecuteCommand──► a session's URL and token ──► session-manager-plugin, AWS's own

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-exec.html
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, meaning
from starburst_executor.aws.logs import CONTAINER
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.errors import ConfigError, LaunchError

__all__ = ["open_shell"]

_PLUGIN = "session-manager-plugin"


def open_shell(clients: Clients, stack: Stack, worker_id: str, command: str) -> int:
    """Run a command in a worker, with this process's terminal; its exit status.

    Args:
        worker_id: As in `starburst logs` and in messages.
    Raises: ConfigError: the stack allows no shells, or the plugin is missing; LaunchError: there is no such worker, or ECS
        refuses. ECS: 1 for 100 ECS tasks that run, and 2.
    """
    if not stack.has_shell:
        raise ConfigError(
            f"workers of the stack {stack.name!r} have no shells: allow them with `starburst setup --shell`"
        )
    plugin = shutil.which(_PLUGIN)
    if plugin is None:
        raise ConfigError(
            f"{_PLUGIN} is not installed: "
            "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
        )
    task_arn = _task_of(clients, stack, worker_id)
    try:
        asked = {"cluster": stack.cluster, "task": task_arn, "container": CONTAINER, "command": command}
        answer = clients.get("ecs").execute_command(**asked, interactive=True)
        described = clients.get("ecs").describe_tasks(cluster=stack.cluster, tasks=[task_arn])
        containers = described["tasks"][0]["containers"]
        runtime_id = next(one["runtimeId"] for one in containers if one["name"] == CONTAINER)
    except FOREIGN as error:
        raise meaning(error, f"opening a shell in the worker {worker_id}") from error
    except (LookupError, StopIteration) as error:
        raise LaunchError(f"the worker has ended, or has not begun: worker={worker_id}") from error
    session: dict[str, Any] = answer["session"]
    # As the AWS CLI names it: https://github.com/aws/aws-cli/blob/develop/awscli/customizations/ecs/executecommand.py
    target = json.dumps({"Target": f"ecs:{stack.cluster}_{task_arn.rpartition('/')[2]}_{runtime_id}"})
    # The token is the plugin's to have; its arguments are those that the AWS CLI gives it.
    words = [plugin, json.dumps(session), stack.region, "StartSession", "", target, _endpoint(clients)]
    return subprocess.run(words, check=False).returncode


def _task_of(clients: Clients, stack: Stack, worker_id: str) -> str:
    """The ECS task of a worker, whose id ends in its first digits."""
    digits = worker_id.rpartition("-")[2]
    try:
        pages = clients.get("ecs").get_paginator("list_tasks").paginate(cluster=stack.cluster)
        arns = [str(arn) for page in pages for arn in page["taskArns"]]
    except FOREIGN as error:
        raise meaning(error, "looking for the worker's ECS task") from error
    found = [arn for arn in arns if digits and arn.rpartition("/")[2].replace("-", "").startswith(digits)]
    if len(found) != 1:
        raise LaunchError(
            f"no such worker runs on ECS: worker={worker_id}; those of AWS Batch and of other machines cannot be entered so"
        )
    return found[0]


def _endpoint(clients: Clients) -> str:
    return str(clients.get("ssm").meta.endpoint_url)
