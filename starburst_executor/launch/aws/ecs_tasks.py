"""Starts, finds, watches and stops the ECS tasks of one launcher.

    start ─► plan ─► quota, key, task definition, RunTask × 4 ─► RunTask × 4 ─► … ─► all started, or no capacity left
              │ nothing exists yet                          each with a token: a repeated call returns the same tasks

# Guarantee: a step that is repeated, because its answer or its handle was lost, starts no task twice. A call's number
and size follow from the handle alone, and its token from the launch id and that number.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from starburst_executor.aws.clients import FOREIGN, Passing, error_code, is_throttled, is_unclear, meaning
from starburst_executor.aws.logs import CONTAINER, last_lines, stream_of
from starburst_executor.aws.stack.causes import start_advice
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import LaunchError, NoCapacity, QuotaExceeded, StarburstError
from starburst_executor.launch.aws.ecs_handle import Call, EcsHandle
from starburst_executor.launch.aws.remote import Account, digits_of, with_advice
from starburst_executor.launch.base import Death, Order, Started
from starburst_executor.launch.bootstrap import SIGNALLED, launched_at, worker_id_of
from starburst_executor.store.url import split_url

__all__ = ["EcsTasks", "Provider"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_COUNT_MOST = 10  # of one RunTask call
_CALLS_AT_ONCE = 4
_BURST, _RATE = 100, 20.0  # launches on Fargate: burst, and rate per second after it
_DESCRIBE_MOST = 100
_PAUSE_S, _PAUSE_MOST_S = 2.0, 60.0
# The interval between polls of ECS, whose answers are some seconds old in any case.
_POLL_S = 15.0
_FORGOTTEN_S = 3600.0  # ECS describes a stopped task for at least an hour
_STOPS_AT_ONCE = 8
_LOGS_MOST = 3  # log streams read per poll

# Each resource by its name: what IAM refuses names the "resource:" that it is about. The last: an instance whose agent is away for the moment; of a provider with managed scaling no more than 500 ECS tasks may
# wait for an instance, which is no quota of the account's.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html
# https://github.com/aws/aws-sdk-ruby/issues/3047
_NO_ROOM = re.compile(
    r"capacity is unavailable|resource:(?:cpu|memory|eni|gpu|port|fpga|accelerator)|no container instances|unable to place|insufficient|provisioning capacity limit|"
    r"(?:^|: )agent(?:$|[:,])"
)
# The error if another client registers the same definition at the same time.
# https://github.com/dagster-io/dagster/pull/11192, https://github.com/PrefectHQ/prefect/issues/15865
_BEATEN = "too many concurrent attempts"
_QUOTA = ("reached the limit", "limit exceeded", "quota", "above your limit")
_INTERRUPTED = ("SpotInterruption", "TerminationNotice")
_TAKEN = (*_INTERRUPTED, "InfrastructureHealth")


class Provider(NamedTuple):
    """A capacity provider, and the kind of quota that its vCPUs count against; None if unknown."""

    name: str
    quota: str | None


@dataclass(slots=True)
class _Seen:
    """An ECS task as last described."""

    status: str
    stays: bool  # its desired status is not STOPPED
    was_interrupted: bool = False
    death: Death | None = None


class EcsTasks:
    """Starts and watches ECS tasks. Called by one thread at a time.

    Args:
        define: Returns the task definition, without its family.
        providers: Capacity providers, in the order in which they are tried.
        n_slots_each: Slots of each worker.
        vcpu_each: vCPUs of each worker that count against the quota.
        in_vpc: Whether each worker has a network interface of its own.
        fallback_after: The number of interruptions in the session after which only the last provider is used.
        at_end: Called with the number of ECS tasks when a launch is stopped.

    Arguments whose value requires a request to AWS are passed as functions.
    """

    def __init__(
        self,
        account: Account,
        *,
        define: Callable[[], dict[str, Any]],
        providers: list[Provider] | Callable[[], list[Provider]],
        n_slots_each: int | Callable[[], int],
        vcpu_each: float | Callable[[], float],
        in_vpc: bool,
        at_end: Callable[[int], None] | None = None,
        fallback_after: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._account = account
        self._define = define
        self._given = (providers, n_slots_each, vcpu_each)
        self._in_vpc = in_vpc
        self._at_end = at_end
        self._fallback_after = fallback_after
        self._clock = clock or SystemClock()
        self._seen: dict[str, _Seen] = {}  # by the ECS task's id
        self._next_look: dict[str, float] = {}
        self._ended: set[str] = set()

    @cached_property
    def _providers(self) -> list[Provider]:
        return _value(self._given[0])

    @cached_property
    def _n_slots_each(self) -> int:
        return _value(self._given[1])

    def check(self) -> None:
        """Check that the stack, the image and the provider exist. Raises: ConfigError, LaunchError."""
        self._define()
        _ = self._providers

    # --- starting -----------------------------------------------------------------------------------------------------

    def start(self, order: Order, handle: str) -> Started:
        """Take one step. ECS: 1 DescribeTaskDefinition in the first step, then up to 4 RunTask per step."""
        if not handle:
            # The plan is in the manifest before any request creates a resource, so that cleanup finds the key's parameter.
            session_id = split_url(order.url)[1]
            plan = EcsHandle(session_id, order.launch_id, self._n_slots_each, order.n_slots, order.detached)
            # Workers whose reclaim was just reported are still draining, and not in the manifest's count yet.
            n_taken = max(order.n_taken, sum(state.was_interrupted for state in self._seen.values()))
            if len(self._providers) > 1 and n_taken >= self._fallback_after:
                plan = replace(plan, provider=len(self._providers) - 1)
                name = self._providers[plan.provider].name
                _log.warning("after %d interruptions, workers are started on %s", n_taken, name)
            return Started(plan.dump(), 0, more_s=0.0)
        launch = EcsHandle.load(handle)
        if launch is None:
            raise LaunchError("the launch's handle is not one of Amazon ECS")
        try:
            if not launch.n_calls:
                launch = self._fitting(launch)
            request = self._request(order, launch)
        except Passing as error:
            # No worker was started yet: repeat the step, until the launch has taken too long.
            return self._again(replace(launch, n_tries=launch.n_tries + 1), self._pause_s(launch), error)
        calls = launch.next_calls(_COUNT_MOST, _CALLS_AT_ONCE)
        self._next_look.setdefault(launch.launch_id, self._clock.monotonic() + _POLL_S)
        with ThreadPoolExecutor(_CALLS_AT_ONCE, "starburst-run-task") as pool:
            answers = list(pool.map(lambda call: self._run(request, launch, call), calls))
        return self._next(launch, calls, answers)

    def _fitting(self, launch: EcsHandle) -> EcsHandle:
        """Reduce the launch to the room in the quota. Raises: QuotaExceeded if there is no room for one worker."""
        kind, vcpu = self._providers[launch.provider].quota, _value(self._given[2])
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
            "taskDefinition": self._definition,
            "capacityProviderStrategy": [{"capacityProvider": self._providers[launch.provider].name, "weight": 1}],
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
        if self._in_vpc:
            request["networkConfiguration"] = {
                "awsvpcConfiguration": {
                    "subnets": list(stack.subnets),
                    "securityGroups": [stack.security_group],
                    "assignPublicIp": stack.public_addresses,
                }
            }
        return request

    @cached_property
    def _definition(self) -> str:
        """Register the task definition if necessary; return its family, a digest of its contents. So clients need no
        coordination: an existing family has the right contents. ECS: 1, and 1 to register it.
        """
        stack, ecs = self._account.stack, self._account.clients.get("ecs")
        definition = self._define()
        digest = hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:20]
        family = f"{stack.task_family_prefix}{digest}"
        try:
            if not self._is_registered(family):
                tags = [{"key": key, "value": value} for key, value in stack.all_tags.items()]
                ecs.register_task_definition(family=family, tags=tags, **definition)
        except FOREIGN as error:
            if _BEATEN in str(error).lower():
                raise Passing(f"another client is registering the task definition {family}: {error}") from error
            raise meaning(error, f"registering the task definition {family}") from error
        return family

    def _is_registered(self, family: str) -> bool:
        try:
            answer = self._account.clients.get("ecs").describe_task_definition(taskDefinition=family)
        except FOREIGN as error:
            # ECS uses this code for a missing definition, but also when it is too busy.
            if error_code(error) != "ClientException" or is_throttled(error) or is_unclear(error):
                raise
            return False
        return bool(answer["taskDefinition"].get("status", "ACTIVE") == "ACTIVE")

    def _run(self, request: dict[str, Any], launch: EcsHandle, call: Call) -> _Answer:
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
            if error_code(error) == "ConflictException":
                # A client with another version or other options made this call before: these are the tasks of that call.
                return _Answer(_ids(getattr(error, "response", {}).get("resourceIds", [])))
            return _refused(error)
        provider = self._providers[launch.provider].name
        errors = [_failure(failure, provider) for failure in answer.get("failures", [])]
        # Final errors before temporary ones.
        errors.sort(key=lambda error: isinstance(error, NoCapacity))
        return _Answer(_ids(task["taskArn"] for task in answer.get("tasks", [])), errors[0] if errors else None)

    def _next(self, launch: EcsHandle, calls: list[Call], answers: list[_Answer]) -> Started:
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
        for task_id, _ in fresh:
            self._seen.setdefault(task_id, _Seen("PROVISIONING", stays=True))
        errors = [answer.error for answer in answers if answer.error is not None]
        final = next((error for error in errors if not isinstance(error, NoCapacity)), None)
        if launch.repeat or any(answer.is_throttled for answer in answers):
            return self._again(launch, self._pause_s(launch), errors[0])
        if not launch.n_left:
            return Started(
                launch.dump(), launch.n_started, error=QuotaExceeded(launch.why_fewer) if launch.why_fewer else None
            )
        if final is not None and not launch.tasks:
            raise final
        if not errors:
            n_now = len(launch.tasks)
            return self._again(launch, 0.0 if n_now < _BURST else (n_now - n_before) / _RATE, None)
        if final is None and launch.provider + 1 < len(self._providers):
            _log.info(
                "no capacity of %s; continuing with the next provider: %s", self._providers[launch.provider], errors[0]
            )
            return self._again(replace(launch, provider=launch.provider + 1), 0.0, None)
        if launch.tasks:
            return Started(launch.dump(), launch.n_started, error=_launch_error(final or errors[0]))
        return self._again(launch, self._pause_s(launch), errors[0])

    def _again(self, launch: EcsHandle, pause_s: float, error: StarburstError | None) -> Started:
        return Started(launch.dump(), launch.n_started, pause_s, None if error is None else _launch_error(error))

    def _pause_s(self, launch: EcsHandle) -> float:
        longest_s: float = min(_PAUSE_MOST_S, _PAUSE_S * 2.0 ** min(launch.n_tries, 10))
        return longest_s * (0.5 + self._clock.random() / 2)

    # --- watching -----------------------------------------------------------------------------------------------------

    def deaths(self, handle: str) -> list[Death]:
        """Return the workers whose ECS task has stopped. ECS: 1 DescribeTasks per 100 tasks, at most every 15 seconds."""
        return [state.death for _, _, state in self._look(handle) if state.death is not None]

    def slots_alive(self, handle: str) -> int:
        """Return the slots of all ECS tasks except stopped and stopping ones. ECS: as `deaths`."""
        return sum(n_slots for _, n_slots, state in self._look(handle) if state.stays)

    def interruptions(self, handle: str) -> int:
        """Return how many workers were or are being reclaimed. ECS: as `deaths`."""
        return sum(state.was_interrupted for _, _, state in self._look(handle))

    def worker_ids(self, handle: str) -> list[str]:
        """Return the ids of all workers of the launch, whether or not they have beaten. No request."""
        return list(self.streams(handle).values())

    def streams(self, handle: str) -> dict[str, str]:
        """Return the workers of the launch by the log streams of their ECS tasks. No request."""
        launch = EcsHandle.load(handle)
        return (
            {} if launch is None else {stream_of(task_id): _worker_id(launch, task_id) for task_id, _ in launch.tasks}
        )

    def expected(self, handle: str) -> list[str]:
        """Return the workers whose ECS task is not stopped or stopping. ECS: as `deaths`."""
        launch = EcsHandle.load(handle)
        return (
            []
            if launch is None
            else [_worker_id(launch, task_id) for task_id, _, state in self._look(handle) if state.stays]
        )

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        """Stop one worker, with `words` as the reason, which its death repeats. ECS: 1."""
        launch = EcsHandle.load(handle)
        for task_id, _, state in () if launch is None else self._look(handle):
            if state.stays and launch is not None and _worker_id(launch, task_id) == worker_id:
                self._stop_task(task_id, words)
                return not state.stays
        return False

    def describe(self, handle: str) -> str:
        """Return the number of ECS tasks in each state, and why one stopped."""
        states = [state for _, _, state in self._look(handle)]
        if not states:
            return ""
        counts = Counter(state.status for state in states)
        words = f"{len(states)} ECS tasks: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        deaths = [state.death.words for state in states if state.death is not None]
        return "; ".join([words, *deaths[-1:]])

    def _look(self, handle: str) -> Iterator[tuple[str, int, _Seen]]:
        """Yield the ECS tasks of the launch with their slots and states, after a poll if one is due."""
        launch = EcsHandle.load(handle)
        if launch is None:
            return
        now = self._clock.monotonic()
        if launch.tasks and now >= self._next_look.get(launch.launch_id, now):
            self._next_look[launch.launch_id] = now + _POLL_S
            self._ask(launch)
        for task_id, n_slots in launch.tasks:
            yield task_id, n_slots, self._seen.get(task_id, _Seen("UNKNOWN", stays=True))

    def _ask(self, launch: EcsHandle) -> None:
        """Describe the ECS tasks that have not stopped. Errors are logged: without an answer, no worker counts as dead."""
        open_ = [
            task_id for task_id, _ in launch.tasks if task_id not in self._seen or self._seen[task_id].death is None
        ]
        n_logs = _LOGS_MOST
        for i in range(0, len(open_), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("ecs").describe_tasks(
                    cluster=self._account.stack.cluster, tasks=open_[i : i + _DESCRIBE_MOST]
                )
            except (*FOREIGN, StarburstError) as error:
                _log.info("the ECS tasks could not be described; retrying later: %s", error)
                return
            for task in answer.get("tasks", []):
                n_logs -= self._take_in(launch, task, may_read_log=n_logs > 0)
            for failure in answer.get("failures", []):
                if failure.get("reason") == "MISSING" and self._is_old(launch):
                    task_id = str(failure.get("arn", "")).rpartition("/")[2]
                    words = "ECS no longer lists it: it stopped more than an hour ago"
                    self._seen[task_id] = _Seen("MISSING", stays=False, death=Death(_worker_id(launch, task_id), words))

    def _is_old(self, launch: EcsHandle) -> bool:
        """Whether ECS may have dropped the launch's tasks. A younger task may be missing until ECS is consistent."""
        return self._clock.now() - launched_at(launch.launch_id) > _FORGOTTEN_S

    def _take_in(self, launch: EcsHandle, task: dict[str, Any], *, may_read_log: bool) -> bool:
        """Update an ECS task's state from its description; return whether a log was read."""
        task_id = str(task["taskArn"]).rpartition("/")[2]
        status = str(task.get("lastStatus", ""))
        state = self._seen[task_id] = _Seen(
            status, stays=task.get("desiredStatus") != "STOPPED" and status != "STOPPED"
        )
        state.was_interrupted = str(task.get("stopCode", "")) in _INTERRUPTED
        if status != "STOPPED":
            return False
        code, reason = str(task.get("stopCode", "")), str(task.get("stoppedReason", ""))
        # An ECS task that was never placed has no containers.
        container: dict[str, Any] = next(iter(task.get("containers", [])), {})
        exit_code = container.get("exitCode")
        words = [f"{code}: {reason}" if code else reason, str(container.get("reason", ""))]
        words.append("" if exit_code is None else f"exit status {exit_code}")
        reads_log = may_read_log and exit_code not in (None, 0)
        if reads_log:
            words.append(last_lines(self._account.clients, self._account.stack, stream_of(task_id)))
        words.append(start_advice("; ".join(words)))
        was_taken = code in _TAKEN or (code == "TaskFailedToStart" and _is_no_room(reason))
        text = "; ".join(dict.fromkeys(filter(None, words)))
        was_killed = type(exit_code) is int and exit_code > SIGNALLED
        state.death = Death(_worker_id(launch, task_id), f"{text}: ECS task {task_id}", was_taken, was_killed)
        return reads_log

    # --- stopping -----------------------------------------------------------------------------------------------------

    def shed(self, handle: str, n_slots: int) -> int:
        """Drain the newest workers, with at most `n_slots` slots: a worker with four slots is not drained to remove one."""
        launch = EcsHandle.load(handle)
        chosen: list[str] = []
        n_shed = 0
        for task_id, n_each, state in reversed(list(self._look(handle))):
            if state.stays and n_shed + n_each <= n_slots:
                chosen.append(task_id)
                n_shed += n_each
        if launch is not None:
            self._stop_tasks(chosen, "fewer workers are needed")
        return n_shed

    def stop(self, handle: str, *, for_good: bool) -> None:
        """Stop the launch's ECS tasks: SIGTERM, then SIGKILL after two minutes.

        Args:
            for_good: Whether the session is over: then all its ECS tasks are stopped, also those in no handle, and its key
                is deleted, so that no further worker starts.
        """
        launch = EcsHandle.load(handle)
        if launch is None:
            return
        if not for_good:
            self._stop_tasks(
                [task_id for task_id, _, state in self._look(handle) if state.stays], "the session stops its workers"
            )
            return
        self._account.delete_key(launch.session_id)
        named = [task_id for task_id, _, state in self._look(handle) if state.stays]
        self._stop_tasks(list(dict.fromkeys([*named, *self._listed(launch.session_id)])), "the session has ended")
        if self._at_end is not None and launch.launch_id not in self._ended:
            self._at_end(len(launch.tasks))
        self._ended.add(launch.launch_id)

    def let_go(self, handle: str) -> None:
        """Stop the workers of an attached session with its client."""
        launch = EcsHandle.load(handle)
        if launch is not None and not launch.detached and launch.launch_id not in self._ended:
            self.stop(handle, for_good=True)

    def _listed(self, session_id: str) -> list[str]:
        """Return all ECS tasks of a session, also those in no handle. ECS: 1 per 100."""
        try:
            pages = self._account.clients.get("ecs").get_paginator("list_tasks")
            listed = pages.paginate(cluster=self._account.stack.cluster, startedBy=session_id)
            return [task_id for page in listed for task_id in _ids(page["taskArns"])]
        except (*FOREIGN, StarburstError) as error:
            _log.warning(
                "the session's ECS tasks could not be listed; only those in its manifest are stopped: %s", error
            )
            return []

    def _stop_tasks(self, task_ids: list[str], reason: str) -> None:
        """Stop each ECS task. Errors are logged: the worker leaves when it sees that the session is over, or when it is idle."""
        if not task_ids:
            return
        with ThreadPoolExecutor(_STOPS_AT_ONCE, "starburst-stop-task") as pool:
            list(pool.map(lambda task_id: self._stop_task(task_id, reason), task_ids))

    def _stop_task(self, task_id: str, reason: str) -> None:
        try:
            self._account.clients.get("ecs").stop_task(cluster=self._account.stack.cluster, task=task_id, reason=reason)
        except (*FOREIGN, StarburstError) as error:
            _log.warning("an ECS task could not be stopped; its worker will leave by itself: %s: %s", task_id, error)
            return
        if task_id in self._seen:
            self._seen[task_id].stays = False


