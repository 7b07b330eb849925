"""The roles and policies of the template: what they allow, and that it is what is needed and no more.

How Amazon judges is imitated: a request is allowed if a statement allows its action on its resource and its conditions
hold. The statements of S3 are those of docs/explanation/iam, which `tests/unit/test_policies.py` checks against the code.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.aws.stack.template import MOST_BYTES, compact, forms, template
from tests.support.aws_rig import REGION, Account, account, stack

__all__ = ["account", "stack"]

ROOT = Path(__file__).parents[3]
TEMPLATE = ROOT / "starburst_executor/aws/stack/template.yaml"
BUCKET = "arn:aws:s3:::the-bucket"
HERE = f"{REGION}:123456789012"
KEY = f"arn:aws:ssm:{HERE}:parameter/starburst/starburst/20260101-000000-0a1b2c3d"
OTHERS_KEY = f"arn:aws:ssm:{HERE}:parameter/starburst/starburst-b/20260101-000000-0a1b2c3d"
CLUSTER = f"arn:aws:ecs:{HERE}:cluster/starburst"
IMAGES = f"arn:aws:ecr:{HERE}:repository/starburst"
SESSION = f"{BUCKET}/sessions/20260101-000000-0a1b2c3d"
# Actions that know no resources, or are asked of none in particular; each only reads, or is bound by its conditions.
ON_ALL = {
    "batch:DescribeComputeEnvironments",
    "batch:DescribeJobDefinitions",
    "batch:DescribeJobQueues",
    "batch:DescribeJobs",
    "batch:ListJobs",
    "cloudwatch:GetMetricData",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeRouteTables",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcEndpoints",
    "ecr:GetAuthorizationToken",
    "ecs:DescribeTaskDefinition",
    "ecs:DiscoverPollEndpoint",
    "ecs:ListTasks",
    "ecs:RegisterTaskDefinition",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
    "logs:DescribeLogGroups",
    "pricing:GetProducts",
    "servicequotas:GetAWSDefaultServiceQuota",
    "servicequotas:GetServiceQuota",
    "servicequotas:ListServiceQuotas",
    "ssm:DescribeParameters",
}
EXPRESS = f"arn:aws:s3express:{HERE}:bucket/starburst--euw1-az1--x-s3"


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def like(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def settled(document: Any, bucket: str) -> Any:
    """A policy as deployed, with the bucket under a name that is known here."""
    text = document if isinstance(document, str) else json.dumps(document)
    # moto shows inline policies as Python would; both forms are YAML.
    text = re.sub(r"arn:aws:s3express:[^'\"]*", EXPRESS, text)
    return yaml.safe_load(text.replace(f"arn:aws:s3:::{bucket}", BUCKET))


@pytest.fixture
def policies(account: Account, stack: Stack) -> dict[str, list[dict[str, Any]]]:
    """The statements of each role, and of the policy for people."""
    return policies_of(account, stack)


def policies_of(account: Account, stack: Stack) -> dict[str, list[dict[str, Any]]]:
    """As deployed: a role's own policies and those of the stack that are attached to it."""
    iam = account.get("iam")
    found = {}
    for role in iam.list_roles()["Roles"]:
        if role["RoleName"].startswith("starburst-"):
            statements = []
            for name in iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]:
                document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"]
                statements += settled(document, stack.bucket)["Statement"]
            for policy in iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"]:
                statements += managed(account, stack, policy["PolicyArn"])
            found[role["RoleName"].split("-")[1]] = statements
    found["Client"] = [
        statement
        for arn in filter(None, (stack.client_policy_arn, stack.client_options_policy_arn))
        for statement in managed(account, stack, arn)
    ]
    return found


def managed(account: Account, stack: Stack, arn: str) -> list[dict[str, Any]]:
    iam = account.get("iam")
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    policy = settled(document, stack.bucket)
    assert len(re.sub(r"\s", "", json.dumps(policy))) <= 6144, "the most that a managed policy may have"
    return policy["Statement"]  # type: ignore[no-any-return]


