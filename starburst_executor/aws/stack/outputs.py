"""The resources that `starburst setup` created, as one frozen value, read from the CloudFormation stack.

The outputs of `template.yaml` are the contract: each field is one of them. A field is None if the stack was created
without that part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.errors import ConfigError, LaunchError

__all__ = ["BUILDS", "Stack", "find_stack", "parameters_of", "read_stack", "stores_of"]

# The prefix for the sources of image builds in the bucket, which CodeBuild may read.
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
        name: The stack's name, and the value of the tag `starburst:stack` on all its resources.
        region: The stack's region.
        account_id: The account's id.
        bucket: The bucket of its sessions, under `sessions/`; sources of image builds are under `builds/`.
        bucket_is_own: Whether the stack created this bucket.
        prefix: The prefix of all keys of sessions; empty, since no other keys are in these folders.
        express_bucket: A second bucket for sessions, in S3 Express One Zone.
        cluster: The name of the ECS cluster, with FARGATE and FARGATE_SPOT associated.
        cluster_is_own: Whether the stack created this cluster.
        subnets: Public subnets in two or more zones, where ECS tasks on Fargate need a public IP address; or private ones.
        security_group: The security group of workers, which allows no inbound traffic.
        execution_role_arn: The role with which ECS pulls images and writes logs.
        worker_role_arn: The role of workers: `taskRoleArn` in task definitions, `jobRoleArn` in Batch.
        repository_uri: The repository of images, without a tag. Tags are immutable.
        log_group: The log group of workers.
        parameter_prefix: The prefix of the SSM parameters with the keys of sessions; begins and ends with "/".
        task_family_prefix: The prefix of families of task definitions and names of job definitions.
        ec2_provider: The capacity provider of On-Demand instances. Its ECS tasks must use network mode `bridge`: a network
            interface of their own would have no public IP address, and so no route to the internet.
        ec2_spot_provider: The capacity provider of Spot instances.
        ec2_instance_types: The types that both may start, with one architecture.
        ec2_arch: The architecture of these types: `x86_64` or `arm64`.
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
        worker_policy_arn: The managed policy that every worker needs, for a role of the user's own; empty in a stack that
            an older version created.
        client_policy_arn: The managed policy that allows a user to run sessions on the stack.
        client_options_policy_arn: The one that allows a user to use Batch, EC2, S3 Express One Zone, shells and other roles; empty if
            the stack has none of these.
        public_addresses: Whether workers on Fargate get public addresses: ENABLED or DISABLED, as in ECS.
        has_shell: Whether users may open shells in workers.
        topic_arn: The SNS topic to which workers send messages; empty if the stack has none.
        kms_key_arn: The user's KMS key that encrypts bucket, logs and keys of sessions; empty for AWS managed keys.
        tags: The user's tags, which launchers also put on the resources that they create.
        version: The version of the library that created or last changed the stack.
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
    client_options_policy_arn: str = ""
    bucket_is_own: bool = True
    cluster_is_own: bool = True
    express_bucket: str | None = None
    worker_policy_arn: str = ""
    topic_arn: str = ""
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
        """The tags of all resources that belong to the stack."""
        return {**dict(self.tags), "starburst:stack": self.name}

    @property
    def repository(self) -> str:
        """The repository's name, as ECR's API requires it."""
        return self.repository_uri.partition("/")[2]

    def store_url(self, profile: str | None = None) -> str:
        """Return the URL of the store in this stack's bucket.

        Args:
            profile: A profile of the client's machine. Workers have no profiles: their URL has none.
        """
        return self._url(self.bucket, profile)

    def express_url(self, profile: str | None = None) -> str | None:
        """Return the URL of the store in S3 Express One Zone; None if the stack has none. Arguments as for `store_url`."""
        return None if self.express_bucket is None else self._url(self.express_bucket, profile)

    def _url(self, bucket: str, profile: str | None) -> str:
        query = f"region={self.region}" + (f"&profile={profile}" if profile else "")
        return f"s3://{bucket}{'/' if self.prefix else ''}{self.prefix}?{query}"


def read_stack(clients: Clients) -> Stack:
    """Read the stack that the settings of `clients` name.

    Raises:
        LaunchError: there is no such stack, or it is not complete; the message names the command to run.
        ConfigError: no region, no credentials, or `starburst setup` did not create the stack.
    CloudFormation: 1 DescribeStacks.
    """
    name, region = clients.settings.stack, clients.region
    record = find_stack(clients)
    if record is None:
        raise LaunchError(
            f"no stack {name!r} in {region}: run `starburst setup --region {region}`, or name another stack or region "
            "(STARBURST_AWS_STACK, STARBURST_AWS_REGION, or the [aws] table of the config file)"
        )
    status = str(record["StackStatus"])
    if status not in _MADE and not status.startswith("UPDATE"):
        raise LaunchError(
            f"stack {name!r} in {region} is not ready: status={status}; wait for it, or run `starburst setup` again"
        )
    return _stack_of(record, name, region)


def find_stack(clients: Clients) -> dict[str, Any] | None:
    """Return CloudFormation's description of the stack; None if it does not exist. Raises: LaunchError, ConfigError."""
    try:
        answer = clients.get("cloudformation").describe_stacks(StackName=clients.settings.stack)
    except FOREIGN as error:
        if error_code(error) == "ValidationError" and "does not exist" in str(error):
            return None
        raise meaning(error, f"reading the stack {clients.settings.stack!r} in {clients.region}") from error
    stack: dict[str, Any] = answer["Stacks"][0]
    return stack


def parameters_of(record: dict[str, Any] | None) -> dict[str, str]:
    """Return a stack's parameters from the result of `find_stack`; empty if there is no stack."""
    return {
        str(parameter["ParameterKey"]): str(parameter.get("ParameterValue", ""))
        for parameter in (record or {}).get("Parameters", [])
    }


def stores_of(clients: Clients) -> list[str]:
    """Return the URLs of the stack's stores, the default of sessions first. CloudFormation: 1 DescribeStacks."""
    stack, profile = read_stack(clients), clients.settings.profile
    return [url for url in (stack.store_url(profile), stack.express_url(profile)) if url is not None]


def _stack_of(record: dict[str, Any], name: str, region: str) -> Stack:
    outputs = {output["OutputKey"]: output["OutputValue"] for output in record.get("Outputs", [])}

    def needed(key: str) -> str:
        if key not in outputs:
            raise ConfigError(
                f"stack {name!r} in {region} was not created by `starburst setup`, or by an older version: run it again to update: "
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
        topic_arn=outputs.get("TopicArn") or "",
        has_shell=outputs.get("ShellAllowed") == "yes",
        public_addresses=outputs.get("PublicAddresses") or "ENABLED",
        tags=tuple(
            (str(tag["Key"]), str(tag["Value"]))
            for tag in record.get("Tags", [])
            if not str(tag["Key"]).startswith(("starburst:", "aws:"))
        ),
        client_policy_arn=needed("ClientPolicyArn"),
        client_options_policy_arn=outputs.get("ClientOptionsPolicyArn") or "",
        bucket_is_own=outputs.get("BucketIsOwn") != "no",
        cluster_is_own=outputs.get("ClusterIsOwn") != "no",
        express_bucket=outputs.get("ExpressBucket"),
        ec2_provider=outputs.get("Ec2Provider"),
        ec2_spot_provider=outputs.get("Ec2SpotProvider"),
        ec2_instance_types=_several(outputs.get("Ec2InstanceTypes")),
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
