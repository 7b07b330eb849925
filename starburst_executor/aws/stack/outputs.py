"""What `starburst setup` made, as one frozen value read from the CloudFormation stack itself.

The outputs of `template.yaml` are the contract: each field here is one of them, and a field that is None belongs to a
part that this stack was made without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.errors import ConfigError, LaunchError

__all__ = ["BUILDS", "Stack", "default_store", "find_stack", "parameters_of", "read_stack"]

# Where the sources of image builds lie in the bucket; what CodeBuild may read.
BUILDS = "builds/"
_MADE = (
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The resources of one stack.

    Attributes:
        name: Of the CloudFormation stack, and the value of the tag `starburst:stack` on everything in it.
        region: Where it is.
        account_id: Whose it is.
        bucket: The bucket of its sessions, under `sessions/`; sources of image builds are under `builds/`.
        prefix: What all keys of sessions begin with; empty, the bucket being the stack's own.
        cluster: The ECS cluster's name, with FARGATE and FARGATE_SPOT associated.
        subnets: Public ones in two zones or more. Fargate's ECS tasks need a public IP there.
        security_group: Lets nothing in.
        execution_role_arn: What ECS itself pulls images and writes logs with.
        worker_role_arn: What a worker may do; for the `taskRoleArn` of task definitions and the `jobRoleArn` of Batch.
        repository_uri: Of the images, without a tag. Tags are immutable.
        log_group: Where workers log.
        parameter_prefix: Begins and ends with "/"; the keys of sessions are SSM parameters below it.
        task_family_prefix: Families of task definitions and names of job definitions begin with it.
        ec2_provider: Capacity provider of On-Demand instances. Its ECS tasks are to use network mode `bridge`: one of
            their own would have no public IP and no way out.
        ec2_spot_provider: The same on Spot.
        ec2_instance_types: What both may start, of one architecture.
        ec2_arch: `x86_64` or `arm64`.
        batch_fargate_queue: Fargate On-Demand.
        batch_fargate_spot_queue: Fargate Spot, then On-Demand.
        batch_ec2_queue: EC2 On-Demand.
        batch_ec2_spot_queue: EC2 Spot, then On-Demand.
        batch_instance_types: What Batch chooses from on EC2: types, families, or `optimal`.
        batch_arch: Theirs: `x86_64` or `arm64`.
        batch_has_gpus: Whether they have NVIDIA's GPUs.
        batch_most_vcpus: How many vCPUs at once, in each of Batch's compute environments.
        batch_shares_fairly: Whether Batch's queues have a fair-share policy: each job must then name a share.
        codebuild_project: Builds images from a source in the bucket under `builds/`, given with each build.
        worker_policy_arn: The managed policy that every worker needs, for a role of the user's own; empty in a stack of an
            older version.
        client_policy_arn: The managed policy that lets a person use the stack.
        public_addresses: Whether workers on Fargate get them: ENABLED or DISABLED, as ECS has it.
        has_shell: Whether users may open shells in workers.
        kms_key_arn: What the user's own key encrypts bucket, logs and keys of sessions by; empty for AWS's own.
        tags: The user's own, which what launchers make gets as well.
        version: Of the library that made or changed it last.
    """

    name: str
    region: str
    account_id: str
    bucket: str
    prefix: str = ""
    cluster: str
    subnets: tuple[str, ...]
    security_group: str
    execution_role_arn: str
    worker_role_arn: str
    repository_uri: str
    log_group: str
    parameter_prefix: str
    task_family_prefix: str
    client_policy_arn: str
    worker_policy_arn: str = ""
    kms_key_arn: str = ""
    has_shell: bool = False
    public_addresses: str = "ENABLED"
    tags: tuple[tuple[str, str], ...] = ()
    ec2_provider: str | None = None
    ec2_spot_provider: str | None = None
    ec2_instance_types: tuple[str, ...] = ()
    ec2_arch: str | None = None
    batch_fargate_queue: str | None = None
    batch_fargate_spot_queue: str | None = None
    batch_ec2_queue: str | None = None
    batch_ec2_spot_queue: str | None = None
    batch_instance_types: tuple[str, ...] = ()
    batch_arch: str | None = None
    batch_has_gpus: bool = False
    batch_most_vcpus: int | None = None
    batch_shares_fairly: bool = False
    codebuild_project: str | None = None
    version: str = ""

    @property
    def all_tags(self) -> dict[str, str]:
        """What everything that belongs to the stack is tagged with."""
        return {**dict(self.tags), "starburst:stack": self.name}

    @property
    def repository(self) -> str:
        """The repository's name, as ECR's calls want it."""
        return self.repository_uri.partition("/")[2]

    def store_url(self, profile: str | None = None) -> str:
        """The URL of the store in this stack's bucket.

        Args:
            profile: For a client's own use. A worker elsewhere has no profiles: give it the URL without one.
        """
        query = f"region={self.region}" + (f"&profile={profile}" if profile else "")
        return f"s3://{self.bucket}{'/' if self.prefix else ''}{self.prefix}?{query}"