def is_allowed(statements: list[dict[str, Any]], action: str, resource: str, facts: dict[str, str]) -> bool:
    return any(
        action in as_list(one["Action"])
        and any(like(pattern, resource) for pattern in as_list(one["Resource"]))
        and all(holds(operator, wanted, facts) for operator, wanted in one.get("Condition", {}).items())
        for one in statements
    )


def holds(operator: str, wanted: dict[str, Any], facts: dict[str, str]) -> bool:
    for key, values in wanted.items():
        if operator == "StringLikeIfExists":
            if key in facts and not any(like(value, facts[key]) for value in as_list(values)):
                return False
        elif operator in ("StringEquals", "ArnEquals"):
            if facts.get(key) not in as_list(values):
                return False
        else:
            # A policy with a condition that is not judged here must not pass.
            raise AssertionError(f"a policy has a condition that is not judged here: {operator} on {key}")
    return True


DEFINITION = f"arn:aws:ecs:{HERE}:task-definition/starburst_5f:1"
TASK = f"arn:aws:ecs:{HERE}:task/starburst/0123456789abcdef"
INSTANCE = f"arn:aws:ecs:{HERE}:container-instance/starburst/1"
BATCH_INSTANCE = f"arn:aws:ecs:{HERE}:container-instance/BatchEc2_Batch_0a/1"
BATCH_TASK = f"arn:aws:ecs:{HERE}:task/BatchEc2_Batch_0a/0123456789abcdef"
JOB = f"arn:aws:batch:{HERE}:job/0123"
TABLE = [
    # role, action, resource, facts, allowed
    ("WorkerRole", "ssm:GetParameter", KEY, {}, True),
    ("WorkerRole", "ssm:GetParameter", OTHERS_KEY, {}, False),
    ("WorkerRole", "ssm:PutParameter", KEY, {}, False),
    ("WorkerRole", "ssm:DeleteParameter", KEY, {}, False),
    ("WorkerRole", "s3:PutObject", f"{SESSION}/status/0000.000000/0000.0000000000-1", {}, True),
    ("WorkerRole", "s3:PutObject", f"{SESSION}/functions/5f", {}, False),
    ("WorkerRole", "s3:PutObject", f"{SESSION}/calls/5f", {}, False),
    ("WorkerRole", "s3:PutObject", f"{BUCKET}/code/2026-04/5f", {}, False),
    ("WorkerRole", "s3:DeleteObject", f"{SESSION}/manifest", {}, False),
    ("WorkerRole", "s3:GetObject", f"{BUCKET}/builds/source.zip", {}, False),
    ("WorkerRole", "s3:PutObject", f"{BUCKET}/builds/source.zip", {}, False),
    ("WorkerRole", "s3:ListBucket", BUCKET, {"s3:prefix": "sessions/a/"}, True),
    ("WorkerRole", "s3:ListBucket", BUCKET, {"s3:prefix": "builds/"}, False),
    ("WorkerRole", "ecs:RunTask", DEFINITION, {"ecs:cluster": CLUSTER}, False),
    ("WorkerRole", "ecs:StopTask", TASK, {}, False),
    ("WorkerRole", "iam:PassRole", "arn:aws:iam::123456789012:role/starburst-WorkerRole-X", {}, False),
    ("WorkerRole", "ecr:PutImage", IMAGES, {}, False),
    ("WorkerRole", "batch:SubmitJob", f"arn:aws:batch:{HERE}:job-definition/starburst_5f:1", {}, True),
    ("WorkerRole", "batch:SubmitJob", f"arn:aws:batch:{HERE}:job-definition/starburst-b_5f:1", {}, False),
    ("WorkerRole", "batch:SubmitJob", f"arn:aws:batch:{HERE}:job-queue/other", {}, False),
    ("WorkerRole", "batch:TerminateJob", JOB, {"aws:ResourceTag/starburst:stack": "starburst"}, False),
    ("WorkerRole", "batch:RegisterJobDefinition", f"arn:aws:batch:{HERE}:job-definition/starburst_5f:1", {}, False),
    ("ExecutionRole", "ecr:BatchGetImage", IMAGES, {}, True),
    ("ExecutionRole", "ecr:BatchGetImage", f"{IMAGES}-b", {}, False),
    ("ExecutionRole", "ecr:PutImage", IMAGES, {}, False),
    ("ExecutionRole", "logs:PutLogEvents", f"arn:aws:logs:{HERE}:log-group:/starburst/starburst:*", {}, True),
    ("ExecutionRole", "logs:PutLogEvents", f"arn:aws:logs:{HERE}:log-group:/aws/lambda/other:*", {}, False),
    ("ExecutionRole", "s3:GetObject", f"{SESSION}/manifest", {}, False),
    ("ExecutionRole", "ssm:GetParameter", KEY, {}, False),
    ("BuildRole", "ecr:PutImage", IMAGES, {}, True),
    ("BuildRole", "s3:GetObject", f"{BUCKET}/builds/a.zip", {}, True),
    ("BuildRole", "s3:GetObject", f"{SESSION}/manifest", {}, False),
    ("BuildRole", "ssm:GetParameter", KEY, {}, False),
    ("InstanceRole", "ecs:RegisterContainerInstance", CLUSTER, {}, True),
    ("InstanceRole", "ecs:RegisterContainerInstance", f"arn:aws:ecs:{HERE}:cluster/other", {}, False),
    ("InstanceRole", "ecs:RunTask", DEFINITION, {"ecs:cluster": CLUSTER}, False),
    ("InstanceRole", "ecr:BatchGetImage", IMAGES, {}, False),
    ("InstanceRole", "s3:GetObject", f"{SESSION}/manifest", {}, False),
    ("BatchInstanceRole", "ecs:Poll", f"arn:aws:ecs:{HERE}:container-instance/BatchEc2_Batch_0a/1", {}, True),
    ("BatchInstanceRole", "ecs:Poll", f"arn:aws:ecs:{HERE}:container-instance/starburst/1", {}, False),
    ("InstanceRole", "ecs:TagResource", INSTANCE, {"ecs:CreateAction": "RegisterContainerInstance"}, True),
    ("InstanceRole", "ecs:TagResource", INSTANCE, {"ecs:CreateAction": "RunTask"}, False),
    ("InstanceRole", "ecs:TagResource", TASK, {"ecs:CreateAction": "RegisterContainerInstance"}, False),
    ("BatchInstanceRole", "ecs:TagResource", BATCH_INSTANCE, {"ecs:CreateAction": "RegisterContainerInstance"}, True),
    ("BatchInstanceRole", "ecs:TagResource", INSTANCE, {"ecs:CreateAction": "RegisterContainerInstance"}, False),
    ("Client", "ecs:RunTask", DEFINITION, {"ecs:cluster": CLUSTER}, True),
    ("Client", "ecs:RunTask", DEFINITION, {"ecs:cluster": f"{CLUSTER}-b"}, False),
    ("Client", "ecs:RunTask", f"arn:aws:ecs:{HERE}:task-definition/starburst-b_5f:1", {"ecs:cluster": CLUSTER}, False),
    ("Client", "ecs:StopTask", TASK, {}, True),
    ("Client", "ecs:StartTask", TASK, {}, False),
    ("Client", "ecs:StopTask", f"arn:aws:ecs:{HERE}:task/other/0123456789abcdef", {}, False),
    ("Client", "ecs:ListTasks", "*", {"ecs:cluster": CLUSTER}, True),
    ("Client", "ecs:ListTasks", "*", {"ecs:cluster": f"{CLUSTER}-b"}, False),
    ("Client", "ecs:TagResource", TASK, {"ecs:CreateAction": "RunTask"}, True),
    ("Client", "ecs:TagResource", TASK, {}, False),
    ("Client", "ssm:PutParameter", KEY, {}, True),
    ("Client", "ssm:GetParameter", KEY, {}, False),
    ("Client", "ssm:PutParameter", OTHERS_KEY, {}, False),
    ("Client", "batch:TerminateJob", JOB, {"aws:ResourceTag/starburst:stack": "starburst"}, True),
    ("Client", "batch:TerminateJob", JOB, {"aws:ResourceTag/starburst:stack": "starburst-b"}, False),
    ("Client", "s3:PutObject", f"{BUCKET}/code/2026-04/5f", {}, True),
    ("WorkerRole", "s3:GetObject", f"{BUCKET}/code/2026-04/5f", {}, True),
    ("Client", "ecr:PutImage", f"{IMAGES}-b", {}, False),
    ("Client", "s3:PutObject", f"{SESSION}/outcomes/0/w.1-0", {}, False),
    ("Client", "s3:DeleteBucket", BUCKET, {}, False),
    ("Client", "ecr:PutImage", IMAGES, {}, True),
    ("Client", "cloudformation:DeleteStack", "*", {}, False),
    ("Client", "s3express:CreateSession", EXPRESS, {}, True),
    ("Client", "s3express:GetLifecycleConfiguration", EXPRESS, {}, True),
    ("Client", "s3express:DeleteBucket", EXPRESS, {}, False),
    ("WorkerRole", "s3express:CreateSession", EXPRESS, {}, True),
    ("WorkerRole", "s3express:CreateSession", EXPRESS.replace("starburst", "other"), {}, False),
    ("WorkerRole", "s3express:GetLifecycleConfiguration", EXPRESS, {}, False),
    ("ExecutionRole", "s3express:CreateSession", EXPRESS, {}, False),
    ("BuildRole", "s3express:CreateSession", EXPRESS, {}, False),
]  # fmt: skip


