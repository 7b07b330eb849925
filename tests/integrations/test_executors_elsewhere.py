"""Libraries that take an executor, or its `map`: SciPy, Dask, Optuna, pandas, asyncio."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from starburst_executor import StarburstExecutor


@pytest.fixture
def executor() -> Iterator[StarburstExecutor]:
    with StarburstExecutor(2) as made:
        yield made


def bowl(x: np.ndarray) -> float:
    return float(((x - 1) ** 2).sum())


def test_scipy_takes_its_map(executor: StarburstExecutor) -> None:
    from scipy.optimize import differential_evolution

    options = {"bounds": [(-3, 3)] * 2, "rng": 0, "maxiter": 5, "popsize": 5, "updating": "deferred", "polish": False}
    found = differential_evolution(bowl, workers=executor.map, **options)
    alone = differential_evolution(bowl, **options)
    assert list(found.x) == list(alone.x)


def test_dask_takes_it_as_its_scheduler(executor: StarburstExecutor) -> None:
    import dask

    @dask.delayed
    def square(x: int) -> tuple[int, int]:
        return x * x, os.getpid()

    results = dask.compute(*map(square, range(6)), scheduler=executor)
    assert [value for value, _ in results] == [0, 1, 4, 9, 16, 25]
    assert os.getpid() not in {process for _, process in results}


def test_optuna_asks_and_is_told(executor: StarburstExecutor) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(3):
        trials = [study.ask({"x": optuna.distributions.FloatDistribution(-3, 3)}) for _ in range(4)]
        values = executor.map(bowl, [np.array([trial.params["x"]]) for trial in trials])
        for trial, value in zip(trials, values, strict=True):
            study.tell(trial, value)
    assert len(study.trials) == 12
    assert study.best_value == min(bowl(np.array([trial.params["x"]])) for trial in study.trials)


def total(frame: pd.DataFrame) -> pd.Series:
    return frame.groupby("site").value.sum()


def test_data_frames_go_in_and_come_out(executor: StarburstExecutor) -> None:
    frame = pd.DataFrame({"site": list("abcabc"), "value": range(6)})
    parts = [frame.iloc[:3], frame.iloc[3:]]
    joined = pd.concat(executor.map(total, parts)).groupby(level=0).sum()
    pd.testing.assert_series_equal(joined, total(frame))


def test_asyncio_runs_in_it(executor: StarburstExecutor) -> None:
    async def run() -> list[int]:
        loop = asyncio.get_running_loop()
        return list(await asyncio.gather(*(loop.run_in_executor(executor, abs, -x) for x in range(5))))

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]
