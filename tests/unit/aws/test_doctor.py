"""`starburst doctor`: a whole account, and each thing that can be wrong, one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from starburst_executor.aws import checks, doctor
from starburst_executor.testing import FakeClock
from tests.support import moto_more
from tests.support.aws_rig import REGION, account, run, stack

__all__ = ["account", "stack"]


def test_a_whole_stack_is_right(stack):
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    assert "WRONG" not in result.stdout
    assert "conditional writes   honoured, and writes without a condition are refused" in result.stdout
    findings = json.loads(run("doctor", "--json").stdout)
    assert [one["check"] for one in findings] == ["identity", "stack", *checks.CHECKS]
    assert {one["verdict"] for one in findings} == {"right"}
    assert {one["format"] for one in findings} == {1}


def test_a_stack_without_choices_is_right_too(account):
    account.deploy(CodeBuild="yes")
    result = run("doctor")
    assert result.exit_code == 0, result.stdout
    assert "not set up: `starburst setup --batch` adds it" in result.stdout


def test_nothing_is_left_behind(stack, account):
    run("doctor")
    assert "Contents" not in account.get("s3").list_objects_v2(Bucket=stack.bucket)


def drop_bucket(stack, get):
    get("s3").delete_bucket(Bucket=stack.bucket)


def open_to_all(stack, get):
    get("s3").delete_public_access_block(Bucket=stack.bucket)


def keep_uploads(stack, get):
    get("s3").delete_bucket_lifecycle(Bucket=stack.bucket)


def allow_blind_writes(stack, get):
    get("s3").delete_bucket_policy(Bucket=stack.bucket)


def drop_routes(stack, get):
    ec2 = get("ec2")
    for table in ec2.describe_route_tables()["RouteTables"]:
        for route in table["Routes"]:
            if str(route.get("GatewayId", "")).startswith("igw-"):
                ec2.delete_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0")


def drop_endpoint(stack, get):
    ec2 = get("ec2")
    ec2.delete_vpc_endpoints(
        VpcEndpointIds=[
            one["VpcEndpointId"]
            for one in ec2.describe_vpc_endpoints()["VpcEndpoints"]
            if one["ServiceName"].endswith(".s3")
        ]
    )


def drop_role(stack, get):
    iam, name = get("iam"), stack.worker_role_arn.rpartition("/")[2]
    for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
    iam.delete_role(RoleName=name)


def drop_cluster(stack, get):
    get("ecs").delete_cluster(cluster=stack.cluster)


def drop_providers(stack, get):
    get("ecs").put_cluster_capacity_providers(
        cluster=stack.cluster, capacityProviders=["FARGATE"], defaultCapacityProviderStrategy=[]
    )


def drop_repository(stack, get):
    get("ecr").delete_repository(repositoryName=stack.repository)


def keep_logs(stack, get):
    get("logs").delete_retention_policy(logGroupName=stack.log_group)


def drop_logs(stack, get):
    get("logs").delete_log_group(logGroupName=stack.log_group)


def drop_queue(stack, get):
    get("batch").update_job_queue(jobQueue=stack.batch_ec2_queue, state="DISABLED")
    get("batch").delete_job_queue(jobQueue=stack.batch_ec2_queue)


def leave_key(stack, get):
    get("ssm").put_parameter(Name=f"{stack.parameter_prefix}20260101-000000-0a1b2c3d", Value="k", Type="SecureString")


@pytest.mark.parametrize(
    ("spoil", "check", "said"),
    [
        (drop_bucket, "bucket", "there is no bucket"),
        (open_to_all, "bucket", "public access is not completely blocked"),
        (keep_uploads, "bucket", "incomplete uploads are kept"),
        (allow_blind_writes, "conditional writes", "a write without a condition was accepted"),
        (drop_routes, "network", "the subnets have no route to the internet"),
        (drop_endpoint, "network", "no endpoint for S3"),
        (drop_role, "roles", "there is no role starburst-WorkerRole"),
        (drop_cluster, "cluster", "there is no cluster starburst"),
        (drop_providers, "cluster", "the cluster lacks capacity providers: FARGATE_SPOT, starburst-Ec2Provider"),
        (drop_repository, "images", "there is no repository starburst"),
        (keep_logs, "logs", "is kept forever, and costs money"),
        (drop_logs, "logs", "there is no log group /starburst/starburst"),
        (drop_queue, "Batch", "1 queues are missing"),
        (leave_key, "leftovers", "keys of 1 sessions that are not in the stack's buckets: 20260101-000000-0a1b2c3d"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(stack, account, spoil: Callable[..., Any], check, said):
    spoil(stack, account.get)
    finding = doctor._checked(check, lambda: checks.CHECKS[check](checks.Patient(account.clients, FakeClock(), stack)))
    assert (finding.verdict, finding.check) == ("wrong", check)
    assert said in finding.words
    assert finding.todo


def test_few_vcpus_are_said_with_the_quota_to_raise(stack, monkeypatch):
    monkeypatch.setitem(moto_more.VCPUS, "L-3032A538", 6.0)
    result = run("doctor")
    assert result.exit_code == 1
    assert "few workers can run at once: fargate 6 vCPUs" in result.stdout
    assert "request a higher quota in the Service Quotas console: fargate L-3032A538" in result.stdout


def test_without_a_stack_nothing_else_is_tried(account):
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert [(one["check"], one["verdict"]) for one in json.loads(result.stdout)] == [
        ("identity", "right"),
        ("stack", "wrong"),
    ]


def test_a_stack_of_another_version_is_to_be_updated(account, monkeypatch):
    run("setup")
    monkeypatch.setattr(doctor, "__version__", "99.0")
    assert "run `starburst setup` to update it" in run("doctor").stdout


def test_what_may_not_be_seen_is_neither_right_nor_wrong(stack, account, monkeypatch):
    def denied(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no iam:GetRole"}}, "GetRole")

    monkeypatch.setattr(account.clients.get("iam"), "get_role", denied)
    check = checks.CHECKS["roles"]
    finding = doctor._checked("roles", lambda: check(checks.Patient(account.clients, FakeClock(), stack)))
    assert (finding.verdict, finding.words) == ("unknown", "these credentials may not read it")
    assert "no iam:GetRole" in finding.todo


def test_without_credentials_the_first_check_says_so(account, monkeypatch):
    def nobody(*_: Any, **__: Any) -> None:
        raise ClientError({"Error": {"Code": "ExpiredToken", "Message": "expired"}}, "GetCallerIdentity")

    sts = boto3.client("sts", region_name=REGION)
    monkeypatch.setattr(sts, "get_caller_identity", nobody)
    account.clients._made["sts", REGION] = sts
    (only,) = doctor.examine(account.clients, FakeClock())
    assert only.verdict == "wrong"
    assert "the credentials have expired: log in again" in only.words


def test_an_account_that_may_build_nothing_is_said_to_and_what_to_do(stack, monkeypatch):
    (name,) = moto_more.BUILDS
    monkeypatch.setitem(moto_more.BUILDS, name, 0.0)
    found = {one["check"]: one for one in json.loads(run("doctor", "--json").stdout)}
    assert found["builds"]["words"] == "the quota of CodeBuild allows no builds in this account"
    assert "Service Quotas console" in found["builds"]["todo"]