def test_each_role_may_do_what_it_does_and_no_more(policies):
    wrong = [
        (role, action, resource, facts)
        for role, action, resource, facts, allowed in TABLE
        if is_allowed(policies[role], action, resource, facts) is not allowed
    ]
    assert wrong == []


DATA = {
    "ReadObjects": "arn:aws:s3:::ours/2026,arn:aws:s3:::ours/2026/*",
    "WriteObjects": "arn:aws:s3:::out/*",
    "DataBuckets": "arn:aws:s3:::ours,arn:aws:s3:::out",
    "DataPrefixes": "2026,2026/*,*",
    "PassRoles": "arn:aws:iam::123456789012:role/ours",
    "Secrets": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-Ab12,arn:aws:ssm:eu-west-1:123456789012:parameter/ours",
    "SecretKeys": "arn:aws:kms:eu-west-1:123456789012:key/0a1b",
}
GRANTED = [
    ("WorkerRole", "ssmmessages:OpenDataChannel", "*", {}, True),
    ("Client", "ecs:ExecuteCommand", TASK, {}, True),
    ("Client", "ecs:ExecuteCommand", f"arn:aws:ecs:{HERE}:task/other/0123456789abcdef", {}, False),
    ("Client", "ecs:ExecuteCommand", CLUSTER, {}, True),
    ("Client", "ecs:ExecuteCommand", BATCH_TASK, {"aws:ResourceTag/starburst:stack": "starburst"}, True),
    ("Client", "ecs:ExecuteCommand", BATCH_TASK, {"aws:ResourceTag/starburst:stack": "starburst-b"}, False),
    ("Client", "ecs:DescribeTasks", BATCH_TASK, {"aws:ResourceTag/starburst:stack": "starburst"}, True),
    ("Client", "ecs:StopTask", BATCH_TASK, {"aws:ResourceTag/starburst:stack": "starburst"}, False),
    ("WorkerRole", "s3:GetObject", "arn:aws:s3:::ours/2026/a.parquet", {}, True),
    ("WorkerRole", "s3:GetObject", "arn:aws:s3:::ours/2025/a.parquet", {}, False),
    ("WorkerRole", "s3:GetObject", "arn:aws:s3:::ours/2026-old/a.parquet", {}, False),
    ("WorkerRole", "s3:PutObject", "arn:aws:s3:::ours/2026/a.parquet", {}, False),
    ("WorkerRole", "s3:DeleteObject", "arn:aws:s3:::ours/2026/a.parquet", {}, False),
    ("WorkerRole", "s3:ListBucket", "arn:aws:s3:::ours", {"s3:prefix": "2026/"}, True),
    ("WorkerRole", "s3:ListBucket", "arn:aws:s3:::theirs", {"s3:prefix": "2026/"}, False),
    ("WorkerRole", "s3:PutObject", "arn:aws:s3:::out/x/y", {}, True),
    ("WorkerRole", "s3:GetObject", "arn:aws:s3:::out/x/y", {}, True),
    ("WorkerRole", "s3:DeleteObject", "arn:aws:s3:::out/x/y", {}, True),
    ("WorkerRole", "s3:AbortMultipartUpload", "arn:aws:s3:::out/x/y", {}, True),
    ("WorkerRole", "s3:PutObject", "arn:aws:s3:::output/x/y", {}, False),
    ("WorkerRole", "s3:DeleteBucket", "arn:aws:s3:::out", {}, False),
    ("WorkerRole", "s3:PutObject", f"{SESSION}/functions/5f", {}, False),
    ("WorkerRole", "secretsmanager:GetSecretValue", DATA["Secrets"].split(",")[0], {}, False),
    ("ExecutionRole", "secretsmanager:GetSecretValue", DATA["Secrets"].split(",")[0], {}, True),
    ("ExecutionRole", "ssm:GetParameters", DATA["Secrets"].split(",")[1], {}, True),
    ("ExecutionRole", "ssm:GetParameters", f"{DATA['Secrets'].split(',')[1]}-b", {}, False),
    ("ExecutionRole", "kms:Decrypt", DATA["SecretKeys"], {}, True),
    ("ExecutionRole", "s3:GetObject", "arn:aws:s3:::ours/2026/a.parquet", {}, False),
    ("Client", "s3:GetObject", "arn:aws:s3:::ours/2026/a.parquet", {}, False),
    ("Client", "secretsmanager:GetSecretValue", DATA["Secrets"].split(",")[0], {}, False),
    ("Client", "iam:PassRole", DATA["PassRoles"], {"iam:PassedToService": "ecs-tasks.amazonaws.com"}, True),
    ("Client", "iam:PassRole", f"{DATA['PassRoles']}-b", {"iam:PassedToService": "ecs-tasks.amazonaws.com"}, False),
    ("Client", "iam:PassRole", DATA["PassRoles"], {"iam:PassedToService": "ec2.amazonaws.com"}, False),
]  # fmt: skip


