"""The environment of a worker's container on AWS: which launch and stack it belongs to, and where the session's key is.

A launcher writes these variables, the worker reads them. They contain no secret of this library, and of the user's secrets
only the names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from starburst_executor.config.user_keys import take_from_environment
from starburst_executor.errors import ConfigError

__all__ = [
    "ContainerStart",
    "Rights",
    "container_environment",
    "container_start",
    "drop_secrets",
    "fallback_environment",
    "inherited_environment",
    "secret_names",
    "size_environment",
    "worker_rights",
    "worker_size",
    "worker_topic",
]

_PARAMETER, _LAUNCH = "STARBURST_KEY_PARAMETER", "STARBURST_LAUNCH"
_STACK, _ROLE, _SECRETS = "STARBURST_STACK", "STARBURST_ROLE", "STARBURST_SECRETS"
_SIZE, _TOPIC = "STARBURST_SIZE", "STARBURST_TOPIC"
_FALLBACK_AFTER, _FALLBACK_QUEUE = "STARBURST_FALLBACK_AFTER", "STARBURST_FALLBACK_QUEUE"


@dataclass(frozen=True, slots=True)
class ContainerStart:
    """How a worker was started in a container on AWS.

    Attributes:
        parameter: The name of the SSM parameter with the session's key.
        launch_id: The launch that it belongs to.
        metadata_url: The metadata endpoint of ECS; empty elsewhere.
        job_id: The job's id on AWS Batch (for a child of an array job, with ":" and its index); otherwise empty.
        attempt: How many times Batch has started this job, including this start.
        fallback_after: The number of starts after which a successor takes over in another queue; 0 if none does.
        fallback_queue: That queue on AWS Batch.
    """

    parameter: str
    launch_id: str
    metadata_url: str
    job_id: str
    attempt: int
    fallback_after: int = 0
    fallback_queue: str = ""


@dataclass(frozen=True, slots=True)
class Rights:
    """The source of the rights of a worker on AWS.

    Attributes:
        stack: The stack that it belongs to.
        role: The ARN of the user's own role; empty for the stack's.
    """

    stack: str
    role: str


def container_environment(
    parameter: str, launch_id: str, stack: str, role: str | None, topic_arn: str = ""
) -> dict[str, str]:
    """Return the variables that a launcher sets in a container, for `container_start`, `worker_rights` and `worker_topic`."""
    variables = {_PARAMETER: parameter, _LAUNCH: launch_id, _STACK: stack, _ROLE: role or "", _TOPIC: topic_arn}
    return {name: value for name, value in variables.items() if value}


def fallback_environment(after: int, queue: str) -> dict[str, str]:
    """Return the variables of a worker on Spot whose successor after `after` starts is submitted to `queue`."""
    return {_FALLBACK_AFTER: str(after), _FALLBACK_QUEUE: queue}


def secret_names(names: Iterable[str]) -> dict[str, str]:
    """Return a variable with the names of the user's secrets, for `drop_secrets`; none if there are no secrets."""
    listed = ",".join(sorted(names))
    return {_SECRETS: listed} if listed else {}


def size_environment(vcpus: float, memory_mib: int, gpus: int) -> dict[str, str]:
    """Return the variable that a launcher sets in a container's definition, for `worker_size`."""
    return {_SIZE: f"{vcpus:g},{memory_mib},{gpus}"}


def worker_size() -> tuple[float, float, int]:
    """Return the size of this worker on AWS: vCPUs, GB of memory, GPUs; zeros elsewhere, or if the variable is malformed."""
    try:
        vcpus, memory_mib, gpus = os.environ.get(_SIZE, "").split(",")
        return float(vcpus), int(memory_mib) / 1024, int(gpus)
    except ValueError:
        return 0.0, 0.0, 0


def worker_topic() -> str:
    """Return the ARN of the SNS topic for messages of workers; empty if there is none."""
    return os.environ.get(_TOPIC, "")


def worker_rights() -> Rights | None:
    """Return the source of this process's rights, in a worker on AWS and its child processes; None elsewhere."""
    stack = os.environ.get(_STACK)
    return Rights(stack, os.environ.get(_ROLE, "")) if stack else None


def inherited_environment() -> dict[str, str]:
    """Return the variables that a worker passes to the container of its successor: its own, except the fallback's, which
    was used.
    """
    names = (_PARAMETER, _LAUNCH, _STACK, _ROLE, _TOPIC, "AWS_DEFAULT_REGION")
    return {name: os.environ[name] for name in names if name in os.environ}


def drop_secrets() -> None:
    """Remove the user's secrets from this process's environment. Call it before threads are started."""
    for name in filter(None, os.environ.get(_SECRETS, "").split(",")):
        take_from_environment(name)


def container_start() -> ContainerStart:
    """Return how this process was started, from its environment. Raises: ConfigError if no launcher started it."""
    variables = os.environ
    for name in (_PARAMETER, _LAUNCH):
        if not variables.get(name):
            raise ConfigError(f"--platform is for workers that a launcher on AWS starts: {name} is not set")
    attempt = variables.get("AWS_BATCH_JOB_ATTEMPT", "1")
    after = variables.get(_FALLBACK_AFTER, "0")
    return ContainerStart(
        parameter=variables[_PARAMETER],
        launch_id=variables[_LAUNCH],
        metadata_url=variables.get("ECS_CONTAINER_METADATA_URI_V4", ""),
        job_id=variables.get("AWS_BATCH_JOB_ID", ""),
        attempt=int(attempt) if attempt.isdecimal() else 1,
        fallback_after=int(after) if after.isdecimal() else 0,
        fallback_queue=variables.get(_FALLBACK_QUEUE, ""),
    )
