"""What a client says of dollars: of a store on AWS the requests too; a launcher that cannot tell is no obstacle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.client.money import check_cost, cost_of, hourly_usd
from starburst_executor.errors import BudgetExceeded, LaunchError
from starburst_executor.protocol.records import SessionState
from tests.support.keeper_rig import Client, FakeLauncher, launches
from tests.support.session_rig import Rig


@pytest.mark.parametrize(
    ("url", "usd"),
    [("s3://bucket/p?region=eu-west-1", 0.0004), ("s3://b?endpoint_url=http://minio", 0.0), ("sqlite:///x", 0.0)],
)
def test_requests_cost_on_aws_alone(url: str, usd: float) -> None:
    rig = Rig()
    cost = cost_of(rig.session.manifest.current, rig.clock.now(), [], [], {"get": 1000}, url)
    assert (cost.requests_usd, cost.workers_usd, cost.total_usd) == (usd, 0.0, usd)


def test_a_launcher_that_cannot_tell_says_why_when_it_is_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = FakeLauncher()

    def fail(n_slots: int) -> float:
        raise LaunchError("no stack")

    monkeypatch.setattr(launcher, "usd_per_hour", fail)
    assert hourly_usd(launcher, 1) is None
    assert hourly_usd(None, 1) is None


def test_the_limit_is_what_may_be_spent() -> None:
    launcher = FakeLauncher()
    check_cost(launcher, 5, max_hourly_cost=0.01, cost_alert_threshold=None)
    launcher.usd_each = 2.0
    check_cost(launcher, 5, max_hourly_cost=10.0, cost_alert_threshold=None)
    with pytest.raises(BudgetExceeded, match=r"workers=6 would cost about \$12.00 an hour, max_hourly_cost is \$10.00"):
        check_cost(launcher, 6, max_hourly_cost=10.0, cost_alert_threshold=None)


def test_a_launch_carries_its_price_and_leaves_what_it_has_cost() -> None:
    rig, launcher = Rig(workers=4), FakeLauncher()
    launcher.usd_each = 0.5
    client = Client(rig, launcher)
    client.turns(1.0)
    (launch,) = launches(rig)
    assert (launch.usd_per_hour, launch.started, launch.settled) == (2.0, 4, True)
    rig.beat(f"{launch.launch_id.partition('-')[0]}-0")
    rig.clock.advance(3600)
    launcher.kill("w0")
    client.turns(1.0)
    (fresh,) = launches(rig)
    assert fresh.launch_id != launch.launch_id
    # One was heard of once, at its start: a minute each.
    assert rig.another().manifest.current.spent_usd == pytest.approx(4 * 0.5 / 60, rel=0.1)


def test_replacements_that_are_too_dear_are_not_started_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    rig, launcher = Rig(workers=4, max_hourly_cost=3.0), FakeLauncher()
    launcher.usd_each = 0.5
    client = Client(rig, launcher)
    client.turns(1.0)
    rig.session.manifest.change(lambda manifest: replace(manifest, slots=8))
    client.turns(2 * rig.timings.beat_s)
    assert len(launcher.orders) == 1
    assert "about $4.00 an hour would run, max_hourly_cost is $3.00; request fewer" in caplog.text
    assert rig.another().manifest.current.state == SessionState.OPEN
    launcher.kill("w0")
    client.turns(60.0)
    broken = rig.another().manifest.current
    assert broken.error == "BudgetExceeded"
    assert broken.reason.startswith("workers for about $4.00 an hour")
