"""What ECS's description of a task means for its worker: alive, leaving, interrupted, or dead with a reason.

Pure: no I/O; the last lines of its log are read by a function that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starburst_executor.aws.logs import stream_of
from starburst_executor.aws.stack.causes import start_advice
from starburst_executor.launch.aws.ecs_answers import is_no_room
from starburst_executor.launch.base import Death
from starburst_executor.launch.bootstrap import SIGNALLED

__all__ = ["TaskState", "missing", "read_task"]

_INTERRUPTED = ("SpotInterruption", "TerminationNotice")
_TAKEN = (*_INTERRUPTED, "InfrastructureHealth")


@dataclass(slots=True)
class TaskState:
    """An ECS task as last described.

    Attributes:
        stays: Whether it is neither stopped nor stopping.
        was_interrupted: Whether its machine was or is being reclaimed.
        death: Set once it has stopped.
    """

    status: str
    stays: bool
    was_interrupted: bool = False
    death: Death | None = None


def read_task(task: Mapping[str, Any], worker_id: str, last_lines: Callable[[str], str]) -> TaskState:
    """Return the state of an ECS task. `last_lines` is called with its log stream if it stopped with an error."""
    status, code = str(task.get("lastStatus", "")), str(task.get("stopCode", ""))
    state = TaskState(status, stays=task.get("desiredStatus") != "STOPPED" and status != "STOPPED")
    state.was_interrupted = code in _INTERRUPTED
    if status == "STOPPED":
        state.death = _death(task, code, worker_id, last_lines)
    return state


def _death(task: Mapping[str, Any], code: str, worker_id: str, last_lines: Callable[[str], str]) -> Death:
    task_id, reason = str(task["taskArn"]).rpartition("/")[2], str(task.get("stoppedReason", ""))
    # An ECS task that was never placed has no containers.
    container: dict[str, Any] = next(iter(task.get("containers", [])), {})
    exit_code = container.get("exitCode")
    words = [f"{code}: {reason}" if code else reason, str(container.get("reason", ""))]
    words.append("" if exit_code is None else f"exit status {exit_code}")
    if exit_code not in (None, 0):
        words.append(last_lines(stream_of(task_id)))
    words.append(start_advice("; ".join(words)))
    text = "; ".join(dict.fromkeys(filter(None, words)))
    was_taken = code in _TAKEN or (code == "TaskFailedToStart" and is_no_room(reason))
    was_killed = type(exit_code) is int and exit_code > SIGNALLED
    return Death(worker_id, f"{text}: ECS task {task_id}", was_taken, was_killed)


def missing(worker_id: str) -> TaskState:
    """Return the state of an ECS task that ECS has forgotten."""
    words = "ECS no longer lists it: it stopped more than an hour ago"
    return TaskState("MISSING", stays=False, death=Death(worker_id, words))
