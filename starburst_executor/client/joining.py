"""Joins a session that exists: says which settings differ, changes its cost limits, and chooses what starts its workers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from starburst_executor.client.money import check_cost
from starburst_executor.client.opening import Opened, own_launcher
from starburst_executor.config import Settings
from starburst_executor.launch.base import Launcher
from starburst_executor.protocol.records import Manifest, SessionState
from starburst_executor.session.store import SessionStore

__all__ = ["join", "limit_costs"]

_log = logging.getLogger(__name__)
# The argument of an executor, and where the manifest has it.
_FIELDS = {"workers": "slots"}


def join(
    opened: Opened,
    launcher: Launcher | None,
    settings: Settings,
    *,
    is_launcher_given: bool,
    wishes: Mapping[str, object],
    limits: Mapping[str, float | None],
) -> Launcher | None:
    """Prepare to attach to a session that was found by its name; return the launcher of this client.

    Args:
        launcher: What the user has given, or the setting; otherwise the session's own is used.
        wishes: Settings that were given, by argument. They stay as the session has them, and a warning names those that differ.
        limits: The cost limits that were given, which become the session's.

    Raises: BudgetExceeded; the session's store is closed then.
    """
    try:
        manifest = opened.session.manifest.current
        if differing := _differences(manifest, wishes):
            _log.warning(
                "the session of this name keeps its settings: %s: name=%s, session=%s",
                differing,
                manifest.name,
                manifest.session_id,
            )
        starts = launcher if is_launcher_given else own_launcher(opened.session)
        limit_costs(opened.session, starts, settings, limits)
    except BaseException:
        opened.store.close()
        raise
    return starts


def _differences(manifest: Manifest, given: Mapping[str, object]) -> str:
    """Return which of the given arguments differ from the settings of a session that exists; empty if none does."""
    differing = []
    for argument, value in given.items():
        stored = getattr(manifest, _FIELDS.get(argument, argument))
        if value is not None and value != stored:
            differing.append(f"{argument} is {stored!r}, given {value!r}")
    return "; ".join(differing)


def limit_costs(
    session: SessionStore, launcher: Launcher | None, settings: Settings, given: Mapping[str, float | None]
) -> None:
    """Set the session's cost limits, and check that its workers would keep them. Store: 1 swap if they change.

    Raises: BudgetExceeded.
    """

    def step(manifest: Manifest) -> Manifest | None:
        def limit(name: str, stored: float | None, setting: float | None) -> float | None:
            is_replaced = given[name] is not None or (stored is None and launcher is not None)
            return setting if is_replaced else stored

        budget_usd = limit("budget_usd", manifest.budget_usd, settings.budget_usd)
        hourly = limit("max_hourly_cost", manifest.max_hourly_cost, settings.max_hourly_cost)
        if (budget_usd, hourly) == (manifest.budget_usd, manifest.max_hourly_cost) or manifest.state.is_over:
            return None
        return replace(manifest, budget_usd=budget_usd, max_hourly_cost=hourly)

    manifest = session.manifest.current
    changed = step(manifest) or manifest
    has_limit = changed.max_hourly_cost is not None or settings.cost_alert_threshold is not None
    if has_limit and manifest.state == SessionState.OPEN:
        check_cost(
            launcher,
            manifest.slots,
            max_hourly_cost=changed.max_hourly_cost,
            cost_alert_threshold=settings.cost_alert_threshold,
        )
    if changed is not manifest:
        session.manifest.change(step)
