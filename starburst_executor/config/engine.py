"""What an engine passes to a worker in its environment: which launch and stack it belongs to, and where the session's key
is. No secrets of ours; of the user's secrets, their names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from starburst_executor.config.user_keys import take_from_environment
from starburst_executor.errors import ConfigError

__all__ = [
    "EngineStart",
    "Rights",
    "drop_secrets",
    "engine_environment",
    "engine_start",
    "inherited_environment",
    "secret_names",
    "size_environment",
    "worker_rights",
    "worker_size",
]

_PARAMETER, _LAUNCH = "STARBURST_KEY_PARAMETER", "STARBURST_LAUNCH"
_STACK, _ROLE, _SECRETS = "STARBURST_STACK", "STARBURST_ROLE", "STARBURST_SECRETS"
_SIZE = "STARBURST_SIZE"


@dataclass(frozen=True, slots=True)
class EngineStart:
    """How a worker was started in a container on AWS.

    Attributes:
        parameter: The name of the SSM parameter with the session's key.
        launch_id: The launch that it belongs to.
        metadata_url: The metadata endpoint of ECS; empty elsewhere.
        job_id: The job's id on AWS Batch (for a child of an array job, with ":" and its index); otherwise empty.
        attempt: How many times Batch has started this job, including this start.
    """

    parameter: str
    launch_id: str
    metadata_url: str
    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Rights:
    """Where a worker on AWS has its rights from.

    Attributes:
        stack: The stack that it belongs to.
        role: The user's own role, by its ARN; empty for the stack's.
    """

    stack: str
    role: str


def engine_environment(parameter: str, launch_id: str, stack: str, role: str | None) -> dict[str, str]:
    """What a launcher puts into a container's environment for `engine_start` and `worker_rights` to find."""
    told = {_PARAMETER: parameter, _LAUNCH: launch_id, _STACK: stack}
    return {**told, _ROLE: role} if role else told


def secret_names(names: Iterable[str]) -> dict[str, str]:
    """What else a launcher puts there if the container has secrets: their names, for `drop_secrets`."""
    told = ",".join(sorted(names))
    return {_SECRETS: told} if told else {}


def size_environment(vcpus: float, memory_mib: int, gpus: int) -> dict[str, str]:
    """What a launcher puts into a container's definition for `worker_size` to find."""
    return {_SIZE: f"{vcpus:g},{memory_mib},{gpus}"}


def worker_size() -> tuple[float, float, int]:
    """What the launcher on AWS has asked for this worker: vCPUs, GB of memory, GPUs; zeros elsewhere, or if it is spoilt."""
    try:
        vcpus, memory_mib, gpus = os.environ.get(_SIZE, "").split(",")
        return float(vcpus), int(memory_mib) / 1024, int(gpus)
    except ValueError:
        return 0.0, 0.0, 0


def worker_rights() -> Rights | None:
    """Where this process has its rights from, in a worker on AWS or what it has started; None elsewhere."""
    stack = os.environ.get(_STACK)
    return Rights(stack, os.environ.get(_ROLE, "")) if stack else None


def inherited_environment() -> dict[str, str]:
    """What a worker that another one starts has to find in its environment: what this one has found."""
    names = (_PARAMETER, _LAUNCH, _STACK, _ROLE, "AWS_DEFAULT_REGION")
    return {name: os.environ[name] for name in names if name in os.environ}


def drop_secrets() -> None:
    """Take the user's secrets out of this process's environment. Call it before there are threads."""
    for name in filter(None, os.environ.get(_SECRETS, "").split(",")):
        take_from_environment(name)


def engine_start() -> EngineStart:
    """Read the start from this process's environment. Raises: ConfigError if no launcher started the process."""
    named = os.environ
    for name in (_PARAMETER, _LAUNCH):
        if not named.get(name):
            raise ConfigError(f"--engine is for workers that a launcher on AWS starts: {name} is not set")
    attempt = named.get("AWS_BATCH_JOB_ATTEMPT", "1")
    return EngineStart(
        parameter=named[_PARAMETER],
        launch_id=named[_LAUNCH],
        metadata_url=named.get("ECS_CONTAINER_METADATA_URI_V4", ""),
        job_id=named.get("AWS_BATCH_JOB_ID", ""),
        attempt=int(attempt) if attempt.isdecimal() else 1,
    )
