"""A bucket and a cluster that exist: they are used, and neither changed, emptied nor removed."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest

from starburst_executor import config
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack.contents import contents, ecs_tasks
from starburst_executor.aws.stack.outputs import read_stack
from tests.support.aws_rig import REGION, Account, account, run

__all__ = ["account"]

CLUSTER = f"arn:aws:ecs:{REGION}:123456789012:cluster/ours"
RULES = [
    {
        "ID": "a",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
]


@pytest.fixture
def owned(account: Account) -> Account:
    """An account whose owner has made a bucket and a cluster."""
    s3 = account.get("s3")
    s3.create_bucket(Bucket="ours", CreateBucketConfiguration={"LocationConstraint": REGION})
    flags = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    s3.put_public_access_block(Bucket="ours", PublicAccessBlockConfiguration=dict.fromkeys(flags, True))
    s3.put_bucket_lifecycle_configuration(Bucket="ours", LifecycleConfiguration={"Rules": RULES})
    account.get("ecs").create_cluster(clusterName="ours", capacityProviders=["FARGATE", "FARGATE_SPOT"])
    return account


def start(account: Account, family: str, subnet: str) -> str:
    """An ECS task in the owner's cluster."""
    ecs = account.get("ecs")
    ecs.register_task_definition(family=family, containerDefinitions=[{"name": "c", "image": "i", "memory": 512}])
    network = {"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": []}}
    started = ecs.run_task(cluster="ours", taskDefinition=family, launchType="FARGATE", networkConfiguration=network)
    return str(started["tasks"][0]["taskArn"])


def test_they_are_used_and_not_changed(owned: Account) -> None:
    made = run("setup", "--bucket", "ours", "--cluster", CLUSTER)
    assert made.exit_code == 0, made.stderr
    stack = read_stack(Clients(config.resolve_aws(region=REGION)))
    assert (stack.bucket, stack.bucket_is_own, stack.cluster, stack.cluster_is_own) == ("ours", False, "ours", False)
    has = contents(owned.clients)
    assert has is not None
    assert not {"Bucket", "BucketPolicy", "Cluster", "ClusterProviders"} & has.names.keys()
    said = run("doctor").stdout
    assert "ours: no public access, lifecycle rules in force; the stack did not create it" in said
    assert "honoured; no policy refuses writes without a condition" in said
    assert "wrong" not in said
    assert "nothing to change" in run("setup", "--bucket", "ours", "--cluster", "ours").stderr


def test_another_one_is_refused_later(owned: Account) -> None:
    owned.deploy(BucketArn="arn:aws:s3:::ours", ClusterName="ours")
    for words in (["--bucket", "others"], ["--cluster", "others"]):
        assert "is chosen when a stack is created, and this stack uses" in run("setup", *words).stderr
    assert "the stack uses the cluster ours, which it did not create" in run("setup", "--ec2").stderr


def test_teardown_leaves_them_and_the_tasks_of_others(owned: Account) -> None:
    stack = owned.deploy(BucketArn="arn:aws:s3:::ours", ClusterName="ours")
    has = contents(owned.clients)
    assert has is not None
    mine, theirs = (start(owned, family, stack.subnets[0]) for family in ("starburst_5f", "starburst-web"))
    assert list(ecs_tasks(owned.clients, has)) == [mine]
    owned.get("s3").put_object(Bucket="ours", Key="sessions/a-session/manifest", Body=b"x")
    removed = run("teardown", "--force", answer="starburst\n")
    assert removed.exit_code == 0, removed.stderr
    assert "sessions in s3://ours stay, without their workers" in removed.stderr
    assert "left: the bucket ours, with the objects under sessions/, names/, code/ and builds/" in removed.stdout
    assert "left: the cluster ours" in removed.stdout
    assert owned.get("s3").list_objects_v2(Bucket="ours")["KeyCount"] == 1
    (cluster,) = owned.get("ecs").describe_clusters(clusters=["ours"])["clusters"]
    assert (cluster["status"], cluster["capacityProviders"]) == ("ACTIVE", ["FARGATE", "FARGATE_SPOT"])
    running = owned.get("ecs").list_tasks(cluster="ours", desiredStatus="RUNNING")["taskArns"]
    assert theirs in running
    assert mine not in running


