"""`stack.py`: what is read from a stack, and what is said when there is none."""

from __future__ import annotations

import dataclasses

import pytest

from starburst_executor import config
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack.outputs import Stack, read_stack, stores_of
from starburst_executor.errors import ConfigError, LaunchError
from starburst_executor.store.open import open_store
from tests.support.aws_rig import REGION, account, stack

__all__ = ["account", "stack"]


def test_every_field_is_read_from_a_whole_stack(stack: Stack):
    values = dataclasses.asdict(stack)
    assert [name for name, value in values.items() if value is None] == []
    assert (stack.name, stack.region, stack.account_id) == ("starburst", REGION, "123456789012")
    assert (stack.ec2_instance_types, stack.ec2_arch) == (("c7g.xlarge",), "arm64")
    assert len(stack.subnets) == 2
    assert stack.repository == "starburst"
    assert stack.parameter_prefix == "/starburst/starburst/"


def test_parts_that_were_not_asked_for_are_none(account):
    found = account.deploy(CodeBuild="no")
    absent = {one.name for one in dataclasses.fields(Stack) if getattr(found, one.name) is None}
    assert absent == {one.name for one in dataclasses.fields(Stack) if one.default is None}


def test_the_store_is_the_stack_s_bucket(account, stack):
    url, express = stores_of(account.clients)
    assert url == f"s3://{stack.bucket}?region={REGION}"
    assert express == f"s3://{stack.express_bucket}?region={REGION}"
    store = open_store(url)
    store.put("sessions/a-session/bell", b"x")
    assert account.get("s3").get_object(Bucket=stack.bucket, Key="sessions/a-session/bell")["Body"].read() == b"x"
    assert stack.store_url("research") == f"s3://{stack.bucket}?region={REGION}&profile=research"


def test_without_a_stack_the_error_says_what_to_type(account):
    with pytest.raises(
        LaunchError, match=r"no stack 'starburst' in eu-west-1: run `starburst setup --region eu-west-1`"
    ):
        read_stack(account.clients)


def test_somebody_else_s_stack_is_refused(account):
    template = '{"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}}'
    account.get("cloudformation").create_stack(StackName="starburst", TemplateBody=template)
    with pytest.raises(ConfigError, match="was not created by `starburst setup`"):
        read_stack(account.clients)


def test_without_a_region_or_profile_it_is_said(account, monkeypatch):
    with pytest.raises(ConfigError, match="no such profile in the AWS config files: profile='nobody'"):
        read_stack(Clients(config.resolve_aws(profile="nobody")))
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="no AWS region"):
        read_stack(Clients(config.resolve_aws()))


def test_clients_are_made_once_and_named_as_ours(account):
    assert account.clients.get("ecs") is account.clients.get("ecs")
    assert "starburst/" in account.clients.get("ecs").meta.config.user_agent_extra
    assert account.clients.get("pricing", region="us-east-1").meta.region_name == "us-east-1"
