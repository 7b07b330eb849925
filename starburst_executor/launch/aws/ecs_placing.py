"""Starts the ECS tasks of a launch, a few calls of RunTask per step.

    start ─► plan ─► quota, key, task definition, RunTask × 4 ─► RunTask × 4 ─► … ─► all started, or no capacity left
              │ nothing exists yet                          each with a token: a repeated call returns the same tasks

Guarantee: a step that is repeated, because its answer or its handle was lost, starts no task twice. A call's number
and size follow from the handle alone, and its token from the launch id and that number.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Passing
from starburst_executor.aws.logs import CONTAINER
from starburst_executor.clock import Clock
from starburst_executor.errors import NoCapacity, QuotaExceeded, StarburstError
from starburst_executor.launch.aws.ecs_answers import Answer, launch_error, read_answer, read_refusal
from starburst_executor.launch.aws.ecs_definitions import TaskDefinition
from starburst_executor.launch.aws.ecs_handle import Call, EcsHandle
from starburst_executor.launch.aws.remote import Account
from starburst_executor.launch.aws.shape import Provider, Shape
from starburst_executor.launch.base import Order, Started
from starburst_executor.store.url import split_url

__all__ = ["Placing"]

_log = logging.getLogger(__name__)

_COUNT_MOST = 10  # of one RunTask call
_CALLS_AT_ONCE = 4
_BURST, _RATE = 100, 20.0  # launches on Fargate: burst, and rate per second after it
_PAUSE_S, _PAUSE_MOST_S = 2.0, 60.0


class Placing:
    """Takes the steps of launches. Called by one thread at a time."""

    def __init__(self, account: Account, shape: Shape, clock: Clock) -> None:
        self._account = account
        self._shape = shape
        self._clock = clock
        self._definition = TaskDefinition(account, shape)

    def plan(self, order: Order, n_interrupted: int) -> Started:
        """Take the first step, which makes no request.

        Args:
            n_interrupted: The number of interruptions that this client has seen: workers whose reclaim was just reported
                are still draining, and not in the order's count yet.
        """
        # The plan is in the manifest before any request creates a resource, so that cleanup finds the key's parameter.
        shape, session_id = self._shape, split_url(order.url)[1]
        plan = EcsHandle(session_id, order.launch_id, shape.n_slots_each, order.n_slots, order.detached)
        n_taken = max(order.n_taken, n_interrupted)
        if len(shape.providers) > 1 and n_taken >= shape.fallback_after:
            plan = replace(plan, provider=len(shape.providers) - 1)
            _log.warning("after %d interruptions, workers are started on %s", n_taken, self._provider(plan).name)
        return Started(plan.dump(), 0, more_s=0.0)

    def step(self, order: Order, launch: EcsHandle) -> tuple[EcsHandle, Started]:
        """Take a further step; return the launch after it too. ECS: 1 DescribeTaskDefinition in the first, then up to 4 RunTask.

        Raises: LaunchError, ConfigError.
        """
        try:
            if not launch.n_calls:
                launch = self._fitting(launch)
            request = self._request(order, launch)
        except Passing as error:
            # No worker was started yet: repeat the step, until the launch has taken too long.
            return self._again(replace(launch, n_tries=launch.n_tries + 1), self._pause_s(launch), error)
        calls = launch.next_calls(_COUNT_MOST, _CALLS_AT_ONCE)
        with ThreadPoolExecutor(_CALLS_AT_ONCE, "starburst-run-task") as pool:
            answers = list(pool.map(lambda call: self._run(request, launch, call), calls))
        return self._next(launch, calls, answers)

    def _provider(self, launch: EcsHandle) -> Provider:
        return self._shape.providers[launch.provider]

    def _fitting(self, launch: EcsHandle) -> EcsHandle:
        """Reduce the launch to the room in the quota. Raises: QuotaExceeded if there is no room for one worker."""
        kind, vcpu = self._provider(launch).quota, self._shape.vcpu_each
        if kind is None:
            return launch
        n_tasks = -(-launch.n_slots // launch.n_slots_each)
        n_fit, error = self._account.fitting(kind, n_tasks, vcpu)
        if error is None:
            return launch
        return replace(launch, n_slots=min(launch.n_slots, n_fit * launch.n_slots_each), why_fewer=str(error))

    def _request(self, order: Order, launch: EcsHandle) -> dict[str, Any]:
        """Return the common part of all calls. Guarantee: the key and the task definition exist when this returns."""
        account, stack = self._account, self._account.stack
        account.put_key(order)
        request: dict[str, Any] = {
            "cluster": stack.cluster,
            "taskDefinition": self._definition.family,
            "capacityProviderStrategy": [{"capacityProvider": self._provider(launch).name, "weight": 1}],
            "startedBy": launch.session_id,
            "propagateTags": "TASK_DEFINITION",
            "overrides": {
                "containerOverrides": [
                    {
                        "name": CONTAINER,
                        "command": account.command(order.url, 0, "ecs"),
                        "environment": account.environment(launch.session_id, launch.launch_id),
                    }
                ]
            },
        }
        if stack.has_shell:
            request["enableExecuteCommand"] = True
        if self._shape.in_vpc:
            request["networkConfiguration"] = {
                "awsvpcConfiguration": {
                    "subnets": list(stack.subnets),
                    "securityGroups": [stack.security_group],
                    "assignPublicIp": stack.public_addresses,
                }
            }
        return request

    def _run(self, request: dict[str, Any], launch: EcsHandle, call: Call) -> Answer:
        """Call RunTask and interpret the answer. Never raises an error of AWS."""
        override = request["overrides"]["containerOverrides"][0]
        command = list(override["command"])
        command[command.index("--slots") + 1] = str(call.n_slots)
        try:
            answer = self._account.once.get("ecs").run_task(
                **{**request, "overrides": {"containerOverrides": [{**override, "command": command}]}},
                count=call.n_tasks,
                clientToken=f"{launch.launch_id}-{call.number}",
            )
        except FOREIGN as error:
            return read_refusal(error)
        return read_answer(answer, self._provider(launch).name)

    def _next(self, launch: EcsHandle, calls: list[Call], answers: list[Answer]) -> tuple[EcsHandle, Started]:
        """Update the launch with the answers, and choose when its next step is due. Raises: LaunchError, ConfigError."""
        n_before = len(launch.tasks)
        fresh = [(task_id, call.n_slots) for call, answer in zip(calls, answers, strict=True) for task_id in answer.ids]
        launch = replace(
            launch,
            tasks=(*launch.tasks, *fresh),
            n_calls=max([launch.n_calls, *(call.number + 1 for call in calls)]),
            repeat=tuple(call for call, answer in zip(calls, answers, strict=True) if answer.is_unclear),
            n_tries=0 if fresh else launch.n_tries + 1,
        )
        errors = [answer.error for answer in answers if answer.error is not None]
        final = next((error for error in errors if not isinstance(error, NoCapacity)), None)
        if launch.repeat or any(answer.is_throttled for answer in answers):
            return self._again(launch, self._pause_s(launch), errors[0])
        if not launch.n_left:
            return self._done(launch, QuotaExceeded(launch.why_fewer) if launch.why_fewer else None)
        if final is not None and not launch.tasks:
            raise final
        if not errors:
            n_now = len(launch.tasks)
            return self._again(launch, 0.0 if n_now < _BURST else (n_now - n_before) / _RATE, None)
        if final is None and launch.provider + 1 < len(self._shape.providers):
            _log.info("no capacity of %s; continuing with the next provider: %s", self._provider(launch), errors[0])
            return self._again(replace(launch, provider=launch.provider + 1), 0.0, None)
        if launch.tasks:
            return self._done(launch, final or errors[0])
        return self._again(launch, self._pause_s(launch), errors[0])

    def _done(self, launch: EcsHandle, error: StarburstError | None) -> tuple[EcsHandle, Started]:
        return launch, Started(launch.dump(), launch.n_started, error=None if error is None else launch_error(error))

    def _again(self, launch: EcsHandle, pause_s: float, error: StarburstError | None) -> tuple[EcsHandle, Started]:
        return launch, replace(self._done(launch, error)[1], more_s=pause_s)

    def _pause_s(self, launch: EcsHandle) -> float:
        longest_s: float = min(_PAUSE_MOST_S, _PAUSE_S * 2.0 ** min(launch.n_tries, 10))
        return longest_s * (0.5 + self._clock.random() / 2)
