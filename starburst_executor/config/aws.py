"""Which stack to use: its name, region and profile, resolved like every other setting.

    [aws]
    stack = "starburst"
    region = "eu-west-1"
    profile = "research"

`starburst setup` writes the table; arguments and `STARBURST_AWS_STACK`, `…_REGION`, `…_PROFILE` take precedence. The
stack's resources are not stored here: they are read from the stack itself (`aws/stack/outputs.py`).
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from starburst_executor.config.file import read_config_file, write_table
from starburst_executor.errors import ConfigError

__all__ = ["AwsSettings", "forget_aws", "has_stack", "remember_aws", "resolve_aws"]

TABLE = "aws"
# A stack's name is part of other names: a repository's name must be in lower case, and AWS reserves some prefixes of the
# names of capacity providers.
_FORMS = {
    "stack": (
        re.compile(r"(?!aws|ecs|fargate)[a-z](-?[a-z0-9]){0,39}"),
        "1 to 40 of a-z, 0-9 and single '-', beginning with a letter, and not with aws, ecs or fargate",
    ),
    "region": (re.compile(r"[a-z]{2,}(-[a-z]+)+-\d+"), "a region such as eu-west-1"),
    "profile": (re.compile(r"\S.*"), "a profile of the AWS config files"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """Which stack to use, and under which profile; made by `resolve_aws`, which checks it.

    Attributes:
        stack: The name of the CloudFormation stack.
        region: Its region; None means boto3's default.
        profile: A profile of the AWS config files; None means boto3's default.
    """

    stack: str = "starburst"
    region: str | None = None
    profile: str | None = None


def resolve_aws(*, stack: str | None = None, region: str | None = None, profile: str | None = None) -> AwsSettings:
    """Resolve the three settings: argument > variable > config file > default.

    Raises:
        ConfigError: a setting is malformed, or the table has an unknown one.
    """
    given = {"stack": stack, "region": region, "profile": profile}
    path, record = read_config_file()
    table = aws_table(record, path)
    settled = {}
    for one in fields(AwsSettings):
        variable = f"STARBURST_AWS_{one.name.upper()}"
        for value, source in (
            (given[one.name], "an argument"),
            (os.environ.get(variable) or None, f"from {variable}"),
            (table.get(one.name), f"from {path}"),
        ):
            if value is not None:
                settled[one.name] = _checked(one.name, value, source)
                break
    return AwsSettings(**settled)


def aws_table(record: dict[str, object], path: Path | None) -> dict[str, object]:
    """Return the `[aws]` table of a parsed config file; empty if there is none. Raises: ConfigError."""
    table = record.get(TABLE, {})
    known = [one.name for one in fields(AwsSettings)]
    if not isinstance(table, dict):
        raise ConfigError(f"aws={table!r} (from {path}): must be a table: [aws] on a line of its own")
    for name in table:
        if name not in known:
            raise ConfigError(f"unknown setting: 'aws.{name}' (from {path}); known are {', '.join(known)}")
    return table


def has_stack() -> bool:
    """Whether a stack was set up, or named by a variable. Raises: ConfigError."""
    path, record = read_config_file()
    return bool(aws_table(record, path)) or "STARBURST_AWS_STACK" in os.environ


def remember_aws(settings: AwsSettings) -> Path:
    """Write the `[aws]` table of the config file and return the file's path. Raises: ConfigError."""
    return write_table(TABLE, {name: value for name, value in asdict(settings).items() if value is not None})


def forget_aws(settings: AwsSettings) -> None:
    """Remove the `[aws]` table from the config file, if it names this stack in this region. Raises: ConfigError."""
    path, record = read_config_file()
    table = aws_table(record, path)
    if (table.get("stack"), table.get("region", settings.region)) == (settings.stack, settings.region):
        write_table(TABLE, None)


def _checked(name: str, value: object, source: str) -> str:
    form, allowed = _FORMS[name]
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ConfigError(f"aws.{name}={value!r} ({source}): must be {allowed}")
    return value
