"""Looks at ECS tasks and stops them. The questions of clients are answered from the latest poll."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from starburst_executor.aws.clients import FOREIGN
from starburst_executor.clock import Clock
from starburst_executor.errors import StarburstError
from starburst_executor.launch.aws.ecs_answers import task_ids
from starburst_executor.launch.aws.ecs_handle import EcsHandle
from starburst_executor.launch.aws.ecs_stopped import TaskState, missing, read_task
from starburst_executor.launch.aws.launches_seen import LaunchesSeen
from starburst_executor.launch.aws.remote import Account, LastLines
from starburst_executor.launch.bootstrap import launched_at

__all__ = ["EcsTasks"]

_log = logging.getLogger(__name__)

_DESCRIBE_MOST = 100
_FORGOTTEN_S = 3600.0  # ECS describes a stopped task for at least an hour
_STOPS_AT_ONCE = 8


@dataclass(slots=True)
class _EcsLaunch:
    """The state of a launch: its ECS tasks by their ids, and whether it was stopped with its session."""

    tasks: dict[str, TaskState] = field(default_factory=dict)
    next_poll_at: float = float("-inf")
    asked_at: float = 0.0
    has_ended: bool = False


class EcsTasks:
    """The ECS tasks of one launcher. Called by one thread at a time."""

    def __init__(self, account: Account, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._launches = LaunchesSeen(clock, _EcsLaunch)

    def add(self, launch: EcsHandle) -> None:
        """Take note of the tasks of a launch that has just taken a step. No request: ECS may not know them yet."""
        state = self._launches.of(launch.launch_id)
        if state.next_poll_at == float("-inf"):
            self._launches.postpone(state)
        for task_id, _ in launch.tasks:
            state.tasks.setdefault(task_id, TaskState("PROVISIONING", stays=True))

    def n_interrupted(self) -> int:
        """Return how many tasks of all launches were or are being reclaimed, as of their latest polls."""
        return sum(task.was_interrupted for state in self._launches for task in state.tasks.values())

    def look(self, launch: EcsHandle) -> Iterator[tuple[str, int, TaskState]]:
        """Yield the ECS tasks of a launch with their slots and states. ECS: 1 DescribeTasks per 100 tasks, at most every 15 s."""
        state = self._launches.of(launch.launch_id)
        if launch.tasks and self._launches.is_due(state):
            self._ask(launch, state.tasks)
        for task_id, n_slots in launch.tasks:
            yield task_id, n_slots, state.tasks.get(task_id, TaskState("UNKNOWN", stays=True))

    def _ask(self, launch: EcsHandle, tasks: dict[str, TaskState]) -> None:
        """Describe the ECS tasks that have not stopped. Errors are logged: without an answer, no worker counts as dead."""
        unstopped = [task_id for task_id, _ in launch.tasks if task_id not in tasks or tasks[task_id].death is None]
        logs = LastLines(self._account)
        for i in range(0, len(unstopped), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("ecs").describe_tasks(
                    cluster=self._account.stack.cluster, tasks=unstopped[i : i + _DESCRIBE_MOST]
                )
            except (*FOREIGN, StarburstError) as error:
                _log.info("the ECS tasks could not be described; retrying later: %s", error)
                return
            for task in answer.get("tasks", []):
                (task_id,) = task_ids([task["taskArn"]])
                tasks[task_id] = read_task(task, launch.worker_id(task_id), logs)
            for failure in answer.get("failures", []):
                if failure.get("reason") == "MISSING" and self._is_old(launch):
                    (task_id,) = task_ids([failure.get("arn", "")])
                    tasks[task_id] = missing(launch.worker_id(task_id))

    def _is_old(self, launch: EcsHandle) -> bool:
        """Whether ECS may have dropped the launch's tasks. A younger task may be missing until ECS is consistent."""
        return self._clock.now() - launched_at(launch.launch_id) > _FORGOTTEN_S

    # --- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, launch: EcsHandle, tasks: list[str], reason: str) -> None:
        """Stop ECS tasks: SIGTERM, then SIGKILL after two minutes. ECS: 1 each.

        Errors are logged: the worker leaves when it sees that the session is over, or when it is idle.
        """
        if not tasks:
            return
        with ThreadPoolExecutor(_STOPS_AT_ONCE, "starburst-stop-task") as pool:
            list(pool.map(lambda task_id: self._stop(launch, task_id, reason), tasks))

    def _stop(self, launch: EcsHandle, task_id: str, reason: str) -> None:
        try:
            self._account.clients.get("ecs").stop_task(cluster=self._account.stack.cluster, task=task_id, reason=reason)
        except (*FOREIGN, StarburstError) as error:
            _log.warning("an ECS task could not be stopped; its worker will leave by itself: %s: %s", task_id, error)
            return
        state = self._launches.of(launch.launch_id).tasks.get(task_id)
        if state is not None:
            state.stays = False

    def of_session(self, session_id: str) -> list[str]:
        """Return all ECS tasks of a session, also those in no handle; none if ECS does not answer, which is logged. ECS: 1 per 100."""
        try:
            pages = self._account.clients.get("ecs").get_paginator("list_tasks")
            listed = pages.paginate(cluster=self._account.stack.cluster, startedBy=session_id)
            return [task_id for page in listed for task_id in task_ids(page["taskArns"])]
        except (*FOREIGN, StarburstError) as error:
            _log.warning(
                "the session's ECS tasks could not be listed; only those in its manifest are stopped: %s", error
            )
            return []

    def has_ended(self, launch: EcsHandle) -> bool:
        """Whether the launch was stopped with its session."""
        return self._launches.of(launch.launch_id).has_ended

    def end(self, launch: EcsHandle) -> bool:
        """Note that the launch was stopped with its session; return whether that is new."""
        state = self._launches.of(launch.launch_id)
        is_new, state.has_ended = not state.has_ended, True
        return is_new
