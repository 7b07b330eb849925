"""Checks the user's options for a worker's container besides its size: a role, variables, secrets by reference, file systems.

They are checked before any request to AWS. Errors name the option, and never a value that may be secret.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from typing import Any

from starburst_executor.errors import ConfigError

__all__ = [
    "ARCHS",
    "BATCH_STARTS_MOST",
    "EPHEMERAL_GB_LEAST",
    "FALLBACK_AFTER",
    "check_arch",
    "check_env",
    "check_ephemeral",
    "check_fallback",
    "check_mounts",
    "check_role",
    "check_secrets",
    "check_share",
    "check_slots",
    "own_share",
    "volumes",
]

ARCHS = ("x86_64", "arm64")
EPHEMERAL_GB_LEAST, _EPHEMERAL_GB_MOST = 20, 200  # the least is included in every container
# After this many interruptions, repeating lost work on Spot probably costs more than On-Demand.
FALLBACK_AFTER = 10
# Batch's limit for the starts of one job. https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html
BATCH_STARTS_MOST = 10
_SLOTS_MOST = 256

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
# An ARN of either service, or the name of a parameter in the stack's region and account.
# Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Secret.html
_SECRET = re.compile(
    r"arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@:-]+"
    r"|arn:aws[a-z-]*:ssm:[a-z0-9-]+:\d{12}:parameter/[\w./-]+"
    r"|/?[\w.-]+(/[\w.-]+)*"
)
# Set by the platform or the launcher: another value would change a worker's identity or keep it from its session.
# Source: https://docs.aws.amazon.com/batch/latest/userguide/job_env_vars.html, of AWS_BATCH_
_KEPT = ("STARBURST_", "AWS_BATCH_", "ECS_", "AWS_CONTAINER_CREDENTIALS_")
# A worker reaches its session with its role; these would replace it, unencrypted and without expiry.
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


def check_slots(slots: int | None) -> None:
    """Check the number of slots of a worker. Raises: ConfigError."""
    if slots is not None and (type(slots) is not int or not 1 <= slots <= _SLOTS_MOST):
        raise ConfigError(f"slots={slots!r} (an argument): must be 1..{_SLOTS_MOST}")


def check_arch(arch: str) -> None:
    """Check that AWS has such machines. Raises: ConfigError."""
    if arch not in ARCHS:
        raise ConfigError(f"arch={arch!r} (an argument): must be {' or '.join(map(repr, ARCHS))}")


def check_ephemeral(ephemeral_gb: int) -> None:
    """Check that Fargate has such a disk. Raises: ConfigError."""
    if type(ephemeral_gb) is not int or not EPHEMERAL_GB_LEAST <= ephemeral_gb <= _EPHEMERAL_GB_MOST:
        raise ConfigError(
            f"ephemeral_gb={ephemeral_gb!r} (an argument): must be {EPHEMERAL_GB_LEAST}..{_EPHEMERAL_GB_MOST}"
        )


def check_fallback(spot: bool, fallback: bool, after: int) -> None:
    """Check `fallback` and `fallback_after`. Raises: ConfigError."""
    if fallback and not spot:
        raise ConfigError("fallback=True (an argument): requires spot=True; without it all workers are On-Demand")
    if type(after) is not int or after < 1:
        raise ConfigError(f"fallback_after={after!r} (an argument): must be at least 1")


def check_role(role: str | None) -> None:
    """Check that it is the ARN of a role. Raises: ConfigError."""
    if role is not None and not _ROLE.fullmatch(str(role)):
        raise ConfigError(f"role={role!r} (an argument): must be a role's ARN, arn:aws:iam::ACCOUNT:role/NAME")


def check_env(env: Mapping[str, str]) -> None:
    """Check that names are valid and not reserved, and that values are strings. Raises: ConfigError."""
    for name, value in _items("env", env):
        _check_name("env", name)
        if not isinstance(value, str) or "\0" in value:
            raise ConfigError(f"env: the value of {name} must be a text without NUL, not {type(value).__name__}")


def check_secrets(secrets: Mapping[str, str], env: Mapping[str, str]) -> None:
    """Check names as `check_env`, and references. An invalid one may be the secret: it is not shown. Raises: ConfigError."""
    for name, reference in _items("secrets", secrets):
        _check_name("secrets", name)
        if name in env:
            raise ConfigError(f"env and secrets: both contain {name}; remove one")
        if not isinstance(reference, str) or not _SECRET.fullmatch(reference):
            raise ConfigError(
                f"secrets: {name} must be a reference, never the secret itself: the ARN of a secret of Secrets Manager or of "
                "a parameter of SSM, or such a parameter's name"
            )


def _items(option: str, given: object) -> list[tuple[object, object]]:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{option} (an argument): must be a mapping of names to texts, not {type(given).__name__}")
    return list(given.items())


def _check_name(option: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{option}: {name!r} is not a name of an environment variable")
    if name.startswith(_KEPT):
        raise ConfigError(f"{option}: {name} is set by the launcher or by AWS; choose another name")
    if name in _CREDENTIALS:
        raise ConfigError(f"{option}: {name} would replace the worker's role; use role= to give workers rights")


# Source: https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html, shareIdentifier; not the "*" of prefixes.
_SHARE = re.compile(r"[A-Za-z0-9]{1,255}")
_PRIORITY_MOST = 9999
_UNKNOWN_USER = "starburst"


def check_share(share: object, priority: object) -> None:
    """Check a share identifier of Batch, and a priority within a share. Raises: ConfigError."""
    if share is not None and (not isinstance(share, str) or not _SHARE.fullmatch(share)):
        raise ConfigError(f"share={share!r} (an argument): must be 1 to 255 letters and digits, such as a team's name")
    if type(priority) is not int or not 0 <= priority <= _PRIORITY_MOST:
        raise ConfigError(f"priority={priority!r} (an argument): must be 0..{_PRIORITY_MOST}")


def own_share() -> str:
    """Return the default share: the letters and digits of the user's name."""
    try:
        user = getpass.getuser()
    # No name for the process's user id, as in many containers: KeyError before Python 3.13, then OSError.
    except (KeyError, OSError, ImportError):
        user = ""
    return re.sub(r"[^A-Za-z0-9]", "", user)[:255] or _UNKNOWN_USER


