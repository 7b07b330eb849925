"""A bucket and a cluster that exist, in accounts where only their owners may create some.

    starburst setup --bucket NAME ──► BucketArn       the stack neither creates, configures, empties nor deletes it
                    --cluster ARN ──► ClusterName     the same; only the stack's own ECS tasks are listed and stopped

Both are chosen when the stack is created: another bucket would take the sessions away from their users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.errors import ConfigError

__all__ = ["bucket_parameter", "cluster_parameter"]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CLUSTER = re.compile(
    r"(?:arn:aws[a-z-]*:ecs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):cluster/)?(?P<name>[\w-]{1,64})"
)
_PROVIDERS = ("FARGATE", "FARGATE_SPOT")


def bucket_parameter(clients: Clients, name: str, before: Mapping[str, str]) -> dict[str, str]:
    """Check a bucket that exists, and return the template's parameter for it.

    Args:
        before: The parameters of the stack; empty if there is no stack.
    Raises: ConfigError with what is unsuitable; LaunchError. S3: 1 HeadBucket.
    """
    if not _BUCKET.fullmatch(name) or name.endswith("--x-s3"):
        raise ConfigError(f"--bucket {name!r}: must be the name of a general purpose bucket, without s3://")
    arn = f"arn:{clients.partition}:s3:::{name}"
    _refuse_change("--bucket", arn, before, "BucketArn")
    try:
        region = str(clients.get("s3").head_bucket(Bucket=name).get("BucketRegion") or clients.region)
    except FOREIGN as error:
        code = error_code(error)
        if code in ("404", "NoSuchBucket"):
            raise ConfigError(f"--bucket {name!r}: there is no such bucket") from error
        if code in ("301", "PermanentRedirect"):
            region = "another one"
        else:
            raise meaning(error, f"reading the bucket {name}") from error
    if region != clients.region:
        raise ConfigError(
            f"--bucket {name!r}: must be in the stack's region, else each request takes longer and costs money: "
            f"bucket={region}, stack={clients.region}"
        )
    return {"BucketArn": arn}


def cluster_parameter(clients: Clients, given: str, before: Mapping[str, str], *, ec2: bool) -> dict[str, str]:
    """Check an ECS cluster that exists, given by its ARN or its name, and return the template's parameter for it.

    Args:
        before: The parameters of the stack; empty if there is no stack.
        ec2: Whether the stack has capacity providers of EC2 instances.
    Raises: ConfigError with what is unsuitable; LaunchError. ECS: 1 DescribeClusters.
    """
    match = _CLUSTER.fullmatch(given)
    if match is None:
        raise ConfigError(
            f"--cluster {given!r}: must be a cluster's ARN, arn:aws:ecs:eu-west-1:123456789012:cluster/ours; the policy for users "
            "has no room for a name of more than 64 letters"
        )
    name = match["name"]
    _refuse_change("--cluster", name, before, "ClusterName")
    if match["region"] and match["region"] != clients.region:
        raise ConfigError(f"--cluster {given!r}: must be in the stack's region: stack={clients.region}")
    if match["account"] and match["account"] != clients.account_id():
        raise ConfigError(f"--cluster {given!r}: must be in the account of these credentials: {clients.account_id()}")
    if ec2:
        raise ConfigError(
            "--cluster: cannot be combined with EC2, whose capacity providers would have to be added to the cluster: leave out "
            "--ec2 and --instance-type; Batch on EC2 has clusters of its own"
        )
    try:
        clusters = clients.get("ecs").describe_clusters(clusters=[name])["clusters"]
    except FOREIGN as error:
        raise meaning(error, f"reading the cluster {name}") from error
    if not clusters or clusters[0]["status"] != "ACTIVE":
        raise ConfigError(f"--cluster {given!r}: there is no such cluster in {clients.region}")
    present = list(clusters[0].get("capacityProviders", []))
    missing = [provider for provider in _PROVIDERS if provider not in present]
    if missing:
        raise ConfigError(
            f"--cluster {given!r}: lacks the capacity providers {', '.join(missing)}: let its owner add them with `aws ecs "
            f"put-cluster-capacity-providers --cluster {name} --capacity-providers {' '.join([*present, *missing])} "
            "--default-capacity-provider-strategy ...`, with the present strategy"
        )
    return {"ClusterName": name}


def _refuse_change(option: str, wanted: str, before: Mapping[str, str], parameter: str) -> None:
    if before and before.get(parameter, "") != wanted:
        now = before.get(parameter) or "one that the stack created"
        raise ConfigError(
            f"{option} {wanted}: is chosen when a stack is created, and this stack uses {now}: tear it down first, or set "
            "up another one (--stack NAME)"
        )
