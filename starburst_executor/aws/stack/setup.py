"""`starburst setup`: from what somebody wants of an account to the parameters of the template, and their deployment.

Guarantee: running it again, after an interruption, a failure or an upgrade, changes what differs and nothing else;
choices that are not made again stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from starburst_executor import config
from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.aws.stack.changes import Change, Changes
from starburst_executor.aws.stack.outputs import Stack, find_stack, read_stack
from starburst_executor.clock import Clock
from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError
from starburst_executor.version import __version__

__all__ = ["Wishes", "propose", "set_up", "template"]

# Services that act in an account by a role of their own, which is made at first use. CloudFormation is often too fast for
# that, so they are made before. https://docs.aws.amazon.com/IAM/latest/UserGuide/using-service-linked-roles.html
_LINKED = {
    "ecs.amazonaws.com": "always",
    "autoscaling.amazonaws.com": "ec2",
    "spot.amazonaws.com": "ec2",
    "batch.amazonaws.com": "batch",
}
_MANY_ZONES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What somebody wants of the stack. None: as it is, or the template's default where there is none yet.

    Attributes:
        ec2: Capacity providers of EC2 instances.
        instance_type: What they start; implies `ec2`.
        batch: Queues of AWS Batch.
        codebuild: A project that builds images.
        vpc: A VPC that exists, in place of one of the stack's own; only when the stack is made.
        subnets: Public subnets of that VPC, in two zones or more.
        session_days: How long objects of sessions are kept.
        log_days: How long log lines are kept.
    """

    ec2: bool | None = None
    instance_type: str | None = None
    batch: bool | None = None
    codebuild: bool | None = None
    vpc: str | None = None
    subnets: tuple[str, ...] = ()
    session_days: int | None = None
    log_days: int | None = None


def template() -> str:
    """The template's text, as it is in the package."""
    return resources.files("starburst_executor.aws.stack").joinpath("template.yaml").read_text(encoding="utf-8")


def propose(clients: Clients, clock: Clock, wishes: Wishes, say: Callable[[str], None]) -> list[Change] | None:
    """The resources that setting up would change, None if nothing differs; nothing is changed. Raises: LaunchError, ConfigError."""
    changes = Changes(clients, clock, say)
    try:
        return changes.propose(template(), _parameters(clients, wishes), _tags(clients.settings))
    finally:
        changes.discard()


def set_up(clients: Clients, clock: Clock, wishes: Wishes, say: Callable[[str], None]) -> Stack:
    """Make the stack, or change it to what is wished, and write its name into the config file.

    Args:
        say: Is told each line of progress.

    Raises: LaunchError with the first cause and what to do; ConfigError.
    """
    settings = clients.settings
    parameters = _parameters(clients, wishes)
    _link_services(clients, wishes, say)
    changes = Changes(clients, clock, say)
    proposed = changes.propose(template(), parameters, _tags(settings))
    if proposed is None:
        changes.discard()
        say("nothing to change")
    else:
        say(f"{len(proposed)} resources to add or change in {clients.region}")
        changes.apply()
    stack = read_stack(clients)
    # Crash here: the stack is whole and the config file does not name it; running the same again writes it.
    path = config.remember_aws(AwsSettings(stack=settings.stack, region=clients.region, profile=settings.profile))
    say(f"wrote [aws] to {path}")
    return stack


def _tags(settings: AwsSettings) -> dict[str, str]:
    # CloudFormation puts them on all that can have any, also on what the template does not tag.
    return {"starburst:stack": settings.stack, "starburst:version": __version__}


# ------------------------------------------------------------------------------------------------- wishes to parameters


