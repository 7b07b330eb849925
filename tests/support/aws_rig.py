"""An AWS account for tests, in this process: moto with what `moto_more.py` adds, and the command run as users run it."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
import pytest
import yaml
from botocore.loaders import JSONFileLoader
from click.testing import CliRunner, Result
from moto import mock_aws
from moto.cloudformation.utils import yaml_tag_constructor

import tests.support.moto_more
from starburst_executor import config
from starburst_executor.aws.clients import Clients
from starburst_executor.aws.stack.outputs import Stack, read_stack
from starburst_executor.aws.stack.template import template
from starburst_executor.cli.main import starburst

REGION = "eu-west-1"
__all__ = ["REGION", "Account", "account", "in_account", "run", "stack"]
assert tests.support.moto_more  # what it adds is added by importing it

# Reading the services' descriptions is most of what a client costs: once for all sessions, here, not once for each.
_read = JSONFileLoader._load_file


@functools.cache
def _read_once(path: str, open_method: Any) -> Any:
    return _read(JSONFileLoader(), path, open_method)


JSONFileLoader._load_file = lambda _, path, open_method: _read_once(path, open_method)

# moto parses a template two to four times for each deployment: in C, a tenth of the time, and each text once.
if yaml.__with_libyaml__:
    yaml.CLoader.add_multi_constructor("", yaml_tag_constructor)
    yaml.Loader = yaml.CLoader
_parse = yaml.load


@functools.lru_cache(maxsize=20)
def _parsed(text: str) -> bytes:
    return pickle.dumps(_parse(text, Loader=yaml.Loader))


def _load(stream: Any, Loader: Any) -> Any:
    """A tree of one's own, since moto changes what it gets."""
    is_known = isinstance(stream, str) and Loader is yaml.Loader
    return pickle.loads(_parsed(stream)) if is_known else _parse(stream, Loader=Loader)


yaml.load = _load


class Account(NamedTuple):
    """An account without anything in it but what AWS gives to each."""

    clients: Clients

    def get(self, service: str) -> Any:
        return boto3.client(service, region_name=REGION)

    def deploy(self, name: str = "starburst", **parameters: str) -> Stack:
        """As an administrator does it without us."""
        self.get("cloudformation").create_stack(
            StackName=name,
            TemplateBody=template(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
        return read_stack(Clients(config.resolve_aws(stack=name)))


def in_account(patch: pytest.MonkeyPatch) -> None:
    """Credentials of no user, independent of the machine's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_DEFAULT_REGION", REGION)
    patch.setenv("AWS_CONFIG_FILE", os.devnull)
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    in_account(monkeypatch)
    with mock_aws():
        yield Account(Clients(config.resolve_aws()))


@pytest.fixture
def stack(account: Account) -> Stack:
    """A stack with everything in it."""
    return account.deploy(Ec2="yes", Batch="yes", Express="euw1-az1")


def run(*arguments: str, answer: str | None = None) -> Result:
    """`starburst WORDS`, with `answer` typed; a fault of ours is raised."""
    result = CliRunner().invoke(starburst, list(arguments), input=answer, prog_name="starburst")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
