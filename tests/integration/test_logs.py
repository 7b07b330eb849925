"""`starburst logs`: tasks' output from the store, workers' own lines from CloudWatch."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import Batch, DetachedExecutor, Fargate
from starburst_executor.client.handles import sealed_handle
from starburst_executor.client.logs import TaskLogs, WorkerLogs
from starburst_executor.client.opening import attach, own_launcher
from starburst_executor.clock import SystemClock
from starburst_executor.launch.base import Order
from starburst_executor.launch.bootstrap import new_launch_id
from starburst_executor.protocol.records import Launch
from tests.sessions import REMOTE, wait_until
from tests.support.aws_fakes.server import IMAGE, FakeAws
from tests.support.aws_rig import run
from tests.support.inside import session_of


def talk(n: int, gate: str = "") -> None:
    if gate:
        wait_until(Path(gate).exists)
    if n != 1:
        print(f"out {n}\nand more")
        print(f"err {n}", file=sys.stderr)


def test_what_tasks_wrote_comes_from_the_store_to_the_stream_that_they_used() -> None:
    with DetachedExecutor(workers=1) as ex:
        list(ex.map(talk, range(3)))
    result = run("logs", ex.id)
    assert result.stdout.splitlines() == ["[0-0] out 0", "[0-0] and more", "[0-2] out 2", "[0-2] and more"]
    assert result.stderr.splitlines()[-2:] == ["[0-0] err 0", "[0-2] err 2"]
    assert run("logs", ex.id, "--task", "0-2").stdout == "out 2\nand more\n"
    first, *_ = map(json.loads, run("logs", ex.id, "--task", "0-2", "--json").stdout.splitlines())
    assert first == {"format": 1, "task": "0-2", "stream": "stdout", "text": "out 2"}
    assert run("logs", ex.id, "--task", "0-1").stdout == ""
    for words, error in (
        (("--task", "0-3"), "no such task: task=0-3; its tasks are 0-0 to 0-2"),
        (("--task", "two"), "not a task's id: 'two'"),
        (("--worker", "all"), "only workers on AWS log to CloudWatch: launcher='local"),
        (("--worker", "all", "--task", "0-1"), "exclude each other"),
    ):
        result = run("logs", ex.id, *words)
        assert result.exit_code == 2
        assert error in result.stderr
    ex.cleanup(force=True)


def test_following_tells_each_task_once_and_ends_with_the_last(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with DetachedExecutor(workers=2) as ex:
        early, late = ex.submit(talk, 0), ex.submit(talk, 2, str(gate))
        early.result(timeout=60)
        opened = attach(ex.id, SystemClock())
        logs = TaskLogs(opened.session)
        assert [line.source for line in logs.fresh()] == ["0-0"] * 3
        assert list(logs.fresh()) == []
        gate.touch()
        late.result(timeout=60)
        assert [line.source for line in logs.fresh()] == ["0-1"] * 3
        opened.store.close()
        # All have ended: following returns.
        assert len(run("logs", ex.id, "--follow").stdout.splitlines()) == 4
        ex.cleanup(force=True)


def all_have_stopped(aws: FakeAws) -> bool:
    jobs = [job for job_id, job in aws.batch.jobs.items() if ":" in job_id]
    return not aws.ecs.not_stopped() and all(job["status"] == "FAILED" for job in jobs)


@pytest.mark.parametrize("launcher", [Fargate(image=IMAGE), Batch(image=IMAGE)], ids=["fargate", "batch"])
def test_workers_own_lines_come_from_cloudwatch(aws: FakeAws, launcher: Fargate | Batch) -> None:
    aws.hidden_parameters = True  # they end at once, with words
    ex = DetachedExecutor(workers=2, launcher=launcher, timings=REMOTE)
    order = Order(new_launch_id(SystemClock()), ex.url, ex.key.hex(), 2, True)
    opened_launcher = launcher.open()
    handle = opened_launcher.start(order, opened_launcher.start(order).handle).handle
    launch = Launch(order.launch_id, launcher.name, 2, "", 0.0, True)
    launch = replace(launch, handle=sealed_handle(session_of(ex).sealer, launch, handle))
    session_of(ex).manifest.change(lambda manifest: replace(manifest, launches=(launch,)))
    wait_until(lambda: all_have_stopped(aws))
    result = run("logs", ex.url, "--worker", "all")
    lines = [line for line in result.stdout.splitlines() if "KeyNotFound: the session's key was deleted" in line]
    assert len(lines) == 2
    # AWS's own default would drop some of them.
    defined = json.dumps([aws.ecs.definitions, aws.batch.definitions])
    assert defined.count('"mode": "blocking"') == 1
    one = lines[0][1:].partition("]")[0]
    assert run("logs", ex.url, "--worker", one).stdout.count("KeyNotFound") == 1
    wrong = run("logs", ex.url, "--worker", "nobody")
    assert wrong.exit_code == 2
    assert one in wrong.stderr

    opened = attach(ex.url, SystemClock())
    logs = WorkerLogs(opened.session, own_launcher(opened.session))
    assert len(list(logs.fresh())) == 2
    assert list(logs.fresh()) == [], "each line once"
    opened.store.close()
    ex.cleanup(force=True)
