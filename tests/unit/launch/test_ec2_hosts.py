"""What fits on an instance of the stack, and how long instances stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.config import AwsSettings
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.ec2_hosts import Hosts
from starburst_executor.launch.aws.remote import Account

STACK = Stack(
    name="team",
    region="eu-west-1",
    account_id="1",
    bucket="b",
    cluster="c",
    subnets=("s",),
    security_group="g",
    execution_role_arn="execution",
    worker_role_arn="worker",
    repository_uri="r/i",
    log_group="l",
    parameter_prefix="/starburst/team/",
    task_family_prefix="team_",
    client_policy_arn="p",
    ec2_provider="team-ec2",
    ec2_spot_provider="team-spot",
    ec2_instance_types=("g5.xlarge",),
    ec2_arch="x86_64",
)
GROUP = "arn:aws:autoscaling:eu-west-1:1:autoScalingGroup:uuid:autoScalingGroupName/team-group"


class FakeClients:
    """EC2, ECS and Auto Scaling in one."""

    region = "eu-west-1"

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get(self, service: str) -> FakeClients:
        return self

    def describe_instance_types(self, InstanceTypes: list[str]) -> dict[str, Any]:
        return {
            "InstanceTypes": [
                {
                    "InstanceType": name,
                    "VCpuInfo": {"DefaultVCpus": 8 if "12xlarge" in name else 4},
                    "MemoryInfo": {"SizeInMiB": 12288 if "12xlarge" in name else 16384},
                    "GpuInfo": {"Gpus": [{"Count": 1}]},
                }
                for name in InstanceTypes
            ]
        }

    def describe_capacity_providers(self, **request: Any) -> dict[str, Any]:
        return {"capacityProviders": [{"autoScalingGroupProvider": {"autoScalingGroupArn": GROUP}}]}

    def put_scheduled_update_group_action(self, **request: Any) -> None:
        self.asked.append(("later", request))

    def update_auto_scaling_group(self, **request: Any) -> None:
        if request["MinSize"] > 10:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "above the maximum"}}, "Update")
        self.asked.append(("now", request))


def hosts(asked: str | None = None, *, stack: Stack = STACK, warm_s: float = 0.0) -> tuple[Hosts, FakeClients]:
    account, clients = Account(AwsSettings(), "image"), FakeClients()
    account.__dict__.update(stack=stack, clients=clients)
    return Hosts(account, asked, spot=True, warm_s=warm_s), clients


def test_one_ecs_task_fills_an_instance_and_leaves_the_system_its_part() -> None:
    definition = hosts()[0].definition(memory=None, gpus=1)
    assert definition["cpu"] == "4096"
    assert 14_000 < int(definition["memory"]) < 15_000
    assert definition["networkMode"] == "bridge"
    (container,) = definition["containerDefinitions"]
    assert container["resourceRequirements"] == [{"type": "GPU", "value": "1"}]
    assert container["stopTimeout"] == 120
    assert "resourceRequirements" not in hosts()[0].definition(memory="8GB", gpus=0)["containerDefinitions"][0]


def test_the_provider_and_the_quota_follow_from_the_stack() -> None:
    found = hosts("g5.xlarge")[0]
    assert (found.provider, found.quota_kind) == ("team-spot", "ec2-gpu-spot")


@pytest.mark.parametrize(
    ("asked", "memory", "gpus", "words"),
    [
        ("c7g.xlarge", None, 0, "starts g5.xlarge; change it with `starburst setup --instance-type c7g.xlarge`"),
        (None, "16GB", 0, "has 16384 MiB, of which an ECS task may have"),
        (None, None, 2, "gpus=2 .* has 1"),
    ],
)
def test_what_an_instance_has_not_is_refused(asked: str | None, memory: str | None, gpus: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        hosts(asked)[0].definition(memory=memory, gpus=gpus)


def test_a_stack_without_instances_says_how_to_have_them() -> None:
    from dataclasses import replace

    bare = replace(STACK, ec2_instance_types=(), ec2_provider=None, ec2_spot_provider=None)
    with pytest.raises(ConfigError, match="starburst setup --ec2"):
        _ = hosts(stack=bare)[0].instance_types
    with pytest.raises(ConfigError, match="starburst setup --ec2"):
        _ = hosts(stack=bare)[0].provider


def test_what_is_kept_warm_has_an_end_before_it_has_a_beginning() -> None:
    found, clients = hosts(warm_s=600)
    found.keep_warm(3)
    assert [(when, one["AutoScalingGroupName"], one["MinSize"]) for when, one in clients.asked] == [
        ("later", "team-group", 0),
        ("now", "team-group", 3),
    ]


def test_more_than_the_group_may_have_is_no_error_of_the_session(caplog: pytest.LogCaptureFixture) -> None:
    found, clients = hosts(warm_s=600)
    found.keep_warm(11)
    assert [when for when, _ in clients.asked] == ["later"]
    assert "instances are not kept warm" in caplog.text


def test_without_warm_s_nothing_is_asked() -> None:
    found, clients = hosts()
    found.keep_warm(3)
    assert clients.asked == []


def test_of_several_types_a_worker_fits_on_the_smallest() -> None:
    stack = replace(STACK, ec2_instance_types=("g5.xlarge", "g5.12xlarge"))
    found = hosts("g5.12xlarge", stack=stack)[0]
    assert found.machine == (4, 12288, 1)
    assert {name: one.vcpus for name, one in found.machines.items()} == {"g5.xlarge": 4, "g5.12xlarge": 8}
