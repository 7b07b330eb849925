"""Prices: as AWS lists them, cached for a day, and built in where there is no list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from starburst_executor.aws.billing import prices
from starburst_executor.aws.billing.pricing import Pricing
from starburst_executor.testing import FakeClock


def product(usage: str, usd: str) -> str:
    dimension = {"pricePerUnit": {"USD": usd}}
    terms = {"OnDemand": {"a.b": {"priceDimensions": {"a.b.c": dimension}}}}
    return json.dumps({"product": {"attributes": {"usagetype": usage}}, "terms": terms})


PAGES = [
    [product("EU-Fargate-Windows-vCPU-Hours:perCPU", "9"), product("EU-Fargate-vCPU-Hours:perCPU", "0.05")],
    [product("EU-Fargate-ARM-vCPU-Hours:perCPU", "0.04"), product("EU-Fargate-ARM-GB-Hours", "0.004")],
    [product("EU-Fargate-GB-Hours", "0.006"), product("EU-Fargate-EphemeralStorage-GB-Hours", "0.0002")],
]


class FakeClients:
    """Price list and EC2 in one."""

    region = "eu-west-1"

    def __init__(self, pages: list[list[str]] | None = None, spot: list[tuple[str, int, str]] | None = None) -> None:
        self.pages, self.spot = pages, spot
        self.asked: list[tuple[str, str | None]] = []
        self.filters: dict[str, str] = {}

    def get(self, service: str, *, region: str | None = None) -> FakeClients:
        self.asked.append((service, region))
        if self.pages is None and service == "pricing":
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetProducts")
        return self

    def get_paginator(self, operation: str) -> FakeClients:
        assert operation == "get_products"
        return self

    def paginate(self, **request: Any) -> Iterator[dict[str, Any]]:
        self.filters = {one["Field"]: one["Value"] for one in request["Filters"]}
        for page in self.pages or []:
            yield {"PriceList": page}

    def describe_spot_price_history(self, **request: Any) -> dict[str, Any]:
        assert request["ProductDescriptions"] == ["Linux/UNIX"]
        history = [
            {"AvailabilityZone": zone, "Timestamp": datetime.fromtimestamp(at, timezone.utc), "SpotPrice": usd}
            for zone, at, usd in self.spot or []
        ]
        return {"SpotPriceHistory": history}


def pricing(clients: FakeClients, clock: FakeClock | None = None) -> Pricing:
    return Pricing(clients, clock or FakeClock())  # type: ignore[arg-type]


@pytest.mark.parametrize(("arch", "usd"), [("x86_64", 2 * 0.05 + 8 * 0.006), ("arm64", 2 * 0.04 + 8 * 0.004)])
def test_fargate_is_what_the_price_list_says(arch: str, usd: float) -> None:
    clients = FakeClients(PAGES)
    price = pricing(clients).fargate(2, 8, arch=arch, disk_gb=120)
    assert price.usd_per_hour == pytest.approx(usd + 100 * 0.0002 + 0.005)
    assert (price.source, price.dated, price.is_estimate) == ("AWS", "2023-11-14", True)
    assert clients.asked == [("pricing", "eu-central-1")]
    assert clients.filters == {"regionCode": "eu-west-1"}


def test_fargate_spot_is_a_part_of_on_demand_and_says_so() -> None:
    price = pricing(FakeClients(PAGES)).fargate(1, 2, arch="x86_64", spot=True)
    assert price.usd_per_hour == pytest.approx(0.3 * (0.05 + 2 * 0.006) + 0.005)
    assert price.source == "30 % of On-Demand by AWS"


def test_what_was_asked_is_kept_for_a_day_also_for_other_processes() -> None:
    clock, clients = FakeClock(), FakeClients(PAGES)
    first = pricing(clients, clock).fargate(1, 2, arch="x86_64")
    clock.advance(23 * 3600)
    assert pricing(clients, clock).fargate(1, 2, arch="x86_64") == first
    assert len(clients.asked) == 1
    clock.advance(2 * 3600)
    assert pricing(clients, clock).fargate(1, 2, arch="x86_64").dated == "2023-11-15"
    assert len(clients.asked) == 2


def test_old_prices_are_better_than_none_and_say_how_old_they_are() -> None:
    clock = FakeClock()
    first = pricing(FakeClients(PAGES), clock).fargate(1, 2, arch="x86_64")
    clock.advance(30 * 24 * 3600)
    assert pricing(FakeClients(), clock).fargate(1, 2, arch="x86_64") == first


@pytest.mark.parametrize(
    "pages", [None, [], [["not json"]], [[json.dumps({"product": {}})]], [[product("EU-Fargate-GB-Hours", "0")]]]
)
def test_where_nobody_tells_the_table_is_taken_and_nothing_kept(
    pages: list[list[str]] | None, starburst_home: Path
) -> None:
    clients = FakeClients(pages)
    asked = pricing(clients)
    price = asked.fargate(1, 2, arch="x86_64")
    assert price.usd_per_hour == pytest.approx(0.04048 + 2 * 0.004445 + 0.005)
    assert (price.source, price.dated) == ("built-in table for us-east-1", prices.DATED)
    asked.fargate(4, 8, arch="x86_64")
    assert len(clients.asked) == 1, "not asked again"
    assert not (starburst_home / "prices.json").exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"eu-west-1/fargate/x86_64": 3}', '{"eu-west-1/fargate/x86_64": {"usd": {"vcpu": -1}, "at": 0}}'],
)
def test_a_file_that_is_spoilt_is_as_none(text: str, starburst_home: Path) -> None:
    (starburst_home / "prices.json").write_text(text)
    assert pricing(FakeClients(PAGES)).fargate(1, 2, arch="x86_64").source == "AWS"
    assert "eu-west-1/fargate/x86_64" in json.loads((starburst_home / "prices.json").read_text())


def test_spot_is_the_mean_of_the_newest_price_in_each_zone() -> None:
    clients = FakeClients(spot=[("a", 9, "0.06"), ("a", 5, "0.04"), ("b", 3, "0.02")])
    price = pricing(clients).instance("c7g.xlarge", spot=True)
    assert price.usd_per_hour == pytest.approx(0.04 + prices.EBS_USD + prices.IPV4_USD)


def test_an_instance_on_demand_and_spot_without_history() -> None:
    clients = FakeClients([[product("EU-BoxUsage:c7g.xlarge", "0.16")]])
    for spot in (False, True):
        price = pricing(clients).instance("c7g.xlarge", spot=spot)
        assert price.usd_per_hour == pytest.approx(0.16 + prices.EBS_USD + prices.IPV4_USD)
    assert clients.filters["instanceType"] == "c7g.xlarge"


def test_the_table_of_instances() -> None:
    assert prices.instance_usd("c7g.large") == pytest.approx(0.0725)
    assert prices.instance_usd("m7g.16xlarge") == pytest.approx(16 * 0.1632)
    assert prices.instance_usd("g5.xlarge") == 1.006
    for unknown in ("g5.48xlarge", "x9.large", "c7g.metal", "c7g", ""):
        assert prices.instance_usd(unknown) is None
    # An unknown type is priced by its vCPUs, memory and GPUs.
    unknown_price = pricing(FakeClients()).instance("x9.large", vcpus=2, memory_gb=8, gpus=1)
    assert unknown_price.usd_per_hour > 1.0
    assert pricing(FakeClients()).share(4, 16).usd_per_hour == pytest.approx(0.192, rel=0.15)


def test_requests_cost_by_their_class() -> None:
    counts = {
        "get": 500,
        "not_modified": 500,
        "list": 250,
        "create": 250,
        "swap": 250,
        "put": 250,
        "delete": 9,
        "bytes_in": 9,
    }
    assert prices.requests_usd(counts) == pytest.approx(0.0004 + 0.005)
