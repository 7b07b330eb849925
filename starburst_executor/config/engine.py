"""What an engine passes to a worker in its environment: which launch it belongs to and where the session's key is. No secrets."""

from __future__ import annotations

import os
from dataclasses import dataclass

from starburst_executor.errors import ConfigError

__all__ = ["EngineStart", "engine_environment", "engine_start"]

_PARAMETER, _LAUNCH = "STARBURST_KEY_PARAMETER", "STARBURST_LAUNCH"


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


def engine_environment(parameter: str, launch_id: str) -> dict[str, str]:
    """Return the variables that a launcher puts into a container's environment, for `engine_start` to read."""
    return {_PARAMETER: parameter, _LAUNCH: launch_id}


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
