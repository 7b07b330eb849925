"""Fifty workers on a fake of Fargate Spot that throttles, has no room for a while, and takes a third of them back."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from starburst_executor import Fargate, StarburstExecutor
from starburst_executor.launch.aws import ecs_placing, launches_seen
from tests.sessions import REMOTE, wait_until
from tests.support.aws_fakes.ecs import CAPACITY, failing, losing
from tests.support.aws_fakes.refusal import Bucket
from tests.support.aws_fakes.server import IMAGE, FakeAws, aws
from tests.support.moto_server import moto_server
from tests.support.s3_server import s3_server

__all__ = ["aws", "moto_server", "s3_server"]

pytestmark = pytest.mark.stress


def square(n: int) -> int:
    time.sleep(0.2)
    return n * n


@pytest.mark.timeout(900)
def test_fifty_workers_through_all_kinds_of_trouble(aws: FakeAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches_seen, "POLL_S", 1.0)
    monkeypatch.setattr(ecs_placing, "_PAUSE_S", 0.2)
    aws.ecs.launches = Bucket(2, 4.0)
    aws.ecs.script += [failing(CAPACITY), losing(), failing(CAPACITY, n_started=5)]
    timings = replace(REMOTE, beat_s=5.0, look_s=5.0, launch_s=300.0)
    with StarburstExecutor(workers=50, launcher=Fargate(image=IMAGE, spot=True), timings=timings) as ex:
        futures = [ex.submit(square, n) for n in range(3000)]
        wait_until(lambda: len(aws.ecs.running()) == 50, 300)
        wait_until(lambda: sum(future.done() for future in futures) >= 300, 300)
        for task_id in aws.ecs.running()[::3]:
            aws.ecs.interrupt(task_id)
        assert [future.result(timeout=600) for future in futures] == [n * n for n in range(3000)]
    assert aws.ecs.launches.n_refused
    assert 50 <= len(aws.ecs.tasks) <= 50 + 17 + 5
    assert aws.parameters == {}
    wait_until(lambda: not aws.ecs.not_stopped(), 120)
