"""Built-in prices, for use when the AWS price list is unavailable, and for prices that need no request.

All are for us-east-1 and Linux, in dollars, without tax, discounts and free tiers; other regions cost up to 50 % more.
`pricing.py` requests the prices that AWS publishes; all prices are estimates. Imports no SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["DATED", "EBS_USD", "FARGATE", "FARGATE_SPOT", "IPV4_USD", "SHARE", "instance_usd", "requests_usd"]

# When the tables below were read.
DATED = "2026-06"

# Per hour: a vCPU, a GB of memory, and a GB of disk above 20. Source: https://aws.amazon.com/fargate/pricing/
FARGATE = {
    "x86_64": {"vcpu": 0.04048, "gb": 0.004445, "disk_gb": 0.000111},
    "arm64": {"vcpu": 0.03238, "gb": 0.00356, "disk_gb": 0.000111},
}
# "Up to 70 %" off; AWS publishes no history. Source: https://aws.amazon.com/fargate/pricing/
FARGATE_SPOT = 0.3

# A public address, per hour. Source: https://aws.amazon.com/vpc/pricing/
IPV4_USD = 0.005
# 50 GB of gp3, per hour: $0.08 per GB-month. Source: https://aws.amazon.com/ebs/pricing/
EBS_USD = 50 * 0.08 / 730

# An instance with 4 vCPUs, On-Demand; within a family the price grows with the size.
# Source: https://aws.amazon.com/ec2/pricing/on-demand/
_XLARGE = {
    "c5": 0.17,
    "c6a": 0.153,
    "c6g": 0.136,
    "c6i": 0.17,
    "c7g": 0.145,
    "c7i": 0.1785,
    "m5": 0.192,
    "m6a": 0.1728,
    "m6g": 0.154,
    "m6i": 0.192,
    "m7g": 0.1632,
    "m7i": 0.2016,
    "r5": 0.252,
    "r6g": 0.2016,
    "r6i": 0.252,
    "r7g": 0.2142,
    "t3": 0.1664,
    "t4g": 0.1344,
}
# The price of sizes with GPUs does not grow with the size.
_SINGLE = {"g4dn.xlarge": 0.526, "g5.xlarge": 1.006}
_SIZES = {"medium": 0.25, "large": 0.5, "xlarge": 1.0, "metal": None}
# The price of any instance by its vCPUs, GB and GPUs: at most a tenth above the prices of c5, m5 and r5.
SHARE = {"vcpu": 0.0365, "gb": 0.0038, "gpu": 1.0}

# Per request; S3 Standard lists prices per 1,000. Source: https://aws.amazon.com/s3/pricing/
_WRITE_USD, _READ_USD = 0.005 / 1000, 0.0004 / 1000
_WRITES, _READS = ("create", "swap", "put", "list"), ("get", "not_modified")


def instance_usd(instance_type: str) -> float | None:
    """Return the On-Demand price of an instance per hour; None for a family or size that is not in the table."""
    if instance_type in _SINGLE:
        return _SINGLE[instance_type]
    family, _, size = instance_type.partition(".")
    match = re.fullmatch(r"(\d+)xlarge", size)
    factor = float(match[1]) if match else _SIZES.get(size)
    return _XLARGE[family] * factor if family in _XLARGE and factor else None


def requests_usd(counts: Mapping[str, int]) -> float:
    """Return the cost of store requests on S3 Standard, by the kinds of `executor.requests()`. Refused requests cost too."""
    writes = sum(counts.get(kind, 0) for kind in _WRITES)
    return writes * _WRITE_USD + sum(counts.get(kind, 0) for kind in _READS) * _READ_USD