def test_users_see_and_stop_the_stack_s_tasks_alone(owned: Account) -> None:
    from tests.unit.aws.test_rights import managed

    stack = owned.deploy(BucketArn="arn:aws:s3:::ours", ClusterName="ours", Shell="yes")
    statements = managed(owned, stack, stack.client_policy_arn) + managed(owned, stack, stack.client_options_policy_arn)
    own = {"StringEquals": {"aws:ResourceTag/starburst:stack": "starburst"}}
    for action in ("ecs:StopTask", "ecs:DescribeTasks", "ecs:ExecuteCommand"):
        found = [each for each in statements if action in each["Action"] and ":task/" in json.dumps(each["Resource"])]
        assert found
        assert all(each["Condition"] == own for each in found), action
    (run_task,) = [each for each in statements if each["Action"] == "ecs:RunTask"]
    assert run_task["Condition"] == {"ArnEquals": {"ecs:cluster": CLUSTER}}


REFUSED = [
    (["--bucket", "s3://ours"], "must be the name of a general purpose bucket, without s3://"),
    (["--bucket", "ours--euw1-az1--x-s3"], "must be the name of a general purpose bucket"),
    (["--bucket", "nowhere"], "--bucket 'nowhere': there is no such bucket"),
    (
        ["--bucket", "far-away"],
        "must be in the stack's region, else each request takes longer and costs money: bucket=us-west-2",
    ),
    (["--cluster", "a cluster"], "must be a cluster's ARN"),
    (["--cluster", "nowhere"], "there is no such cluster in eu-west-1"),
    (["--cluster", CLUSTER.replace(REGION, "us-east-1")], "must be in the stack's region"),
    (["--cluster", CLUSTER.replace("123456789012", "210987654321")], "must be in the account of these credentials"),
    (
        ["--cluster", "bare"],
        "lacks the capacity providers FARGATE_SPOT: let its owner add them with `aws ecs put-cluster",
    ),
    (["--cluster", "ours", "--ec2"], "--cluster: cannot be combined with EC2"),
    (["--cluster", "ours", "--instance-type", "m5.large"], "--cluster: cannot be combined with EC2"),
]


def test_what_cannot_be_used_is_refused_before_anything_is_made(owned: Account) -> None:
    where = {"LocationConstraint": "us-west-2"}
    boto3.client("s3", region_name="us-west-2").create_bucket(Bucket="far-away", CreateBucketConfiguration=where)
    owned.get("ecs").create_cluster(clusterName="bare", capacityProviders=["FARGATE"])
    for words, said in REFUSED:
        result = run("setup", *words)
        assert (result.exit_code, said in result.stderr) == (2, True), (words, result.stderr)
    assert owned.get("cloudformation").describe_stacks()["Stacks"] == []


def open_to_all(s3: Any) -> None:
    s3.delete_public_access_block(Bucket="ours")


def keep_uploads(s3: Any) -> None:
    s3.delete_bucket_lifecycle(Bucket="ours")


def keep_versions(s3: Any) -> None:
    s3.put_bucket_versioning(Bucket="ours", VersioningConfiguration={"Status": "Enabled"})


def remove(s3: Any) -> None:
    s3.delete_bucket(Bucket="ours")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (open_to_all, "public access is not completely blocked"),
        (keep_uploads, "incomplete uploads are kept"),
        (keep_versions, "it is versioned, and each rewrite of a status object keeps a version"),
        (remove, "there is no bucket ours"),
    ],
)
def test_doctor_says_what_the_owner_has_to_change(owned: Account, spoil: Any, said: str) -> None:
    from starburst_executor.aws import checks, doctor
    from starburst_executor.testing import FakeClock

    stack = owned.deploy(BucketArn="arn:aws:s3:::ours")
    spoil(owned.get("s3"))
    patient = checks.Patient(owned.clients, FakeClock(), stack)
    finding = doctor._checked("bucket", lambda: checks.CHECKS["bucket"](patient))
    assert (finding.verdict, "owner" in finding.todo) == ("wrong", True)
    assert said in finding.words


def test_versions_that_expire_are_no_surprise(owned: Account) -> None:
    from starburst_executor.aws import checks
    from starburst_executor.testing import FakeClock

    stack = owned.deploy(BucketArn="arn:aws:s3:::ours")
    s3 = owned.get("s3")
    keep_versions(s3)
    expire = {
        "ID": "v",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
    }
    s3.put_bucket_lifecycle_configuration(Bucket="ours", LifecycleConfiguration={"Rules": [*RULES, expire]})
    assert "ours: no public access" in checks.CHECKS["bucket"](checks.Patient(owned.clients, FakeClock(), stack))
