"""The network of a stack: zones for a VPC of its own, and the checks of a VPC that exists.

A VPC that exists is checked before anything is created, since an unsuitable one shows only when the first worker starts.
"""

from __future__ import annotations

from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, meaning
from starburst_executor.aws.stack.private import route_table_of, way_out
from starburst_executor.errors import ConfigError

__all__ = ["existing_network", "own_zones", "refuse_without_addresses", "tables_without_endpoint"]

_MANY_ZONES, _FEW_ZONES = 3, 2
# Zones where Fargate has no machines, by their IDs, which are the same in every account.
# Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/AWS_Fargate-Regions.html
_WITHOUT_FARGATE = ("usw1-az2", "apne1-az3")


def own_zones(clients: Clients, preferred_id: str = "") -> list[str]:
    """Return the names of two or three zones for a VPC of the stack's own.

    The template by itself would choose only among zones in which the account has a default subnet.

    Args:
        preferred_id: The ID of a zone that must be among them; empty for none.
    Raises: ConfigError, LaunchError. EC2: 1 DescribeAvailabilityZones.
    Source: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference-getavailabilityzones.html
    """
    wanted = [
        {"Name": "zone-type", "Values": ["availability-zone"]},
        {"Name": "state", "Values": ["available"]},
    ]
    try:
        records = clients.get("ec2").describe_availability_zones(Filters=wanted)["AvailabilityZones"]
    except FOREIGN as error:
        raise meaning(error, "listing the availability zones") from error
    usable = [record for record in records if record.get("ZoneId") not in _WITHOUT_FARGATE]
    usable.sort(key=lambda record: (record.get("ZoneId") != preferred_id, str(record["ZoneName"])))
    names = [str(record["ZoneName"]) for record in usable[:_MANY_ZONES]]
    if len(names) < _FEW_ZONES:
        raise ConfigError(f"{clients.region} has fewer than two zones that can be used: zones={', '.join(names)}")
    return sorted(names)


def refuse_without_addresses(clients: Clients, subnets: list[str]) -> None:
    """Refuse subnets whose instances would have no public address: unlike Fargate, EC2 leaves that to the subnet.

    Raises: ConfigError, LaunchError. EC2: 1 DescribeSubnets.
    Source: https://docs.aws.amazon.com/batch/latest/userguide/job_stuck_in_runnable.html
    """
    try:
        records = clients.get("ec2").describe_subnets(SubnetIds=subnets)["Subnets"]
    except FOREIGN as error:
        raise meaning(error, f"reading the subnets {', '.join(subnets)}") from error
    without = [str(record["SubnetId"]) for record in records if not record.get("MapPublicIpOnLaunch")]
    if without:
        raise ConfigError(
            "instances there would have no public address, and so no route to ECS and S3: use subnets that assign one, or "
            f"let these assign one (`aws ec2 modify-subnet-attribute --map-public-ip-on-launch --subnet-id {without[0]}`), or "
            f"leave out EC2 and Batch: subnets={', '.join(without)}"
        )


def existing_network(
    clients: Clients, vpc: str, subnets: tuple[str, ...], *, is_private: bool, needed: tuple[str, ...]
) -> dict[str, str]:
    """Check a VPC that exists and its subnets, and return the template's parameters for them.

    Args:
        needed: The services that private subnets must reach, as `private.needed_services` returns them.
    Raises: ConfigError with the unsuitable part; LaunchError. EC2: 3.
    """
    if not vpc or len(subnets) < _FEW_ZONES:
        raise ConfigError("a VPC that exists needs --vpc and at least two --subnet, in different zones")
    try:
        records = clients.get("ec2").describe_subnets(SubnetIds=list(subnets))["Subnets"]
    except FOREIGN as error:
        raise meaning(error, f"reading the subnets of the VPC {vpc}") from error
    for record in records:
        if record["VpcId"] != vpc:
            raise ConfigError(f"not a subnet of that VPC: subnet={record['SubnetId']}, vpc={vpc}")
    zones = {record["AvailabilityZone"] for record in records}
    if len(zones) < _FEW_ZONES:
        raise ConfigError(f"all subnets are in one zone, where capacity may run out: add another: vpc={vpc}")
    tables, endpoints = _routes(clients, vpc)
    used = {record["SubnetId"]: route_table_of(record["SubnetId"], tables) for record in records}
    if is_private:
        way = way_out(used, endpoints, needed, region=clients.region, n_zones=len(zones))
        if way.problem:
            raise ConfigError(way.problem)
    else:
        _refuse_private(used)
    return {
        "VpcId": vpc,
        "SubnetIds": ",".join(subnets),
        "RouteTableIds": ",".join(_without_endpoint(used, endpoints, f"com.amazonaws.{clients.region}.s3")),
        "Private": "yes" if is_private else "no",
    }


def tables_without_endpoint(clients: Clients, vpc: str, subnets: list[str], service: str) -> list[str]:
    """Return the ids of the subnets' route tables that have no gateway endpoint for a service, such as `s3express`.

    Raises: ConfigError, LaunchError. EC2: 2.
    """
    tables, endpoints = _routes(clients, vpc)
    used = {subnet: route_table_of(subnet, tables) for subnet in subnets}
    return _without_endpoint(used, endpoints, f"com.amazonaws.{clients.region}.{service}")


def _routes(clients: Clients, vpc: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the route tables and the endpoints of a VPC."""
    ec2, of_vpc = clients.get("ec2"), [{"Name": "vpc-id", "Values": [vpc]}]
    try:
        tables = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        return tables, ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    except FOREIGN as error:
        raise meaning(error, f"reading the routes of the VPC {vpc}") from error


def _refuse_private(used: dict[str, dict[str, Any] | None]) -> None:
    for subnet_id, table in used.items():
        routes = [] if table is None else table.get("Routes", [])
        if not any(str(route.get("GatewayId", "")).startswith("igw-") for route in routes):
            raise ConfigError(
                f"not a public subnet, workers there would reach neither S3 nor ECR: add a route to an internet gateway to "
                f"its route table, or use another subnet: subnet={subnet_id}"
            )


def _without_endpoint(
    used: dict[str, dict[str, Any] | None], endpoints: list[dict[str, Any]], service: str
) -> list[str]:
    with_endpoint = {
        table_id
        for endpoint in endpoints
        if endpoint["ServiceName"] == service and not endpoint["State"].lower().startswith("delet")
        for table_id in endpoint.get("RouteTableIds", [])
    }
    return sorted({table["RouteTableId"] for table in used.values() if table is not None} - with_endpoint)
