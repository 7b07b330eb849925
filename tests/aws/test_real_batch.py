"""What Batch does with jobs: attempts, exit codes, children of arrays, their tags, names of log streams."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
import there
from botocore.exceptions import ClientError

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


def test_the_roles_may_be_passed_to_batch(clients: Clients, real: Stack, image: str) -> None:
    """First of all: of which service IAM asks when roles are passed to a job definition. Costs nothing.

    The policy for people allows two, since AWS's pages do not say. Needs the keys of an IAM user.
    """
    name, denied = f"{real.task_family_prefix}pass-role", {}
    needs = [{"type": "VCPU", "value": "0.25"}, {"type": "MEMORY", "value": "512"}]
    container = {
        "image": image,
        "executionRoleArn": real.execution_role_arn,
        "jobRoleArn": real.worker_role_arn,
        "resourceRequirements": needs,
        "networkConfiguration": {"assignPublicIp": "ENABLED"},
    }
    for service in ("ecs-tasks.amazonaws.com", "batch.amazonaws.com"):
        passed = {"StringEquals": {"iam:PassedToService": service}}
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {"Effect": "Allow", "Action": ["batch:RegisterJobDefinition", "batch:TagResource"], "Resource": "*"},
                {"Effect": "Allow", "Action": "iam:PassRole", "Resource": "*", "Condition": passed},
            ],
        }
        try:
            granted = clients.get("sts").get_federation_token(Name="pass-role", Policy=json.dumps(policy))[
                "Credentials"
            ]
        except ClientError as error:
            pytest.skip(f"needs the keys of an IAM user: {error}")
        batch = boto3.client(
            "batch",
            region_name=clients.region,
            aws_access_key_id=granted["AccessKeyId"],
            aws_secret_access_key=granted["SecretAccessKey"],
            aws_session_token=granted["SessionToken"],
        )
        try:
            made = batch.register_job_definition(
                jobDefinitionName=name,
                type="container",
                platformCapabilities=["FARGATE"],
                containerProperties=container,
            )
            clients.get("batch").deregister_job_definition(jobDefinition=made["jobDefinitionArn"])
        except ClientError as error:
            denied[service] = str(error)
    print(f"\nroles are refused where they are passed to: {denied or 'neither'}")
    assert len(denied) < 2, denied


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
    # Batch reports it afterwards.
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


def test_an_array_is_ended_as_a_whole(purse: Purse, clients: Clients, real: Stack, launcher: Batch) -> None:
    """With the rights of the policy for people, which ask for the stack's tag on each job: children have none."""
    executor = purse.detached(launcher, 2)
    session_id = purse.sessions[-1]
    futures = [executor.submit(there.square, n) for n in range(10)]
    assert [future.result(timeout=900) for future in futures] == [n * n for n in range(10)]
    child, *_ = jobs_of(clients, real, session_id)
    try:
        clients.get("batch").terminate_job(jobId=child["jobId"], reason="to see who may")
        print("\na child may be ended by itself: Launcher.shed may do so")
    except ClientError as error:
        print(f"\na child may not be ended by itself: {error.response['Error']['Code']}")
    executor.cleanup(force=True)
    wait_until(lambda: all(one["status"] in ("SUCCEEDED", "FAILED") for one in jobs_of(clients, real, session_id)), 600)
