"""What Batch's instances cannot run is refused before it waits for them, with what would have to be set up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor import Batch
from starburst_executor.aws.stack.outputs import Stack
from starburst_executor.errors import ConfigError
from starburst_executor.launch.aws.remote import Account
from tests.unit.launch.test_ec2_hosts import STACK as WITH_EC2

STACK = replace(
    WITH_EC2,
    batch_fargate_queue="f",
    batch_fargate_spot_queue="fs",
    batch_ec2_queue="e",
    batch_ec2_spot_queue="es",
    batch_instance_types=("optimal",),
    batch_arch="x86_64",
    batch_most_vcpus=100,
)
ARM = replace(STACK, batch_instance_types=("c7g",), batch_arch="arm64")
GPU = replace(STACK, batch_instance_types=("g5.xlarge",), batch_has_gpus=True)


class FakeEc2:
    """What it says of any type: four vCPUs, 16 GB."""

    region = "eu-west-1"

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def get(self, _: str) -> Any:
        return self

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Any:
        yield {"InstanceTypes": [self._record("c7g.xlarge")]}

    def describe_instance_types(self, InstanceTypes: list[str]) -> Any:
        return {"InstanceTypes": [self._record(name) for name in InstanceTypes]}

    def _record(self, name: str) -> dict[str, Any]:
        gpus = {"Gpus": [{"Count": self._gpus}]}
        return {
            "InstanceType": name,
            "VCpuInfo": {"DefaultVCpus": 4},
            "MemoryInfo": {"SizeInMiB": 16384},
            "GpuInfo": gpus,
        }


def check(stack: Stack, **options: Any) -> None:
    batch = Batch(on="ec2", image="image", **options).open()
    account = Account(batch.account.settings, "image")
    account.__dict__.update(stack=stack, clients=FakeEc2(1 if stack.batch_has_gpus else 0))
    batch.__dict__["account"] = account
    batch.check(1)


@pytest.mark.parametrize(
    ("stack", "options"),
    [
        (STACK, {"cpu": 4}),
        (ARM, {"cpu": 4, "arch": "arm64"}),
        (GPU, {"cpu": 4, "gpus": 1}),
        # Of an older stack it is not known.
        (replace(STACK, batch_arch=None, batch_instance_types=()), {"arch": "arm64", "gpus": 1}),
    ],
)
def test_what_the_instances_have_is_taken(stack: Stack, options: dict[str, Any]) -> None:
    check(stack, **options)


@pytest.mark.parametrize(
    ("stack", "options", "said"),
    [
        (STACK, {"arch": "arm64"}, "optimal, which is x86_64; add instances for it with `starburst setup --batch-instance-type c7g`"),
        (ARM, {}, "c7g, which is arm64; add instances for it with `starburst setup --batch-instance-type optimal`"),
        (STACK, {"gpus": 1}, "optimal, which has no GPUs; add instances with GPUs with `starburst setup --batch-instance-type g5`"),
        (STACK, {"cpu": 128}, "Batch runs at most 100 vCPUs; change it with `starburst setup --batch-most-vcpus 128`"),
        (ARM, {"arch": "arm64", "cpu": 8}, "none of which is large enough: at most 4 vCPUs"),
        (ARM, {"arch": "arm64", "memory": "16GB"}, "none of which is large enough: at most 4 vCPUs"),
        (GPU, {"gpus": 2}, "none of which is large enough: at most 4 vCPUs, 14763 MiB for a job and 1 GPUs"),
    ],
)  # fmt: skip
def test_what_they_do_not_have_is_refused_with_what_to_set_up(stack: Stack, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(stack, **options)
    assert said in str(caught.value)
