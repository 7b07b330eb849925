"""The whole way of a new user through the command line: from an empty account to one that is empty again.

moto is what can be made and looked at, from the real template; the fakes are what runs. Nothing is passed by hand: names,
roles, images, queues and paths are what `starburst setup` made, and a container is a process that has nothing but them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from starburst_executor import DetachedExecutor
from tests.sessions import wait_until
from tests.support.aws_fakes.server import FakeAws
from tests.support.express_bucket import BEHIND
from tests.support.inside import session_of
from tests.support.moto_server import BUCKET, ROOT, MotoServer, serving

pytestmark = pytest.mark.stress

REGION = "us-east-1"
_SERVICES = ("ECS", "BATCH", "SSM", "SERVICE_QUOTAS", "CLOUDWATCH_LOGS")

_MODULE = """
import time

def price(n):
    time.sleep(0.25)
    return n * n

def wait_long(n):
    time.sleep(25)
    return n
"""
_RUN = """
import sys
from starburst_executor import StarburstExecutor
import pricing

with StarburstExecutor(workers=int(sys.argv[1]), launcher=sys.argv[2]) as ex:
    print(sum(ex.map(pricing.price, range(int(sys.argv[3])))))
"""
_LEAVE = """
import sys
from starburst_executor import DetachedExecutor
import pricing

ex = DetachedExecutor(workers=4, launcher="batch-spot")
for n in range(80):
    ex.submit(pricing.price, n)
ex.submit(pricing.wait_long, 80)
ex.flush()
print(ex.id, flush=True)
sys.stdin.read()
"""
_COLLECT = """
import sys
from starburst_executor import DetachedExecutor

ex = DetachedExecutor.reattach(sys.argv[1])
for outcome in ex.collect(wait=True):
    print(outcome.value)
ex.detach()
"""
# Does with the stack's repository what docker would do, and nothing else.
_DOCKER = """#!{python}
import json, os, sys
from pathlib import Path
import boto3

verb, *words = sys.argv[1:]
if verb == "login":
    assert sys.stdin.read()
elif verb == "build":
    folder = Path(words[-1])
    assert (folder / "Dockerfile").is_file() and list(folder.glob("*.whl")), list(folder.iterdir())
elif verb == "push":
    registry, _, image = words[0].partition("/")
    name, _, tag = image.partition(":")
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps({{"schemaVersion": 2, "mediaType": kind, "config": {{"digest": tag}}, "layers": []}})
    boto3.client("ecr", region_name=registry.split(".")[3]).put_image(repositoryName=name, imageManifest=manifest, imageTag=tag)
