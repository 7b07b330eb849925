"""Resources of tasks with real workers: GPUs are pinned and given back, memory is bounded, what no worker has is an error."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from starburst_executor import (
    ConfigError,
    Local,
    ResourcesUnavailable,
    StarburstExecutor,
    TaskCrashed,
    TaskOutOfMemory,
)
from tests.integration.test_listening import join_worker
from tests.sessions import detached, kill, timings_for, wait_until


def gpus_of_task(folder: Path, name: str) -> str:
    """Return the GPUs that it sees, once two tasks have them."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    (folder / f"{name}-{own}-{os.getpid()}").touch()
    while len(list(folder.glob(f"{name}-*"))) < 2:
        time.sleep(0.01)
    return own


def test_each_slot_has_gpus_of_its_own_and_gives_them_back_after_a_kill(store_url: str, tmp_path: Path) -> None:
    timings = timings_for(store_url)
    with StarburstExecutor(store=store_url, workers=3, launcher=Local(gpus=2), timings=timings) as executor:
        on_gpu = executor.options(resources={"gpu": 1})
        first = [on_gpu.submit(gpus_of_task, tmp_path, "a") for _ in range(2)]
        assert sorted(future.result(60) for future in first) == ["0", "1"]
        killed = on_gpu.submit(os.kill, os.getpid(), 0)
        dies = [on_gpu.submit(os._exit, 3) for _ in range(2)]
        assert killed.exception(60) is None
        assert {type(future.exception(60)) for future in dies} == {TaskCrashed}
        again = [on_gpu.submit(gpus_of_task, tmp_path, "b") for _ in range(2)]
        assert sorted(future.result(60) for future in again) == ["0", "1"]
        assert executor.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(60) in (None, "")
        both = executor.options(resources={"gpu": 2, "cpu": 1})
        assert both.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(60) == "0,1"


def test_a_task_that_uses_more_memory_than_it_asked_for_fails_with_what_it_used() -> None:
    def fill() -> int:
        held = bytearray(400_000_000)
        time.sleep(60)
        return len(held)

    with StarburstExecutor(workers=1) as executor:
        future = executor.options(resources={"memory": "200MB"}).submit(fill)
        error = future.exception(60)
        assert isinstance(error, TaskOutOfMemory)
        assert "asked for 0.20 GB" in str(error)
        used = float(str(error).partition("used ")[2].partition(" GB")[0])
        assert 0.2 < used < 2
        enough = executor.options(resources={"memory": "2GB"})
        assert enough.submit(len, bytes(1000)).result(60) == 1000


def test_what_no_worker_has_is_an_error_in_time_and_other_tasks_run() -> None:
    timings = replace(timings_for("sqlite"), launch_s=1.0, beat_s=0.2)
    with StarburstExecutor(workers=1, timings=timings, launcher=Local(gpus=1, resources={"license": 2})) as executor:
        never = executor.options(resources={"gpu": 4, "license": 1}).submit(pow, 2, 3)
        assert executor.options(resources={"license": 2}).submit(pow, 2, 4).result(60) == 16
        with pytest.raises(ResourcesUnavailable, match=r"gpu=4.*has: gpu=1, license=2"):
            never.result(60)
        with pytest.raises(ConfigError, match="resource gpu=0"):
            executor.options(resources={"gpu": 0})
        with pytest.raises(ConfigError, match="memory='much'"):
            executor.options(resources={"memory": "much"})


def test_tasks_go_to_the_worker_that_has_what_they_need(tmp_path: Path) -> None:
    executor = detached(f"sqlite://{tmp_path}/sessions", workers=2, launcher="none")
    plain = join_worker(executor)
    special = join_worker(executor, 1, "--resource", "camera=1")
    assert executor.options(resources={"camera": 1}).submit(os.getppid).result(60)
    futures = [executor.options(resources={"camera": 1}).submit(pow, 2, i) for i in range(4)]
    assert [future.result(60) for future in futures] == [1, 2, 4, 8]
    kill(special.pid)
    special.wait(60)
    waits = executor.options(resources={"camera": 1}).submit(pow, 2, 5)
    assert executor.submit(pow, 2, 6).result(60) == 64
    assert not waits.done()
    another = join_worker(executor, 1, "--resource", "camera=1")
    assert waits.result(60) == 32
    wait_until(lambda: executor.submit(pow, 1, 1).result(60) == 1)
    executor.cleanup(force=True)
    assert [worker.wait(60) for worker in (plain, another)] == [0, 0]
