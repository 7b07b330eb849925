"""From the user's choices to the template's parameters.

Guarantee: a choice that is not made again sets no parameter, so that the stack keeps its value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from starburst_executor.aws.clients import Clients
from starburst_executor.aws.machines import batch_parameters, ec2_parameters
from starburst_executor.aws.stack.existing import bucket_parameter, cluster_parameter
from starburst_executor.aws.stack.express import express_zone
from starburst_executor.aws.stack.network import (
    existing_network,
    own_zones,
    refuse_without_addresses,
    tables_without_endpoint,
)
from starburst_executor.aws.stack.outputs import find_stack, parameters_of
from starburst_executor.aws.stack.private import needed_services
from starburst_executor.aws.stack.rights import NONE, rights_parameters
from starburst_executor.aws.stack.rules import refuse_lost_rights, rules_parameters
from starburst_executor.errors import ConfigError

__all__ = ["Wishes", "parameters_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The user's choices for the stack. None or empty: unchanged, or the template's default if there is no stack yet.

    Attributes:
        ec2: Whether there are capacity providers of EC2 instances.
        instance_types: Their instance types, one to four of one architecture; implies `ec2`.
        most_instances: The highest number of instances of each of the two capacity providers.
        disk_gb: The disk of each instance, also of Batch.
        batch: Whether there are queues of AWS Batch.
        batch_instance_types: The types or families, of one architecture, from which Batch chooses on EC2; implies `batch`.
        batch_most_vcpus: The highest number of vCPUs at once, in each of Batch's compute environments.
        fair_share: Whether Batch's queues share their capacity fairly between users; implies `batch`. Fixed once they exist.
        codebuild: Whether there is a project that builds images.
        shell: Whether users may open shells in workers.
        vpc: A VPC that exists, instead of one of the stack's own. This and the next two are fixed once the stack exists.
        private: Whether its subnets are private, so that workers have no public address and use NAT or endpoints.
        subnets: Subnets of that VPC in two zones or more: public unless `private`, and giving instances public addresses if
            there is EC2 or Batch.
        bucket: A bucket that exists, by its name, instead of one of the stack's own. Fixed once the stack exists.
        cluster: An ECS cluster that exists, by its ARN or name, likewise.
        express: A zone, by ID or name, for a second bucket in S3 Express One Zone; `none` to remove it.
        session_days: The number of days for which objects of sessions are kept.
        log_days: The number of days for which log lines are kept.
        reads: Locations in S3 that workers may read, as URLs. This and the next four replace all previous values; `none`
            alone removes them.
        writes: Locations that they may read, write and delete in.
        worker_policies: ARNs of policies that workers get in addition.
        pass_roles: ARNs of roles that users may give to workers instead of the stack's.
        secrets: Secrets that workers may be started with, and keys that encrypt them: ARNs, or names of parameters.
        permissions_boundary: The ARN of a policy that bounds every role of the stack. This and the next five: `none` for none.
        role_path: The path of roles and policies.
        role_prefix: The first letters of the names of roles and policies.
        worker_role: The ARN of a role that exists, for workers.
        execution_role: The ARN of a role that exists, for the start of workers.
        kms_key: The ARN of a KMS key that encrypts buckets, logs and the keys of sessions, and the repository if it is given when the
            stack is created.
        notify: An e-mail address to which workers send messages; `none` for none.
        tags: `KEY=VALUE` for all resources of the stack and of launchers; added to the present ones.
    """

    ec2: bool | None = None
    instance_types: tuple[str, ...] = ()
    most_instances: int | None = None
    disk_gb: int | None = None
    batch: bool | None = None
    batch_instance_types: tuple[str, ...] = ()
    batch_most_vcpus: int | None = None
    fair_share: bool | None = None
    codebuild: bool | None = None
    shell: bool | None = None
    vpc: str | None = None
    private: bool | None = None
    subnets: tuple[str, ...] = ()
    bucket: str | None = None
    cluster: str | None = None
    express: str | None = None
    session_days: int | None = None
    log_days: int | None = None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    worker_policies: tuple[str, ...] = ()
    pass_roles: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    permissions_boundary: str | None = None
    role_path: str | None = None
    role_prefix: str | None = None
    worker_role: str | None = None
    execution_role: str | None = None
    kms_key: str | None = None
    notify: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def wants_batch(self) -> bool:
        """Whether they ask for Batch, by any of its options."""
        return bool(self.batch or self.batch_instance_types or self.fair_share)

    @property
    def wants_ec2(self) -> bool:
        """Whether they ask for EC2, by any of its options."""
        return bool(self.ec2 or self.instance_types)


