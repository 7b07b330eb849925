"""What Batch does with jobs: attempts, exit codes, children of arrays, their tags, names of log streams."""

from __future__ import annotations

from typing import Any

import pytest
import there

from starburst_executor import Batch, DetachedExecutor
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack.outputs import Stack
from tests.aws.conftest import Purse
from tests.sessions import wait_until

pytestmark = [pytest.mark.aws, pytest.mark.timeout(1800)]


@pytest.fixture
def launcher(purse: Purse, real: Stack, image: str) -> Batch:
    if real.batch_fargate_queue is None:
        pytest.skip("the stack has no Batch: `starburst setup --batch`")
    return Batch(spot=True, image=image, **purse.here)


def jobs_of(clients: Clients, stack: Stack, session_id: str) -> list[dict[str, Any]]:
    batch = clients.get("batch")
    wanted = [{"name": "JOB_NAME", "values": [f"starburst-{session_id}*"]}]
    listed = batch.list_jobs(jobQueue=stack.batch_fargate_spot_queue, filters=wanted)["jobSummaryList"]
    [job] = batch.describe_jobs(jobs=[one["jobId"] for one in listed])["jobs"]
    size = job.get("arrayProperties", {}).get("size", 0)
    children = [f"{job['jobId']}:{i}" for i in range(size)]
    return batch.describe_jobs(jobs=children)["jobs"] if children else [job]


def test_a_detached_session_whose_worker_is_told_to_stop_goes_on(
    purse: Purse, clients: Clients, real: Stack, launcher: Batch
) -> None:
    executor = purse.detached(launcher, 1)
    session_id, url, key = purse.sessions[-1], executor.url, executor.key
    executor.submit(there.stop_the_worker)
    for n in range(20):
        executor.submit(there.square, n)
    executor.detach()
    again = DetachedExecutor.reattach(url, key=key, launcher="none")
    outcomes = again.collect(wait=True, timeout=1500)
    assert [one.value for one in outcomes] == [None, *(n * n for n in range(20))]
    again.detach()
    # It is told after the fact.
    wait_until(lambda: jobs_of(clients, real, session_id)[0].get("attempts"), 300)
    [job] = jobs_of(clients, real, session_id)
    first = job["attempts"][0]["container"]
    assert first["exitCode"] == 143, "a worker that drained is started again, and says so"
    streams = clients.get("logs").describe_log_streams(
        logGroupName=real.log_group, logStreamNamePrefix=first["logStreamName"]
    )
    assert [one["logStreamName"] for one in streams["logStreams"]] == [first["logStreamName"]]
    assert key.hex() not in str(job)
    DetachedExecutor.reattach(url, key=key, launcher=launcher.spec).cleanup(force=True)
    wait_until(lambda: jobs_of(clients, real, session_id)[0]["status"] in ("SUCCEEDED", "FAILED"), 600)


def test_children_of_an_array_can_be_ended_by_themselves(
    purse: Purse, clients: Clients, real: Stack, launcher: Batch
) -> None:
    """With the rights of the policy for people, which ask for the stack's tag on each job."""
    executor = purse.detached(launcher, 2)
    session_id = purse.sessions[-1]
    futures = [executor.submit(there.square, n) for n in range(10)]
    assert [future.result(timeout=900) for future in futures] == [n * n for n in range(10)]
    executor.scale(1)
    wait_until(lambda: any(one.get("isTerminated") for one in jobs_of(clients, real, session_id)), 120)
    executor.cleanup(force=True)
    wait_until(lambda: all(one["status"] in ("SUCCEEDED", "FAILED") for one in jobs_of(clients, real, session_id)), 600)
