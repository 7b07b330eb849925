"""The answers of ECS during a session on Fargate: the launcher relies on these fields, sentences and refusals."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import there

from starburst_executor import ExecutorBroken, Fargate, QuotaExceeded
from starburst_executor.aws.billing.quotas import KINDS, read_quota
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.logs import last_lines, stream_of
from starburst_executor.aws.parameter import parameter_name
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.clock import SystemClock
from starburst_executor.launch.aws.ecs_answers import failure_error
from starburst_executor.launch.aws.ecs_handle import EcsHandle
from starburst_executor.launch.base import Order
from starburst_executor.launch.bootstrap import new_launch_id
from tests.aws.conftest import MOST_WORKERS, Purse
from tests.sessions import wait_until

pytestmark = [pytest.mark.aws, pytest.mark.timeout(1500)]

_DENIED = {"AccessDenied", "AccessDeniedException"}


def tasks_of(clients: Clients, stack: Stack, session_id: str, status: str = "RUNNING") -> list[dict[str, Any]]:
    ecs = clients.get("ecs")
    # `startedBy` may be asked for alone: the others that ran are found by the cluster.
    arns = ecs.list_tasks(cluster=stack.cluster, desiredStatus=status)["taskArns"]
    described = ecs.describe_tasks(cluster=stack.cluster, tasks=arns)["tasks"] if arns else []
    return [one for one in described if one.get("startedBy") == session_id]


def test_a_session_on_spot_and_what_its_workers_may_do(purse: Purse, clients: Clients, real: Stack, image: str) -> None:
    launcher = Fargate(spot=True, fallback=True, image=image, **purse.here)
    with purse.attached(launcher, MOST_WORKERS) as executor:
        session_id = purse.sessions[-1]
        # In public subnets, with an endpoint for S3 and no NAT: that a first task ends says that images, keys, logs and
        # the bucket were reached.
        assert list(executor.map(there.square, range(200), timeout=900)) == [n * n for n in range(200)]
        running = tasks_of(clients, real, session_id)
        assert running
        assert {one["capacityProviderName"] for one in running} <= {"FARGATE_SPOT", "FARGATE"}
        assert all(one.get("platformVersion", "1.4.0") >= "1.4.0" for one in running)
        told = executor.submit(there.environment).result(timeout=300)
        key = executor.key.hex()
        assert key not in str(told)
        assert key not in str(running)
        refused = executor.submit(there.refused, real.bucket, session_id, real.parameter_prefix, real.cluster).result(
            timeout=300
        )
        assert {what: code for what, code in refused.items() if code not in _DENIED} == {}
    name = parameter_name(real.parameter_prefix, session_id)
    ssm = clients.get("ssm")
    wanted = [{"Key": "Name", "Option": "BeginsWith", "Values": [name]}]
    assert ssm.describe_parameters(ParameterFilters=wanted)["Parameters"] == []
    wait_until(lambda: not tasks_of(clients, real, session_id), 300)
    stopped = tasks_of(clients, real, session_id, "STOPPED")
    wait_until(
        lambda: all("exitCode" in one["containers"][0] for one in tasks_of(clients, real, session_id, "STOPPED")), 300
    )
    assert {one["stopCode"] for one in stopped} <= {"EssentialContainerExited", "UserInitiated", "SpotInterruption"}
    task_id = stopped[0]["taskArn"].rpartition("/")[2]
    streams = clients.get("logs").describe_log_streams(
        logGroupName=real.log_group, logStreamNamePrefix=stream_of(task_id)
    )
    assert [one["logStreamName"] for one in streams["logStreams"]] == [stream_of(task_id)]


def test_a_call_that_is_repeated_starts_nothing_twice(purse: Purse, clients: Clients, real: Stack, image: str) -> None:
    """Also by a client with other options: ECS names the tasks of the first call."""
    clock = SystemClock()
    session_id = f"20260101-000000-{clock.new_id(4)}"
    purse.sessions.append(session_id)
    purse.take(1, 300.0)
    url = f"{real.store_url().partition('?')[0]}/{session_id}?region={real.region}"
    order = Order(new_launch_id(clock), url, "00" * 32, 1, True)
    first = Fargate(image=image, **purse.here).open()
    second = Fargate(image=image, cpu=0.5, **purse.here).open()
    plan = first.start(order).handle
    handles = [EcsHandle.load(launcher.start(order, plan).handle) for launcher in (first, first, second)]
    assert [one.tasks for one in handles if one is not None] == [handles[0].tasks] * 3  # type: ignore[union-attr]
    first.resume(handles[0].dump()).end_session()  # type: ignore[union-attr]
    wait_until(lambda: not tasks_of(clients, real, session_id), 300)


def test_an_image_that_cannot_be_pulled_is_told_in_the_words_of_ecs(purse: Purse, real: Stack) -> None:
    missing = f"{real.repository_uri}:there-is-no-such-tag"
    with purse.attached(Fargate(cpu=0.25, memory="512MB", image=missing, **purse.here)) as executor:
        error = executor.submit(there.square, 1).exception(timeout=900)
    assert isinstance(error, ExecutorBroken)
    assert "CannotPullContainerError" in str(error)


def test_the_sentence_of_a_quota_is_understood(purse: Purse, clients: Clients, real: Stack, image: str) -> None:
    """Asks ECS for one worker that is larger than the whole quota, past our own look at it."""
    quota = read_quota(clients, KINDS["fargate"])
    if quota is None or quota.limit >= 16:
        pytest.skip("the account's quota is not smaller than the largest worker")
    launcher = Fargate(cpu=16, image=image, **purse.here).open()
    definition = launcher._placing._definition.family
    network = {"subnets": list(real.subnets), "securityGroups": [real.security_group], "assignPublicIp": "ENABLED"}
    answer = clients.get("ecs").run_task(
        cluster=real.cluster,
        taskDefinition=definition,
        capacityProviderStrategy=[{"capacityProvider": "FARGATE", "weight": 1}],
        networkConfiguration={"awsvpcConfiguration": network},
        startedBy="test-of-quotas",
    )
    for task in answer["tasks"]:
        clients.get("ecs").stop_task(cluster=real.cluster, task=task["taskArn"])
    assert answer["failures"], "ECS has started it"
    print(answer["failures"])
    assert all(isinstance(failure_error(one, "FARGATE"), QuotaExceeded) for one in answer["failures"])


def test_the_quotas_can_be_read_with_what_is_in_use(clients: Clients) -> None:
    for kind, code in KINDS.items():
        quota = read_quota(clients, code)
        assert quota is not None, kind
        assert re.search("vCPU|On-Demand|Spot", quota.name), dataclasses.asdict(quota)
        assert quota.in_use is not None, f"{kind}: Service Quotas names no metric"


def test_the_last_lines_of_a_worker_that_ended_at_once_are_found(
    purse: Purse, clients: Clients, real: Stack, image: str
) -> None:
    clock = SystemClock()
    session_id = f"20260101-000000-{clock.new_id(4)}"
    purse.sessions.append(session_id)
    purse.take(1, 300.0)
    url = f"{real.store_url().partition('?')[0]}/{session_id}?region={real.region}"
    launcher = Fargate(cpu=0.25, memory="512MB", image=image, **purse.here).open()
    order = Order(new_launch_id(clock), url, "00" * 32, 1, True)
    handle = launcher.start(order, launcher.start(order).handle).handle
    wait_until(lambda: launcher.resume(handle).deaths(), 600)
    [death] = launcher.resume(handle).deaths()
    assert "SessionNotFound" in death.words
    assert "exit status 3" in death.words
    found = EcsHandle.load(handle)
    assert found is not None
    assert "SessionNotFound" in last_lines(clients, real, stream_of(found.tasks[0][0]))
    launcher.resume(handle).end_session()
