"""Variables of other programs: which are set, and which endpoint of S3 they name. Other values are not read."""

from __future__ import annotations

import os

__all__ = ["endpoint_in_environment", "variable_names"]


def variable_names() -> frozenset[str]:
    """Return the names of all environment variables that are set, including empty ones."""
    return frozenset(os.environ)


def endpoint_in_environment() -> str:
    """Return what the environment names as the endpoint of S3, to distinguish servers; boto3 alone decides which one is used."""
    return os.environ.get("AWS_ENDPOINT_URL_S3", "") or os.environ.get("AWS_ENDPOINT_URL", "")