print(verb, "done")
"""


class Asked:
    """A set whose members are asked for."""

    def __init__(self, ask: Callable[[str], object]) -> None:
        self._ask = ask

    def __contains__(self, name: object) -> bool:
        try:
            return bool(self._ask(str(name)))
        except ClientError:
            return False


class User:
    """Somebody with a terminal, credentials and a project."""

    def __init__(self, moto: MotoServer, aws: FakeAws, folder: Path, home: Path) -> None:
        self.moto, self.aws, self.folder = moto, aws, folder
        for name, text in {"pricing": _MODULE, "run": _RUN, "leave": _LEAVE, "collect": _COLLECT}.items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        tools = folder.parent / "bin"
        tools.mkdir()
        docker = tools / "docker"
        docker.write_text(_DOCKER.format(python=sys.executable), encoding="utf-8")
        docker.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "STARBURST_"))}
        self.environment = {
            **kept,
            **moto.environment,
            **{f"AWS_ENDPOINT_URL_{name}": aws.url for name in _SERVICES},
            "PATH": f"{tools}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": str(ROOT),
            "STARBURST_HOME": str(home),
        }
        # The region is what the config file says, once it is there.
        del self.environment["AWS_DEFAULT_REGION"]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def type(self, *words: str, answer: str = "", status: int = 0) -> str:
        """`starburst WORDS`: all that it prints."""
        process = self.start("-m", "starburst_executor.cli", *words)
        output, errors = process.communicate(answer, timeout=120)
        print(f"$ starburst {' '.join(words)}\n{output}{errors}")
        assert process.returncode == status, output + errors
        assert "Traceback" not in errors
        return output + errors

    def client(self, service: str) -> Any:
        names = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": REGION}
        return boto3.client(service, endpoint_url=self.moto.endpoint_url, **names)


@pytest.fixture
def user(tmp_path: Path, starburst_home: Path) -> Iterator[User]:
    containers, project = tmp_path / "containers", tmp_path / "project"
    containers.mkdir()
    project.mkdir()
    with serving("--account") as moto:
        aws = FakeAws(moto, containers)
        user = User(moto, aws, project, starburst_home)
        aws.ecs.cluster = "starburst"
        aws.ecs.providers = {"FARGATE", "FARGATE_SPOT"}
        aws.ecs.images = aws.batch._images = Asked(lambda uri: _is_pushed(user, uri))  # type: ignore[assignment]
        aws.ecs.roles = Asked(lambda arn: user.client("iam").get_role(RoleName=arn.rpartition("/")[2]))  # type: ignore[assignment]
        aws.batch._queues = Asked(
            lambda queue: user.client("batch").describe_job_queues(jobQueues=[queue])["jobQueues"]
        )  # type: ignore[assignment]
        try:
            yield user
        finally:
            aws.close()


def _is_pushed(user: User, uri: str) -> object:
    name, _, tag = uri.partition("/")[2].partition(":")
    return user.client("ecr").describe_images(repositoryName=name, imageIds=[{"imageTag": tag}])["imageDetails"]


@pytest.mark.timeout(1200)
def test_from_an_empty_account_to_an_empty_account(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = user.aws
    before = everything(user)

    # --- an account is prepared
    assert "no stack 'starburst' in us-east-1: run `starburst setup" in user.type(
        "doctor", "--region", REGION, status=1
    )
    assert "store        s3://" in user.type("setup", "--region", REGION, "--batch")
    assert "WRONG" not in (told := user.type("doctor"))
    assert "none yet: `starburst image build` builds one" in told

    # --- a run without an image says what to type, and that is what helps
    process = user.start("run.py", "2", "fargate", "4")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    match = re.search(r"run `starburst (image build [^`]*)`", errors)
    assert match is not None, errors
    assert not aws.ecs.calls
    assert "/starburst:py3." in user.type(*match[1].split())
    assert "exists: " in user.type("image", "build", "run.py")
    assert "1 in starburst" in user.type("doctor")

    # --- twenty workers on Fargate Spot, of which a third are taken
    process = user.start("run.py", "20", "fargate-spot", "1600")
    wait_until(lambda: len(aws.ecs.running()) == 20 or process.poll() is not None, 120)
    assert process.poll() is None, process.communicate()
    (bucket,) = [name for name in buckets(user) if name not in (BUCKET, BEHIND)]
    wait_until(lambda: "outcome" in "".join(keys(user, bucket)) or n_final(user, bucket) >= 5, 120)
    taken = aws.ecs.running()[::3]
    for task_id in taken:
        aws.ecs.interrupt(task_id)
    aws.ecs.containers[taken[0]].kill()
    output, errors = process.communicate(timeout=600)
    print(errors)
    assert output.split() == [str(sum(n * n for n in range(1600)))], errors
    assert aws.ecs.n_calls("RegisterTaskDefinition") == 1
    assert {task["capacityProviderName"] for task in aws.ecs.tasks.values()} == {"FARGATE_SPOT"}
    assert aws.parameters == {}
    wait_until(lambda: not aws.ecs.not_stopped(), 120)
    assert not [key for key in keys(user, bucket) if key.startswith("sessions/")], "an attached session leaves nothing"
    check_runs(user)

    # --- the quota, in words
    aws.quotas["L-3032A538"] = 2
    process = user.start("run.py", "6", "fargate", "12")
    output, errors = process.communicate(timeout=120)
    assert output.split() == [str(sum(n * n for n in range(12)))], errors
    assert "slots=2, asked=6" in errors
    assert "`starburst quota fargate --request 6`" in errors
    assert re.search(r"fargate +2 ", user.type("quota", "fargate"))
    aws.quotas["L-3032A538"] = 0
    process = user.start("run.py", "6", "fargate", "12")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "6 × 1 vCPUs do not fit, 0 do" in errors
    del aws.quotas["L-3032A538"]
    assert aws.parameters == {}

    # --- a session that is left by its client, and collected by another process
    leaving = user.start("leave.py")
    assert leaving.stdout is not None
    session_id = leaving.stdout.readline().strip()
    assert session_id, leaving.communicate()
    wait_until(lambda: len(aws.batch.running()) == 4, 120)
    leaving.send_signal(signal.SIGKILL)
    leaving.communicate()
    key = list(aws.parameters.values())
    told = user.type("sessions", "--store", f"s3://{bucket}?region={REGION}")
    assert session_id in told
    aws.batch.kill_after_s = 30.0
    wait_until(lambda: n_final(user, bucket) >= 1, 120)
    for job_id in aws.batch.running():
        aws.batch.interrupt(job_id)
    output = user.start("collect.py", session_id).communicate(timeout=300)
    assert [int(line) for line in output[0].split()] == [*(n * n for n in range(80)), 80], output
    assert "81 completed" in (told := user.type("status", session_id)), told
    # Twenty-five seconds do not fit into what Batch grants: that task was given back, not lost.
    assert losses(user, session_id, monkeypatch) == 0
    assert aws.batch.n_calls("submitjob") == aws.batch.n_calls("registerjobdefinition") == 1
    assert key
    shown = json.dumps([aws.ecs.calls, aws.batch.calls, list(aws.ecs.tasks.values()), list(aws.batch.jobs.values())])
    assert not any(one in shown for one in key)

    # --- and away
    assert "in use" in user.type("teardown", status=4)
    assert "deleted" in user.type("cleanup", session_id, "--force", "--yes")
    assert aws.parameters == {}
    wait_until(lambda: not aws.batch.running(), 120)
    assert not [key for key in keys(user, bucket) if key.startswith("sessions/")]
    assert "is removed" in user.type("teardown", answer="starburst\n")
    assert everything(user) == before
    assert aws.ecs.definitions == aws.batch.definitions == aws.parameters == {}
    assert not aws.ecs.not_stopped()


def check_runs(user: User) -> None:
    """What ECS was asked for is what the stack has, and within what it allows."""
    runs = [request for name, request in user.aws.ecs.calls if name == "RunTask"]
    ec2, iam = user.client("ec2"), user.client("iam")
    for request in runs:
        network = request["networkConfiguration"]["awsvpcConfiguration"]
        subnets = ec2.describe_subnets(SubnetIds=network["subnets"])["Subnets"]
        assert len({one["AvailabilityZone"] for one in subnets}) > 1
        assert ec2.describe_security_groups(GroupIds=network["securityGroups"])["SecurityGroups"]
        assert network["assignPublicIp"] == "ENABLED"
    [definition] = user.aws.ecs.definitions.values()
    [container] = definition["containerDefinitions"]
    assert container["stopTimeout"] == 120
    assert container["linuxParameters"]["initProcessEnabled"]
    options = container["logConfiguration"]["options"]
    groups = user.client("logs").describe_log_groups(logGroupNamePrefix=options["awslogs-group"])["logGroups"]
    assert [group["logGroupName"] for group in groups] == [options["awslogs-group"]]
    # The role of a worker may read the parameter that the worker's environment names.
    role = definition["taskRoleArn"].rpartition("/")[2]
    arns = [one["PolicyArn"] for one in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]]
    versions = [(arn, iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]) for arn in arns]
    found = [iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"] for arn, version in versions]
    policy = str([version["Document"] for version in found])
    [allowed] = re.findall(r":parameter(/[^'\"]*)\*", policy)
    environment = runs[0]["overrides"]["containerOverrides"][0]["environment"]
    named = [one["value"] for one in environment if one["value"].startswith("/")]
    assert len(named) == 1
    assert named[0].startswith(allowed)


def buckets(user: User) -> list[str]:
    return [one["Name"] for one in user.client("s3").list_buckets()["Buckets"]]


def keys(user: User, bucket: str) -> list[str]:
    pages = user.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


def n_final(user: User, bucket: str) -> int:
    """Status objects in which all has ended: their size says so."""
    pages = user.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket)
    found = [one for page in pages for one in page.get("Contents", []) if "/status/" in one["Key"]]
    return sum(one["Size"] % 8 in (3, 4) for one in found)


def losses(user: User, session_id: str, patch: pytest.MonkeyPatch) -> int:
    """How often a task's worker was lost."""
    with patch.context() as here:
        for name, value in user.environment.items():
            here.setenv(name, value)
        executor = DetachedExecutor.reattach(session_id, launcher="none")
        session = session_of(executor)
        found = [session.statuses.read(group.key) for group in session.statuses.all()]
        executor.detach()
    return sum(entry.losses for one in found if one is not None for entry in one.status.entries)