class _Answer(NamedTuple):
    """The result of a RunTask call.

    `error` is why fewer tasks than requested were started; NoCapacity is temporary, all other errors are final.
    `is_unclear`: the call may have started tasks and must be repeated unchanged. `is_throttled`: it started none and may
    be repeated later.
    """

    ids: tuple[str, ...] = ()
    error: StarburstError | None = None
    is_unclear: bool = False
    is_throttled: bool = False


def _ids(arns: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(arn).rpartition("/")[2] for arn in arns)


def _refused(error: Exception) -> _Answer:
    text = str(error).lower()
    failure = meaning(error, "starting ECS tasks")
    if is_throttled(error):
        return _Answer(error=failure, is_throttled=True)
    if is_unclear(error):
        return _Answer(error=failure, is_unclear=True)
    if _is_no_room(_words_of(error)):
        return _Answer(error=NoCapacity(str(failure)))
    if any(words in text for words in _QUOTA):
        return _Answer(error=QuotaExceeded(f"{failure}; see `starburst quota`"))
    return _Answer(error=with_advice(failure))


def _words_of(error: Exception) -> str:
    """Return AWS's message, without the text that the SDK adds."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Message", "")) or str(error)


def _failure(failure: dict[str, Any], provider: str) -> LaunchError:
    """Return the error for an entry of `failures[]`."""
    reason, detail = str(failure.get("reason", "")), str(failure.get("detail", ""))
    message = f"{reason}: {detail}" if detail else reason
    text = message.lower()
    if _is_no_room(text):
        return NoCapacity(
            f"ECS answered for {provider}: {message}; try again later, another size or architecture, or On-Demand"
        )
    if any(words in text for words in _QUOTA):
        return QuotaExceeded(f"ECS answered for {provider}: {message}; see `starburst quota`")
    return LaunchError(f"ECS answered for {provider}: {message}")


def _is_no_room(text: str) -> bool:
    return _NO_ROOM.search(text.lower()) is not None


def _launch_error(error: StarburstError) -> LaunchError:
    return error if isinstance(error, LaunchError) else LaunchError(str(error))


def _worker_id(launch: EcsHandle, task_id: str) -> str:
    return worker_id_of(launch.launch_id, digits_of(task_id))


def _value(given: _T | Callable[[], _T]) -> _T:
    return given() if callable(given) else given
