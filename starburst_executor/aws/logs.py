"""Reads the logs of workers from CloudWatch: one log stream per ECS task, named after it.

The captured output of tasks is in the store, not in these logs.
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
    """A log line: its time (UTC epoch seconds), its stream, its text, and its unique id."""

    at: float
    stream: str
    text: str
    event_id: str


def stream_of(ecs_task_id: str) -> str:
    """Return the name of an ECS task's log stream; for a prefix of its id, a prefix of the name."""
    return f"{STREAM_PREFIX}/{CONTAINER}/{ecs_task_id}"


def last_lines(clients: Clients, stack: Stack, stream: str) -> str:
    """Return the last lines of a stream, newest last; empty if it has none or cannot be read. CloudWatch Logs: 1."""
    try:
        answer = clients.get("logs").get_log_events(
            logGroupName=stack.log_group, logStreamName=stream, limit=_LINES, startFromHead=False
        )
    except FOREIGN:
        # The lines only supplement the platform's reason for a death, which the caller has.
        return ""
    return "\n".join(str(event["message"]).rstrip() for event in answer.get("events", []))


def events(clients: Clients, stack: Stack, prefix: str, since: float) -> Iterator[Event]:
    """Yield the lines of all streams with a name prefix, oldest first, from time `since`; none if there is no such stream.

    An empty page need not be the last one; `Clients` retries throttled calls.

    Raises: LaunchError, ConfigError. CloudWatch Logs: 1 per 10,000 lines or 1 MB.
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
        for record in answer.get("events", []):
            text = str(record["message"]).rstrip()
            yield Event(record["timestamp"] / 1000, str(record["logStreamName"]), text, str(record["eventId"]))
        if not answer.get("nextToken"):
            return
        request["nextToken"] = answer["nextToken"]
