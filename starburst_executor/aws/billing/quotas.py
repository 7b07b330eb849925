"""How many vCPUs an account may run of each kind, and how many it runs.

A new account may start very few; what is beyond its quota is refused by ECS in words, or waits without any. So it is
looked up before anything is started. What is in use comes from the metric that Service Quotas itself names; it is some
minutes old, so it is a hint, and what the engine answers decides.

Source: https://docs.aws.amazon.com/servicequotas/latest/userguide/intro.html
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from starburst_executor.aws.clients import FOREIGN, Clients, error_code, meaning
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import ConfigError

__all__ = ["KINDS", "Quota", "QuotaCode", "kind_of_instance", "read_quota", "request_quota"]

_log = logging.getLogger(__name__)

_METRIC_MINUTES = 15


class QuotaCode(NamedTuple):
    """A quota, as Service Quotas names it."""

    service: str
    code: str


KINDS = {
    "fargate": QuotaCode("fargate", "L-3032A538"),
    "fargate-spot": QuotaCode("fargate", "L-36FBB829"),
    "ec2": QuotaCode("ec2", "L-1216C47A"),
    "ec2-spot": QuotaCode("ec2", "L-34B43A08"),
    "ec2-gpu": QuotaCode("ec2", "L-DB2E81BA"),
    "ec2-gpu-spot": QuotaCode("ec2", "L-3819A6DF"),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota of one account and region.

    Attributes:
        name: In AWS's words.
        limit: vCPUs that may run at once.
        in_use: vCPUs that ran some minutes ago; None if that cannot be told.
    """

    code: QuotaCode
    name: str
    limit: float
    in_use: float | None

    @property
    def room(self) -> float:
        """vCPUs that may be started."""
        return max(0.0, self.limit - (self.in_use or 0.0))


def kind_of_instance(instance_type: str, *, spot: bool) -> str | None:
    """Whose quota an EC2 instance counts against; None for families that are not known here."""
    match = re.match(r"[a-z]+", instance_type)
    family = match[0] if match else ""
    if family in ("g", "gr", "vt"):
        return "ec2-gpu-spot" if spot else "ec2-gpu"
    if family[:1] in tuple("acdhimrtz") and family not in ("dl", "hpc", "inf", "mac", "trn"):
        return "ec2-spot" if spot else "ec2"
    return None


def read_quota(clients: Clients, code: QuotaCode, clock: Clock | None = None) -> Quota | None:
    """A quota and what is in use; None if these credentials may not read it, which is logged.

    Service Quotas: 1; CloudWatch: 1.
    """
    asked = {"ServiceCode": code.service, "QuotaCode": code.code}
    try:
        quotas = clients.get("service-quotas")
        try:
            found = quotas.get_service_quota(**asked)["Quota"]
        except FOREIGN as error:
            # Never applied for in this account: the default holds.
            if error_code(error) != "NoSuchResourceException":
                raise
            found = quotas.get_aws_default_service_quota(**asked)["Quota"]
    except FOREIGN as error:
        _log.info("the quota %s cannot be read; going on without: %s", code.code, error)
        return None
    in_use = _in_use(clients, found.get("UsageMetric") or {}, clock or SystemClock())
    return Quota(code, str(found.get("QuotaName", code.code)), float(found["Value"]), in_use)


def _in_use(clients: Clients, metric: dict[str, Any], clock: Clock) -> float | None:
    if not metric.get("MetricName"):
        return None
    now = datetime.fromtimestamp(clock.now(), timezone.utc)
    dimensions = [{"Name": name, "Value": value} for name, value in metric.get("MetricDimensions", {}).items()]
    named = {"Namespace": metric["MetricNamespace"], "MetricName": metric["MetricName"], "Dimensions": dimensions}
    query = {"Id": "used", "MetricStat": {"Metric": named, "Period": 60, "Stat": "Maximum"}}
    try:
        answer = clients.get("cloudwatch").get_metric_data(
            MetricDataQueries=[query],
            StartTime=now - timedelta(minutes=_METRIC_MINUTES),
            EndTime=now,
            ScanBy="TimestampDescending",
        )
    except FOREIGN as error:
        _log.info("what is in use of a quota cannot be read; going on without: %s", error)
        return None
    values = [value for one in answer.get("MetricDataResults", []) for value in one.get("Values", [])]
    # No point: nothing ran.
    return float(values[0]) if values else 0.0


def request_quota(clients: Clients, code: QuotaCode, vcpus: float) -> str:
    """Ask AWS for a higher quota; the state of the request, such as `PENDING`. Raises: LaunchError, ConfigError.

    A second request for the same quota while one is open is refused by AWS. Service Quotas: 1.
    """
    if not vcpus > 0:
        raise ConfigError(f"vcpus={vcpus!r} (an argument): must be greater than 0")
    try:
        answer = clients.get("service-quotas").request_service_quota_increase(
            ServiceCode=code.service, QuotaCode=code.code, DesiredValue=vcpus
        )
    except FOREIGN as error:
        raise meaning(error, f"asking for {vcpus:g} vCPUs of quota {code.code}") from error
    return str(answer["RequestedQuota"]["Status"])
