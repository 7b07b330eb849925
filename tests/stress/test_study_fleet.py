"""A study of a thousand trials on fifty workers at S3's latency, whose driver is killed on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.s3_endpoint.process import running
from starburst_executor import Local, Stage, Study
from tests.sessions import kill_workers, wait_until
from tests.support.moto_server import ROOT

pytestmark = pytest.mark.stress
TRIALS, WORKERS = 1_000, 50


class Nap:
    """Sleeps, so that fifty workers fit on a few cores; notes each trial that ended."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, trial: Any) -> dict[str, float]:
        time.sleep(0.5)
        trial.params["x"] = trial.rng().random()
        with open(f"{self.folder}/ended", "a", encoding="utf-8") as file:
            file.write(f"{trial.name}\n")
        return {"score": trial.params["x"]}


def study(store: str, folder: str) -> Study:
    nap = Nap(folder)
    stages = [Stage("wide", nap, TRIALS, select=("score", 20)), Stage("narrow", nap, 60, select=("score", 1))]
    return Study("thousand", stages, store=store, workers=WORKERS, launcher=Local(agents=WORKERS))


@pytest.mark.timeout(900)
def test_a_thousand_trials_on_fifty_workers_at_the_latency_of_s3(tmp_path: Path) -> None:
    def ended() -> Counter[str]:
        file = tmp_path / "ended"
        return Counter(file.read_text(encoding="utf-8").split() if file.exists() else [])

    with running("aws") as endpoint:
        store = endpoint.store(str(tmp_path)[1:])
        code = f"from tests.stress import test_study_fleet as fleet; fleet.study({store!r}, {str(tmp_path)!r}).run()"
        driver = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: len(ended()) >= TRIALS // 4, 300)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            resumed = study(store, str(tmp_path))
            began = time.monotonic()
            status = resumed.run(progress=False)
            print(f"resumed and ended in {time.monotonic() - began:.1f} s")
            assert (status.is_complete, [stage.completed for stage in status.stages]) == (True, [TRIALS, 60])
            assert resumed.validate() == []
            assert set(ended().values()) == {1}
            assert len(ended()) == TRIALS + 60
            table = {row.name: row.metrics["score"] for row in resumed.table("wide")}
            assert status.stages[0].survivors == tuple(sorted(table, key=lambda name: -table[name])[:20])
            resumed.delete()
            resumed.close()
        finally:
            driver.kill()
            kill_workers(f"{tmp_path}/")
