"""A session's dollars on the client's side: estimated before workers are started, counted while they run, told after.

What they have cost is estimated from manifest and beats (`protocol/money.py`), what a launcher starts from its prices
(`aws/billing/pricing.py`). That a session ends at its budget is `session/budget.py`'s, since workers see to it as well.
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

__all__ = ["Cost", "check_cost", "cost_of", "hourly_usd"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a session has cost so far, in dollars: an estimate; prints well.

    Attributes:
        workers_usd: Machines that were started for it, with their public addresses.
        requests_usd: S3 requests of its workers and of this client; 0 in a store that is not on AWS.
        usd_per_hour: What the workers that live now cost an hour.
        budget_usd: At which `workers_usd` the session ends; None for never.
        interruptions: Workers that AWS took back, Spot mostly, as far as clients have seen.
        lost_s: Seconds of tasks' work that were begun in vain, since their worker was told to stop or died.
        lost_usd: What those cost; part of `workers_usd`.
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
        """Workers and requests together."""
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
    """What a session has cost by `now`.

    Args:
        beats: Its workers' newest ones.
        dead: Workers that are known to be dead.
        counts: Store requests by kind, of everybody.
        store_url: Of its store.
    """
    listed = list(beats)
    lost_s, lost_usd = thrown_away(manifest, listed, dead)
    return Cost(
        workers_usd=spent(manifest, now, listed, dead),
        requests_usd=requests_usd(counts) if _is_billed(store_url) else 0.0,
        usd_per_hour=usd_per_hour(manifest, listed, dead),
        budget_usd=manifest.budget_usd,
        interruptions=manifest.n_interruptions,
        lost_s=lost_s,
        lost_usd=lost_usd,
    )


def hourly_usd(launcher: Launcher | None, n_slots: int) -> float | None:
    """What workers with so many slots would cost an hour; None if that is nothing, or not known."""
    try:
        return None if launcher is None else launcher.usd_per_hour(n_slots)
    except StarburstError as error:
        # Then they cannot be started either, which says so with an error of its own.
        _log.info("what workers would cost cannot be told: launcher=%s: %s", launcher and launcher.name, error)
        return None


def check_cost(
    launcher: Launcher | None, n_slots: int, *, max_hourly_cost: float | None, cost_alert_threshold: float | None
) -> None:
    """Estimate, before anything is started, what so many slots cost an hour; above the threshold warn.

    Raises: BudgetExceeded if that is more than `max_hourly_cost`.
    """
    usd = hourly_usd(launcher, n_slots)
    if usd is None:
        return
    if max_hourly_cost is not None and usd > max_hourly_cost:
        raise BudgetExceeded(
            f"workers={n_slots} would cost about ${usd:.2f} an hour, max_hourly_cost is ${max_hourly_cost:.2f}; nothing "
            "was started: ask for fewer or cheaper ones, or raise it"
        )
    is_dear = cost_alert_threshold is not None and usd > cost_alert_threshold
    _log.log(
        logging.WARNING if is_dear else logging.INFO,
        "workers=%d will cost about $%.2f an hour (estimate)",
        n_slots,
        usd,
    )


def _is_billed(store_url: str) -> bool:
    """Whether Amazon asks money for its requests. An endpoint that the environment names is not seen here."""
    parts = urlsplit(store_url)
    return parts.scheme == "s3" and "endpoint_url" not in parse_qs(parts.query)
