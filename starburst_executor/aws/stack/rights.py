"""What workers of a stack may do beside their own work: data of the user's, policies of the user's, secrets.

    starburst setup --read s3://…      ──► ReadObjects, DataBuckets, DataPrefixes      in the workers' role
                    --write s3://…     ──► WriteObjects, DataBuckets, DataPrefixes     the same
                    --worker-policy …  ──► WorkerPolicies                              attached to the workers' role
                    --pass-role …      ──► PassRoles                                   in the policy for people
                    --secret …         ──► Secrets, SecretKeys                         in the role that starts workers

Each option replaces what was given before, all of it; `none` takes it away. All are parameters of the template, so that an
administrator can set them without this library, and are read back from the stack for `starburst doctor`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starburst_executor.errors import ConfigError

__all__ = ["DataPath", "Granted", "granted", "rights_parameters"]

NONE = "none"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_POLICY = re.compile(r"arn:aws[a-z-]*:iam::(\d{12}|aws):policy/[\w+=,.@/-]+")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/*-]+")
_SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@*?-]+")
_SSM_ARN = re.compile(r"arn:aws[a-z-]*:ssm:[a-z0-9-]+:\d{12}:parameter/[\w./*-]+")
_KMS_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[\w-]+")
_SSM_NAME = re.compile(r"/?[\w.-]+(/[\w.-]+)*")
# What IAM gives to one role: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_POLICIES_MOST = 9
_PARAMETER_BYTES = 4096  # of one value in CloudFormation


@dataclass(frozen=True, slots=True)
class DataPath:
    """A place in S3 that workers may get at.

    Attributes:
        bucket: Its bucket.
        prefix: A folder, with all beneath it, or empty for the whole bucket. With "*" at its end it is a prefix of keys as S3
            understands it, `2026-*`.
    """

    bucket: str
    prefix: str = ""

    @classmethod
    def of(cls, option: str, url: str) -> DataPath:
        """Of `s3://bucket/prefix`. Raises: ConfigError."""
        match = re.fullmatch(r"s3://([^/]+)(?:/(.*))?", url)
        if match is None or not _BUCKET.fullmatch(match[1]):
            raise ConfigError(f"{option} {url!r}: must be s3://bucket or s3://bucket/prefix")
        prefix = (match[2] or "").strip("/")
        if re.search(r"[*?,\s$]", prefix[:-1]) or prefix.endswith(("?", ",", "$", " ")):
            raise ConfigError(f"{option} {url!r}: '*' stands at the end only, and no '?', ',', '$' or space anywhere")
        return cls(match[1], "" if prefix == "*" else prefix)

    @property
    def objects(self) -> tuple[str, ...]:
        """Patterns of keys."""
        if not self.prefix or self.prefix.endswith("*"):
            return (self.prefix or "*",)
        return (self.prefix, f"{self.prefix}/*")


@dataclass(frozen=True, slots=True)
class Granted:
    """What the parameters of a stack grant to workers, as people gave it.

    Attributes:
        reads, writes: Places in S3, as URLs.
        policies: ARNs of policies that are attached to the workers' role.
        secrets: ARNs of secrets, and of keys that they are encrypted by, that workers may be started with.
        pass_roles: ARNs of roles that users may give workers in place of the stack's.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    pass_roles: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = {
            "read": self.reads,
            "write": self.writes,
            "policies": self.policies,
            "secrets": self.secrets,
            "roles of your own": self.pass_roles,
        }
        told = [f"{name} {', '.join(values)}" for name, values in parts.items() if values]
        return (
            "; ".join(told)
            or "their sessions alone: --read, --write and --worker-policy of `starburst setup` add to that"
        )


