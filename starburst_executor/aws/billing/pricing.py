"""Dollars an hour of what launchers start: asked of AWS, kept for a day in the data folder, built in as a last resort.

    AWS Price List ─► kept on disk for a day ─► kept for longer, if AWS cannot be asked ─► built-in table (`prices.py`)
    Spot history   ─► … for an hour

Guarantee: never fails, and never keeps a session waiting for longer than one request takes to be refused. Every price is
an estimate: discounts, taxes, free tiers and whatever else the account pays for are not known here.

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
# What may go wrong where an answer, or a file, is not of the form that is expected.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, slots=True)
class Price:
    """What one worker's machine costs.

    Attributes:
        usd_per_hour: Dollars.
        source: Who says so.
        dated: When, as a date.
        is_estimate: Always.
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
    """The prices of one region. Not thread-safe: called by whoever calls the launcher.

    Args:
        clients: Of the region; whoever asks once is not kept waiting by an endpoint that does not answer.
    """

    def __init__(self, clients: Clients, clock: Clock | None = None) -> None:
        self._clients = clients
        self._clock = clock or SystemClock()
        self._known: dict[str, _Rates | None] = {}

    def fargate(self, vcpu: float, memory_gb: float, *, arch: str, spot: bool = False, disk_gb: int = 20) -> Price:
        """An ECS task of that size with a public address. Price list: 1 a page, once a day."""
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
        """An EC2 instance with a disk and a public address. What it has decides where nobody knows its type.

        Price list: 1 once a day; EC2: 1 an hour for Spot.
        """
        rates = None
        if spot:
            rates = self._found(f"spot/{instance_type}", _HOUR_S, lambda: self._ask_spot(instance_type))
        if rates is None:
            # Spot of which there is no history: mostly it costs no more than On-Demand.
            rates = self._found(f"ec2/{instance_type}", _DAY_S, lambda: self._ask_instance(instance_type))
        if rates is None:
            rates = _built_in({"hour": prices.instance_usd(instance_type) or _share_usd(vcpus, memory_gb, gpus)})
        return Price(rates.usd["hour"] + prices.EBS_USD + prices.IPV4_USD, rates.source, rates.dated)

    def share(self, vcpus: float, memory_gb: float, gpus: int = 0) -> Price:
        """A part of an EC2 instance whose type somebody else chooses. No request."""
        usd = _share_usd(vcpus, memory_gb, gpus) + prices.IPV4_USD
        return Price(usd, _TABLE, prices.DATED)

    # --- asked, kept, built in ----------------------------------------------------------------------------------------

    def _found(self, name: str, lasts_s: float, ask: Callable[[], dict[str, float]]) -> _Rates | None:
        """What AWS says of that, or has said; None if it has never been heard."""
        if name in self._known:
            return self._known[name]
        kept, at = self._read(name)
        if kept is None or self._clock.now() - at >= lasts_s:
            try:
                usd, at = ask(), self._clock.now()
                kept = _Rates(usd, "AWS", _date(at))
                self._keep(name, usd, at)
            except (*FOREIGN, StarburstError, *_MALFORMED) as error:
                _log.info("the prices of %s cannot be asked for; going on with older ones: %s", name, error)
        self._known[name] = kept
        return kept

    def _read(self, name: str) -> tuple[_Rates | None, float]:
        try:
            found = self._file()[self._key(name)]
            usd = {str(key): float(value) for key, value in found["usd"].items()}
            at = float(found["at"])
            is_sound = usd and all(0 < value < 10_000 for value in usd.values()) and at <= self._clock.now()  # noqa: PLR2004
        except _MALFORMED:
            return None, 0.0
        return (_Rates(usd, "AWS", _date(at)), at) if is_sound else (None, 0.0)

    def _file(self) -> dict[str, Any]:
        path = config.price_file()
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _keep(self, name: str, usd: dict[str, float], at: float) -> None:
        path = config.price_file()
        if path is None:
            return
        # Two processes at once: one's prices are lost, and asked for again.
        draft = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            draft.write_text(json.dumps({**self._file(), self._key(name): {"usd": usd, "at": at}}), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            _log.info("prices cannot be kept: %s", error)

    def _key(self, name: str) -> str:
        return f"{self._clients.region}/{name}"

    # --- AWS ----------------------------------------------------------------------------------------------------------

    def _ask_fargate(self, arch: str) -> dict[str, float]:
        wanted = {name: _USAGE[arch, name] for name in ("vcpu", "gb")} | {"disk_gb": _DISK}
        found: dict[str, float] = {}
        for product in self._products("AmazonECS", regionCode=self._clients.region):
            usage = str(product["product"]["attributes"].get("usagetype", ""))
            for name, pattern in wanted.items():
                if re.fullmatch(pattern, usage):
                    found[name] = _on_demand(product)
            if len(found) == len(wanted):
                break
        return {name: found[name] for name in wanted}

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
        """The mean of the newest price in each zone."""
        now = datetime.fromtimestamp(self._clock.now(), timezone.utc)
        answer = self._clients.get("ec2").describe_spot_price_history(
            InstanceTypes=[instance_type], ProductDescriptions=["Linux/UNIX"], StartTime=now
        )
        newest: dict[str, tuple[Any, float]] = {}
        for one in answer["SpotPriceHistory"]:
            zone, at = str(one["AvailabilityZone"]), one["Timestamp"]
            if zone not in newest or newest[zone][0] < at:
                newest[zone] = (at, float(one["SpotPrice"]))
        if not newest:
            raise LookupError(f"no Spot prices of {instance_type} in {self._clients.region}")
        return {"hour": sum(usd for _, usd in newest.values()) / len(newest)}

    def _products(self, service: str, **fields: str) -> Iterator[dict[str, Any]]:
        where = _ENDPOINTS.get(self._clients.region.partition("-")[0], "eu-central-1")
        pages = self._clients.get("pricing", region=where).get_paginator("get_products")
        filters = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in fields.items()]
        for page in pages.paginate(ServiceCode=service, Filters=filters):
            for text in page["PriceList"]:
                # Each is JSON once more, as a text.
                product: dict[str, Any] = json.loads(text)
                yield product


def _on_demand(product: dict[str, Any]) -> float:
    """The price of one unit. Raises: LookupError if there is none in dollars."""
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
