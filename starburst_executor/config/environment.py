"""Variables of other programs: which are set, which endpoint of S3 they name, which GPUs. Other values are not read."""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["endpoint_in_environment", "pin_gpus", "variable_names", "visible_gpus"]

_GPUS = "CUDA_VISIBLE_DEVICES"


def variable_names() -> frozenset[str]:
    """Return the names of all environment variables that are set, including empty ones."""
    return frozenset(os.environ)


def endpoint_in_environment() -> str:
    """Return what the environment names as the endpoint of S3, to distinguish servers; boto3 alone decides which one is used."""
    return os.environ.get("AWS_ENDPOINT_URL_S3", "") or os.environ.get("AWS_ENDPOINT_URL", "")


def visible_gpus() -> tuple[str, ...] | None:
    """Return the GPUs that CUDA programs of this process may use, as the variable has them; None if it is not set."""
    text = os.environ.get(_GPUS)
    if text is None:
        return None
    return tuple(name for one in text.split(",") if (name := one.strip()) and name not in ("-1", "NoDevFiles"))


def pin_gpus(gpus: Sequence[str]) -> None:
    """Have this process, which has not used a GPU yet, and its children see these GPUs only."""
    os.environ[_GPUS] = ",".join(gpus)
