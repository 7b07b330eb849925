"""What a worker's engine tells it in its environment: who started it, and where the session's key is. Nothing secret."""

from __future__ import annotations

import os
from dataclasses import dataclass

from starburst_executor.errors import ConfigError

__all__ = ["EngineStart", "engine_environment", "engine_start"]

_PARAMETER, _LAUNCH = "STARBURST_KEY_PARAMETER", "STARBURST_LAUNCH"


@dataclass(frozen=True, slots=True)
class EngineStart:
    """A worker's start in a container of AWS.

    Attributes:
        parameter: The name of the SSM parameter with the session's key.
        launch_id: The launch that it is part of.
        metadata_url: The metadata endpoint of ECS; empty elsewhere.
        job_id: The job's id if this is AWS Batch, of an array's child with ":" and its index; else empty.
        attempt: How often Batch has started this job by now, itself included.
    """

    parameter: str
    launch_id: str
    metadata_url: str
    job_id: str
    attempt: int


def engine_environment(parameter: str, launch_id: str) -> dict[str, str]:
    """What a launcher puts into a container's environment for `engine_start` to find."""
    return {_PARAMETER: parameter, _LAUNCH: launch_id}


def engine_start() -> EngineStart:
    """What this process's environment says. Raises: ConfigError if no launcher started it."""
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
