"""What workers on AWS wrote to CloudWatch: one log stream for each ECS task, named after it.

Tasks' captured output is not here: it is in the store.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from starburst_executor.aws.clients import FOREIGN, Clients, meaning
from starburst_executor.aws.stack.outputs import Stack

__all__ = ["CONTAINER", "STREAM_PREFIX", "Event", "events", "last_lines", "stream_of"]

# Streams are named <prefix>/<container>/<ECS task's id>.
STREAM_PREFIX = "worker"
CONTAINER = "worker"
_LINES = 20


class Event(NamedTuple):
    """A line, when it was written (UTC epoch seconds), where, and what tells it from every other one."""

    at: float
    stream: str
    text: str
    event_id: str


def stream_of(ecs_task_id: str) -> str:
    """The name of an ECS task's log stream; of its id's beginning, the beginning of that name."""
    return f"{STREAM_PREFIX}/{CONTAINER}/{ecs_task_id}"


def last_lines(clients: Clients, stack: Stack, stream: str) -> str:
    """The last lines of a stream, newest last; empty if there are none or they cannot be read. CloudWatch Logs: 1."""
    try:
        answer = clients.get("logs").get_log_events(
            logGroupName=stack.log_group, logStreamName=stream, limit=_LINES, startFromHead=False
        )
    except FOREIGN:
        # They are beside the point of whoever asks why a worker died: what the engine says of that is known.
        return ""
    return "\n".join(str(event["message"]).rstrip() for event in answer.get("events", []))


def events(clients: Clients, stack: Stack, prefix: str, since: float) -> Iterator[Event]:
    """The lines of all streams whose names begin so, oldest first, from that time on. None if there is no such stream.

    A page may be empty and yet not the last one; throttled calls are made again (`Clients`).

    Raises: LaunchError, ConfigError. CloudWatch Logs: 1 for 10,000 lines or 1 MB.
    Source: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
    """
    request: dict[str, Any] = {
        "logGroupName": stack.log_group,
        "logStreamNamePrefix": prefix,
        "startTime": int(since * 1000),
    }
    while True:
        try:
            answer = clients.get("logs").filter_log_events(**request)
        except FOREIGN as error:
            raise meaning(error, f"reading the log group {stack.log_group}") from error
        for one in answer.get("events", []):
            text = str(one["message"]).rstrip()
            yield Event(one["timestamp"] / 1000, str(one["logStreamName"]), text, str(one["eventId"]))
        if not answer.get("nextToken"):
            return
        request["nextToken"] = answer["nextToken"]
