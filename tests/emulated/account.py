"""An emulated AWS account, and a user's programs in it: the emulator in processes of its own, all else as users run it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import jmespath
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STEP_S = 400.0
# Service, operation, arguments, names in the answer: all that setup, builds and launchers make.
LISTINGS: list[tuple[str, str, dict[str, str], str]] = [
    ("autoscaling", "describe_auto_scaling_groups", {}, "AutoScalingGroups[].AutoScalingGroupName"),
    ("batch", "describe_compute_environments", {}, "computeEnvironments[].computeEnvironmentArn"),
    ("batch", "describe_job_definitions", {"status": "ACTIVE"}, "jobDefinitions[].jobDefinitionName"),
    ("batch", "describe_job_queues", {}, "jobQueues[].jobQueueArn"),
    ("cloudformation", "describe_stacks", {}, "Stacks[].StackName"),
    ("codebuild", "list_projects", {}, "projects"),
    ("ec2", "describe_internet_gateways", {}, "InternetGateways[].InternetGatewayId"),
    ("ec2", "describe_launch_templates", {}, "LaunchTemplates[].LaunchTemplateName"),
    ("ec2", "describe_security_groups", {}, "SecurityGroups[].GroupId"),
    ("ec2", "describe_subnets", {}, "Subnets[].SubnetId"),
    ("ec2", "describe_vpc_endpoints", {}, "VpcEndpoints[].VpcEndpointId"),
    ("ec2", "describe_vpcs", {}, "Vpcs[].VpcId"),
    ("ecr", "describe_repositories", {}, "repositories[].repositoryName"),
    ("ecs", "describe_capacity_providers", {}, "capacityProviders[].name"),
    ("ecs", "list_clusters", {}, "clusterArns"),
    ("ecs", "list_task_definitions", {}, "taskDefinitionArns"),
    ("iam", "list_instance_profiles", {}, "InstanceProfiles[].InstanceProfileName"),
    ("iam", "list_policies", {"Scope": "Local"}, "Policies[].PolicyName"),
    ("iam", "list_roles", {}, "Roles[?!starts_with(Path, '/aws-service-role/')].RoleName"),
    ("logs", "describe_log_groups", {}, "logGroups[].logGroupName"),
    ("s3", "list_buckets", {}, "Buckets[].Name"),
    ("ssm", "describe_parameters", {}, "Parameters[].Name"),
]


class Account:
    """An account that is empty at first, and one user in it: root until `become_user`.

    Attributes:
        project: The user's working folder.
        user: The environment of the user's programs.
    """

    def __init__(self, emulator: dict[str, Any], home: Path) -> None:
        self.emulator = emulator
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "STARBURST_", "XDG_"))}
        # A home of its own: setup writes the stack's name into the user's config file.
        self.root = {**kept, **emulator["environment"], "HOME": str(home), "TMPDIR": str(home)}
        self.user = dict(self.root)
        self.project = home / "project"
        self.project.mkdir()
        self.processes: list[subprocess.Popen[str]] = []

    # --- the user's programs --------------------------------------------------------------------------------------------

    def starburst(self, *words: str, status: int = 0, as_root: bool = False, version: str = "") -> str:
        """What `starburst WORDS` prints; `version`: as another version of the library."""
        program = "import sys, starburst_executor.version as v\n"
        program += f"v.__version__ = {version!r}\n" if version else ""
        program += "from starburst_executor.cli import entry\nsys.exit(entry(sys.argv[1:]))"
        return self.python("-c", program, *words, status=status, as_root=as_root)

    def python(self, *words: str, status: int | None = 0, as_root: bool = False) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            env=self.root if as_root else self.user,
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_S,
            check=False,
        )
        assert done.returncode == status, f"{words[-4:]}: status {done.returncode}\n{done.stdout}{done.stderr}"
        return (done.stdout + (done.stderr if status else "")).strip()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """A program that goes on; it ends with the account at the latest."""
        process = subprocess.Popen(
            [sys.executable, *words], env=self.user, cwd=self.project, stdout=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        return process

    # --- what is there ----------------------------------------------------------------------------------------------------

    def client(self, service: str) -> Any:
        keys = {f"aws_{name}": self.emulator[name] for name in ("access_key_id", "secret_access_key")}
        return boto3.client(
            service, endpoint_url=self.emulator["endpoint"], region_name=self.emulator["region"], **keys
        )

    def resources(self) -> set[str]:
        found = set()
        for service, operation, arguments, names in LISTINGS:
            client = self.client(service)
            if client.can_paginate(operation):
                pages = list(client.get_paginator(operation).paginate(**arguments))
            else:
                pages = [getattr(client, operation)(**arguments)]
            found |= {f"{service} {operation} {name}" for page in pages for name in jmespath.search(names, page) or ()}
        return found

    def outputs(self) -> dict[str, str]:
        (stack,) = self.client("cloudformation").describe_stacks(StackName="starburst")["Stacks"]
        return {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}

    def running_tasks(self) -> list[str]:
        return list(self.client("ecs").list_tasks(cluster="starburst", desiredStatus="RUNNING")["taskArns"])

    def containers(self) -> list[str]:
        """The ids of containers that run, as Docker has them."""
        found = json.loads(self._docker("GET", "/containers/json?all=1"))
        return [one["Id"] for one in found if one["State"] == "running"]

    def n_started(self) -> int:
        """How many containers there have been: each has a folder, which outlives it."""
        return len(list(Path(self.emulator["work"], "containers").iterdir()))

    def take(self, container: str) -> None:
        """Its machine is taken, with no notice."""
        self._docker("POST", f"/containers/{container}/kill?signal=SIGKILL")

    def _docker(self, method: str, path: str) -> bytes:
        with socket.socket(socket.AF_UNIX) as docker:
            docker.connect(self.emulator["socket"])
            docker.sendall(f"{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: docker.recv(1 << 16), b""))
        return answer.partition(b"\r\n\r\n")[2]

    # --- rights -----------------------------------------------------------------------------------------------------------

    def become_user(self) -> None:
        """From here on with the rights of the stack's policies for users, attached by hand as the documentation says.

        One more is given: the library tries out conditional writes, beneath probes/, where S3 is not Amazon's.
        """
        iam = self.client("iam")
        iam.create_user(UserName="ada")
        for name in ("ClientPolicyArn", "ClientOptionsPolicyArn"):
            iam.attach_user_policy(UserName="ada", PolicyArn=self.outputs()[name])
        actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        probing = {"Effect": "Allow", "Action": actions, "Resource": "arn:aws:s3:::starburst-bucket-*/probes/*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [probing]})
        iam.put_user_policy(UserName="ada", PolicyName="probes", PolicyDocument=document)
        key = iam.create_access_key(UserName="ada")["AccessKey"]
        self.user |= {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@contextmanager
def emulated_account(home: Path, *, checks_rights: bool) -> Iterator[Account]:
    """An emulator of this block's own; skipped where there is no environment with MiniStack."""
    python = Path(os.environ.get("STARBURST_TEST_MINISTACK", ROOT / ".venvs" / "ministack" / "bin" / "python"))
    if not python.exists():
        pytest.skip("`make test-emulated` makes the environment that the emulator runs in")
    command = [str(python), str(HERE / "emulator" / "start.py"), "--worker-python", sys.executable]
    command += ["--log", str(home / "emulator.log"), *["--auth"] * checks_rights]
    # The emulator ends when its standard input closes, however this process ends.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as emulator:
        assert emulator.stdin is not None
        assert emulator.stdout is not None
        try:
            line = emulator.stdout.readline()
            assert line, (home / "emulator.log").read_text(errors="replace")[-2000:]
            account = Account(json.loads(line), home)
            try:
                yield account
            finally:
                for process in account.processes:
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
        finally:
            emulator.stdin.close()