def test_what_is_granted_beside_that_is_granted_and_no_more(account):
    key = "arn:aws:kms:eu-west-1:123456789012:key/0a1b"
    found = policies_of(
        account, account.deploy(Batch="yes", Ec2="yes", Express="euw1-az1", KmsKeyArn=key, Shell="yes", **DATA)
    )
    wrong = [
        (role, action, resource, facts)
        for role, action, resource, facts, allowed in [*TABLE, *GRANTED]
        if is_allowed(found[role], action, resource, facts) is not allowed
    ]
    assert wrong == []


def test_the_policies_have_room_for_the_longest_names(account):
    """`managed` checks the length of each against the most that IAM accepts."""
    roles = ",".join(f"arn:aws:iam::123456789012:role/teams/ours/role-{i:020}" for i in range(8))
    key = "arn:aws:kms:ap-southeast-2:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"
    parts = dict.fromkeys(("Ec2", "Batch", "Shell"), "yes")
    long = account.deploy(
        "s" * 40, Express="euw1-az1", KmsKeyArn=key, PassRoles=roles, RolePath=f"/{'p' * 60}/", **parts
    )
    own = [managed(account, long, arn) for arn in (long.client_policy_arn, long.client_options_policy_arn)]
    assert all(own)
    given = {"BucketArn": f"arn:aws:s3:::{'b' * 63}", "ClusterName": "c" * 64}
    other = account.deploy("t" * 40, Express="euw1-az1", KmsKeyArn=key, Batch="yes", Shell="yes", **given)
    assert all(managed(account, other, arn) for arn in (other.client_policy_arn, other.client_options_policy_arn))


