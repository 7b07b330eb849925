"""The way out of private subnets: found, missing with names and costs, or none for want of a public address."""

from __future__ import annotations

from typing import Any

import pytest

from starburst_executor.aws.stack.private import needed_services, way_out
from tests.support.aws_rig import REGION, account, run
from tests.unit.aws.test_setup import read, stacks

__all__ = ["account"]

LOCAL = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"}
NAT = {"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-1", "State": "active"}
IGW = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "State": "active"}
ALWAYS = ("ecr.api", "ecr.dkr", "logs", "ssm")


def table(*routes: dict[str, str]) -> dict[str, Any]:
    return {"Routes": [LOCAL, *routes]}


def endpoint(service: str, **more: Any) -> dict[str, Any]:
    return {"ServiceName": f"com.amazonaws.{REGION}.{service}", "PrivateDnsEnabled": True, "State": "available", **more}


def way(*tables: Any, endpoints: Any = (), needed: tuple[str, ...] = ALWAYS) -> Any:
    used = {f"subnet-{i}": one for i, one in enumerate(tables)}
    return way_out(used, list(endpoints), needed, region=REGION, n_zones=len(tables))


def test_a_default_route_is_a_way_out() -> None:
    assert way(table(NAT), table(NAT)).words == "no public addresses; the route to AWS is nat-1"
    transit = {"DestinationCidrBlock": "0.0.0.0/0", "TransitGatewayId": "tgw-1", "State": "active"}
    assert not way(table(NAT), table(transit)).problem


def test_an_internet_gateway_is_none() -> None:
    assert "a public subnet cannot be used without public addresses" in way(table(NAT), table(IGW)).problem


@pytest.mark.parametrize("table_", [table(), None, table({**NAT, "State": "blackhole"})])
def test_without_a_route_each_missing_endpoint_is_named_with_its_cost(table_: Any) -> None:
    found = way(table(NAT), table_, endpoints=[endpoint("logs"), endpoint("ssm", PrivateDnsEnabled=False)])
    assert found.missing == tuple(f"com.amazonaws.{REGION}.{name}" for name in ("ecr.api", "ecr.dkr", "ssm"))
    assert "no default route from subnet-1" in found.problem
    assert all(name in found.problem for name in found.missing)
    assert "$0.01 per hour and zone each, $0.06 in total" in found.problem
    assert "$0.045 per hour" in found.problem


def test_endpoints_alone_are_enough() -> None:
    found = way(table(), table(), endpoints=[endpoint(name) for name in ALWAYS])
    assert (found.problem, found.missing) == ("", ())
    assert "endpoints for ecr.api, ecr.dkr, logs, ssm" in found.words


def test_what_is_needed_depends_on_what_runs() -> None:
    assert needed_services({}) == ALWAYS
    assert needed_services({"Batch": "yes"}) == (*ALWAYS, "ecs", "ecs-agent", "ecs-telemetry")
    assert needed_services({"Secrets": "arn:aws:secretsmanager:eu-west-1:1:secret:x"})[-1] == "secretsmanager"


def test_setup_looks_before_it_makes_anything_and_doctor_looks_again(account: Any) -> None:
    ec2 = account.get("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for i, zone in enumerate("ab")
    ]
    words = ["setup", "--vpc", vpc, "--subnet", subnets[0], "--subnet", subnets[1], "--private"]
    assert "name the VPC and its subnets" in run("setup", "--private").stderr
    said = run(*words).stderr
    assert f"com.amazonaws.{REGION}.ecr.api" in said
    assert stacks(account) == {}
    names = {name: f"com.amazonaws.{REGION}.{name}" for name in ALWAYS}
    made = {
        name: ec2.create_vpc_endpoint(
            VpcId=vpc, ServiceName=service, VpcEndpointType="Interface", SubnetIds=subnets, PrivateDnsEnabled=True
        )["VpcEndpoint"]["VpcEndpointId"]
        for name, service in names.items()
    }
    assert "ecs-telemetry" in run(*words, "--ec2").stderr
    assert run(*words).exit_code == 0
    assert read().public_addresses == "DISABLED"
    network = next(line for line in run("doctor").stdout.splitlines() if " network " in line)
    assert "no public addresses; endpoints for ecr.api" in network
    ec2.delete_vpc_endpoints(VpcEndpointIds=[made["logs"]])
    assert f"no route to com.amazonaws.{REGION}.logs" in run("doctor").stdout