# A file system, and a folder in it or an access point to it.
# Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_EFSVolumeConfiguration.html
_MOUNTED = re.compile(r"(?P<system>fs-[0-9a-f]{8,40})(:(?P<folder>/[^:]*)|/(?P<point>fsap-[0-9a-f]{8,40}))?")
_PATH = re.compile(r"/[^:\s]+")


def check_mounts(mounts: Mapping[str, str]) -> None:
    """Check paths and file systems. Raises: ConfigError."""
    for path, where in _items("mounts", mounts):
        if not isinstance(path, str) or not _PATH.fullmatch(path):
            raise ConfigError(f"mounts: {path!r} is not a path in a container, which begins with /")
        if not isinstance(where, str) or not _MOUNTED.fullmatch(where):
            raise ConfigError(
                f"mounts: {path} must be a file system of EFS: fs-0a1b2c3d, fs-0a1b2c3d:/folder, or fs-0a1b2c3d/fsap-0a1b2c3d "
                f"for an access point, not {where!r}"
            )


def volumes(mounts: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the volumes of a definition and the mount points of its container, in the form of both ECS and Batch.

    The traffic to the file system is encrypted.
    """
    made, points = [], []
    for number, (path, where) in enumerate(sorted(mounts.items())):
        match = _MOUNTED.fullmatch(where)
        assert match is not None  # `check_mounts` passed  # noqa: S101
        system: dict[str, Any] = {"fileSystemId": match["system"], "transitEncryption": "ENABLED"}
        if match["point"]:
            system["authorizationConfig"] = {"accessPointId": match["point"]}
        elif match["folder"]:
            system["rootDirectory"] = match["folder"]
        made.append({"name": f"efs-{number}", "efsVolumeConfiguration": system})
        points.append({"sourceVolume": f"efs-{number}", "containerPath": path})
    return made, points
