"""What workers on AWS wrote to CloudWatch: one log stream for each ECS task, named after it."""

from __future__ import annotations

from starburst_executor.aws.clients import FOREIGN, Clients
from starburst_executor.aws.stack import Stack

__all__ = ["CONTAINER", "STREAM_PREFIX", "last_lines", "stream_of"]

# Streams are named <prefix>/<container>/<ECS task's id>.
STREAM_PREFIX = "worker"
CONTAINER = "worker"
_LINES = 20


def stream_of(ecs_task_id: str) -> str:
    """The name of an ECS task's log stream."""
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
