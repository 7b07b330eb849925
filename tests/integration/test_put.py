"""Values that tasks share, end to end on both stores: stored once, read once by each worker, also by the one that takes a lost worker's place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starburst_executor import DetachedExecutor, Local, PayloadError, StarburstExecutor
from tests.sessions import kill, timings_for, wait_until, worker_pids
from tests.support.inside import session_of

MB = 2**20


def look(array: np.ndarray, nested: dict[str, Any], i: int) -> tuple[int, bool, float, str]:
    return os.getpid(), array.flags.writeable, float(array[i]), nested["options"]["name"]


def test_many_tasks_share_an_array_that_each_worker_reads_once(store_url: str) -> None:
    array = np.arange(2.0 * MB)  # 16 MB: two parts
    with StarburstExecutor(
        launcher=Local(agents=1), workers=2, store=store_url, timings=timings_for(store_url)
    ) as executor:
        ref, options = executor.put(array), executor.put({"name": "x"})
        seen = list(executor.map(look, [ref] * 40, [{"options": options}] * 40, range(40)))
        assert [rest for _, *rest in seen] == [[False, float(i), "x"] for i in range(40)]
        assert executor.submit(lambda: float(ref.sum())).result() == float(array.sum())  # type: ignore[attr-defined]
        session = session_of(executor)
        stored = session.store.list(f"{session.keys.folder}shared/")
        assert len(stored) == 3
        assert 16 * MB < sum(line.size for line in stored) < 16.1 * MB
        # One worker of two processes.
        counts = wait_until(lambda: (n := executor.requests())["bytes_in"] > 16 * MB and n)
        assert counts["bytes_in"] < 24 * MB
        ref.delete()
        assert len(session.store.list(f"{session.keys.folder}shared/")) == 1
        assert isinstance(executor.submit(look, ref, {}, 1).exception(), ValueError)


def hold(value: np.ndarray, go: str, i: int) -> float:
    Path(f"{go}.{i}").write_text(str(os.getpid()))
    wait_until(Path(go).exists)
    return float(value.sum()) + i


def test_the_worker_in_a_killed_ones_place_reads_the_value_again_and_a_deleted_one_is_named(
    store_url: str, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with DetachedExecutor(workers=1, store=store_url, timings=timings_for(store_url)) as executor:
        ref = executor.put(np.ones(MB))
        first = executor.submit(hold, ref, str(go), 1)
        wait_until((tmp_path / "go.1").exists)
        copied = executor.submit(hold, ref, str(go), 2)
        [agent] = worker_pids(executor)
        kill(agent)
        go.touch()
        assert first.result(60) == MB + 1
        assert copied.result(60) == MB + 2
        waiting = executor.submit(hold, ref, str(tmp_path / "no"), 3)
        wait_until((tmp_path / "no.3").exists)
        ref.delete()  # while a task that has read it runs
        kill(worker_pids(executor)[0])
        with pytest.raises(PayloadError, match=r"deleted by `ref\.delete\(\)`"):
            waiting.result(60)
        executor.cleanup(force=True)
