"""Checks whether private subnets have a route to the services that workers need, and what a missing one would cost.

    default route to a NAT gateway, a transit gateway, a firewall, …   reaches all AWS services
    no default route                                                   needs an endpoint for each service
    default route to an internet gateway                               no route: requires a public address

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/vpc-endpoints.html,
https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Way", "needed_services", "route_table_of", "way_out"]

# Per zone of an interface endpoint, and for a NAT gateway; a gateway endpoint for S3 is free.
# Source: https://aws.amazon.com/privatelink/pricing/, https://aws.amazon.com/vpc/pricing/, us-east-1
ENDPOINT_USD_PER_HOUR, NAT_USD_PER_HOUR, NAT_USD_PER_GB = 0.01, 0.045, 0.045
# For images, logs and the keys of sessions; S3 has a gateway endpoint, which setup creates.
_ALWAYS = ("ecr.api", "ecr.dkr", "logs", "ssm")
_OF_INSTANCES = ("ecs", "ecs-agent", "ecs-telemetry")


@dataclass(frozen=True, slots=True)
class Way:
    """The route from subnets to the services that workers need.

    Attributes:
        words: A description; empty if there is no route.
        missing: Names of the missing endpoint services.
        problem: The problem and what to do about it; empty if there is none.
    """

    words: str
    missing: tuple[str, ...] = ()
    problem: str = ""


def needed_services(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return the services that workers of a stack with these parameters use, by their names in endpoints."""
    needed = [*_ALWAYS]
    needed += _OF_INSTANCES if "yes" in (parameters.get("Ec2"), parameters.get("Batch")) else ()
    needed += ["ssmmessages"] if parameters.get("Shell") == "yes" else []
    needed += ["sns"] if parameters.get("NotifyEmail") else []
    needed += ["secretsmanager"] if ":secretsmanager:" in parameters.get("Secrets", "") else []
    return tuple(needed)


def way_out(
    tables: Mapping[str, dict[str, Any] | None],
    endpoints: list[dict[str, Any]],
    needed: tuple[str, ...],
    *,
    region: str,
    n_zones: int,
) -> Way:
    """Determine how workers in private subnets reach the services that they need.

    Args:
        tables: The route table of each subnet.
        endpoints: The endpoints of the VPC.
        needed: The result of `needed_services`.
    """
    without = []
    for subnet_id, table in tables.items():
        target = _default_target(table)
        if target.startswith("igw-"):
            return Way(
                "",
                problem=f"a public subnet cannot be used without public addresses: leave out --private, or use another: "
                f"subnet={subnet_id}",
            )
        if not target:
            without.append(subnet_id)
    if not without:
        return Way(
            "no public addresses; the route to AWS is " + ", ".join(sorted({*map(_default_target, tables.values())}))
        )
    available = {
        str(endpoint["ServiceName"])
        for endpoint in endpoints
        # Workers resolve a service by its public name.
        if endpoint.get("PrivateDnsEnabled") and str(endpoint.get("State", "")).lower() in ("available", "pending")
    }
    missing = tuple(
        name for name in (f"com.amazonaws.{region}.{service}" for service in needed) if name not in available
    )
    if not missing:
        return Way(f"no public addresses; endpoints for {', '.join(needed)}")
    usd = len(missing) * n_zones * ENDPOINT_USD_PER_HOUR
    return Way(
        "",
        missing,
        f"no default route from {', '.join(without)}, and no endpoint for services that workers need: add an interface endpoint with "
        f"private DNS for each of {', '.join(missing)} (${ENDPOINT_USD_PER_HOUR:.2f} per hour and zone each, ${usd:.2f} in total, "
        f"and $0.01 per GB), or a NAT gateway in a public subnet and a default route to it (${NAT_USD_PER_HOUR:.3f} per hour and "
        f"${NAT_USD_PER_GB:.3f} per GB), which tasks that use the internet need in any case",
    )


def route_table_of(subnet_id: str, tables: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the route table of a subnet: its own, or the VPC's main table."""
    main = None
    for table in tables:
        for association in table.get("Associations", []):
            if association.get("SubnetId") == subnet_id:
                return table
            if association.get("Main"):
                main = table
    return main


def _default_target(table: dict[str, Any] | None) -> str:
    """Return the target of a route table's default route; empty if it has none."""
    for route in (table or {}).get("Routes", []):
        if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("State", "active") != "blackhole":
            names = (
                "NatGatewayId",
                "TransitGatewayId",
                "NetworkInterfaceId",
                "InstanceId",
                "VpcPeeringConnectionId",
                "GatewayId",
            )
            return next((str(route[name]) for name in names if route.get(name)), "a route")
    return ""
