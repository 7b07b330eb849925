"""Specs of launchers: from a text to the launcher, and back."""

from __future__ import annotations

from typing import Any

import pytest

from starburst_executor import Batch, ConfigError, Ec2, Fargate, Local
from starburst_executor.launch.aws.on_aws import OnAws
from starburst_executor.launch.open import is_on_aws, open_launcher, read_spec
from starburst_executor.testing import FakeClock

IMAGE = "1.dkr.ecr.eu-west-1.amazonaws.com/starburst:py3.12-0011-x86_64"
HERE = {"image": IMAGE, "stack": "team", "region": "eu-west-1"}


def opened(spec: str, *, detached: bool = False) -> Any:
    return read_spec(spec, detached=detached)


@pytest.mark.parametrize(
    "launcher",
    [
        Fargate(**HERE),
        Fargate(cpu=0.25, memory="512MB", spot=True, fallback=True, arch="arm64", ephemeral_gb=100, slots=2, **HERE),
        Batch(cpu=4, memory="8GB", spot=True, **HERE),
        Batch(on="ec2", cpu=3, gpus=1, arch="arm64", **HERE),
        Fargate(spot=True, fallback=True, fallback_after=3, **HERE),
        Batch(ephemeral_gb=50, mounts={"/data": "fs-0a1b2c3d:/x y", "/own": "fs-0a1b2c3d/fsap-0a1b2c3d"}, **HERE),
        Batch(share="TeamA", priority=7, **HERE),
        Batch(spot=True, fallback=True, fallback_after=3, **HERE),
        Fargate(role="arn:aws:iam::123456789012:role/team/mine", env={"A": "", "B": "x&y=z é"}, **HERE),
        Batch(secrets={"DB": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:db-Ab12", "P": "/our/p"}, **HERE),
    ],
)
def test_a_spec_makes_the_same_launcher_again(launcher: OnAws) -> None:
    again = opened(launcher.spec)
    assert again == launcher
    assert again.open().spec == launcher.spec
    assert is_on_aws(launcher.spec)


@pytest.mark.parametrize(
    ("spec", "launcher"),
    [
        ("fargate-spot?cpu=2", Fargate(spot=True, cpu=2.0)),
        ("ec2?gpus=1&spot=0&warm_s=60", Ec2(gpus=1, spot=False, warm_s=60.0)),
        ("batch-spot", Batch(spot=True)),
        ("aws", Fargate()),
    ],
)
def test_kinds_and_options(spec: str, launcher: OnAws) -> None:
    assert opened(spec) == launcher


def test_aws_is_batch_for_a_session_that_outlives_its_client() -> None:
    assert opened("aws?cpu=2", detached=True) == Batch(cpu=2.0)


def test_on_this_machine_or_nowhere() -> None:
    assert opened("none") is open_launcher("none", FakeClock(), detached=False) is None
    assert opened("local").spec == Local().spec == "local"
    assert opened("local?agents=3").spec == "local?agents=3"
    assert not is_on_aws("local?agents=3")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("moon", "the launchers are local, none, aws, fargate"),
        ("none?cpu=1", "no such option"),
        ("local?agents=x", "no such"),
        ("local?agents=0", "must be 1..256"),
        ("fargate?cpus=1", "no such option: 'cpus'; the options are arch, cpu,"),
        ("fargate?cpu=one", "cpu='one' is not float"),
        ("fargate?spot=maybe", "spot='maybe' is not bool"),
        ("fargate?fallback=1", "requires spot=True"),
        ("ec2?spot=0&fallback=1", "requires spot=True"),
        ("fargate?spot=1&fallback=1&fallback_after=0", "must be at least 1"),
        ("batch?on=ec2&ephemeral_gb=50", "requires on='fargate'"),
        ("batch?ephemeral_gb=5", "must be 20..200"),
        ("batch?fallback=1", "requires spot=True"),
        ("batch?spot=1&fallback=1&fallback_after=0", "must be at least 1"),
        ("batch?spot=1&fallback=1&fallback_after=11", "must be at most 10, since Batch starts a job no more often"),
        ("fargate?mounts.data=fs-0a1b2c3d", "'data' is not a path"),
        ("batch?share=team-a", "must be 1 to 255 letters and digits"),
        ("batch?share=team*", "must be 1 to 255 letters and digits"),
        ("batch?priority=10000", "must be 0..9999"),
        ("batch?priority=-1", "must be 0..9999"),
        ("fargate?mounts./data=vol-1", "must be a file system of EFS"),
        ("fargate?arch=mips", "must be 'x86_64' or 'arm64'"),
        ("fargate?ephemeral_gb=500", "must be 20..200"),
        ("fargate?slots=0", "must be 1..256"),
        ("ec2?gpus=99", "must be 0..16"),
        ("ec2?warm_s=-1", "must be 0..86400"),
        ("ec2?memory=much", "must be a size"),
        ("batch?on=moon", "must be 'fargate' or 'ec2'"),
        ("batch?gpus=1", "with on='ec2'"),
        ("batch?on=ec2&cpu=1.5", "whole number"),
        ("fargate?env=x", "no such option: 'env'"),
        ("fargate?cpu.A=1", "no such option: 'cpu.A'"),
        ("fargate?role=mine", "must be a role's ARN"),
        ("fargate?env.A-B=1", "'A-B' is not a name of an environment variable"),
        ("fargate?env.STARBURST_LAUNCH=1", "is set by the launcher or by AWS"),
        ("batch?env.AWS_BATCH_JOB_ID=1", "is set by the launcher or by AWS"),
        ("fargate?env.AWS_SECRET_ACCESS_KEY=1", "use role= to give workers rights"),
        ("ec2?env.A=1&secrets.A=b", "both contain A"),
    ],
)
def test_what_is_no_launcher(spec: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        opened(spec)


@pytest.mark.parametrize(
    "secret", ["hunter2 and more", "s3://x/y", "arn:aws:iam::123456789012:role/x", "-----BEGIN KEY-----"]
)
def test_what_is_no_reference_is_not_shown(secret: str) -> None:
    with pytest.raises(ConfigError, match="PASSWORD must be a reference, never the secret itself") as raised:
        Fargate(secrets={"PASSWORD": secret})
    assert secret not in str(raised.value)


def test_wrong_types_are_named() -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        Fargate(env=["A=1"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the value of A must be a text"):
        Fargate(env={"A": 1})  # type: ignore[dict-item]
