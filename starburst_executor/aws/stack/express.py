"""S3 Express One Zone: a second bucket of the stack, in one availability zone, with lower latency.

    starburst setup --express use1-az4 ──► Express, ExpressRouteTableIds

A *directory bucket* is in a zone, not in a region, and most regions have none. Its objects have no versions.
"""

from __future__ import annotations

from starburst_executor.aws.clients import FOREIGN, Clients, meaning
from starburst_executor.errors import ConfigError

__all__ = ["express_zone", "zone_of_bucket"]

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/directory-bucket-az-networking.html
_ZONES = {
    "us-east-1": ("use1-az4", "use1-az5", "use1-az6"),
    "us-east-2": ("use2-az1", "use2-az2"),
    "us-west-2": ("usw2-az1", "usw2-az3", "usw2-az4"),
    "ap-south-1": ("aps1-az1", "aps1-az3"),
    "ap-northeast-1": ("apne1-az1", "apne1-az4"),
    "eu-west-1": ("euw1-az1", "euw1-az3"),
    "eu-north-1": ("eun1-az1", "eun1-az2", "eun1-az3"),
}


def express_zone(clients: Clients, given: str) -> str:
    """Return the ID of the zone that is given by its ID (`use1-az4`) or by its name in this account (`us-east-1a`).

    Raises: ConfigError with the zones that have S3 Express One Zone; LaunchError. EC2: 1 DescribeAvailabilityZones.
    """
    usable = _ZONES.get(clients.region)
    if usable is None:
        raise ConfigError(
            f"--express {given!r}: {clients.region} has no S3 Express One Zone; these regions have it: {', '.join(_ZONES)}"
        )
    try:
        records = clients.get("ec2").describe_availability_zones()["AvailabilityZones"]
    except FOREIGN as error:
        raise meaning(error, "listing the availability zones") from error
    names = {str(record.get("ZoneId", "")): str(record["ZoneName"]) for record in records}
    zone_id = next((zone_id for zone_id, name in names.items() if name == given), given)
    if zone_id not in usable:
        choice = ", ".join(
            f"{usable_id} ({names[usable_id]})" if usable_id in names else usable_id for usable_id in usable
        )
        raise ConfigError(
            f"--express {given!r}: not a zone with S3 Express One Zone; those of {clients.region}, with their names in this "
            f"account, are {choice}; or none"
        )
    return zone_id


def zone_of_bucket(bucket: str) -> str:
    """Return the zone's ID in the name of a directory bucket, `<base>--<zone's ID>--x-s3`."""
    return bucket.removesuffix("--x-s3").rpartition("--")[2]
