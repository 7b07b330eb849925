"""A session ends at its budget, with or without clients, and not before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.errors import BudgetExceeded
from starburst_executor.protocol.outcomes import load_outcome
from starburst_executor.protocol.records import DETACHED, Launch, SessionState, WorkerState
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.budget import Budget
from starburst_executor.session.repair import end_what_is_left
from tests.support.keeper_rig import Client
from tests.support.session_rig import Rig
from tests.unit.worker.test_keeper import Worker

HOUR = 3600.0


def rig_with(n_workers: int = 4, budget_usd: float | None = 8.0) -> Rig:
    """Workers at a dollar an hour each, started now, that beat."""
    rig = Rig(kind=DETACHED, budget_usd=budget_usd)
    now = rig.clock.now()
    launch = Launch("0001-aa", "fake", n_workers, "w0", now, True, n_workers, now, float(n_workers))
    rig.session.manifest.change(lambda manifest: replace(manifest, launches=(launch,)))
    for n in range(n_workers):
        rig.beat(f"0001-{n}")
    return rig


def state(rig: Rig) -> SessionState:
    return rig.another().manifest.current.state


def keep(rig: Rig, budget: Budget, **how: object) -> SessionState:
    rig.session.manifest.refresh()
    return budget.keep(**{"watches": True, **how}).state  # type: ignore[arg-type]


def test_a_worker_without_any_client_ends_the_session_and_its_tasks_say_why() -> None:
    rig = rig_with()
    key = rig.submit(2)
    worker = Worker(rig, "0001-0")
    worker.turns(2)
    rig.clock.advance(1.9 * HOUR)
    worker.turns(1)
    assert state(rig) == SessionState.OPEN
    rig.clock.advance(0.1 * HOUR)
    worker.keeper.watching.turn()
    manifest = worker.keeper.turn()
    assert manifest.state == SessionState.BROKEN
    end_what_is_left(rig.session, manifest)
    assert rig.states(key) == [State.FAILED, State.FAILED]
    _, error = load_outcome(rig.outcome(key, 0))
    assert isinstance(error, BudgetExceeded)
    # Five slots for two hours: this worker has two.
    assert "about $10.0" in str(error)
    assert "its budget is $8.00" in str(error)


def test_an_attached_client_ends_it_too() -> None:
    rig = rig_with()
    client = Client(rig)
    client.turns(1.0)
    rig.clock.advance(2 * HOUR)
    client.turns(rig.timings.beat_s)
    assert state(rig) == SessionState.BROKEN


def test_below_the_budget_nothing_is_asked_of_the_store() -> None:
    rig = rig_with()
    budget = Budget(rig.session)
    rig.clock.advance(1.9 * HOUR)
    with rig.requests() as counts:
        assert budget.keep(watches=True).state == SessionState.OPEN
    assert counts == {}


@pytest.mark.parametrize("budget_usd", [None, 1e9])
def test_without_a_budget_it_lives(budget_usd: float | None) -> None:
    rig = rig_with(budget_usd=budget_usd)
    rig.clock.advance(1000 * HOUR)
    assert keep(rig, Budget(rig.session)) == SessionState.OPEN


def test_a_straggler_is_not_ended_for_workers_that_have_left() -> None:
    rig = rig_with(4)
    for n in range(3):
        rig.beat(f"0001-{n}", 2, WorkerState.LEFT)
    budget = Budget(rig.session)
    for _ in range(6):
        rig.clock.advance(HOUR)
        assert keep(rig, budget) == SessionState.OPEN
    rig.clock.advance(2 * HOUR)
    assert keep(rig, budget) == SessionState.BROKEN


def test_the_beats_are_read_only_when_they_may_matter_and_once_a_minute_at_most() -> None:
    rig = rig_with(4)
    for n in range(3):
        rig.beat(f"0001-{n}", 2, WorkerState.LEFT)
    budget = Budget(rig.session)

    def n_reads(pause_s: float, n_changed: int) -> int:
        with rig.requests() as counts:
            for _ in range(50):
                budget.keep(watches=True)
                rig.clock.advance(pause_s)
        assert counts["get"] == n_changed
        return counts["list"]

    # A dollar an hour is spent, four may be: two dollars are gone, six are left, for an hour and a half at least.
    rig.clock.advance(2 * HOUR)
    assert n_reads(100.0, n_changed=4) == 1
    # A few cents are left.
    rig.clock.advance(8 * HOUR - 3 * 60 - 20.0 - (rig.clock.now() - rig.session.manifest.current.launches[0].since))
    rig.beat("0001-3", 7)
    assert n_reads(1.0, n_changed=1) == 1


def test_one_that_does_not_watch_waits_for_those_that_do() -> None:
    rig = rig_with()
    budget = Budget(rig.session)
    rig.clock.advance(2 * HOUR)
    assert keep(rig, budget, watches=False, patience_s=600.0) == SessionState.OPEN
    rig.clock.advance(599.0)
    assert keep(rig, budget, watches=False, patience_s=600.0) == SessionState.OPEN
    rig.clock.advance(1.0)
    assert keep(rig, budget, watches=False, patience_s=600.0) == SessionState.BROKEN


def test_a_budget_that_is_raised_at_that_moment_wins() -> None:
    rig = rig_with()
    rig.clock.advance(2 * HOUR)
    rig.session.manifest.refresh()
    # Behind the back of the one that looks: its swap fails, and it reads anew.
    rig.another().manifest.change(lambda manifest: replace(manifest, budget_usd=100.0))
    assert Budget(rig.session).keep(watches=True).state == SessionState.OPEN
    assert state(rig) == SessionState.OPEN
