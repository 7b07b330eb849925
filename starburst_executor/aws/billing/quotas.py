"""Reads the vCPU quotas of an account, and their usage.

The quotas of a new account are small; ECS refuses a task beyond the quota with an error, or lets it wait without one. So
the quota is read before workers are started. The usage comes from the metric that Service Quotas names and lags by
minutes: it is a hint, and the reply to the launch is what counts.

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
    """The codes of a quota in Service Quotas."""

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
        name: AWS's name of the quota.
        limit: The number of vCPUs that may run at once.
        in_use: The number of vCPUs that ran some minutes ago; None if unknown.
    """

    code: QuotaCode
    name: str
    limit: float
    in_use: float | None

    @property
    def room(self) -> float:
        """The number of vCPUs that may still be started."""
        return max(0.0, self.limit - (self.in_use or 0.0))


def kind_of_instance(instance_type: str, *, spot: bool) -> str | None:
    """Return the kind of quota that an EC2 instance counts against; None for unknown families."""
    match = re.match(r"[a-z]+", instance_type)
    family = match[0] if match else ""
    if family in ("g", "gr", "vt"):
        return "ec2-gpu-spot" if spot else "ec2-gpu"
    if family[:1] in tuple("acdhimrtz") and family not in ("dl", "hpc", "inf", "mac", "trn"):
        return "ec2-spot" if spot else "ec2"
    return None


def read_quota(clients: Clients, code: QuotaCode, clock: Clock | None = None) -> Quota | None:
    """Return a quota and its usage; None, with a log message, if these credentials may not read it.

    Service Quotas: 1; CloudWatch: 1.
    """
    request = {"ServiceCode": code.service, "QuotaCode": code.code}
    try:
        quotas = clients.get("service-quotas")
        try:
            record = quotas.get_service_quota(**request)["Quota"]
        except FOREIGN as error:
            # The account never requested a higher quota: the default applies.
            if error_code(error) != "NoSuchResourceException":
                raise
            record = quotas.get_aws_default_service_quota(**request)["Quota"]
    except FOREIGN as error:
        _log.info("the quota %s cannot be read; continuing without it: %s", code.code, error)
        return None
    in_use = _in_use(clients, record.get("UsageMetric") or {}, clock or SystemClock())
    return Quota(code, str(record.get("QuotaName", code.code)), float(record["Value"]), in_use)


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
        _log.info("the usage of a quota cannot be read; continuing without it: %s", error)
        return None
    values = [value for series in answer.get("MetricDataResults", []) for value in series.get("Values", [])]
    # No data points: no machine ran.
    return float(values[0]) if values else 0.0


def request_quota(clients: Clients, code: QuotaCode, vcpus: float) -> str:
    """Request a higher quota from AWS; return the state of the request, such as `PENDING`. Raises: LaunchError, ConfigError.

    AWS refuses a second request for the same quota while one is open. Service Quotas: 1.
    """
    if not vcpus > 0:
        raise ConfigError(f"vcpus={vcpus!r} (an argument): must be greater than 0")
    try:
        answer = clients.get("service-quotas").request_service_quota_increase(
            ServiceCode=code.service, QuotaCode=code.code, DesiredValue=vcpus
        )
    except FOREIGN as error:
        raise meaning(error, f"requesting {vcpus:g} vCPUs of quota {code.code}") from error
    return str(answer["RequestedQuota"]["Status"])
