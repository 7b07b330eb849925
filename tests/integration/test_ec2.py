"""A session on EC2 instances of the stack: the real launcher, a fake of ECS that runs each ECS task as a process."""

from __future__ import annotations

import pytest

from starburst_executor import Ec2, StarburstExecutor
from starburst_executor.launch.aws import launches_seen
from tests.sessions import REMOTE, wait_until
from tests.support.aws_fakes.server import IMAGE, FakeAws


def test_a_worker_for_each_instance_with_a_slot_for_each_vcpu(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches_seen, "POLL_S", 0.2)
    with StarburstExecutor(workers=6, launcher=Ec2(image=IMAGE), timings=REMOTE) as ex:
        assert list(ex.map(abs, range(-12, 0), timeout=60)) == list(range(12, 0, -1))
        (definition,) = aws.ecs.definitions.values()
        assert (definition["cpu"], definition["networkMode"]) == ("4096", "bridge")
    requests = [request for name, request in aws.ecs.calls if name == "RunTask"]
    slots = [one["overrides"]["containerOverrides"][0]["command"][2] for one in requests]
    assert sorted(slots) == ["2", "4"]
    assert all("networkConfiguration" not in request for request in requests)
    assert {task["capacityProviderName"] for task in aws.ecs.tasks.values()} == {"ec2-spot"}
    wait_until(lambda: not aws.ecs.not_stopped())
