"""`starburst setup --express`: a second bucket, in S3 Express One Zone, is added, used, given up, and kept while in use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor import config
from starburst_executor.aws import checks
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack import setup
from starburst_executor.aws.stack.changes import Change
from starburst_executor.aws.stack.express import express_zone
from starburst_executor.aws.stack.network import own_zones
from starburst_executor.aws.stack.outputs import Stack, read_stack
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.testing import FakeClock
from tests.support.aws_rig import REGION, Account, account, run
from tests.unit.aws.test_setup import public_vpc

__all__ = ["account"]

ZONE = "euw1-az1"


def read() -> Stack:
    return read_stack(Clients(config.resolve_aws(region=REGION)))


def keys_of(account: Account, bucket: str | None) -> list[str]:
    return [each["Key"] for each in account.get("s3").list_objects_v2(Bucket=bucket).get("Contents", [])]


def test_the_bucket_is_added_in_place(account: Account) -> None:
    before = account.deploy()
    account.get("s3").put_object(Bucket=before.bucket, Key="sessions/a-session/bell", Body=b"x")
    made = run("setup", "--express", ZONE)
    assert made.exit_code == 0, made.stderr
    stack = read()
    assert f"s3://{stack.express_bucket}?region={REGION}, in S3 Express One Zone: name it with store=" in made.stdout
    assert (stack.bucket, stack.store_url()) == (before.bucket, before.store_url())
    assert keys_of(account, stack.bucket) == ["sessions/a-session/bell"]
    services = [each["ServiceName"] for each in account.get("ec2").describe_vpc_endpoints()["VpcEndpoints"]]
    assert f"com.amazonaws.{REGION}.s3express" in services
    patient = checks.Patient(account.clients, FakeClock(), stack)
    said = checks.CHECKS["S3 Express"](patient)
    assert "conditional writes honoured; no policy refuses writes without a condition" in said
    assert "nothing to change" in run("setup").stderr


def test_the_bucket_is_given_up_when_no_session_is_in_it(account: Account) -> None:
    stack, s3 = account.deploy(Express=ZONE), account.get("s3")
    s3.put_object(Bucket=stack.bucket, Key="sessions/a-session/bell", Body=b"x")
    s3.put_object(Bucket=stack.express_bucket, Key="sessions/20260101-000000-0a1b2c3d/manifest", Body=b"x")
    s3.put_object(Bucket=stack.express_bucket, Key="code/2026-01/5f", Body=b"x")
    refused = run("setup", "--express", "none")
    assert refused.exit_code != 0
    assert f"1 sessions are in the bucket {stack.express_bucket}" in refused.stderr
    assert "starburst cleanup --force --store" in refused.stderr
    assert read() == stack
    assert len(keys_of(account, stack.express_bucket)) == 2

    s3.delete_object(Bucket=stack.express_bucket, Key="sessions/20260101-000000-0a1b2c3d/manifest")
    removed = run("setup", "--express", "none")
    assert removed.exit_code == 0, removed.stderr
    assert f"deleted 1 objects without a session from {stack.express_bucket}" in removed.stderr
    # Nothing that is set up by choice is left, so users need one policy again.
    assert read() == replace(stack, express_bucket=None, client_options_policy_arn="")
    assert [each["Name"] for each in s3.list_buckets()["Buckets"]] == [stack.bucket]
    assert keys_of(account, stack.bucket) == ["sessions/a-session/bell"]


def test_another_zone_is_another_bucket_and_waits_for_sessions(account: Account) -> None:
    stack = account.deploy(Express=ZONE)
    account.get("s3").put_object(Bucket=stack.express_bucket, Key="sessions/20260101-000000-0a1b2c3d/bell", Body=b"x")
    moved = [Change("Modify", "ExpressBucket", "AWS::S3Express::DirectoryBucket", replaced=True)]
    with pytest.raises(LaunchError, match="1 sessions are in the bucket starburst-expressbucket"):
        setup._give_up_express_bucket(account.clients, moved, print)
    kept = [Change("Modify", "ExpressBucket", "AWS::S3Express::DirectoryBucket", replaced=False)]
    setup._give_up_express_bucket(account.clients, kept, print)
    assert keys_of(account, stack.express_bucket)


class Zones:
    """EC2 with these zones, by ID and name."""

    settings = config.AwsSettings(region=REGION)

    def __init__(self, region: str, **zones: str) -> None:
        self.region = region
        self.zones = {zone_id.replace("_", "-"): name for zone_id, name in zones.items()}

    def get(self, _: str) -> Any:
        return self

    def describe_availability_zones(self, **_: Any) -> Any:
        records = [{"ZoneId": zone_id, "ZoneName": name} for zone_id, name in self.zones.items()]
        return {"AvailabilityZones": records}


IRELAND: Any = Zones("eu-west-1", euw1_az1="eu-west-1c", euw1_az2="eu-west-1a", euw1_az3="eu-west-1b")


def test_a_zone_is_given_by_its_id_or_by_its_name_in_the_account() -> None:
    assert express_zone(IRELAND, "euw1-az3") == "euw1-az3"
    assert express_zone(IRELAND, "eu-west-1b") == "euw1-az3"


@pytest.mark.parametrize("given", ["euw1-az2", "eu-west-1a", "use1-az4", "mars"])
def test_a_zone_without_it_is_refused_with_those_that_have_it(given: str) -> None:
    with pytest.raises(ConfigError, match=r"are euw1-az1 \(eu-west-1c\), euw1-az3 \(eu-west-1b\); or none"):
        express_zone(IRELAND, given)


def test_a_region_without_it_is_refused_with_those_that_have_it() -> None:
    paris: Any = Zones("eu-west-3", euw3_az1="eu-west-3a")
    with pytest.raises(
        ConfigError, match=r"eu-west-3 has no S3 Express One Zone; these regions have it: us-east-1, .*eu-north-1"
    ):
        express_zone(paris, "euw3-az1")


def test_the_network_of_a_new_stack_has_a_subnet_in_its_zone() -> None:
    many: Any = Zones("us-east-1", **{f"use1_az{n}": f"us-east-1{letter}" for n, letter in enumerate("abcdef", 1)})
    assert own_zones(many) == ["us-east-1a", "us-east-1b", "us-east-1c"]
    assert own_zones(many, "use1-az6") == ["us-east-1a", "us-east-1b", "us-east-1f"]


def test_a_vpc_that_exists_gets_one_endpoint_for_all_its_stacks(account: Account) -> None:
    vpc, subnets = public_vpc(account)
    named = ["--vpc", vpc, "--subnet", subnets[0], "--subnet", subnets[1]]

    def n_endpoints() -> int:
        found = account.get("ec2").describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["VpcEndpoints"]
        return sum(each["ServiceName"].endswith(".s3express") for each in found)

    assert run("setup", *named, "--express", ZONE).exit_code == 0
    assert n_endpoints() == 1
    # The endpoint that is there now is the stack's own, and stays with another choice.
    assert run("setup", "--express", ZONE, "--log-days", "7").exit_code == 0
    assert n_endpoints() == 1
    assert run("setup", "--name", "second", *named, "--express", ZONE).exit_code == 0
    assert n_endpoints() == 1


def test_that_no_subnet_is_in_its_zone_is_said(account: Account) -> None:
    said: list[str] = []
    setup._say_where(account.clients, account.deploy(), "ours--euw1-az9--x-s3", said.append)
    assert "no subnet of the stack is in euw1-az9" in said[0]