def _parameters(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """The template's parameters that have to be set; others keep their values or defaults."""
    found = find_stack(clients)
    exists = found is not None and found.get("Outputs")
    settled: dict[str, str] = {}
    for name, wish in (("Ec2", wishes.ec2), ("Batch", wishes.batch), ("CodeBuild", wishes.codebuild)):
        if wish is not None:
            settled[name] = "yes" if wish else "no"
    for name, days in (("SessionDays", wishes.session_days), ("LogDays", wishes.log_days)):
        if days is not None:
            settled[name] = str(days)
    if wishes.instance_type is not None:
        if wishes.ec2 is False:
            raise ConfigError(f"instance_type={wishes.instance_type!r}: means nothing without EC2; leave one out")
        settled |= {"Ec2": "yes", **_instance(clients, wishes.instance_type)}
    if wishes.vpc or wishes.subnets:
        if exists:
            raise ConfigError(
                "a stack's network is chosen when it is made: tear it down first, or set up another one (--stack NAME)"
            )
        settled |= _network(clients, wishes)
    elif not exists:
        settled["Zones"] = "3" if _n_zones(clients) >= _MANY_ZONES else "2"
    return settled


def _instance(clients: Clients, instance_type: str) -> dict[str, str]:
    try:
        answer = clients.get("ec2").describe_instance_types(InstanceTypes=[instance_type])
    except FOREIGN as error:
        if error_code(error) in ("InvalidInstanceType", "InvalidParameterValue"):
            raise ConfigError(f"no such instance type in {clients.region}: instance_type={instance_type!r}") from error
        raise meaning(error, f"looking up the instance type {instance_type}") from error
    found = answer["InstanceTypes"][0]
    is_arm = "arm64" in found["ProcessorInfo"]["SupportedArchitectures"]
    has_gpu = any(one.get("Manufacturer") == "NVIDIA" for one in found.get("GpuInfo", {}).get("Gpus", []))
    if is_arm and has_gpu:
        raise ConfigError(f"GPUs beside ARM processors are not supported: instance_type={instance_type!r}")
    return {"Ec2InstanceType": instance_type, "Ec2Kind": "arm64" if is_arm else "gpu" if has_gpu else "x86-64"}


def _n_zones(clients: Clients) -> int:
    zones = [
        {"Name": "zone-type", "Values": ["availability-zone"]},
        {"Name": "state", "Values": ["available"]},
    ]
    try:
        return len(clients.get("ec2").describe_availability_zones(Filters=zones)["AvailabilityZones"])
    except FOREIGN as error:
        raise meaning(error, "listing the availability zones") from error


def _network(clients: Clients, wishes: Wishes) -> dict[str, str]:
    """A VPC that exists: its subnets are looked at before anything is made, since what is wrong shows only later."""
    if not wishes.vpc or len(wishes.subnets) < 2:  # noqa: PLR2004 - two zones
        raise ConfigError("a VPC that exists needs --vpc and at least two --subnet, in different zones")
    ec2 = clients.get("ec2")
    try:
        subnets = ec2.describe_subnets(SubnetIds=list(wishes.subnets))["Subnets"]
        of_vpc = [{"Name": "vpc-id", "Values": [wishes.vpc]}]
        tables = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        endpoints = ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    except FOREIGN as error:
        raise meaning(error, f"looking at the VPC {wishes.vpc}") from error
    for subnet in subnets:
        if subnet["VpcId"] != wishes.vpc:
            raise ConfigError(f"not a subnet of that VPC: subnet={subnet['SubnetId']}, vpc={wishes.vpc}")
    if len({subnet["AvailabilityZone"] for subnet in subnets}) < 2:  # noqa: PLR2004 - two zones
        raise ConfigError(f"all subnets are in one zone, where capacity may run out: add another: vpc={wishes.vpc}")
    used = {subnet["SubnetId"]: _table_of(subnet["SubnetId"], tables) for subnet in subnets}
    for subnet_id, table in used.items():
        routes = [] if table is None else table.get("Routes", [])
        if not any(str(route.get("GatewayId", "")).startswith("igw-") for route in routes):
            raise ConfigError(
                f"not a public subnet, workers there would reach neither S3 nor ECR: give its route table a route to an "
                f"internet gateway, or name another: subnet={subnet_id}"
            )
    s3 = f"com.amazonaws.{clients.region}.s3"
    with_endpoint = {
        table_id
        for one in endpoints
        if one["ServiceName"] == s3 and not one["State"].lower().startswith("delet")
        for table_id in one.get("RouteTableIds", [])
    }
    without = {table["RouteTableId"] for table in used.values() if table is not None} - with_endpoint
    return {"VpcId": wishes.vpc, "SubnetIds": ",".join(wishes.subnets), "RouteTableIds": ",".join(sorted(without))}


def _table_of(subnet_id: str, tables: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The route table of a subnet: its own, else the VPC's main one."""
    main = None
    for table in tables:
        for association in table.get("Associations", []):
            if association.get("SubnetId") == subnet_id:
                return table
            if association.get("Main"):
                main = table
    return main


# --------------------------------------------------------------------------------------------------------- service roles


def _link_services(clients: Clients, wishes: Wishes, say: Callable[[str], None]) -> None:
    """Make the roles that services need and an account has once. Without the right to do so it is left to the services."""
    needed = {"always"}
    needed |= {"ec2"} if wishes.ec2 or wishes.instance_type or wishes.batch else set()
    needed |= {"batch"} if wishes.batch else set()
    iam = clients.get("iam")
    for service in (service for service, when in _LINKED.items() if when in needed):
        try:
            if not iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]:
                iam.create_service_linked_role(AWSServiceName=service)
                say(f"made the account's role for {service}")
        except FOREIGN as error:
            # InvalidInput: somebody else just made it.
            if error_code(error) != "InvalidInput" and not is_denied(error):
                raise meaning(error, f"making the account's role for {service}") from error
