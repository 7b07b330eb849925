"""The additional rights of a stack's workers: access to the user's data, the user's policies, secrets.

    starburst setup --read s3://…      ──► ReadObjects, DataBuckets, DataPrefixes      in the worker role
                    --write s3://…     ──► WriteObjects, DataBuckets, DataPrefixes     the same
                    --worker-policy …  ──► WorkerPolicies                              attached to the worker role
                    --pass-role …      ──► PassRoles                                   in the policy for users
                    --secret …         ──► Secrets, SecretKeys                         in the execution role

Each option replaces all its previous values; `none` removes them. All are parameters of the template, so that an
administrator can set them without this library, and `starburst doctor` reads them from the stack.
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
# IAM's limit for one role: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
_POLICIES_MOST = 9
_PARAMETER_BYTES = 4096  # CloudFormation's limit for one value


@dataclass(frozen=True, slots=True)
class DataPath:
    """A location in S3 that workers may access.

    Attributes:
        bucket: The bucket.
        prefix: A folder with all its contents, or empty for the whole bucket. With a final "*" it is a prefix of keys,
            `2026-*`.
    """

    bucket: str
    prefix: str = ""

    @classmethod
    def of(cls, option: str, url: str) -> DataPath:
        """Parse `s3://bucket/prefix`. Raises: ConfigError."""
        match = re.fullmatch(r"s3://([^/]+)(?:/(.*))?", url)
        if match is None or not _BUCKET.fullmatch(match[1]):
            raise ConfigError(f"{option} {url!r}: must be s3://bucket or s3://bucket/prefix")
        prefix = (match[2] or "").strip("/")
        if re.search(r"[*?,\s$]", prefix[:-1]) or prefix.endswith(("?", ",", "$", " ")):
            raise ConfigError(
                f"{option} {url!r}: '*' is allowed only at the end, and '?', ',', '$' and spaces are not allowed"
            )
        return cls(match[1], "" if prefix == "*" else prefix)

    @property
    def objects(self) -> tuple[str, ...]:
        """The patterns of keys."""
        if not self.prefix or self.prefix.endswith("*"):
            return (self.prefix or "*",)
        return (self.prefix, f"{self.prefix}/*")


@dataclass(frozen=True, slots=True)
class Granted:
    """The rights that the parameters of a stack grant to workers, in the form of the options.

    Attributes:
        reads, writes: Locations in S3, as URLs.
        policies: ARNs of policies that are attached to the worker role.
        secrets: ARNs of secrets that workers may use, and of the keys that encrypt them.
        pass_roles: ARNs of roles that users may pass to workers instead of the stack's.
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
        grants = [f"{name} {', '.join(values)}" for name, values in parts.items() if values]
        return (
            "; ".join(grants)
            or "only their sessions: --read, --write and --worker-policy of `starburst setup` add rights"
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
    """Return the template's parameters for the given options only. Raises: ConfigError.

    Args:
        now: The stack's current parameters: reads and writes share some.
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
            raise ConfigError(f"--worker-policy: a role accepts {_POLICIES_MOST} in addition to its own; combine them")
    if pass_roles:
        settled["PassRoles"] = ",".join(_arns("--pass-role", pass_roles, _ROLE))
    if secrets:
        arns = [] if secrets == (NONE,) else [_secret(name, partition, region, account_id) for name in secrets]
        settled["SecretKeys"] = ",".join(arn for arn in arns if _KMS_ARN.fullmatch(arn))
        settled["Secrets"] = ",".join(arn for arn in arns if not _KMS_ARN.fullmatch(arn))
    for name, value in settled.items():
        if len(value) > _PARAMETER_BYTES:
            raise ConfigError(
                f"longer than CloudFormation's limit for a parameter, {_PARAMETER_BYTES} bytes: parameter={name}"
            )
    return settled


def granted(parameters: Mapping[str, str]) -> Granted:
    """Return the rights that a stack's parameters grant."""

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
    # For a whole bucket the pattern is "*", which allows listing any prefix.
    prefixes = dict.fromkeys(key for path in paths for key in path.objects)
    return {
        "ReadObjects": objects(read),
        "WriteObjects": objects(write),
        "DataBuckets": ",".join(dict.fromkeys(f"arn:{partition}:s3:::{path.bucket}" for path in paths)),
        "DataPrefixes": ",".join(prefixes),
    }


def _urls(arns: Iterable[str]) -> list[str]:
    """Return the locations for patterns of objects; the two patterns of a folder give one."""
    keys = [arn.partition(":::")[2] for arn in arns]
    folders = [key for key in keys if f"{key}/*" not in keys]
    return [f"s3://{key.removesuffix('/*')}" for key in folders]


def _arns(option: str, given: tuple[str, ...], form: re.Pattern[str]) -> list[str]:
    if given == (NONE,):
        return []
    for arn in given:
        if not form.fullmatch(arn):
            raise ConfigError(
                f"{option} {arn!r}: must be an ARN, such as {_EXAMPLES[option]}; or only none, to remove all"
            )
    return list(dict.fromkeys(given))


_EXAMPLES: dict[str, Any] = {
    "--worker-policy": "arn:aws:iam::123456789012:policy/ours",
    "--pass-role": "arn:aws:iam::123456789012:role/ours",
}


def _secret(given: str, partition: str, region: str, account_id: str) -> str:
    """Return the ARN of a secret, a parameter or a key; a parameter may be given by its name."""
    if given.startswith("arn:"):
        # A reference may include a JSON key, a stage and a version; the right is for the whole secret.
        secret = re.sub(r"(:secret:[^:]+):.*", r"\1", given)
        if _SECRET_ARN.fullmatch(secret) or _SSM_ARN.fullmatch(secret) or _KMS_ARN.fullmatch(secret):
            return secret
    elif _SSM_NAME.fullmatch(given):
        return f"arn:{partition}:ssm:{region}:{account_id}:parameter/{given.lstrip('/')}"
    raise ConfigError(
        f"--secret {given!r}: must be the ARN of a secret of Secrets Manager, of a parameter of SSM or of a KMS key, or a "
        "parameter's name; or only none, to remove all"
    )