def test_a_role_of_ones_own_gets_what_workers_need_by_one_policy(account, stack):
    own = managed(account, stack, stack.worker_policy_arn)
    attached = policies_of(account, stack)["WorkerRole"]
    assert own == attached


@pytest.mark.parametrize("service", ["ecs-tasks", "batch"])
def test_a_client_passes_the_two_roles_to_what_runs_workers_alone(policies, stack, service):
    roles = (stack.worker_role_arn, stack.execution_role_arn)
    to_service, to_ec2 = ({"iam:PassedToService": f"{name}.amazonaws.com"} for name in (service, "ec2"))
    assert all(is_allowed(policies["Client"], "iam:PassRole", role, to_service) for role in roles)
    assert not any(is_allowed(policies["Client"], "iam:PassRole", role, to_ec2) for role in roles)
    assert not is_allowed(policies["Client"], "iam:PassRole", "arn:aws:iam::123456789012:role/Admin", to_service)


@pytest.mark.parametrize(("page", "role"), [("worker", "WorkerRole"), ("client", "Client")])
def test_the_statements_of_s3_are_those_of_the_documentation(policies, page, role):
    text = (ROOT / f"docs/explanation/iam/{page}.json").read_text(encoding="utf-8")
    documented = json.loads(text.replace("arn:aws:s3:::my-bucket", BUCKET).replace("team/", ""))["Statement"]
    own = {
        "ReadTheSessionsKey",
        "GiveWhatIsBuilt",
        "SeeTheBucket",
    }  # of the template alone; the probe is for servers that are not AWS
    deployed = [one for one in policies[role] if '"s3:' in json.dumps(one["Action"]) and one.get("Sid") not in own]
    assert deployed == [one for one in documented if one["Sid"] != "ProbeServersThatAreNotAws"]