def parameters_for(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """Return the template's parameters that have to be set; the others keep their values or defaults.

    Raises: ConfigError with the choice that cannot be met; LaunchError.
    """
    record = find_stack(clients)
    outputs = {output["OutputKey"]: str(output["OutputValue"]) for output in (record or {}).get("Outputs", [])}
    # Without outputs the stack was never complete, and all is chosen anew.
    before = parameters_of(record) if outputs else {}
    settled = _plain(wishes) | _machines(clients, wishes)
    if wishes.notify is not None:
        settled["NotifyEmail"] = _address(wishes.notify)
    if wishes.fair_share is not None:
        settled |= _fair_share(wishes, before)
    settled |= _existing(clients, wishes, before, settled)
    settled |= _rules(wishes, before)
    settled |= _rights(clients, wishes, before)
    if wishes.express is not None:
        settled["Express"] = "" if wishes.express == NONE else express_zone(clients, wishes.express)
    settled |= _network(clients, wishes, before, settled)
    after = before | settled
    subnets = (settled.get("SubnetIds") or outputs.get("Subnets", "")).split(",")
    if after.get("VpcId"):
        if after.get("Private") != "yes" and "yes" in (settled.get("Ec2"), settled.get("Batch")):
            refuse_without_addresses(clients, subnets)
        # Only for a bucket that is new: later the stack's own endpoint would look like one that exists.
        if settled.get("Express") and not before.get("Express"):
            tables = tables_without_endpoint(clients, after["VpcId"], subnets, "s3express")
            settled["ExpressRouteTableIds"] = ",".join(tables)
    refuse_lost_rights(after)
    return settled


def _address(text: str) -> str:
    """Return an e-mail address as a parameter; empty for `none`. Raises: ConfigError."""
    if text == NONE:
        return ""
    if not re.fullmatch(r"[^@\s,]+@[^@\s,]+\.[^@\s,.]+", text):
        raise ConfigError(f"--notify {text!r}: write one e-mail address, such as me@example.org, or none")
    return text


def _plain(wishes: Wishes) -> dict[str, str]:
    """Return the parameters that need no check of the account."""
    flags = {"Ec2": wishes.ec2, "Batch": wishes.batch, "CodeBuild": wishes.codebuild, "Shell": wishes.shell}
    numbers = {
        "SessionDays": wishes.session_days,
        "LogDays": wishes.log_days,
        "Ec2MostInstances": wishes.most_instances,
        "Ec2DiskGb": wishes.disk_gb,
        "BatchMostVcpus": wishes.batch_most_vcpus,
    }
    settled = {name: "yes" if flag else "no" for name, flag in flags.items() if flag is not None}
    return settled | {name: str(number) for name, number in numbers.items() if number is not None}


def _machines(clients: Clients, wishes: Wishes) -> dict[str, str]:
    settled: dict[str, str] = {}
    if wishes.instance_types:
        if wishes.ec2 is False:
            raise ConfigError(
                f"instance_type={','.join(wishes.instance_types)!r}: means nothing without EC2; leave one out"
            )
        settled |= {"Ec2": "yes", **ec2_parameters(clients, wishes.instance_types)}
    if wishes.batch_instance_types:
        if wishes.batch is False:
            raise ConfigError(
                f"batch_instance_type={','.join(wishes.batch_instance_types)!r}: means nothing without Batch; leave one out"
            )
        settled |= {"Batch": "yes", **batch_parameters(clients, wishes.batch_instance_types)}
    return settled


def _fair_share(wishes: Wishes, before: Mapping[str, str]) -> dict[str, str]:
    """Return whether Batch's queues have a fair-share policy. Raises: ConfigError if they exist and it would change.

    Source: https://docs.aws.amazon.com/batch/latest/APIReference/API_CreateJobQueue.html, schedulingPolicyArn
    """
    if wishes.fair_share and wishes.batch is False:
        raise ConfigError("--fair-share: means nothing without Batch; leave one out")
    wanted = "yes" if wishes.fair_share else "no"
    has_queues = before.get("Batch") == "yes" and wishes.batch is not False
    if has_queues and before.get("BatchFairShare", "no") != wanted:
        flag = "--fair-share" if wishes.fair_share else "--no-fair-share"
        raise ConfigError(
            f"{flag}: Batch decides this for a queue when the queue is made: run `starburst setup --no-batch`, then `starburst "
            f"setup --batch {flag}`; nothing was changed"
        )
    return {"BatchFairShare": wanted, **({"Batch": "yes"} if wishes.fair_share else {})}


def _existing(
    clients: Clients, wishes: Wishes, before: Mapping[str, str], settled: Mapping[str, str]
) -> dict[str, str]:
    """Return the parameters of a bucket and a cluster that exist."""
    ec2 = {**before, **settled}.get("Ec2") == "yes"
    chosen: dict[str, str] = {}
    if wishes.bucket is not None:
        chosen |= bucket_parameter(clients, wishes.bucket, before)
    if wishes.cluster is not None:
        chosen |= cluster_parameter(clients, wishes.cluster, before, ec2=ec2)
    elif ec2 and before.get("ClusterName"):
        raise ConfigError(
            f"--ec2: the stack uses the cluster {before['ClusterName']}, which it did not create, and would have to add capacity "
            "providers to it: use Batch on EC2 (--batch), or another stack (--stack NAME)"
        )
    return chosen


def _rules(wishes: Wishes, before: Mapping[str, str]) -> dict[str, str]:
    rules = rules_parameters(
        {
            "PermissionsBoundary": wishes.permissions_boundary,
            "RolePath": wishes.role_path,
            "RolePrefix": wishes.role_prefix,
            "WorkerRoleArn": wishes.worker_role,
            "ExecutionRoleArn": wishes.execution_role,
            "KmsKeyArn": wishes.kms_key,
        }
    )
    # ECR decides on a repository's key when it creates the repository.
    images = {"ImagesKmsKeyArn": rules["KmsKeyArn"]} if "KmsKeyArn" in rules and not before else {}
    return rules | images


def _rights(clients: Clients, wishes: Wishes, before: Mapping[str, str]) -> dict[str, str]:
    return rights_parameters(
        reads=wishes.reads,
        writes=wishes.writes,
        policies=wishes.worker_policies,
        secrets=wishes.secrets,
        pass_roles=wishes.pass_roles,
        now=before,
        partition=clients.partition,
        region=clients.region,
        # Needed only where a name has to become an ARN.
        account_id=clients.account_id() if any(not secret.startswith("arn:") for secret in wishes.secrets) else "",
    )


def _network(clients: Clients, wishes: Wishes, before: Mapping[str, str], settled: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the network, which are set only once."""
    if wishes.vpc or wishes.subnets or wishes.private:
        if before:
            raise ConfigError(
                "a stack's network is chosen when it is made: tear it down first, or set up another one (--stack NAME)"
            )
        if not wishes.vpc and not wishes.subnets:
            raise ConfigError(
                "--private: name the VPC and its subnets (--vpc, --subnet); one of the stack's own is public"
            )
        needed = needed_services({**settled, "Secrets": ",".join(wishes.secrets)})
        return existing_network(
            clients, wishes.vpc or "", wishes.subnets, is_private=bool(wishes.private), needed=needed
        )
    if before:
        return {}
    zones = own_zones(clients, settled.get("Express", ""))
    return {"Zones": str(len(zones)), "ZoneNames": ",".join(zones)}