def everything(user: User) -> dict[str, object]:
    """All that an account has, but for what AWS gives to each and never takes back."""
    ec2, iam = user.client("ec2"), user.client("iam")
    clusters = user.client("ecs").describe_clusters(clusters=user.client("ecs").list_clusters()["clusterArns"])[
        "clusters"
    ]
    roles = [one["RoleName"] for one in iam.list_roles()["Roles"] if not one["Path"].startswith("/aws-service-role/")]
    return {
        "buckets": buckets(user),
        "roles": roles,
        "policies": [one["Arn"] for one in iam.list_policies(Scope="Local")["Policies"]],
        "profiles": [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
        "networks": sorted(one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"]),
        "subnets": sorted(one["SubnetId"] for one in ec2.describe_subnets()["Subnets"]),
        "gateways": [one["InternetGatewayId"] for one in ec2.describe_internet_gateways()["InternetGateways"]],
        "endpoints": [one["VpcEndpointId"] for one in ec2.describe_vpc_endpoints()["VpcEndpoints"]],
        "groups": sorted(one["GroupId"] for one in ec2.describe_security_groups()["SecurityGroups"]),
        "repositories": [one["repositoryUri"] for one in user.client("ecr").describe_repositories()["repositories"]],
        # moto keeps those that were deleted.
        "clusters": [one["clusterName"] for one in clusters if one["status"] == "ACTIVE"],
        "log groups": [one["logGroupName"] for one in user.client("logs").describe_log_groups()["logGroups"]],
        "queues": [one["jobQueueName"] for one in user.client("batch").describe_job_queues()["jobQueues"]],
        "environments": [
            one["computeEnvironmentName"]
            for one in user.client("batch").describe_compute_environments()["computeEnvironments"]
        ],
        "projects": user.client("codebuild").list_projects()["projects"],
    }