def test_no_right_is_given_by_a_wildcard(policies):
    for statements in policies.values():
        for one in statements:
            assert one["Effect"] == "Allow"
            assert not any("*" in action for action in as_list(one["Action"]))
            if "*" in as_list(one["Resource"]):
                assert set(as_list(one["Action"])) <= ON_ALL, one


@pytest.mark.parametrize("role", ["WorkerRole", "ExecutionRole", "BuildRole"])
def test_a_service_may_take_a_role_for_this_account_alone(account, stack, role):
    (found,) = [one for one in account.get("iam").list_roles()["Roles"] if f"-{role}-" in one["RoleName"]]
    (statement,) = found["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": "123456789012"}


# What a person needs not, and who does it.
NOT_FOR_CLIENTS = {
    "servicequotas:RequestServiceQuotaIncrease",  # for administrators of the account
    "ssm:GetParameter",  # workers
    "sns:Publish",  # workers, where there is a topic, below
    "ecs:ExecuteCommand",  # where shells are allowed, below
    "ssm:GetParameters",  # an administrator: the images of instances
}
PREFIXES = {"service-quotas": "servicequotas", "logs": "logs"}


def calls_of(path: Path) -> set[str]:
    """The actions that a module asks of AWS, as far as its source tells: methods that a service it names has."""
    source = path.read_text(encoding="utf-8")
    services = set(re.findall(r'\.get\(\s*"([a-z][a-z0-9-]+)"', source)) & set(boto3.Session().get_available_services())
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and hasattr(node.func, "attr")
    }
    called |= set(re.findall(r'get_paginator\(\s*"(\w+)"', source))
    return {
        f"{PREFIXES.get(service, service)}:{operations[name]}"
        for service in services
        for operations in [boto3.client(service, region_name=REGION).meta.method_to_api_mapping]
        for name in called & operations.keys()
    }


def test_whatever_launchers_ask_for_is_in_the_policy_for_people(policies):
    administration = {"setup.py", "wishes.py", "network.py", "existing.py", "express.py", "changes.py", "contents.py"}
    administration |= {"teardown.py", "checks.py", "doctor.py", "clients.py"}
    folders = [ROOT / "starburst_executor" / name for name in ("aws", "launch")]
    modules = [path for folder in folders for path in sorted(folder.rglob("*.py")) if path.name not in administration]
    asked = set().union(*map(calls_of, modules))
    assert "cloudformation:DescribeStacks" in asked
    given = {action for one in policies["Client"] for action in as_list(one["Action"])}
    assert sorted(asked - given - NOT_FOR_CLIENTS) == []


# Of what a check asks only, with what it would be refused by IAM alone: nothing.
CHECKED_UNDER = {"s3:HeadBucket": "s3:ListBucket", "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
                 "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration"}  # fmt: skip


