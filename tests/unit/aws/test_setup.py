"""`starburst setup` as users run it: what it makes, what a second run changes, what it says when it fails."""

from __future__ import annotations

import pytest

from starburst_executor import config
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack.outputs import read_stack
from tests.support.aws_rig import REGION, account, run

__all__ = ["account"]


def read(name: str = "starburst"):
    return read_stack(Clients(config.resolve_aws(stack=name, region=REGION)))


def stacks(account) -> dict[str, str]:
    found = account.get("cloudformation").describe_stacks()["Stacks"]
    return {one["StackName"]: one["StackStatus"] for one in found}


def test_a_dry_run_changes_nothing(account, starburst_home):
    result = run("setup", "--dry-run")
    assert result.exit_code == 0
    assert "add      Bucket                     AWS::S3::Bucket" in result.stdout
    assert "At rest it costs nothing but storage" in result.stderr
    assert stacks(account) == {}
    assert list(starburst_home.iterdir()) == []


def test_setup_makes_a_stack_and_names_it_in_the_config_file(account, starburst_home):
    file = starburst_home / "config.toml"
    file.write_text("# mine\nworkers = 3  # three\n")
    result = run("setup", "--region", REGION)
    assert result.exit_code == 0
    assert f"stack        starburst in {REGION}, account 123456789012" in result.stdout
    assert "create complete" in result.stderr
    assert stacks(account) == {"starburst": "CREATE_COMPLETE"}
    assert file.read_text() == f'# mine\nworkers = 3  # three\n\n[aws]\nstack = "starburst"\nregion = "{REGION}"\n'
    assert config.resolve_aws() == config.AwsSettings(stack="starburst", region=REGION)
    tags = account.get("cloudformation").describe_stacks(StackName="starburst")["Stacks"][0]["Tags"]
    assert {"Key": "starburst:stack", "Value": "starburst"} in tags


def test_a_second_setup_changes_nothing_and_keeps_choices(account):
    assert run("setup", "--instance-type", "m5.xlarge", "--no-codebuild", "--session-days", "9").exit_code == 0
    first = read()
    assert (first.ec2_instance_type, first.ec2_arch, first.codebuild_project) == ("m5.xlarge", "x86_64", None)
    result = run("setup")
    assert "nothing to change" in result.stderr
    assert read() == first
    run("setup", "--batch")
    second = read()
    assert second.batch_fargate_spot_queue
    assert (second.bucket, second.ec2_instance_type, second.codebuild_project) == (first.bucket, "m5.xlarge", None)
    assert "nothing to change" in run("setup", "--dry-run").stdout


def test_what_a_failed_attempt_left_is_removed_first(account):
    run("setup")
    # As CloudFormation leaves a stack whose making failed.
    from moto.cloudformation.models import cloudformation_backends

    (left,) = cloudformation_backends["123456789012"][REGION].stacks.values()
    left.status = "ROLLBACK_COMPLETE"
    result = run("setup")
    assert "removing what an earlier attempt left (ROLLBACK_COMPLETE)" in result.stderr
    assert result.exit_code == 0
    assert read().bucket


def test_a_dry_run_that_was_interrupted_is_gone_on_from(account):
    from starburst_executor.aws.stack.setup import template

    account.get("cloudformation").create_change_set(
        StackName="starburst", ChangeSetName="starburst-setup", ChangeSetType="CREATE", TemplateBody=template()
    )
    assert stacks(account) == {"starburst": "REVIEW_IN_PROGRESS"}
    assert run("setup").exit_code == 0
    assert stacks(account) == {"starburst": "CREATE_COMPLETE"}


def test_roles_of_services_are_made_before_the_stack(account):
    assert "made the account's role for ecs.amazonaws.com" in run("setup").stderr
    said = run("setup", "--batch").stderr
    assert "ecs.amazonaws.com" not in said
    assert "made the account's role for batch.amazonaws.com" in said


def test_a_vpc_that_exists(account):
    ec2 = account.get("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for i, zone in enumerate("aba")
    ]
    named = ["--vpc", vpc, "--subnet", subnets[0], "--subnet"]
    assert "not a public subnet" in run("setup", *named, subnets[1]).stderr
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    assert "all subnets are in one zone" in run("setup", *named, subnets[2]).stderr
    assert "needs --vpc and at least two --subnet" in run("setup", "--vpc", vpc).stderr
    assert run("setup", *named, subnets[1]).exit_code == 0
    assert read().subnets == tuple(subnets[:2])
    assert len(ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["VpcEndpoints"]) == 1
    # Another stack in the same VPC finds that endpoint and makes none.
    assert run("setup", "--name", "second", *named, subnets[1]).exit_code == 0
    assert len(ec2.describe_vpc_endpoints(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["VpcEndpoints"]) == 1
    assert "a stack's network is chosen when it is made" in run("setup", *named, subnets[1]).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--instance-type", "q9.enormous"], "no such instance type in eu-west-1: instance_type='q9.enormous'"),
        (["--instance-type", "m5.large", "--no-ec2"], "means nothing without EC2"),
        (["--name", "Big_Name"], "aws.stack='Big_Name' (an argument): must be 1 to 40 of a-z"),
        (["--region", "mars"], "aws.region='mars' (an argument): must be a region"),
        (["--profile", "nobody"], "no such profile in the AWS config files: profile='nobody'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(account, words, said):
    result = run("setup", *words)
    assert result.exit_code == 3
    assert said in result.stderr
    assert stacks(account) == {}


def test_the_template_is_printed_for_administrators(account):
    from starburst_executor.aws.stack.setup import template

    assert run("setup", "--template").stdout == template()
