"""joblib on this library's workers, and scikit-learn through it."""

from __future__ import annotations

import os
from pathlib import Path

import joblib
import pytest
from joblib import Parallel, delayed, parallel_config

from starburst_executor import StarburstExecutor
from starburst_executor.integrations.joblib import StarburstBackend, register


@pytest.fixture(autouse=True)
def _registered() -> None:
    register()


def process_of(_: int) -> int:
    return os.getpid()


def fails_at_three(x: int) -> int:
    if x == 3:
        raise ValueError("three")
    return x


def test_calls_run_on_workers_in_order() -> None:
    with parallel_config("starburst", n_jobs=2):
        assert Parallel()(delayed(pow)(x, 2) for x in range(50)) == [x * x for x in range(50)]
        processes = set(Parallel()(delayed(process_of)(x) for x in range(20)))
    assert os.getpid() not in processes


def test_workers_stay_for_calls_of_one_parallel() -> None:
    with parallel_config("starburst", n_jobs=1, workers=1), Parallel() as parallel:
        first, second = (set(parallel(delayed(process_of)(x) for x in range(3))) for _ in range(2))
    assert first == second


def test_an_error_is_the_tasks_own_and_the_backend_goes_on() -> None:
    with parallel_config("starburst", n_jobs=2):
        with pytest.raises(ValueError, match="three"):
            Parallel()(delayed(fails_at_three)(x) for x in range(10))
        assert Parallel()(delayed(fails_at_three)(x) for x in (1, 2)) == [1, 2]


def test_results_as_a_generator() -> None:
    with parallel_config("starburst", n_jobs=2):
        assert sum(Parallel(return_as="generator")(delayed(abs)(-x) for x in range(20))) == 190


def test_an_executor_of_the_users_is_used_and_left_open() -> None:
    with StarburstExecutor(2) as executor:
        with parallel_config("starburst", executor=executor):
            assert Parallel()(delayed(abs)(x) for x in (-1, -2)) == [1, 2]
        assert executor.submit(abs, -3).result() == 3


def test_the_number_of_jobs() -> None:
    assert StarburstBackend().effective_n_jobs(3) == 3
    assert StarburstBackend().effective_n_jobs(-1) == os.cpu_count()
    assert StarburstBackend(workers=7).effective_n_jobs(-1) == 7
    with pytest.raises(ValueError, match="no meaning"):
        StarburstBackend().effective_n_jobs(0)


def test_a_grid_search_finds_what_it_finds_alone(tmp_path: Path) -> None:
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier

    inputs, labels = load_iris(return_X_y=True)
    grid = {"max_depth": [1, 2, 3], "min_samples_leaf": [1, 5]}
    alone = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=3, n_jobs=1).fit(inputs, labels)
    with joblib.parallel_config("starburst", n_jobs=2, store=f"sqlite://{tmp_path}"):
        found = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=3).fit(inputs, labels)
    assert found.best_params_ == alone.best_params_
    assert list(found.cv_results_["mean_test_score"]) == list(alone.cv_results_["mean_test_score"])