def test_no_check_of_doctor_is_refused_to_a_user(policies):
    """`?` is for those whose administrators gave them less than the policy."""
    # ECR's method of that name.
    asked = calls_of(ROOT / "starburst_executor/aws/checks.py") - {"ec2:DescribeImages"}
    assert "batch:DescribeJobQueues" in asked
    given = {action for one in policies["Client"] for action in as_list(one["Action"])}
    assert sorted({CHECKED_UNDER.get(one, one) for one in asked} - given) == []


# ----------------------------------------------------------------------------------------------------- the template


class _Loader(yaml.SafeLoader):
    """Functions such as !Sub are left as what they are given."""


def _given(loader: _Loader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_scalar(node)


_Loader.add_multi_constructor("!", _given)


def test_cfn_lint_finds_nothing():
    regions = ["eu-west-1", "us-east-1", "us-west-1", "cn-north-1", "us-gov-west-1"]
    command = [
        sys.executable,
        "-c",
        "from cfnlint.runner import main; main()",
        "--regions",
        *regions,
        "--template",
        str(TEMPLATE),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_every_type_of_resource_exists():
    """cfn-lint does not look: not every region has each of them."""
    from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

    for resource in yaml.load(template(), _Loader)["Resources"].values():
        assert PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", resource["Type"])


def test_the_template_fits_into_one_request():
    sizes = [len(form.encode()) for form in forms(template())]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= MOST_BYTES == 51_200, "the most that CloudFormation takes as a text"
    assert len(compact(template()).encode()) == max(size for size in sizes if size <= MOST_BYTES)


def test_a_template_that_grows_is_sent_in_a_shorter_form():
    policy = "\n".join(
        f"  More{i}:\n    Type: AWS::SNS::Topic\n    Properties:\n      TopicName: {'x' * 80}" for i in range(30)
    )
    grown = template().replace("\nResources:\n", f"\nResources:\n{policy}\n")
    easiest, *shorter = forms(grown)
    assert len(easiest.encode()) > MOST_BYTES
    assert compact(grown) in shorter
    assert len(compact(grown).encode()) <= MOST_BYTES


@pytest.mark.parametrize("number", range(3))
def test_what_is_sent_is_what_is_read(number: int):
    """All but comments, the section for consoles and linters, and the indentation of the few texts; in the last form, descriptions."""
    sent, read = (yaml.load(text, _Loader) for text in (list(forms(template()))[number], template()))
    del read["Metadata"]
    if number == 2:
        for described in (*read["Parameters"].values(), *read["Outputs"].values()):
            described.pop("Description", None)

    def flat(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: flat(each) for key, each in value.items()}
        if isinstance(value, list):
            return [flat(each) for each in value]
        return [line.strip() for line in value.splitlines() if line.strip()] if isinstance(value, str) else value

    assert flat(sent) == flat(read)
    assert json.loads(sent["Resources"]["Repository"]["Properties"]["LifecyclePolicy"]["LifecyclePolicyText"])
    lines = sent["Resources"]["LaunchTemplate"]["Properties"]["LaunchTemplateData"]["UserData"][
        "Fn::Base64"
    ].splitlines()
    assert lines[0] == "#!/bin/sh"
    assert "EOT" in lines


def test_everything_that_can_be_tagged_bears_the_stack_s_name():
    parsed = yaml.load(template(), _Loader)
    # No tags of their own; CloudFormation's are put on what they belong to.
    without = {
        "AWS::AutoScaling::AutoScalingGroup",  # tags of another form, below
        "AWS::EC2::LaunchTemplate",
        "AWS::EC2::Route",
        "AWS::EC2::SubnetRouteTableAssociation",
        "AWS::EC2::VPCEndpoint",
        "AWS::EC2::VPCGatewayAttachment",
        "AWS::ECS::ClusterCapacityProviderAssociations",
        "AWS::IAM::InstanceProfile",
        "AWS::IAM::ManagedPolicy",
        "AWS::S3::BucketPolicy",
        "AWS::S3Express::BucketPolicy",
    }
    untagged = [
        name
        for name, resource in parsed["Resources"].items()
        if resource["Type"] not in without
        and "starburst:stack" not in json.dumps(resource["Properties"].get("Tags", ""))
    ]
    assert untagged == []
    for name in ("Ec2Group", "Ec2SpotGroup", "LaunchTemplate"):
        assert "starburst:stack" in json.dumps(parsed["Resources"][name])


def test_no_tag_of_a_compute_environment_ever_changes():
    """CloudFormation replaces one whose tags change, as its own schema says."""
    from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", "AWS::Batch::ComputeEnvironment").schema
    assert "/properties/Tags" in schema["createOnlyProperties"]
    resources = yaml.load(template(), _Loader)["Resources"].values()
    tags = [one["Properties"]["Tags"] for one in resources if one["Type"] == "AWS::Batch::ComputeEnvironment"]
    assert tags == [{"starburst:stack": "AWS::StackName"}] * 4


def test_no_queue_is_made_without_the_choice_of_fair_share():
    """Batch takes a policy when a queue is made, and never gives it up: all four are made alike."""
    resources = yaml.load(template(), _Loader)["Resources"].values()
    policies = [one["Properties"]["SchedulingPolicyArn"] for one in resources if one["Type"] == "AWS::Batch::JobQueue"]
    assert policies == [["WithFairShare", "BatchFairShares", "AWS::NoValue"]] * 4


def test_what_starts_machines_waits_for_their_way_out():
    starting = ("AWS::AutoScaling::AutoScalingGroup", "AWS::Batch::ComputeEnvironment")
    resources = yaml.load(template(), _Loader)["Resources"].values()
    after = [one.get("Metadata") for one in resources if one["Type"] in starting]
    assert after == [{"After": ["OwnVpc", "Route", "none"]}] * 6


def test_every_parameter_is_documented_for_administrators():
    """As `docs/reference/template.md` has them; `python -m tests.unit.aws.test_rights` writes the table."""
    page = (ROOT / "docs/reference/template.md").read_text(encoding="utf-8")
    assert parameter_table() in page


def parameter_table() -> str:
    parameters = yaml.load(template(), _Loader)["Parameters"]
    lines = ["| parameter | default | what it is |", "|---|---|---|"]
    for name, one in parameters.items():
        default = f"`{one['Default']}`" if one["Default"] != "" else ""
        allowed = ", ".join(f"`{value}`" for value in one.get("AllowedValues", []) if name != "LogDays")
        words = " ".join(one["Description"].split()) + (f" One of {allowed}." if allowed else "")
        lines.append(f"| `{name}` | {default} | {words} |")
    return "\n".join(lines) + "\n"


def test_the_outputs_are_the_fields_of_a_stack():
    outputs = set(yaml.load(template(), _Loader)["Outputs"])
    source = (ROOT / "starburst_executor/aws/stack/outputs.py").read_text(encoding="utf-8")
    read = set(re.findall(r'(?:needed|outputs\.get)\("(\w+)"\)', source))
    assert outputs == read


if __name__ == "__main__":
    sys.stdout.write(parameter_table())


def test_workers_send_messages_to_the_topic_of_their_stack_and_to_no_other(account):
    loud = account.deploy(NotifyEmail="me@example.org")
    found = policies_of(account, loud)
    assert is_allowed(found["WorkerRole"], "sns:Publish", loud.topic_arn, {})
    assert not is_allowed(found["WorkerRole"], "sns:Publish", loud.topic_arn + "x", {})
    assert not is_allowed(found["WorkerRole"], "sns:CreateTopic", loud.topic_arn, {})
    assert not is_allowed(found["Client"], "sns:Publish", loud.topic_arn, {})
    listed = account.get("sns").list_subscriptions_by_topic(TopicArn=loud.topic_arn)["Subscriptions"]
    assert [(one["Protocol"], one["Endpoint"]) for one in listed] == [("email", "me@example.org")]


def test_without_an_address_there_is_no_topic_and_no_right_to_publish(account, stack):
    assert stack.topic_arn == ""
    assert not is_allowed(policies_of(account, stack)["WorkerRole"], "sns:Publish", "arn:aws:sns:eu-west-1:1:any", {})
