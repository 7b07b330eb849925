"""Passes a session's key to workers on AWS, in an SSM parameter that only the stack's roles can read.

    client ──PutParameter──► <prefix><session_id> (SecureString) ◄──GetParameter── worker, with its role

The key is not in the environment or the task definition, since all users who may describe an ECS task can read those. It
is deleted with the session's workers; a standard parameter is free of charge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.errors import KeyNotFound

__all__ = ["delete_key", "parameter_name", "put_key", "read_key"]


def parameter_name(prefix: str, session_id: str) -> str:
    """Return the parameter's name; `prefix` is the stack's, and ends with "/"."""
    return f"{prefix}{session_id}"


def put_key(clients: Clients, name: str, key: str, *, tags: Mapping[str, str], kms_key: str = "") -> None:
    """Store a session's key, in hexadecimal. Harmless if it exists. Raises: LaunchError, ConfigError. SSM: 1.

    Args:
        kms_key: The KMS key that encrypts it; empty for the AWS managed key of Systems Manager.
    """
    request: dict[str, Any] = {"Name": name, "Value": key, "Type": "SecureString", "Overwrite": False}
    request |= {"KeyId": kms_key} if kms_key else {}
    try:
        clients.get("ssm").put_parameter(
            **request, Tags=[{"Key": name, "Value": value} for name, value in tags.items()]
        )
    except FOREIGN as error:
        if error_code(error) != "ParameterAlreadyExists":
            raise meaning(error, f"storing the session's key as the SSM parameter {name!r}") from error


def read_key(clients: Clients, name: str) -> str:
    """Read a session's key, in hexadecimal. Raises: KeyNotFound, LaunchError, ConfigError. SSM: 1."""
    try:
        return str(clients.get("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
    except FOREIGN as error:
        if error_code(error) == "ParameterNotFound":
            raise KeyNotFound(
                f"the session's key was deleted: its workers were stopped, by cleanup or by the end of its client: "
                f"parameter={name}"
            ) from error
        raise meaning(error, f"reading the session's key, the SSM parameter {name!r}") from error


def delete_key(clients: Clients, name: str) -> None:
    """Delete a session's key. Harmless if it does not exist. Raises: LaunchError, ConfigError. SSM: 1."""
    try:
        clients.get("ssm").delete_parameter(Name=name)
    except FOREIGN as error:
        if error_code(error) != "ParameterNotFound":
            raise meaning(error, f"deleting the session's key, the SSM parameter {name!r}") from error