def read_stack(clients: Clients) -> Stack:
    """The stack that the settings of `clients` name.

    Raises:
        LaunchError: there is none, or it is not (or no longer) whole; the message says what to type.
        ConfigError: no region, no credentials, or it is somebody else's stack.
    CloudFormation: 1 DescribeStacks.
    """
    name, region = clients.settings.stack, clients.region
    found = find_stack(clients)
    if found is None:
        raise LaunchError(
            f"no stack {name!r} in {region}: run `starburst setup --region {region}`, or name another stack or region "
            "(STARBURST_AWS_STACK, STARBURST_AWS_REGION, or the [aws] table of the config file)"
        )
    status = str(found["StackStatus"])
    if status not in _MADE and not status.startswith("UPDATE"):
        raise LaunchError(
            f"stack {name!r} in {region} is not ready: status={status}; wait for it, or run `starburst setup` again"
        )
    return _stack_of(found, name, region)


def find_stack(clients: Clients) -> dict[str, Any] | None:
    """What CloudFormation says of the stack; None if there is none. Raises: LaunchError, ConfigError."""
    try:
        answer = clients.get("cloudformation").describe_stacks(StackName=clients.settings.stack)
    except FOREIGN as error:
        if error_code(error) == "ValidationError" and "does not exist" in str(error):
            return None
        raise meaning(error, f"reading the stack {clients.settings.stack!r} in {clients.region}") from error
    stack: dict[str, Any] = answer["Stacks"][0]
    return stack


def parameters_of(found: dict[str, Any] | None) -> dict[str, str]:
    """A stack's parameters, as `find_stack` has it; none where there is none."""
    return {str(one["ParameterKey"]): str(one.get("ParameterValue", "")) for one in (found or {}).get("Parameters", [])}


def default_store(clients: Clients) -> str:
    """The URL of the store for sessions whose workers are on AWS and whose store nobody named. 1 DescribeStacks."""
    return read_stack(clients).store_url(clients.settings.profile)


def _stack_of(found: dict[str, Any], name: str, region: str) -> Stack:
    outputs = {one["OutputKey"]: one["OutputValue"] for one in found.get("Outputs", [])}

    def needed(key: str) -> str:
        if key not in outputs:
            raise ConfigError(
                f"stack {name!r} in {region} was not made by `starburst setup`, or by an older one: run it again to update: "
                f"missing={key}"
            )
        return str(outputs[key])

    return Stack(
        name=name,
        region=region,
        account_id=needed("AccountId"),
        bucket=needed("Bucket"),
        cluster=needed("Cluster"),
        subnets=tuple(needed("Subnets").split(",")),
        security_group=needed("SecurityGroup"),
        execution_role_arn=needed("ExecutionRoleArn"),
        worker_role_arn=needed("WorkerRoleArn"),
        repository_uri=needed("RepositoryUri"),
        log_group=needed("LogGroup"),
        parameter_prefix=needed("ParameterPrefix"),
        task_family_prefix=needed("TaskFamilyPrefix"),
        worker_policy_arn=outputs.get("WorkerPolicyArn") or "",
        kms_key_arn=outputs.get("KmsKeyArn") or "",
        has_shell=outputs.get("ShellAllowed") == "yes",
        public_addresses=outputs.get("PublicAddresses") or "ENABLED",
        tags=tuple(
            (str(tag["Key"]), str(tag["Value"]))
            for tag in found.get("Tags", [])
            if not str(tag["Key"]).startswith(("starburst:", "aws:"))
        ),
        client_policy_arn=needed("ClientPolicyArn"),
        ec2_provider=outputs.get("Ec2Provider"),
        ec2_spot_provider=outputs.get("Ec2SpotProvider"),
        ec2_instance_types=_several(outputs.get("Ec2InstanceTypes") or outputs.get("Ec2InstanceType")),
        ec2_arch=outputs.get("Ec2Arch"),
        batch_fargate_queue=outputs.get("BatchFargateQueue"),
        batch_fargate_spot_queue=outputs.get("BatchFargateSpotQueue"),
        batch_ec2_queue=outputs.get("BatchEc2Queue"),
        batch_ec2_spot_queue=outputs.get("BatchEc2SpotQueue"),
        batch_instance_types=_several(outputs.get("BatchInstanceTypes")),
        batch_arch=outputs.get("BatchArch"),
        batch_has_gpus=outputs.get("BatchGpus") == "yes",
        batch_most_vcpus=int(most) if (most := outputs.get("BatchMostVcpus")) else None,
        batch_shares_fairly=outputs.get("BatchFairShare") == "yes",
        codebuild_project=outputs.get("CodeBuildProject"),
        version=outputs.get("Version") or "",
    )


def _several(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))