def rights_parameters(
    *,
    reads: tuple[str, ...],
    writes: tuple[str, ...],
    policies: tuple[str, ...],
    secrets: tuple[str, ...],
    pass_roles: tuple[str, ...],
    now: Mapping[str, str],
    partition: str,
    region: str,
    account_id: str,
) -> dict[str, str]:
    """The template's parameters for what was given; of an option that was not given, none. Raises: ConfigError.

    Args:
        now: The stack's parameters as they are: reads and writes share some.
    """
    settled: dict[str, str] = {}
    if reads or writes:
        before = granted(now)
        read = _paths("--read", reads) if reads else [DataPath.of("--read", url) for url in before.reads]
        write = _paths("--write", writes) if writes else [DataPath.of("--write", url) for url in before.writes]
        settled |= _data_parameters(read, write, partition)
    if policies:
        settled["WorkerPolicies"] = ",".join(_arns("--worker-policy", policies, _POLICY))
        if len(_arns("--worker-policy", policies, _POLICY)) > _POLICIES_MOST:
            raise ConfigError(f"--worker-policy: a role takes {_POLICIES_MOST} besides its own; put them together")
    if pass_roles:
        settled["PassRoles"] = ",".join(_arns("--pass-role", pass_roles, _ROLE))
    if secrets:
        given = [] if secrets == (NONE,) else [_secret(each, partition, region, account_id) for each in secrets]
        settled["SecretKeys"] = ",".join(arn for arn in given if _KMS_ARN.fullmatch(arn))
        settled["Secrets"] = ",".join(arn for arn in given if not _KMS_ARN.fullmatch(arn))
    for name, value in settled.items():
        if len(value) > _PARAMETER_BYTES:
            raise ConfigError(
                f"more than a parameter of CloudFormation takes, {_PARAMETER_BYTES} bytes: parameter={name}"
            )
    return settled


def granted(parameters: Mapping[str, str]) -> Granted:
    """What a stack's parameters grant."""

    def listed(name: str) -> tuple[str, ...]:
        return tuple(filter(None, parameters.get(name, "").split(",")))

    return Granted(
        reads=tuple(_urls(listed("ReadObjects"))),
        writes=tuple(_urls(listed("WriteObjects"))),
        policies=listed("WorkerPolicies"),
        secrets=(*listed("Secrets"), *listed("SecretKeys")),
        pass_roles=listed("PassRoles"),
    )


def _paths(option: str, urls: tuple[str, ...]) -> list[DataPath]:
    return [] if urls == (NONE,) else [DataPath.of(option, url) for url in dict.fromkeys(urls)]


def _data_parameters(read: list[DataPath], write: list[DataPath], partition: str) -> dict[str, str]:
    def objects(paths: list[DataPath]) -> str:
        return ",".join(f"arn:{partition}:s3:::{path.bucket}/{key}" for path in paths for key in path.objects)

    paths = [*read, *write]
    # A bucket as a whole needs no prefix in its listing; "*" allows any.
    prefixes = dict.fromkeys(key for path in paths for key in path.objects)
    return {
        "ReadObjects": objects(read),
        "WriteObjects": objects(write),
        "DataBuckets": ",".join(dict.fromkeys(f"arn:{partition}:s3:::{path.bucket}" for path in paths)),
        "DataPrefixes": ",".join(prefixes),
    }


def _urls(arns: Iterable[str]) -> list[str]:
    """The places that patterns of objects stand for: a folder's two as one."""
    keys = [arn.partition(":::")[2] for arn in arns]
    folders = [key for key in keys if f"{key}/*" not in keys]
    return [f"s3://{key.removesuffix('/*')}" for key in folders]


def _arns(option: str, given: tuple[str, ...], form: re.Pattern[str]) -> list[str]:
    if given == (NONE,):
        return []
    for arn in given:
        if not form.fullmatch(arn):
            raise ConfigError(
                f"{option} {arn!r}: must be an ARN, such as {_EXAMPLES[option]}; or none alone, for no more"
            )
    return list(dict.fromkeys(given))


_EXAMPLES: dict[str, Any] = {
    "--worker-policy": "arn:aws:iam::123456789012:policy/ours",
    "--pass-role": "arn:aws:iam::123456789012:role/ours",
}


def _secret(given: str, partition: str, region: str, account_id: str) -> str:
    """The ARN of a secret, of a parameter or of a key; a parameter may be named alone."""
    if given.startswith("arn:"):
        # A container may name a key within a secret, its stage, its version: rights are given for the whole.
        secret = re.sub(r"(:secret:[^:]+):.*", r"\1", given)
        if _SECRET_ARN.fullmatch(secret) or _SSM_ARN.fullmatch(secret) or _KMS_ARN.fullmatch(secret):
            return secret
    elif _SSM_NAME.fullmatch(given):
        return f"arn:{partition}:ssm:{region}:{account_id}:parameter/{given.lstrip('/')}"
    raise ConfigError(
        f"--secret {given!r}: must be the ARN of a secret of Secrets Manager, of a parameter of SSM or of a KMS key, or a "
        "parameter's name; or none alone, for no more"
    )
