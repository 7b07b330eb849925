"""Hourly prices of workers' machines: read from AWS, cached for a day in the data folder, built in as a last resort.

    AWS Price List ─► cached on disk for a day ─► or for longer, if AWS does not answer ─► built-in table (`prices.py`)
    Spot history   ─► … for an hour

Guarantee: never fails, and never delays a session for longer than one refused request. Every price is an estimate:
discounts, taxes, free tiers and other costs of the account are unknown.

Source: https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from starburst_executor import config
from starburst_executor.aws.billing import prices
from starburst_executor.aws.clients import FOREIGN, Clients
from starburst_executor.clock import Clock, SystemClock
from starburst_executor.errors import StarburstError

__all__ = ["Price", "Pricing"]

_log = logging.getLogger(__name__)

_DAY_S, _HOUR_S = 24 * 3600.0, 3600.0
_FREE_DISK_GB = 20
# The price list is the same at each of its endpoints.
_ENDPOINTS = {"us": "us-east-1", "ca": "us-east-1", "sa": "us-east-1", "ap": "ap-south-1"}
_USAGE = {
    ("x86_64", "vcpu"): r"(.*-)?Fargate-vCPU-Hours:perCPU",
    ("x86_64", "gb"): r"(.*-)?Fargate-GB-Hours",
    ("arm64", "vcpu"): r"(.*-)?Fargate-ARM-vCPU-Hours:perCPU",
    ("arm64", "gb"): r"(.*-)?Fargate-ARM-GB-Hours",
}
_DISK = r"(.*-)?Fargate-EphemeralStorage-GB-Hours"
_TABLE = "built-in table for us-east-1"
# The exceptions that a malformed answer or file may cause.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one worker's machine.

    Attributes:
        usd_per_hour: Dollars per hour.
        source: The source of the price.
        dated: The date of the price.
        is_estimate: Always true.
    """

    usd_per_hour: float
    source: str
    dated: str
    is_estimate: bool = True

    def __str__(self) -> str:
        return f"${self.usd_per_hour:.4f} an hour (estimate; {self.source}, {self.dated})"


@dataclass(frozen=True, slots=True)
class _Rates:
    usd: dict[str, float]
    source: str
    dated: str


