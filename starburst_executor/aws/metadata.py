"""Reads the ARN of the ECS task that this process runs in, from the container metadata endpoint.

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
"""

from __future__ import annotations

import json
import threading
import urllib.request

from starburst_executor.clock import Backoff, Clock
from starburst_executor.errors import LaunchError

__all__ = ["ecs_task_arn"]

_TRIES = 6
_ANSWER_S = 2.0


def ecs_task_arn(endpoint: str, clock: Clock) -> str:
    """Return the ARN of the ECS task that this process runs in. Raises: LaunchError.

    Args:
        endpoint: The value of `ECS_CONTAINER_METADATA_URI_V4`.
    """
    backoff, never = Backoff(clock, 0.1, 2.0), threading.Event()
    for n_left in reversed(range(_TRIES)):
        try:
            with urllib.request.urlopen(f"{endpoint}/task", timeout=_ANSWER_S) as answer:  # noqa: S310 - an address of ECS
                return str(json.load(answer)["TaskARN"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            # The endpoint may not be available immediately.
            if not n_left:
                raise LaunchError(f"no answer from the metadata endpoint of Amazon ECS: {error}") from error
        clock.wait(never, backoff.next_s())
    raise AssertionError
