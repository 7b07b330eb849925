"""The rules of a company's account for all resources: a permissions boundary, names of roles, tags, a KMS key.

    starburst setup --permissions-boundary, --role-path, --role-prefix, --worker-role, --execution-role, --kms-key ──► parameters
                    --tag KEY=VALUE ──► tags of the stack, which CloudFormation puts on every resource that supports tags

All except the tags are parameters of the template, so that an administrator can set them without this library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from starburst_executor.errors import ConfigError

__all__ = ["refuse_lost_rights", "rules_parameters", "tags_of"]

_ROLE = (r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", "a role's ARN, arn:aws:iam::123456789012:role/ours", "")
# By parameter: the option, its pattern, a description, and the value for none.
_FORMS = {
    "PermissionsBoundary": (
        "--permissions-boundary",
        r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/[\w+=,.@/-]+",
        "a policy's ARN, arn:aws:iam::123456789012:policy/boundary",
        "",
    ),
    "RolePath": ("--role-path", r"/([\w+=,.@-]+/)*", "a path that begins and ends with a slash, /teams/ours/", "/"),
    "RolePrefix": ("--role-prefix", r"[\w+=,.@-]{1,16}", "1 to 16 letters, digits and +=,.@_-", ""),
    "WorkerRoleArn": ("--worker-role", *_ROLE),
    "ExecutionRoleArn": ("--execution-role", *_ROLE),
    "KmsKeyArn": (
        "--kms-key",
        r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+",
        "a key's ARN, arn:aws:kms:eu-west-1:123456789012:key/…; not an alias",
        "",
    ),
}
# Source: https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html
_TAG = re.compile(r"([\w .:/+@-]{1,128})=([\w .:/=+@-]{0,256})")
_TAGS_MOST = 40  # of fifty: AWS and this library add some


def rules_parameters(given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the template's parameters for the given options only. Raises: ConfigError."""
    settled = {}
    for name, value in given.items():
        option, form, words, none = _FORMS[name]
        if value is None:
            continue
        if value != "none" and not re.fullmatch(form, value):
            raise ConfigError(f"{option} {value!r}: must be {words}; or none")
        settled[name] = none if value == "none" else value
    return settled


def refuse_lost_rights(parameters: Mapping[str, str]) -> None:
    """Refuse to grant rights to a role that the stack did not create, which would not get them. Raises: ConfigError."""
    for role, option, names in (
        ("WorkerRoleArn", "--worker-role", ("ReadObjects", "WriteObjects", "WorkerPolicies")),
        ("ExecutionRoleArn", "--execution-role", ("Secrets", "SecretKeys")),
    ):
        if parameters.get(role) and any(parameters.get(name) for name in names):
            raise ConfigError(
                f"{option} {parameters[role]}: rights are granted only to the stack's own roles; grant them to that role by hand, "
                "and remove --read, --write and --worker-policy, or --secret, with none"
            )


def tags_of(given: Iterable[str]) -> dict[str, str]:
    """Parse tags from `KEY=VALUE`. Raises: ConfigError."""
    tags = {}
    for tag in given:
        match = _TAG.fullmatch(tag)
        if match is None or match[1].lower().startswith(("aws:", "starburst:")):
            raise ConfigError(f"--tag {tag!r}: must be KEY=VALUE, and KEY must not begin with aws: or starburst:")
        tags[match[1]] = match[2]
    if len(tags) > _TAGS_MOST:
        raise ConfigError(f"--tag: at most {_TAGS_MOST}, not {len(tags)}")
    return tags
