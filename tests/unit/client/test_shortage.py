"""Tasks whose resources no worker has, when a client sees them wait."""

from __future__ import annotations

from starburst_executor.client.shortage import Shortage
from starburst_executor.errors import ResourcesUnavailable
from starburst_executor.protocol.outcomes import load_outcome
from starburst_executor.protocol.spans.record import State
from tests.support.session_rig import Rig


def test_tasks_that_no_worker_can_run_fail_in_time_and_say_what_there_is() -> None:
    rig = Rig()
    key = rig.submit(2, resources="3xgpu")
    other = rig.submit(1, first=2, resources="1xgpu")
    rig.beat("w", resources={"gpu": 2, "cpu": 8})
    needs = {"3xgpu": [key], "1xgpu": [other]}
    shortage = Shortage(rig.session, lambda: needs, lambda: {"w"})
    with rig.requests() as counts:
        assert shortage.look() == 0
        rig.clock.advance(rig.timings.launch_s - 1)
        assert shortage.look() == 0
    assert not counts, "nothing is read while it is not due"
    rig.clock.advance(2)
    assert shortage.look() == 2
    assert rig.states(key) == [State.FAILED] * 2
    assert rig.states(other) == [State.PENDING]
    _, error = load_outcome(rig.outcome(key, 1))
    assert isinstance(error, ResourcesUnavailable)
    assert "gpu=3; the most that one of 1 workers has: gpu=2" in str(error)
    assert shortage.look() == 0


def test_without_workers_nothing_is_judged_and_a_worker_that_comes_late_counts() -> None:
    rig = Rig()
    key = rig.submit(1, resources="1xcamera")
    living: set[str] = set()
    shortage = Shortage(rig.session, lambda: {"1xcamera": [key]}, lambda: living)
    shortage.look()
    rig.clock.advance(rig.timings.launch_s + 1)
    assert shortage.look() == 0
    rig.beat("w", resources={"camera": 1})
    living.add("w")
    assert shortage.look() == 0
    assert rig.states(key) == [State.PENDING]
