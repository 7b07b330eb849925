"""`starburst setup` as users run it: what it makes, what a second run changes, what it says when it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from moto.batch.models import batch_backends

from starburst_executor import config
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.parameter import put_key
from starburst_executor.aws.stack import setup
from starburst_executor.aws.stack import template as template_module
from starburst_executor.aws.stack.changes import Changes
from starburst_executor.aws.stack.network import own_zones
from starburst_executor.aws.stack.outputs import read_stack
from starburst_executor.aws.stack.wishes import Wishes, parameters_for
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.testing import FakeClock
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
    assert "While nothing runs, only storage costs money" in result.stderr
    changes = [json.loads(line) for line in run("setup", "--dry-run", "--json").stdout.splitlines()]
    assert {"format": 1, "action": "Add", "resource": "Bucket", "kind": "AWS::S3::Bucket", "replaced": False} in changes
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
    assert (first.ec2_instance_types, first.ec2_arch, first.codebuild_project) == (("m5.xlarge",), "x86_64", None)
    result = run("setup", "--json")
    assert "nothing to change" in result.stderr
    shown = json.loads(result.stdout)
    assert (shown["format"], shown["name"], shown["store"]) == (1, "starburst", first.store_url())
    assert read() == first
    run("setup", "--batch")
    second = read()
    assert second.batch_fargate_spot_queue
    assert (second.bucket, second.ec2_instance_types, second.codebuild_project) == (first.bucket, ("m5.xlarge",), None)
    assert "nothing to change" in run("setup", "--dry-run").stdout


def rights_of(role_part: str, account) -> list[dict]:
    from tests.unit.aws.test_rights import policies_of

    return policies_of(account, read())[role_part]


def test_data_of_ones_own_is_granted_later_in_place_and_taken_away_again(account):
    run("setup")
    before = read()
    assert run("setup", "--read", "s3://ours/2026", "--read", "s3://all", "--write", "s3://out/team/").exit_code == 0
    assert read() == before
    sids = {one["Sid"]: one for one in rights_of("WorkerRole", account)}
    assert sids["ReadData"]["Resource"] == [
        "arn:aws:s3:::ours/2026", "arn:aws:s3:::ours/2026/*", "arn:aws:s3:::all/*"
    ]  # fmt: skip
    assert sids["WriteData"]["Resource"] == ["arn:aws:s3:::out/team", "arn:aws:s3:::out/team/*"]
    assert "read s3://ours/2026, s3://all; write s3://out/team" in run("doctor").stdout
    # One option leaves the other alone.
    run("setup", "--read", "s3://ours/2027-*")
    sids = {one["Sid"]: one for one in rights_of("WorkerRole", account)}
    assert sids["ReadData"]["Resource"] == ["arn:aws:s3:::ours/2027-*"]
    assert sids["WriteData"]["Resource"] == ["arn:aws:s3:::out/team", "arn:aws:s3:::out/team/*"]
    assert "nothing to change" in run("setup").stderr
    run("setup", "--read", "none", "--write", "none")
    assert not {"ReadData", "WriteData", "ListData"} & {one["Sid"] for one in rights_of("WorkerRole", account)}
    assert "only their sessions" in run("doctor").stdout


def test_policies_secrets_and_roles_of_ones_own(account):
    iam = account.get("iam")
    document = '{"Version": "2012-10-17", "Statement": [{"Sid": "Ours", "Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}'
    arn = iam.create_policy(PolicyName="ours", PolicyDocument=document)["Policy"]["Arn"]
    secret = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:db-Ab12"
    key = f"arn:aws:kms:{REGION}:123456789012:key/0a1b"
    words = ["--worker-policy", arn, "--secret", f"{secret}:password::", "--secret", "/ours/p", "--secret", key]
    assert run("setup", *words, "--pass-role", "arn:aws:iam::123456789012:role/ours").exit_code == 0
    assert "Ours" in {one["Sid"] for one in rights_of("WorkerRole", account)}
    sids = {one.get("Sid"): one for one in rights_of("ExecutionRole", account)}
    assert sids["FetchSecrets"]["Resource"] == [secret, f"arn:aws:ssm:{REGION}:123456789012:parameter/ours/p"]
    assert sids["DecryptSecrets"]["Resource"] == [key]
    said = run("doctor").stdout
    assert f"policies {arn}; secrets {secret}," in said
    assert "roles of your own arn:aws:iam::123456789012:role/ours" in said
    run("setup", "--worker-policy", "none", "--secret", "none")
    assert "Ours" not in {one["Sid"] for one in rights_of("WorkerRole", account)}
    assert "FetchSecrets" not in {one.get("Sid") for one in rights_of("ExecutionRole", account)}
    passed = [one["Resource"] for one in rights_of("Client", account) if one["Action"] == "iam:PassRole"]
    assert ["arn:aws:iam::123456789012:role/ours"] in passed


def test_the_rules_of_an_account(account, monkeypatch):
    iam = account.get("iam")
    key = f"arn:aws:kms:{REGION}:123456789012:key/0a1b"
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    words = ["--permissions-boundary", boundary, "--role-path", "/teams/ours/", "--role-prefix", "ours-"]
    words += ["--kms-key", key, "--tag", "cost-centre=42", "--tag", "owner=team a", "--batch", "--ec2"]
    assert run("setup", *words).exit_code == 0
    stack = read()
    roles = [role for role in iam.list_roles()["Roles"] if not role["Path"].startswith("/aws-service-role/")]
    names = {"ours-starburst-worker", "ours-starburst-start", "ours-starburst-build", "ours-starburst-ec2"}
    assert {role["RoleName"] for role in roles} == {*names, "ours-starburst-batch"}
    assert {role["Path"] for role in roles} == {"/teams/ours/"}
    for name in names:
        found = iam.get_role(RoleName=name)["Role"]
        assert found["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundary
    assert stack.client_policy_arn == "arn:aws:iam::123456789012:policy/teams/ours/ours-starburst-users"
    (rule,) = account.get("s3").get_bucket_encryption(Bucket=stack.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    assert tags_of(account) == {"cost-centre": "42", "owner": "team a", "starburst:stack": "starburst"}
    assert stack.all_tags == tags_of(account)
    assert [one["Resource"] for one in rights_of("Client", account) if "kms:Decrypt" in one["Action"]] == [key]
    # What launchers make has the same tags, and the key of a session is encrypted by the same key.
    asked = []
    clients = Clients(config.resolve_aws(region=REGION))
    monkeypatch.setattr(clients.get("ssm"), "put_parameter", lambda **request: asked.append(request))
    put_key(clients, "/starburst/starburst/s", "00", tags=stack.all_tags, kms_key=stack.kms_key_arn)
    assert asked[0]["KeyId"] == key
    assert {tag["Key"]: tag["Value"] for tag in asked[0]["Tags"]} == tags_of(account)
    assert "nothing to change" in run("setup").stderr


def test_roles_that_exist_are_used_and_none_are_made(account):
    worker, start = (f"arn:aws:iam::123456789012:role/{name}" for name in ("w", "s"))
    words = ["--worker-role", worker, "--execution-role", start, "--no-codebuild"]
    assert run("setup", *words).exit_code == 0
    assert (read().worker_role_arn, read().execution_role_arn) == (worker, start)
    assert not [one for one in account.get("iam").list_roles()["Roles"] if one["RoleName"].startswith("starburst")]
    said = run("setup", "--read", "s3://ours").stderr
    assert f"--worker-role {worker}: rights are granted only to the stack's own roles" in said
    assert f"--execution-role {start}: rights" in run("setup", "--secret", "/p").stderr
    # Back to the stack's own.
    assert run("setup", "--worker-role", "none", "--read", "s3://ours").exit_code == 0
    assert "ReadData" in {one["Sid"] for one in rights_of("WorkerRole", account)}


def test_what_a_failed_attempt_left_is_removed_first(account):
    run("setup")
    # As CloudFormation leaves a stack whose making failed.
    from moto.cloudformation.models import cloudformation_backends

    (left,) = cloudformation_backends["123456789012"][REGION].stacks.values()
    left.status = "ROLLBACK_COMPLETE"
    result = run("setup")
    assert "removing the stack that an earlier attempt left (ROLLBACK_COMPLETE)" in result.stderr
    assert result.exit_code == 0
    assert read().bucket


def test_a_dry_run_that_was_interrupted_is_gone_on_from(account):
    from starburst_executor.aws.stack.template import template

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


def public_vpc(account) -> tuple[str, list[str]]:
    """A VPC that exists, with two public subnets in two zones."""
    ec2 = account.get("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"][
            "SubnetId"
        ]
        for i, zone in enumerate("ab")
    ]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    return vpc, subnets


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
        (["--read", "ours/2026"], "--read 'ours/2026': must be s3://bucket or s3://bucket/prefix"),
        (["--write", "s3://ours/a*b"], "'*' is allowed only at the end"),
        (["--worker-policy", "AdministratorAccess"], "--worker-policy 'AdministratorAccess': must be an ARN"),
        (["--pass-role", "ours"], "--pass-role 'ours': must be an ARN"),
        (["--secret", "hunter 2"], "--secret 'hunter 2': must be the ARN of a secret"),
        (["--permissions-boundary", "b"], "--permissions-boundary 'b': must be a policy's ARN"),
        (["--role-path", "teams"], "--role-path 'teams': must be a path"),
        (["--role-prefix", "much-too-long-a-prefix"], "must be 1 to 16"),
        (["--kms-key", "alias/ours"], "not an alias"),
        (["--tag", "cost-centre"], "--tag 'cost-centre': must be KEY=VALUE"),
        (["--tag", "starburst:x=1"], "KEY must not begin with aws: or starburst:"),
        (["--region", "mars"], "aws.region='mars' (an argument): must be a region"),
        (["--profile", "nobody"], "no such profile in the AWS config files: profile='nobody'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(account, words, said):
    result = run("setup", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert stacks(account) == {}


def test_the_template_is_printed_for_administrators(account):
    from starburst_executor.aws.stack.template import compact, template

    printed = run("setup", "--template").stdout
    assert printed.endswith(compact(template()))
    account.get("cloudformation").create_stack(
        StackName="starburst", TemplateBody=printed, Capabilities=["CAPABILITY_IAM"]
    )
    assert read().bucket


# ----------------------------------------------------------------------------------------------------------- upgrades


def tags_of(account) -> dict[str, str]:
    found = account.get("cloudformation").describe_stacks(StackName="starburst")["Stacks"][0]["Tags"]
    return {one["Key"]: one["Value"] for one in found}


@pytest.fixture
def with_batch(account):
    """A stack that an administrator made for Batch, with tags of theirs."""
    account.get("cloudformation").create_stack(
        StackName="starburst",
        TemplateBody=setup.template(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": "Batch", "ParameterValue": "yes"}],
        Tags=[{"Key": "starburst:version", "Value": "0.0.1"}, {"Key": "cost-centre", "Value": "42"}],
    )
    return account


def test_the_version_is_an_output_and_no_tag_changes_with_it(with_batch, monkeypatch):
    before = read()
    monkeypatch.setattr(template_module, "__version__", "9.9.9")
    assert before.version != "9.9.9"
    assert run("setup").exit_code == 0
    assert read() == replace(before, version="9.9.9")
    assert tags_of(with_batch) == {"starburst:version": "0.0.1", "cost-centre": "42", "starburst:stack": "starburst"}


def test_an_update_of_what_jobs_run_on_waits_until_they_are_done(with_batch, monkeypatch):
    queue = next(iter(batch_backends["123456789012"][REGION]._job_queues.values()))
    queue.jobs.append(SimpleNamespace(status="RUNNING", job_name="j", describe_short=lambda: {"jobId": "j-1"}))
    # Rights and logs may change under what runs.
    assert run("setup", "--log-days", "7").exit_code == 0
    before = setup.template()
    after = before.replace("Type: FARGATE\n", "Type: FARGATE\n        DesiredvCpus: 0\n")
    assert after != before
    monkeypatch.setattr(setup, "template", lambda: after)
    result = run("setup")
    assert result.exit_code != 0
    assert (
        "1 jobs of Batch run in the stack 'starburst', and the update would change what they run on (BatchFargate"
        in (result.stderr)
    )
    assert "nothing was changed" in result.stderr
    assert with_batch.get("cloudformation").get_template(StackName="starburst")["TemplateBody"] != setup.compact(after)
    queue.jobs.clear()
    assert run("setup").exit_code == 0
    assert with_batch.get("cloudformation").get_template(StackName="starburst")["TemplateBody"] == setup.compact(after)


# ------------------------------------------------------------------------------------------------ roles that are too new


@pytest.mark.parametrize(
    ("reason", "n_tries"),
    [
        ("Ec2Group (AWS::AutoScaling::AutoScalingGroup): Invalid IAM Instance Profile ARN", 2),
        ("Cluster (AWS::ECS::Cluster): Unable to assume the service linked role", 2),
        ("BuildProject: CodeBuild is not authorized to perform: sts:AssumeRole on arn:…", 2),
        ("Vpc (AWS::EC2::VPC): The maximum number of VPCs has been reached", 1),
    ],
)
def test_a_role_that_was_made_a_moment_ago_is_used_once_more(account, monkeypatch, reason, n_tries):
    tries: list[float] = []
    clock = FakeClock()
    apply = Changes.apply

    def fail_once(self: Changes) -> None:
        tries.append(clock.monotonic())
        if len(tries) == 1:
            raise LaunchError(reason)
        apply(self)

    monkeypatch.setattr(Changes, "apply", fail_once)
    clients = Clients(config.resolve_aws(region=REGION))
    if n_tries == 1:
        with pytest.raises(LaunchError, match="maximum number"):
            setup.set_up(clients, clock, Wishes(), print)
    else:
        assert setup.set_up(clients, clock, Wishes(), print).bucket
        assert tries[1] - tries[0] >= 20
    assert len(tries) == n_tries


# ----------------------------------------------------------------------------------------------------- zones, machines


class Zones:
    """EC2 with these zones."""

    settings = config.AwsSettings(region="us-west-1")
    region = "us-west-1"

    def __init__(self, *zones: tuple[str, str]) -> None:
        self.zones = zones

    def get(self, _: str) -> Any:
        return self

    def describe_availability_zones(self, Filters: Any) -> Any:
        return {"AvailabilityZones": [{"ZoneName": name, "ZoneId": zone_id} for name, zone_id in self.zones]}


def test_zones_are_picked_by_the_answer_that_counted_them(account):
    run("setup")
    names = [f"{REGION}{letter}" for letter in "abc"]
    subnets = account.get("ec2").describe_subnets(SubnetIds=list(read().subnets))["Subnets"]
    assert sorted(one["AvailabilityZone"] for one in subnets) == names


def test_a_zone_without_fargate_is_left_out():
    zones = Zones(("us-west-1a", "usw1-az3"), ("us-west-1b", "usw1-az2"), ("us-west-1c", "usw1-az1"))
    assert own_zones(zones) == ["us-west-1a", "us-west-1c"]  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="us-west-1 has fewer than two zones that can be used"):
        own_zones(Zones(*zones.zones[:2]))  # type: ignore[arg-type]


def test_subnets_that_give_instances_no_address_are_refused_where_there_are_instances(account):
    ec2 = account.get("ec2")
    vpc, subnets = public_vpc(account)
    named = ["--vpc", vpc, "--subnet", subnets[0], "--subnet", subnets[1]]
    for more in (["--ec2"], ["--batch"]):
        result = run("setup", *named, *more)
        assert result.exit_code == 2
        assert "instances there would have no public address" in result.stderr
        assert subnets[0] in result.stderr
    # Fargate gives addresses itself.
    assert run("setup", *named).exit_code == 0
    assert "instances there would have no public address" in run("setup", "--batch").stderr
    for subnet in subnets:
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
    assert run("setup", "--batch").exit_code == 0


def test_several_instance_types_of_one_architecture(account):
    words = [
        "--instance-type",
        "c6g.xlarge",
        "--instance-type",
        "m6g.xlarge",
        "--most-instances",
        "7",
        "--disk-gb",
        "90",
    ]
    assert run("setup", *words).exit_code == 0
    assert (read().ec2_instance_types, read().ec2_arch) == (("c6g.xlarge", "m6g.xlarge"), "arm64")
    (group,) = {
        tuple(one["InstanceType"] for one in group["MixedInstancesPolicy"]["LaunchTemplate"]["Overrides"])
        for group in account.get("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    }
    assert group == ("c6g.xlarge", "m6g.xlarge")
    # Fewer than before: what is not named again is gone.
    assert run("setup", "--instance-type", "m5.large").exit_code == 0
    assert (read().ec2_instance_types, read().ec2_arch) == (("m5.large",), "x86_64")


def test_batch_runs_what_its_instance_types_are(account):
    assert run("setup", "--batch").exit_code == 0
    stack = read()
    assert (stack.batch_instance_types, stack.batch_arch, stack.batch_has_gpus) == (("optimal",), "x86_64", False)
    assert run("setup", "--batch-instance-type", "c6g", "--batch-most-vcpus", "64").exit_code == 0
    stack = read()
    assert (stack.batch_instance_types, stack.batch_arch, stack.batch_most_vcpus) == (("c6g",), "arm64", 64)
    assert run("setup", "--batch-instance-type", "g4dn.xlarge").exit_code == 0
    assert (read().batch_arch, read().batch_has_gpus) == ("x86_64", True)


def policies_of_queues(account) -> set[str | None]:
    found = account.get("batch").describe_job_queues()["jobQueues"]
    assert len(found) == 4
    return {one.get("schedulingPolicyArn") for one in found}


def test_queues_that_share_fairly_have_a_policy_from_the_first_on(account):
    assert "shared fairly between users: Batch(share=...)" in run("setup", "--fair-share").stdout
    (policy,) = policies_of_queues(account)
    (found,) = account.get("batch").describe_scheduling_policies(arns=[policy])["schedulingPolicies"]
    assert found["fairsharePolicy"]["shareDecaySeconds"] in (86400, "86400")
    assert read().batch_shares_fairly
    assert "nothing to change" in run("setup").stderr
    refused = run("setup", "--no-fair-share")
    assert (refused.exit_code, read().batch_shares_fairly) == (2, True)
    assert "run `starburst setup --no-batch`, then `starburst setup --batch --no-fair-share`" in refused.stderr
    assert run("setup", "--no-batch").exit_code == 0
    assert not read().batch_shares_fairly
    # The answer may be another one now, since the queues are to be made anew.
    assert run("setup", "--batch", "--no-fair-share").exit_code == 0
    assert not read().batch_shares_fairly


def test_queues_that_are_there_get_no_fair_share(account):
    assert run("setup", "--batch").exit_code == 0
    assert policies_of_queues(account) == {None}
    refused = run("setup", "--fair-share")
    assert (refused.exit_code, read().batch_shares_fairly) == (2, False)
    assert "Batch decides this for a queue when the queue is made" in refused.stderr
    assert run("setup", "--no-fair-share").exit_code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fair-share", "--no-batch"], "means nothing without Batch"),
        (["--instance-type", "c6g.large", "--instance-type", "m5.large"], "must have one architecture"),
        (["--instance-type", "m5.large", "--instance-type", "m5.large"], "must be one to 4 different types"),
        (["--batch-instance-type", "optimal", "--batch-instance-type", "c6g"], "optimal is x86-64 without GPUs"),
        (["--batch-instance-type", "q9"], "no such family of instance types in eu-west-1: 'q9'"),
        (["--batch-instance-type", "c6g", "--no-batch"], "means nothing without Batch"),
    ],
)
def test_instance_types_that_do_not_go_together_are_refused(account, words, said):
    result = run("setup", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert stacks(account) == {}


def test_the_image_with_drivers_for_gpus_is_one_that_the_region_has(account, monkeypatch):
    from starburst_executor.aws import machines

    assert run("setup", "--instance-type", "g4dn.xlarge").exit_code == 0
    (found,) = account.get("cloudformation").describe_stacks(StackName="starburst")["Stacks"]
    parameters = {one["ParameterKey"]: one["ParameterValue"] for one in found["Parameters"]}
    assert parameters["Ec2GpuImage"] in machines._GPU_IMAGES
    monkeypatch.setattr(machines, "_GPU_IMAGES", ("/aws/service/ecs/none",))
    assert (
        "ECS has no image with NVIDIA's drivers in eu-west-1" in run("setup", "--instance-type", "g4dn.xlarge").stderr
    )


@pytest.mark.parametrize(("text", "parameter"), [("me@example.org", "me@example.org"), ("none", "")])
def test_an_address_for_messages_becomes_a_parameter(account, text, parameter):
    assert parameters_for(account.clients, Wishes(notify=text))["NotifyEmail"] == parameter


@pytest.mark.parametrize("text", ["me", "me@example", "a@b.c,d@e.f", "@example.org", ""])
def test_what_is_no_address_is_refused(account, text):
    with pytest.raises(ConfigError, match="--notify"):
        parameters_for(account.clients, Wishes(notify=text))