class Pricing:
    """The prices of one region. Not thread-safe: the launcher's caller also calls this.

    Args:
        clients: Clients for the region that try once, so that an endpoint that does not answer delays little.
    """

    def __init__(self, clients: Clients, clock: Clock | None = None) -> None:
        self._clients = clients
        self._clock = clock or SystemClock()
        self._known: dict[str, _Rates | None] = {}

    def fargate(self, vcpu: float, memory_gb: float, *, arch: str, spot: bool = False, disk_gb: int = 20) -> Price:
        """Return the price of an ECS task with a public address. Price list: 1 per page, once a day."""
        rates = self._found(f"fargate/{arch}", _DAY_S, lambda: self._ask_fargate(arch)) or _built_in(
            prices.FARGATE[arch]
        )
        usd = vcpu * rates.usd["vcpu"] + memory_gb * rates.usd["gb"]
        source = rates.source
        if spot:
            usd *= prices.FARGATE_SPOT
            source = f"30 % of On-Demand by {source}"
        usd += max(0, disk_gb - _FREE_DISK_GB) * rates.usd["disk_gb"] + prices.IPV4_USD
        return Price(usd, source, rates.dated)

    def instance(
        self, instance_type: str, *, spot: bool = False, vcpus: float = 0, memory_gb: float = 0, gpus: int = 0
    ) -> Price:
        """Return the price of an EC2 instance with a disk and a public address; for an unknown type, an estimate from its size.

        Price list: 1 once a day; EC2: 1 per hour for Spot.
        """
        rates = None
        if spot:
            rates = self._found(f"spot/{instance_type}", _HOUR_S, lambda: self._ask_spot(instance_type))
        if rates is None:
            # Without Spot history, the On-Demand price is a bound in most cases.
            rates = self._found(f"ec2/{instance_type}", _DAY_S, lambda: self._ask_instance(instance_type))
        if rates is None:
            rates = _built_in({"hour": prices.instance_usd(instance_type) or _share_usd(vcpus, memory_gb, gpus)})
        return Price(rates.usd["hour"] + prices.EBS_USD + prices.IPV4_USD, rates.source, rates.dated)

    def share(self, vcpus: float, memory_gb: float, gpus: int = 0) -> Price:
        """Return the price of a part of an EC2 instance whose type AWS Batch chooses. No request."""
        usd = _share_usd(vcpus, memory_gb, gpus) + prices.IPV4_USD
        return Price(usd, _TABLE, prices.DATED)

    # --- requested, cached, built in ----------------------------------------------------------------------------------------

    def _found(self, name: str, lasts_s: float, ask: Callable[[], dict[str, float]]) -> _Rates | None:
        """Return AWS's prices under this name, current or cached; None if there are none."""
        if name in self._known:
            return self._known[name]
        rates, at = self._read(name)
        if rates is None or self._clock.now() - at >= lasts_s:
            try:
                usd, at = ask(), self._clock.now()
                rates = _Rates(usd, "AWS", _date(at))
                self._keep(name, usd, at)
            except (*FOREIGN, StarburstError, *_MALFORMED) as error:
                _log.info("the prices of %s could not be read from AWS; continuing with older ones: %s", name, error)
        self._known[name] = rates
        return rates

    def _read(self, name: str) -> tuple[_Rates | None, float]:
        try:
            entry = self._file()[self._key(name)]
            usd = {str(key): float(value) for key, value in entry["usd"].items()}
            at = float(entry["at"])
            is_sound = usd and all(0 < value < 10_000 for value in usd.values()) and at <= self._clock.now()  # noqa: PLR2004
        except _MALFORMED:
            return None, 0.0
        return (_Rates(usd, "AWS", _date(at)), at) if is_sound else (None, 0.0)

    def _file(self) -> dict[str, Any]:
        path = config.price_file(to_write=False)
        try:
            cached = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        except (OSError, ValueError):
            return {}
        return cached if isinstance(cached, dict) else {}

    def _keep(self, name: str, usd: dict[str, float], at: float) -> None:
        path = config.price_file(to_write=True)
        if path is None:
            return
        # If two processes write at once, the prices of one are lost and requested again.
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            draft.write_text(json.dumps({**self._file(), self._key(name): {"usd": usd, "at": at}}), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            _log.info("prices could not be cached: %s", error)

    def _key(self, name: str) -> str:
        return f"{self._clients.region}/{name}"

    # --- AWS ----------------------------------------------------------------------------------------------------------

    def _ask_fargate(self, arch: str) -> dict[str, float]:
        wanted = {name: _USAGE[arch, name] for name in ("vcpu", "gb")} | {"disk_gb": _DISK}
        usd: dict[str, float] = {}
        for product in self._products("AmazonECS", regionCode=self._clients.region):
            usage = str(product["product"]["attributes"].get("usagetype", ""))
            for name, pattern in wanted.items():
                if re.fullmatch(pattern, usage):
                    usd[name] = _on_demand(product)
            if len(usd) == len(wanted):
                break
        return {name: usd[name] for name in wanted}

    def _ask_instance(self, instance_type: str) -> dict[str, float]:
        product = next(
            self._products(
                "AmazonEC2",
                instanceType=instance_type,
                regionCode=self._clients.region,
                operatingSystem="Linux",
                tenancy="Shared",
                preInstalledSw="NA",
                capacitystatus="Used",
            ),
            {},
        )
        return {"hour": _on_demand(product)}

    def _ask_spot(self, instance_type: str) -> dict[str, float]:
        """Return the mean of the newest prices in each zone."""
        now = datetime.fromtimestamp(self._clock.now(), timezone.utc)
        answer = self._clients.get("ec2").describe_spot_price_history(
            InstanceTypes=[instance_type], ProductDescriptions=["Linux/UNIX"], StartTime=now
        )
        newest: dict[str, tuple[Any, float]] = {}
        for record in answer["SpotPriceHistory"]:
            zone, at = str(record["AvailabilityZone"]), record["Timestamp"]
            if zone not in newest or newest[zone][0] < at:
                newest[zone] = (at, float(record["SpotPrice"]))
        if not newest:
            raise LookupError(f"no Spot prices of {instance_type} in {self._clients.region}")
        return {"hour": sum(usd for _, usd in newest.values()) / len(newest)}

    def _products(self, service: str, **fields: str) -> Iterator[dict[str, Any]]:
        region = _ENDPOINTS.get(self._clients.region.partition("-")[0], "eu-central-1")
        pages = self._clients.get("pricing", region=region).get_paginator("get_products")
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in fields.items()]
        for page in pages.paginate(ServiceCode=service, Filters=filters):
            for text in page["PriceList"]:
                # Each entry is a string of JSON.
                product: dict[str, Any] = json.loads(text)
                yield product


def _on_demand(product: dict[str, Any]) -> float:
    """Return the price of one unit. Raises: LookupError if there is none in dollars."""
    for term in product["terms"]["OnDemand"].values():
        for dimension in term["priceDimensions"].values():
            usd = float(dimension["pricePerUnit"]["USD"])
            if usd > 0:
                return usd
    raise LookupError("a product without a price")


def _built_in(usd: dict[str, float]) -> _Rates:
    return _Rates(usd, _TABLE, prices.DATED)


def _share_usd(vcpus: float, memory_gb: float, gpus: int) -> float:
    return vcpus * prices.SHARE["vcpu"] + memory_gb * prices.SHARE["gb"] + gpus * prices.SHARE["gpu"]


def _date(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d}"
