"""ECS tasks of one launcher: started ten at a time, found again by their ids, seen to stop, stopped.

    start ─► plan ─► quota, key, task definition, RunTask × 4 ─► RunTask × 4 ─► … ─► all started, or no more to be had
              │ nothing exists yet                          each with a token: the same call repeated is the same tasks

# Guarantee: a step that is repeated, because its answer or its handle was lost, starts nothing twice. A call's number
and size follow from the handle alone, and its token from the launch and that number.

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

_COUNT_MOST = 10  # of one RunTask
_CALLS_AT_ONCE = 4
_BURST, _RATE = 100, 20.0  # launches of Fargate: at once, and per second when that is used up
_DESCRIBE_MOST = 100
_PAUSE_S, _PAUSE_MOST_S = 2.0, 60.0
# How often ECS is asked how its tasks are; its answers are some seconds old in any case.
_POLL_S = 15.0
_FORGOTTEN_S = 3600.0  # a stopped ECS task is known for an hour at least
_STOPS_AT_ONCE = 8
_LOGS_MOST = 3  # log streams read for one look

# Each resource by its name: what IAM refuses names the "resource:" that it is about. The last: an instance whose agent is away for the moment; of a provider with managed scaling no more than 500 ECS tasks may
# wait for an instance, which is no quota of the account's.
# https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html
# https://github.com/aws/aws-sdk-ruby/issues/3047
_NO_ROOM = re.compile(
    r"capacity is unavailable|resource:(?:cpu|memory|eni|gpu|port|fpga|accelerator)|no container instances|unable to place|insufficient|provisioning capacity limit|"
    r"(?:^|: )agent(?:$|[:,])"
)
# Of the same definition, registered by another client.
# https://github.com/dagster-io/dagster/pull/11192, https://github.com/PrefectHQ/prefect/issues/15865
_BEATEN = "too many concurrent attempts"
_QUOTA = ("reached the limit", "limit exceeded", "quota", "above your limit")
_INTERRUPTED = ("SpotInterruption", "TerminationNotice")
_TAKEN = (*_INTERRUPTED, "InfrastructureHealth")


class Provider(NamedTuple):
    """A capacity provider, and whose quota its vCPUs count against; None if that is not known."""

    name: str
    quota: str | None


@dataclass(slots=True)
class _Seen:
    """An ECS task as last described."""

    status: str
    stays: bool  # ECS means it to run
    was_interrupted: bool = False
    death: Death | None = None


class EcsTasks:
    """Starts and watches ECS tasks. Called by one thread at a time.

    Args:
        define: The task definition, without its family.
        providers: Capacity providers in the order in which they are tried.
        n_slots_each: Tasks at once in each worker.
        vcpu_each: What each worker counts against the quota.
        in_vpc: Whether each has a network interface of its own.
        fallback_after: After so many interruptions of the session the last provider alone is asked.
        at_end: Called with the number of ECS tasks when a launch is stopped.

    Those that have to ask AWS first are given as functions.
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
        """See that there is a stack, an image, a provider. Raises: ConfigError, LaunchError."""
        self._define()
        _ = self._providers

    # --- starting -----------------------------------------------------------------------------------------------------

    def start(self, order: Order, handle: str) -> Started:
        """One step. ECS: 1 DescribeTaskDefinition in the first, then up to 4 RunTask each."""
        if not handle:
            # In the manifest before anything is made: whoever cleans up finds the key's parameter by it.
            session_id = split_url(order.url)[1]
            plan = EcsHandle(session_id, order.launch_id, self._n_slots_each, order.n_slots, order.detached)
            # What was taken a moment ago is still draining, and in no manifest yet.
            n_taken = max(order.n_taken, sum(seen.was_interrupted for seen in self._seen.values()))
            if len(self._providers) > 1 and n_taken >= self._fallback_after:
                plan = replace(plan, provider=len(self._providers) - 1)
                name = self._providers[plan.provider].name
                _log.warning("after %d interruptions workers are started on %s", n_taken, name)
            return Started(plan.dump(), 0, more_s=0.0)
        here = EcsHandle.load(handle)
        if here is None:
            raise LaunchError("the launch's handle is not one of Amazon ECS")
        try:
            if not here.n_calls:
                here = self._fitting(here)
            request = self._request(order, here)
        except Passing as error:
            # Nothing is started by then: the same again, until it has taken too long.
            return self._again(replace(here, n_tries=here.n_tries + 1), self._pause_s(here), error)
        calls = here.next_calls(_COUNT_MOST, _CALLS_AT_ONCE)
        self._next_look.setdefault(here.launch_id, self._clock.monotonic() + _POLL_S)
        with ThreadPoolExecutor(_CALLS_AT_ONCE, "starburst-run-task") as pool:
            answers = list(pool.map(lambda call: self._run(request, here, call), calls))
        return self._next(here, calls, answers)

    def _fitting(self, here: EcsHandle) -> EcsHandle:
        """As many as the quota has room for. Raises: QuotaExceeded if not even one is."""
        kind, vcpu = self._providers[here.provider].quota, _value(self._given[2])
        if kind is None:
            return here
        n_tasks = -(-here.n_slots // here.n_slots_each)
        n_fit, error = self._account.fitting(kind, n_tasks, vcpu)
        if error is None:
            return here
        return replace(here, n_slots=min(here.n_slots, n_fit * here.n_slots_each), why_fewer=str(error))

    def _request(self, order: Order, here: EcsHandle) -> dict[str, Any]:
        """What all calls have in common; the key and the task definition are there when this returns."""
        account, stack = self._account, self._account.stack
        account.put_key(order)
        request: dict[str, Any] = {
            "cluster": stack.cluster,
            "taskDefinition": self._definition,
            "capacityProviderStrategy": [{"capacityProvider": self._providers[here.provider].name, "weight": 1}],
            "startedBy": here.session_id,
            "propagateTags": "TASK_DEFINITION",
            "overrides": {
                "containerOverrides": [
                    {
                        "name": CONTAINER,
                        "command": account.command(order.url, 0, "ecs"),
                        "environment": account.environment(here.session_id, here.launch_id),
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
        """The task definition's family, which is named after what is in it: two clients need not agree, and what is there
        is right. ECS: 1, and 1 to register it.
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
                raise Passing(
                    f"another client registers the task definition {family} at this moment: {error}"
                ) from error
            raise meaning(error, f"registering the task definition {family}") from error
        return family

    def _is_registered(self, family: str) -> bool:
        try:
            found = self._account.clients.get("ecs").describe_task_definition(taskDefinition=family)["taskDefinition"]
        except FOREIGN as error:
            # ECS's word for one that is not there; also for what it is too busy for, which says so.
            if error_code(error) != "ClientException" or is_throttled(error) or is_unclear(error):
                raise
            return False
        return bool(found.get("status", "ACTIVE") == "ACTIVE")

    def _run(self, request: dict[str, Any], here: EcsHandle, call: Call) -> _Answer:
        """One RunTask and what its answer means. Never raises what AWS answers."""
        override = request["overrides"]["containerOverrides"][0]
        command = list(override["command"])
        command[command.index("--slots") + 1] = str(call.n_slots)
        try:
            answer = self._account.once.get("ecs").run_task(
                **{**request, "overrides": {"containerOverrides": [{**override, "command": command}]}},
                count=call.n_tasks,
                clientToken=f"{here.launch_id}-{call.number}",
            )
        except FOREIGN as error:
            if error_code(error) == "ConflictException":
                # Asked before, by a client with another version or other options: these are the tasks of that call.
                return _Answer(_ids(getattr(error, "response", {}).get("resourceIds", [])))
            return _refused(error)
        provider = self._providers[here.provider].name
        errors = [_failure(failure, provider) for failure in answer.get("failures", [])]
        # What is for good goes before what may pass.
        errors.sort(key=lambda error: isinstance(error, NoCapacity))
        return _Answer(_ids(task["taskArn"] for task in answer.get("tasks", [])), errors[0] if errors else None)

    def _next(self, here: EcsHandle, calls: list[Call], answers: list[_Answer]) -> Started:
        """What the answers make of the launch, and when its next step is due. Raises: LaunchError, ConfigError."""
        n_before = len(here.tasks)
        fresh = [(one, call.n_slots) for call, answer in zip(calls, answers, strict=True) for one in answer.ids]
        here = replace(
            here,
            tasks=(*here.tasks, *fresh),
            n_calls=max([here.n_calls, *(call.number + 1 for call in calls)]),
            repeat=tuple(call for call, answer in zip(calls, answers, strict=True) if answer.is_unclear),
            n_tries=0 if fresh else here.n_tries + 1,
        )
        for task_id, _ in fresh:
            self._seen.setdefault(task_id, _Seen("PROVISIONING", stays=True))
        errors = [answer.error for answer in answers if answer.error is not None]
        final = next((one for one in errors if not isinstance(one, NoCapacity)), None)
        if here.repeat or any(answer.is_throttled for answer in answers):
            return self._again(here, self._pause_s(here), errors[0])
        if not here.n_left:
            return Started(here.dump(), here.n_started, error=QuotaExceeded(here.why_fewer) if here.why_fewer else None)
        if final is not None and not here.tasks:
            raise final
        if not errors:
            n_now = len(here.tasks)
            return self._again(here, 0.0 if n_now < _BURST else (n_now - n_before) / _RATE, None)
        if final is None and here.provider + 1 < len(self._providers):
            _log.info(
                "no capacity of %s; going on with the next provider: %s", self._providers[here.provider], errors[0]
            )
            return self._again(replace(here, provider=here.provider + 1), 0.0, None)
        if here.tasks:
            return Started(here.dump(), here.n_started, error=_launch_error(final or errors[0]))
        return self._again(here, self._pause_s(here), errors[0])

    def _again(self, here: EcsHandle, pause_s: float, error: StarburstError | None) -> Started:
        return Started(here.dump(), here.n_started, pause_s, None if error is None else _launch_error(error))

    def _pause_s(self, here: EcsHandle) -> float:
        longest_s: float = min(_PAUSE_MOST_S, _PAUSE_S * 2.0 ** min(here.n_tries, 10))
        return longest_s * (0.5 + self._clock.random() / 2)

    # --- watching -----------------------------------------------------------------------------------------------------

    def deaths(self, handle: str) -> list[Death]:
        """Those that have stopped. ECS: 1 DescribeTasks for 100 ECS tasks, each 15 seconds at most."""
        return [seen.death for _, _, seen in self._look(handle) if seen.death is not None]

    def slots_alive(self, handle: str) -> int:
        """Slots of those that ECS means to run: one that it is stopping is as good as gone. ECS: as `deaths`."""
        return sum(n_slots for _, n_slots, seen in self._look(handle) if seen.stays)

    def interruptions(self, handle: str) -> int:
        """How many were taken back, or are being. ECS: as `deaths`."""
        return sum(seen.was_interrupted for _, _, seen in self._look(handle))

    def worker_ids(self, handle: str) -> list[str]:
        """Its workers, heard of or not. No request."""
        return list(self.streams(handle).values())

    def streams(self, handle: str) -> dict[str, str]:
        """Its workers by the log streams of their ECS tasks. No request."""
        here = EcsHandle.load(handle)
        return {} if here is None else {stream_of(task_id): _worker_id(here, task_id) for task_id, _ in here.tasks}

    def expected(self, handle: str) -> list[str]:
        """Those that ECS means to run. ECS: as `deaths`."""
        here = EcsHandle.load(handle)
        return (
            [] if here is None else [_worker_id(here, task_id) for task_id, _, seen in self._look(handle) if seen.stays]
        )

    def give_up(self, handle: str, worker_id: str, words: str) -> bool:
        """Stop one. Its death has the words, as the reason that it was stopped for. ECS: 1."""
        here = EcsHandle.load(handle)
        for task_id, _, seen in () if here is None else self._look(handle):
            if seen.stays and here is not None and _worker_id(here, task_id) == worker_id:
                self._stop_task(task_id, words)
                return not seen.stays
        return False

    def describe(self, handle: str) -> str:
        """How many are in which state, and why one stopped."""
        found = list(self._look(handle))
        if not found:
            return ""
        counts = Counter(seen.status for _, _, seen in found)
        words = f"{len(found)} ECS tasks: " + ", ".join(f"{n} {status}" for status, n in counts.most_common())
        deaths = [seen.death.words for _, _, seen in found if seen.death is not None]
        return "; ".join([words, *deaths[-1:]])

    def _look(self, handle: str) -> Iterator[tuple[str, int, _Seen]]:
        """Its ECS tasks, with their slots and how they are; from what was asked within the last seconds."""
        here = EcsHandle.load(handle)
        if here is None:
            return
        now = self._clock.monotonic()
        if here.tasks and now >= self._next_look.get(here.launch_id, now):
            self._next_look[here.launch_id] = now + _POLL_S
            self._ask(here)
        for task_id, n_slots in here.tasks:
            yield task_id, n_slots, self._seen.get(task_id, _Seen("UNKNOWN", stays=True))

    def _ask(self, here: EcsHandle) -> None:
        """Describe those that have not stopped. What fails is logged: whoever cannot tell says that nobody died."""
        open_ = [one for one, _ in here.tasks if one not in self._seen or self._seen[one].death is None]
        n_logs = _LOGS_MOST
        for i in range(0, len(open_), _DESCRIBE_MOST):
            try:
                answer = self._account.clients.get("ecs").describe_tasks(
                    cluster=self._account.stack.cluster, tasks=open_[i : i + _DESCRIBE_MOST]
                )
            except (*FOREIGN, StarburstError) as error:
                _log.info("ECS does not say how its tasks are; asking again later: %s", error)
                return
            for task in answer.get("tasks", []):
                n_logs -= self._take_in(here, task, may_read_log=n_logs > 0)
            for failure in answer.get("failures", []):
                if failure.get("reason") == "MISSING" and self._is_old(here):
                    task_id = str(failure.get("arn", "")).rpartition("/")[2]
                    words = "ECS knows it no more: it stopped more than an hour ago"
                    self._seen[task_id] = _Seen("MISSING", stays=False, death=Death(_worker_id(here, task_id), words))

    def _is_old(self, here: EcsHandle) -> bool:
        """Whether ECS may have forgotten its ECS tasks. Of younger ones it has merely not heard everywhere."""
        return self._clock.now() - launched_at(here.launch_id) > _FORGOTTEN_S

    def _take_in(self, here: EcsHandle, task: dict[str, Any], *, may_read_log: bool) -> bool:
        """What a description says; whether a log was read for it."""
        task_id = str(task["taskArn"]).rpartition("/")[2]
        status = str(task.get("lastStatus", ""))
        seen = self._seen[task_id] = _Seen(status, stays=task.get("desiredStatus") != "STOPPED" and status != "STOPPED")
        seen.was_interrupted = str(task.get("stopCode", "")) in _INTERRUPTED
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
        told = "; ".join(dict.fromkeys(filter(None, words)))
        was_killed = type(exit_code) is int and exit_code > SIGNALLED
        seen.death = Death(_worker_id(here, task_id), f"{told}: ECS task {task_id}", was_taken, was_killed)
        return reads_log

    # --- stopping -----------------------------------------------------------------------------------------------------

    def shed(self, handle: str, n_slots: int) -> int:
        """Drain the newest, but no more slots than asked for: a worker of four is not drained for the sake of one."""
        here = EcsHandle.load(handle)
        chosen: list[str] = []
        n_shed = 0
        for task_id, n_each, seen in reversed(list(self._look(handle))):
            if seen.stays and n_shed + n_each <= n_slots:
                chosen.append(task_id)
                n_shed += n_each
        if here is not None:
            self._stop_tasks(chosen, "fewer workers are wanted")
        return n_shed

    def stop(self, handle: str, *, for_good: bool) -> None:
        """SIGTERM for this session's ECS tasks, those included that no handle names; SIGKILL after two minutes.

        Args:
            for_good: The session is over: none of its workers starts any more.
        """
        here = EcsHandle.load(handle)
        if here is None:
            return
        if not for_good:
            self._stop_tasks(
                [one for one, _, seen in self._look(handle) if seen.stays], "the session stops its workers"
            )
            return
        self._account.delete_key(here.session_id)
        named = [one for one, _, seen in self._look(handle) if seen.stays]
        self._stop_tasks(list(dict.fromkeys([*named, *self._listed(here.session_id)])), "the session has ended")
        if self._at_end is not None and here.launch_id not in self._ended:
            self._at_end(len(here.tasks))
        self._ended.add(here.launch_id)

    def let_go(self, handle: str) -> None:
        """The client of an attached session ends: its workers with it."""
        here = EcsHandle.load(handle)
        if here is not None and not here.detached and here.launch_id not in self._ended:
            self.stop(handle, for_good=True)

    def _listed(self, session_id: str) -> list[str]:
        """What ECS runs for a session, whatever handles say. ECS: 1 for 100."""
        try:
            pages = self._account.clients.get("ecs").get_paginator("list_tasks")
            listed = pages.paginate(cluster=self._account.stack.cluster, startedBy=session_id)
            return [task_id for page in listed for task_id in _ids(page["taskArns"])]
        except (*FOREIGN, StarburstError) as error:
            _log.warning("ECS does not list what it runs for the session; those in its manifest are stopped: %s", error)
            return []

    def _stop_tasks(self, task_ids: list[str], reason: str) -> None:
        """StopTask for each. What fails is logged: such a worker leaves when it sees that the session is over, or idle."""
        if not task_ids:
            return
        with ThreadPoolExecutor(_STOPS_AT_ONCE, "starburst-stop-task") as pool:
            list(pool.map(lambda task_id: self._stop_task(task_id, reason), task_ids))

    def _stop_task(self, task_id: str, reason: str) -> None:
        try:
            self._account.clients.get("ecs").stop_task(cluster=self._account.stack.cluster, task=task_id, reason=reason)
        except (*FOREIGN, StarburstError) as error:
            _log.warning("an ECS task was not stopped, and will leave by itself: %s: %s", task_id, error)
            return
        if task_id in self._seen:
            self._seen[task_id].stays = False


class _Answer(NamedTuple):
    """What came of one RunTask.

    `error` is why fewer were started than asked for; NoCapacity may pass, anything else does not. `is_unclear`: it may
    have started some, so the same call is to be made again. `is_throttled`: it has not, and may be made later.
    """

    ids: tuple[str, ...] = ()
    error: StarburstError | None = None
    is_unclear: bool = False
    is_throttled: bool = False


def _ids(arns: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(arn).rpartition("/")[2] for arn in arns)


def _refused(error: Exception) -> _Answer:
    text = str(error).lower()
    found = meaning(error, "starting ECS tasks")
    if is_throttled(error):
        return _Answer(error=found, is_throttled=True)
    if is_unclear(error):
        return _Answer(error=found, is_unclear=True)
    if _is_no_room(_words_of(error)):
        return _Answer(error=NoCapacity(str(found)))
    if any(words in text for words in _QUOTA):
        return _Answer(error=QuotaExceeded(f"{found}; see `starburst quota`"))
    return _Answer(error=with_advice(found))


def _words_of(error: Exception) -> str:
    """What AWS said, without what the SDK puts before it."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Message", "")) or str(error)


def _failure(failure: dict[str, Any], provider: str) -> LaunchError:
    """One of `failures[]`, as the error that it is."""
    reason, detail = str(failure.get("reason", "")), str(failure.get("detail", ""))
    said = f"{reason}: {detail}" if detail else reason
    text = said.lower()
    if _is_no_room(text):
        return NoCapacity(
            f"ECS says of {provider}: {said}; try again later, another size or architecture, or On-Demand"
        )
    if any(words in text for words in _QUOTA):
        return QuotaExceeded(f"ECS says of {provider}: {said}; see `starburst quota`")
    return LaunchError(f"ECS says of {provider}: {said}")


def _is_no_room(text: str) -> bool:
    return _NO_ROOM.search(text.lower()) is not None


def _launch_error(error: StarburstError) -> LaunchError:
    return error if isinstance(error, LaunchError) else LaunchError(str(error))


def _worker_id(here: EcsHandle, task_id: str) -> str:
    return worker_id_of(here.launch_id, digits_of(task_id))


def _value(given: _T | Callable[[], _T]) -> _T:
    return given() if callable(given) else given
