"""What tasks report of their progress while they run, and the bars of a client, on both stores with real workers."""

from __future__ import annotations

import json
from pathlib import Path

from starburst_executor import DetachedExecutor
from tests.sessions import detached, wait_until
from tests.support.aws_rig import run


def report_until(path: str) -> str:
    import os
    import time

    from starburst_executor import current_task

    task = current_task()
    assert task is not None
    task.progress(17, 50, "reading\nlines")
    while not os.path.exists(path):
        time.sleep(0.01)
    return "done"


def test_what_a_task_reports_is_seen_from_the_store_while_it_runs(store_url: str, tmp_path: Path) -> None:
    with detached(store_url, workers=1) as executor:
        future = executor.submit(report_until, str(tmp_path / "may-end"))
        reader = DetachedExecutor.reattach(executor.id, launcher="none")
        (task,) = wait_until(
            lambda: [task for worker in reader.status().members for task in worker.tasks if task.note and task.usage]
        )
        assert (task.id, task.done, task.total, task.text) == ("0-0", 17.0, 50.0, "reading lines")
        assert task.memory_bytes is not None
        assert "34% (17 of 50) reading lines" in run("top", executor.url).stdout
        (line,) = run("top", executor.url, "--json").stdout.splitlines()
        (shown,) = json.loads(line)["running"]
        assert (shown["task"], shown["done"], shown["total"], shown["text"]) == ("0-0", 17.0, 50.0, "reading lines")
        assert "progress 0-0  34% (17 of 50) reading lines" in run("status", executor.url).stdout
        (tmp_path / "may-end").touch()
        assert future.result(timeout=60) == "done"
        wait_until(lambda: not any(worker.tasks for worker in reader.status().members))
        reader.detach()
    executor.cleanup(force=True)
