"""The client's view of a session's cost: estimates it before workers start, and adds it up while they run and afterwards.

Past cost is estimated from manifest and beats (`protocol/money.py`), the cost of workers to start from the launcher's
prices (`aws/billing/pricing.py`). `session/budget.py` ends a session at its budget, since workers enforce it as well.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starburst_executor.aws.billing.prices import requests_usd
from starburst_executor.errors import BudgetExceeded, StarburstError
from starburst_executor.launch.base import Launcher
from starburst_executor.protocol.money import spent, thrown_away, usd_per_hour
from starburst_executor.protocol.records import Manifest, WorkerBeat

__all__ = ["Cost", "check_cost", "cost_of", "hourly_usd", "is_billed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """The estimated cost of a session so far, in dollars. `str()` gives one line for people.

    Attributes:
        workers_usd: The machines that were started for it, with their public addresses.
        requests_usd: S3 requests of its workers and of this client; 0 for a store outside AWS.
        usd_per_hour: The hourly cost of the workers that are alive now.
        budget_usd: The value of `workers_usd` at which the session ends; None without a budget.
        interruptions: The number of workers that AWS took back, mostly Spot, as far as clients have seen.
        lost_s: Seconds of unfinished work on tasks whose worker died or was stopped.
        lost_usd: The cost of `lost_s`; part of `workers_usd`.
    """

    workers_usd: float
    requests_usd: float
    usd_per_hour: float
    budget_usd: float | None = None
    interruptions: int = 0
    lost_s: float = 0.0
    lost_usd: float = 0.0

    @property
    def total_usd(self) -> float:
        """The sum of workers and requests."""
        return self.workers_usd + self.requests_usd

    def __str__(self) -> str:
        budget = "" if self.budget_usd is None else f", budget ${self.budget_usd:.2f}"
        taken = ""
        if self.interruptions:
            taken = f"; {self.interruptions} interruptions, {self.lost_s:,.0f} s of work lost (${self.lost_usd:.4f})"
        return (
            f"about ${self.total_usd:.4f} (workers ${self.workers_usd:.4f}, S3 requests ${self.requests_usd:.4f}), "
            f"now ${self.usd_per_hour:.4f} an hour{budget}{taken}"
        )


def cost_of(
    manifest: Manifest,
    now: float,
    beats: Iterable[WorkerBeat],
    dead: Collection[str],
    counts: Mapping[str, int],
    store_url: str,
) -> Cost:
    """Return the cost of a session up to `now`.

    Args:
        beats: Its workers' newest beats.
        dead: Workers that are known to be dead.
        counts: Store requests by kind, of this client and all workers.
        store_url: The URL of its store.
    """
    listed = list(beats)
    lost_s, lost_usd = thrown_away(manifest, listed, dead)
    return Cost(
        workers_usd=spent(manifest, now, listed, dead),
        requests_usd=requests_usd(counts) if is_billed(store_url) else 0.0,
        usd_per_hour=usd_per_hour(manifest, listed, dead),
        budget_usd=manifest.budget_usd,
        interruptions=manifest.n_interruptions,
        lost_s=lost_s,
        lost_usd=lost_usd,
    )


def hourly_usd(launcher: Launcher | None, n_slots: int) -> float | None:
    """Return the hourly cost of workers with `n_slots` slots; None if they cost nothing, or the price is unknown."""
    try:
        return None if launcher is None else launcher.usd_per_hour(n_slots)
    except StarburstError as error:
        # The start will fail for the same reason, with an error of its own.
        _log.info("the cost of workers cannot be estimated: launcher=%s: %s", launcher and launcher.name, error)
        return None


def check_cost(
    launcher: Launcher | None, n_slots: int, *, max_hourly_cost: float | None, cost_alert_threshold: float | None
) -> None:
    """Estimate, before any worker starts, the hourly cost of `n_slots` slots; warn if it is above the threshold.

    Raises: BudgetExceeded if it is above `max_hourly_cost`.
    """
    usd = hourly_usd(launcher, n_slots)
    if usd is None:
        return
    if max_hourly_cost is not None and usd > max_hourly_cost:
        raise BudgetExceeded(
            f"workers={n_slots} would cost about ${usd:.2f} an hour, max_hourly_cost is ${max_hourly_cost:.2f}; nothing "
            "was started: request fewer or cheaper workers, or raise it"
        )
    is_dear = cost_alert_threshold is not None and usd > cost_alert_threshold
    _log.log(
        logging.WARNING if is_dear else logging.INFO,
        "workers=%d will cost about $%.2f an hour (estimate)",
        n_slots,
        usd,
    )


def is_billed(store_url: str) -> bool:
    """Whether Amazon charges for its requests. An endpoint in the environment is not taken into account."""
    parts = urlsplit(store_url)
    return parts.scheme == "s3" and "endpoint_url" not in parse_qs(parts.query)
