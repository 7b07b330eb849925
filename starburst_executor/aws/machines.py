"""Converts instance types to the template's parameters, and refuses wrong ones before any resource is created.

An ECS capacity provider has up to four types, a Batch compute environment any number of types and families. Each has one
architecture, since an image is built for one, and GPUs on all types or on none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, is_denied, meaning
from starburst_executor.errors import ConfigError

__all__ = ["BATCH_CHOICE", "batch_parameters", "describe_types", "ec2_parameters"]

# Batch chooses from x86-64 families without GPUs.
# https://docs.aws.amazon.com/batch/latest/APIReference/API_ComputeResource.html, `instanceTypes`
BATCH_CHOICE = "optimal"
_EC2_TYPES_MOST = 4
_MORE = ("Ec2InstanceType2", "Ec2InstanceType3", "Ec2InstanceType4")
_IMAGES = "/aws/service/ecs/optimized-ami"
# The newer one first. https://docs.aws.amazon.com/AmazonECS/latest/developerguide/retrieve-ecs-optimized_AMI.html
_GPU_IMAGES = tuple(
    f"{_IMAGES}/{system}/gpu/recommended/image_id" for system in ("amazon-linux-2023", "amazon-linux-2")
)


def ec2_parameters(clients: Clients, names: tuple[str, ...]) -> dict[str, str]:
    """Return the parameters for capacity providers of these types. Raises: ConfigError, LaunchError. EC2: 1; SSM: 1 for GPUs."""
    if len(names) > _EC2_TYPES_MOST or len(set(names)) < len(names):
        raise ConfigError(f"instance_type={','.join(names)!r}: must be one to {_EC2_TYPES_MOST} different types")
    kind = _kind(describe_types(clients, names), f"instance_type={','.join(names)!r}")
    parameters = {"Ec2InstanceType": names[0], "Ec2Kind": kind}
    parameters |= dict(zip(_MORE, [*names[1:], *[""] * len(_MORE)], strict=False))
    return parameters | ({"Ec2GpuImage": _gpu_image(clients)} if kind == "gpu" else {})


def batch_parameters(clients: Clients, names: tuple[str, ...]) -> dict[str, str]:
    """Return the parameters for compute environments of these types and families. Raises: ConfigError, LaunchError. EC2: 1 or 2."""
    option = f"batch_instance_type={','.join(names)!r}"
    chosen = [name for name in names if name != BATCH_CHOICE]
    records = describe_types(clients, chosen)
    kinds = {"x86-64"} if len(chosen) < len(names) else set()
    kinds |= {_kind(records, option)} if records else set()
    if len(kinds) > 1:
        raise ConfigError(f"{option}: {BATCH_CHOICE} is x86-64 without GPUs, the others are {_kind(records, option)}")
    return {"BatchInstanceTypes": ",".join(names), "BatchKind": kinds.pop()}


def describe_types(clients: Clients, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return EC2's descriptions of types, and of all types of families. Raises: ConfigError: unknown type; LaunchError."""
    types = [name for name in names if "." in name]
    families = [name for name in names if "." not in name]
    ec2, records = clients.get("ec2"), []
    try:
        if types:
            records += ec2.describe_instance_types(InstanceTypes=types)["InstanceTypes"]
        if families:
            of_family = [{"Name": "instance-type", "Values": [f"{family}.*" for family in families]}]
            pages = ec2.get_paginator("describe_instance_types").paginate(Filters=of_family)
            records += [record for page in pages for record in page["InstanceTypes"]]
    except FOREIGN as error:
        if error_code(error) in ("InvalidInstanceType", "InvalidParameterValue"):
            words = ",".join(types)
            raise ConfigError(f"no such instance type in {clients.region}: instance_type={words!r}") from error
        raise meaning(error, f"looking up the instance types {', '.join([*types, *families])}") from error
    known = {str(record["InstanceType"]).partition(".")[0] for record in records}
    for family in families:
        if family not in known:
            raise ConfigError(f"no such family of instance types in {clients.region}: {family!r}")
    return records


def _kind(records: list[dict[str, Any]], option: str) -> str:
    """Return the kind of the types in the template: `x86-64`, `arm64` or `gpu`. Raises: ConfigError: they differ."""
    kinds = {_kind_of(record) for record in records}
    if len(kinds) > 1:
        raise ConfigError(
            f"{option}: must have one architecture, and GPUs on all types or on none: {', '.join(sorted(kinds))}"
        )
    kind = kinds.pop()
    if kind == "arm64 with GPUs":
        raise ConfigError(f"GPUs with ARM processors are not supported: {option}")
    return kind


def _kind_of(record: dict[str, Any]) -> str:
    is_arm = "arm64" in record["ProcessorInfo"]["SupportedArchitectures"]
    has_gpu = any(gpu.get("Manufacturer") == "NVIDIA" for gpu in record.get("GpuInfo", {}).get("Gpus", []))
    return f"arm64{' with GPUs' if has_gpu else ''}" if is_arm else "gpu" if has_gpu else "x86-64"


def _gpu_image(clients: Clients) -> str:
    """Return the parameter that names the image with NVIDIA's drivers, which differs between regions. Raises: ConfigError."""
    try:
        answer = clients.get("ssm").get_parameters(Names=list(_GPU_IMAGES))
    except FOREIGN as error:
        if is_denied(error):
            return _GPU_IMAGES[0]
        raise meaning(error, "looking up the image of instances with GPUs") from error
    available = {str(parameter["Name"]) for parameter in answer["Parameters"]}
    image = next((name for name in _GPU_IMAGES if name in available), None)
    if image is None:
        raise ConfigError(
            f"ECS has no image with NVIDIA's drivers in {clients.region}: choose another region, or types without GPUs"
        )
    return image
