"""Money on every path: refused starts, counted workers, and the end of a session without a client."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

import pytest

from starburst_executor import BudgetExceeded, DetachedExecutor, Fargate, StarburstExecutor
from starburst_executor.aws.billing import prices
from starburst_executor.client.opening import attach
from starburst_executor.clock import SystemClock
from starburst_executor.launch.aws import ecs_placing, launches_seen
from tests.sessions import REMOTE, wait_until
from tests.support.aws_fakes.server import IMAGE, FakeAws
from tests.support.inside import parts_of

# Each of them costs more than a cent an hour for ten slots, and 10,000 of them more than twenty dollars.
KINDS = ["fargate", "fargate-spot", "ec2", "batch"]
DEAR, CHEAP = 0.01, 20.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches_seen, "POLL_S", 0.2)
    for name, value in {"_PAUSE_S": 0.05, "_PAUSE_MOST_S": 0.2}.items():
        monkeypatch.setattr(ecs_placing, name, value)


def detached(kind: str, limit: float | None = None) -> DetachedExecutor:
    return DetachedExecutor(workers=10, launcher=f"{kind}?image={IMAGE}", timings=REMOTE, max_hourly_cost=limit)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hourly_limit_holds_on_every_path(aws: FakeAws, kind: str) -> None:
    launcher = f"{kind}?image={IMAGE}"
    with pytest.raises(BudgetExceeded, match="max_hourly_cost is"):
        StarburstExecutor(workers=10, launcher=launcher, max_hourly_cost=DEAR)
    with pytest.raises(BudgetExceeded, match="max_hourly_cost is"):
        detached(kind, DEAR)
    with detached(kind, CHEAP) as ex, pytest.raises(BudgetExceeded, match="workers=10000 would cost"):
        ex.scale(10_000)
    with pytest.raises(BudgetExceeded, match="max_hourly_cost is"):
        DetachedExecutor.reattach(ex.url, key=ex.key, max_hourly_cost=DEAR)
    with DetachedExecutor(
        workers=10, launcher="none", store=f"s3://{aws.outputs['Bucket']}/none?region=us-east-1", max_hourly_cost=DEAR
    ) as ex:
        pass
    with pytest.raises(BudgetExceeded, match="max_hourly_cost is"):
        DetachedExecutor.reattach(ex.url, key=ex.key, launcher=launcher)
    assert aws.ecs.n_calls("RunTask") == 0
    assert aws.batch.jobs == {}
    assert aws.parameters == {}


def test_the_settings_hold_as_the_arguments_do(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    with detached("fargate") as ex:
        pass
    monkeypatch.setenv("STARBURST_MAX_HOURLY_COST", str(DEAR))
    for start in (lambda: detached("fargate"), lambda: DetachedExecutor.reattach(ex.url, key=ex.key)):
        with pytest.raises(BudgetExceeded):
            start()
    DetachedExecutor.reattach(ex.url, key=ex.key, launcher="none").cleanup(force=True)


def test_another_client_raises_the_limit_for_all(aws: FakeAws) -> None:
    with detached("fargate", CHEAP) as ex:
        pass
    again = DetachedExecutor.reattach(ex.url, key=ex.key, max_hourly_cost=1000, budget_usd=3)
    again.scale(10_000)
    assert again.cost().budget_usd == 3
    third = DetachedExecutor.reattach(ex.url, key=ex.key)
    assert third.status().cost.budget_usd == 3
    again.cleanup(force=True)


def test_what_is_started_later_is_refused_as_well(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The price has risen since, or another client has asked for more."""
    with StarburstExecutor(
        workers=1, launcher=Fargate(image=IMAGE), timings=replace(REMOTE, launch_s=60.0), max_hourly_cost=0.1
    ) as ex:
        monkeypatch.setitem(prices.FARGATE, "x86_64", {"vcpu": 1.0, "gb": 0.1, "disk_gb": 0.1})
        parts_of(ex).workforce._launcher.account.pricing._known.clear()  # type: ignore[union-attr]
        error = ex.submit(abs, -1).exception(timeout=60)
    assert isinstance(error, BudgetExceeded)
    assert "max_hourly_cost is $0.10" in str(error)
    assert aws.ecs.n_calls("RunTask") == 0


def test_dear_workers_are_worth_a_warning(aws: FakeAws, caplog: pytest.LogCaptureFixture) -> None:
    for threshold, n_warnings in ((CHEAP, 0), (DEAR, 1)):
        caplog.clear()
        with (
            caplog.at_level(logging.INFO),
            StarburstExecutor(workers=10, launcher=Fargate(image=IMAGE), cost_alert_threshold=threshold),
        ):
            pass
        told = [record for record in caplog.records if "will cost about $0.54 an hour" in record.getMessage()]
        assert [record.levelno == logging.WARNING for record in told] == [bool(n_warnings)]


def test_a_run_tells_what_it_has_cost(aws: FakeAws, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        with StarburstExecutor(workers=2, launcher=Fargate(image=IMAGE), timings=REMOTE, budget_usd=5) as ex:
            assert ex.submit(abs, -1).result(timeout=60) == 1
            during = ex.cost()
        after = ex.cost()
    each = 0.04048 + 2 * 0.004445 + 0.005
    assert during.usd_per_hour == pytest.approx(2 * each)
    assert during.budget_usd == 5
    # A minute each is what is billed at least.
    assert after.workers_usd == pytest.approx(2 * each / 60, rel=0.5)
    assert after.usd_per_hour == 0
    assert after.requests_usd == 0, "this store is not on AWS"
    assert f"the session has cost {after}" in caplog.text


def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_workers_end_a_session_at_its_budget_with_no_client_there(aws: FakeAws) -> None:
    ex = DetachedExecutor(
        workers=2, launcher=Fargate(image=IMAGE), timings=replace(REMOTE, launch_s=60.0), budget_usd=260
    )
    futures = [ex.submit(_sleep, 300) for _ in range(3)]
    wait_until(lambda: len(aws.ecs.running()) == 2)
    ex.detach()
    # As if hours had passed. Nobody is attached who would see it.
    opened = attach(ex.url, SystemClock(), key=ex.key)
    opened.session.manifest.change(lambda manifest: replace(manifest, spent_usd=260.0))
    opened.store.close()
    wait_until(lambda: not aws.ecs.not_stopped())
    again = DetachedExecutor.reattach(ex.url, key=ex.key)
    errors = [future.exception(timeout=60) for future in again.futures]
    assert [type(error) for error in errors] == [BudgetExceeded] * len(futures)
    assert "its budget is $260.00" in str(errors[0])
    with pytest.raises(BudgetExceeded):
        again.submit(abs, -1)
    assert again.status().state == "broken"
    assert again.cost().workers_usd >= 260
    again.cleanup(force=True)
