"""A real account, a ceiling on what is spent there, and the removal of whatever a test has left.

Without `STARBURST_TEST_AWS=1` and `STARBURST_TEST_AWS_STACK` every test here is skipped. See README.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from starburst_executor import Batch, DetachedExecutor, Ec2, Fargate, StarburstExecutor, config
from starburst_executor.aws.billing.pricing import Pricing
from starburst_executor.aws.clients import FOREIGN, Clients
from starburst_executor.aws.image.environment import find_environment
from starburst_executor.aws.image.images import build_image
from starburst_executor.aws.parameter import delete_key, parameter_name
from starburst_executor.aws.stack.outputs import Stack, read_stack
from starburst_executor.clock import SystemClock
from starburst_executor.errors import StarburstError
from starburst_executor.protocol.keys import is_session_id
from tests.support.moto_server import ROOT

# Read before any test takes them away: tests have an environment of their own.
_IS_WANTED = os.environ.get("STARBURST_TEST_AWS") == "1"
_GIVEN = {name: os.environ.get(f"STARBURST_TEST_AWS_{name}") for name in ("STACK", "REGION", "PROFILE")}

# The ceiling: what all sessions of one run could cost if each used all of its workers for all of its time.
CEILING_USD = 1.00
MOST_WORKERS = 4
MOST_S = 900.0
# An hour of one worker, rounded up: 1 vCPU, 2 GB and an address on Fargate; an instance of the stack's default type.
WORKER_USD = 0.20
# Of all tests: some start in a minute, work for seconds and end; those that lose a worker, or wait for Batch, take longer.
EXPECTED_WORKER_HOURS = 2.0


@pytest.fixture(scope="session")
def clients() -> Clients:
    if not (_IS_WANTED and _GIVEN["STACK"]):
        pytest.skip("costs money: needs STARBURST_TEST_AWS=1 and STARBURST_TEST_AWS_STACK; see tests/aws/README.md")
    settings = config.resolve_aws(stack=_GIVEN["STACK"], region=_GIVEN["REGION"], profile=_GIVEN["PROFILE"])
    return Clients(settings)


@pytest.fixture(scope="session")
def real(clients: Clients) -> Stack:
    """The stack, as `starburst setup` made it."""
    return read_stack(clients)


@pytest.fixture(scope="session")
def image(clients: Clients, real: Stack) -> str:
    """An image with this checkout's library, built unless it is there."""
    return build_image(clients, real, find_environment(ROOT), clock=SystemClock(), say=print)


class Purse:
    """Starts sessions within the ceiling, and knows what has to be removed."""

    def __init__(self, clients: Clients, stack: Stack) -> None:
        self.clients, self.stack = clients, stack
        self.spent_usd = 0.0
        self.sessions: list[str] = []

    @property
    def here(self) -> dict[str, Any]:
        settings = self.clients.settings
        return {"stack": settings.stack, "region": self.clients.region, "profile": settings.profile}

    def take(self, workers: int, seconds: float) -> None:
        """Refuse what could cost more than is left."""
        usd = workers * seconds / 3600 * WORKER_USD
        assert workers <= MOST_WORKERS
        assert seconds <= MOST_S
        if self.spent_usd + usd > CEILING_USD:
            pytest.fail(
                f"the ceiling of ${CEILING_USD:.2f} for one run is reached: spent at most ${self.spent_usd:.2f}"
            )
        self.spent_usd += usd

    def attached(self, launcher: Fargate | Ec2 | Batch, workers: int = 1, seconds: float = MOST_S) -> StarburstExecutor:
        self.take(workers, seconds)
        executor = StarburstExecutor(workers=workers, launcher=launcher, absolute_timeout=seconds)
        return self._noted(executor)

    def detached(self, launcher: Fargate | Ec2 | Batch, workers: int = 1, seconds: float = MOST_S) -> DetachedExecutor:
        self.take(workers, seconds)
        executor = DetachedExecutor(workers=workers, launcher=launcher, absolute_timeout=seconds)
        self._noted(executor)
        return executor

    def _noted(self, executor: StarburstExecutor) -> StarburstExecutor:
        self.sessions.append(executor.url.partition("?")[0].rpartition("/")[2])
        assert is_session_id(self.sessions[-1])
        return executor

    def remove(self) -> None:
        """Stop and delete whatever these sessions have left: nothing, if all went well."""
        for session_id in self.sessions:
            self._stop_tasks(session_id)
            self._stop_jobs(session_id)
            with suppress(StarburstError, *FOREIGN):
                delete_key(self.clients, parameter_name(self.stack.parameter_prefix, session_id))
            self._delete_objects(f"sessions/{session_id}/")

    def _stop_tasks(self, session_id: str) -> None:
        ecs, cluster = self.clients.get("ecs"), self.stack.cluster
        for task in ecs.list_tasks(cluster=cluster, startedBy=session_id)["taskArns"]:
            with suppress(*FOREIGN):
                ecs.stop_task(cluster=cluster, task=task, reason="the end of a test")

    def _stop_jobs(self, session_id: str) -> None:
        batch = self.clients.get("batch")
        for queue in filter(None, (self.stack.batch_fargate_queue, self.stack.batch_fargate_spot_queue)):
            wanted = [{"name": "JOB_NAME", "values": [f"starburst-{session_id}*"]}]
            for job in batch.list_jobs(jobQueue=queue, filters=wanted)["jobSummaryList"]:
                with suppress(*FOREIGN):
                    batch.terminate_job(jobId=job["jobId"], reason="the end of a test")

    def _delete_objects(self, prefix: str) -> None:
        s3 = self.clients.get("s3")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.stack.bucket, Prefix=prefix):
            doomed = [{"Key": one["Key"]} for one in page.get("Contents", [])]
            if doomed:
                s3.delete_objects(Bucket=self.stack.bucket, Delete={"Objects": doomed})


@pytest.fixture(scope="session")
def purse(clients: Clients, real: Stack) -> Iterator[Purse]:
    """Sessions within the ceiling; what they leave behind is removed, also after a failure."""
    purse = Purse(clients, real)
    price = Pricing(clients).fargate(1, 2, arch="x86_64")
    print(
        f"\none worker costs about ${price.usd_per_hour:.3f} an hour, its address included; expected for all: "
        f"${EXPECTED_WORKER_HOURS * price.usd_per_hour:.2f}, at most ${CEILING_USD:.2f}"
    )
    try:
        yield purse
    finally:
        purse.remove()
        print(f"\nspent at most ${purse.spent_usd:.2f} of ${CEILING_USD:.2f}")
