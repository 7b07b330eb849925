"""Networks without public addresses: is there a way from their subnets to what workers need, and what does it cost.

    default route to a NAT gateway, a transit gateway, a firewall, …   all of AWS is reached by it
    no default route                                                   an endpoint for each service that workers ask
    default route to an internet gateway                               no way out: that takes a public address

Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/vpc-endpoints.html,
https://docs.aws.amazon.com/AmazonECR/latest/userguide/vpc-endpoints.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Way", "needed_services", "route_table_of", "way_out"]

# Of each zone that an interface endpoint is in, and of a NAT gateway; a gateway endpoint for S3 is free.
# Source: https://aws.amazon.com/privatelink/pricing/, https://aws.amazon.com/vpc/pricing/, us-east-1
ENDPOINT_USD_PER_HOUR, NAT_USD_PER_HOUR, NAT_USD_PER_GB = 0.01, 0.045, 0.045
# Images, logs, the keys of sessions; S3 has an endpoint of another kind, which setup makes.
_ALWAYS = ("ecr.api", "ecr.dkr", "logs", "ssm")
_OF_INSTANCES = ("ecs", "ecs-agent", "ecs-telemetry")


@dataclass(frozen=True, slots=True)
class Way:
    """The way out of some subnets.

    Attributes:
        words: What it is; empty if there is none.
        missing: Names of endpoint services that are missing.
        problem: What is wrong and what to do; empty if nothing.
    """

    words: str
    missing: tuple[str, ...] = ()
    problem: str = ""


def needed_services(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Which services workers of a stack with these parameters ask, as endpoints name them."""
    needed = [*_ALWAYS]
    needed += _OF_INSTANCES if "yes" in (parameters.get("Ec2"), parameters.get("Batch")) else ()
    needed += ["ssmmessages"] if parameters.get("Shell") == "yes" else []
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
    """How workers in some private subnets reach what they need.

    Args:
        tables: The route table of each subnet.
        endpoints: Those of the VPC.
        needed: As `needed_services` has them.
    """
    without = []
    for subnet_id, table in tables.items():
        target = _default_target(table)
        if target.startswith("igw-"):
            return Way(
                "",
                problem=f"a public subnet, of no use without public addresses: leave out --private, or name another: "
                f"subnet={subnet_id}",
            )
        if not target:
            without.append(subnet_id)
    if not without:
        return Way(
            "no public addresses, and a way out by " + ", ".join(sorted({*map(_default_target, tables.values())}))
        )
    there = {
        str(one["ServiceName"])
        for one in endpoints
        # Workers ask for a service by its public name.
        if one.get("PrivateDnsEnabled") and str(one.get("State", "")).lower() in ("available", "pending")
    }
    missing = tuple(name for name in (f"com.amazonaws.{region}.{service}" for service in needed) if name not in there)
    if not missing:
        return Way(f"no public addresses, and endpoints for {', '.join(needed)}")
    usd = len(missing) * n_zones * ENDPOINT_USD_PER_HOUR
    return Way(
        "",
        missing,
        f"no way out of {', '.join(without)}, and no endpoint for what workers ask there: add an interface endpoint with "
        f"private DNS for each of {', '.join(missing)} (${ENDPOINT_USD_PER_HOUR:.2f} an hour each in each zone, ${usd:.2f} in all, "
        f"and $0.01 a GB), or a NAT gateway in a public subnet and a default route to it (${NAT_USD_PER_HOUR:.3f} an hour and "
        f"${NAT_USD_PER_GB:.3f} a GB), which tasks that ask the internet need in any case",
    )


def route_table_of(subnet_id: str, tables: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The route table of a subnet: its own, else the VPC's main one."""
    main = None
    for table in tables:
        for association in table.get("Associations", []):
            if association.get("SubnetId") == subnet_id:
                return table
            if association.get("Main"):
                main = table
    return main


def _default_target(table: dict[str, Any] | None) -> str:
    """Where a route table sends what is not for the VPC; empty if nowhere."""
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
