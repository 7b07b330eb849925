"""The promises of the design, held by the real executors, agents and repair through thousands of seeds of failures.

SIM_SEED=123 pytest -s tests/simulation -k seeds        one seed, and its story
SIM_SECONDS=3600 make stress                            fresh seeds for an hour, or until stopped
python -m starburst_executor.testing.simulation 123 --story
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from typing import Any

import pytest

from starburst_executor.testing.simulation import simulate
from starburst_executor.testing.simulation.weather import Trouble

# All kinds of failures come in the first hundred and fifty, and nearly every bug of `test_mutations.py` is found by fifty seeds,
# so that more of them add little to each run; `make stress` plays the rest, and then fresh ones.
N_SEEDS, N_STRESS_SEEDS = 150, 6000
N_PROCESSES = 2


def _play(first: int, *arguments: str, hash_seed: str = "random") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "starburst_executor.testing.simulation", str(first), *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _played(*processes: subprocess.Popen[str]) -> dict[str, Any]:
    """What they did together. Fails with the stories of seeds that broke a promise."""
    told = [process.communicate()[0] for process in processes]
    total: dict[str, Any] = {"n_seeds": 0, "n_steps": 0, "n_requests": 0, "seconds": 0.0, "broken": []}
    troubles: dict[str, int] = {}
    counts: dict[str, int] = {}
    for text in told:
        *story, last = text.strip().splitlines()
        one = json.loads(last)
        for name in total:
            total[name] += one[name]
        for into, name in ((troubles, "troubles"), (counts, "counts")):
            for what, n in one[name].items():
                into[what] = into.get(what, 0) + n
        if story:
            print("\n".join(story))
    total.update(troubles=troubles, counts=counts)
    print(json.dumps(total, indent=1))
    assert not total["broken"], f"promises were broken; replay with SIM_SEED={total['broken'][0]}"
    return total


@pytest.mark.timeout(1800)
@pytest.mark.skipif("SIM_SEED" in os.environ, reason="one seed is replayed")
@pytest.mark.parametrize("n_seeds", [N_SEEDS, pytest.param(N_STRESS_SEEDS, marks=pytest.mark.stress)])
def test_no_seed_breaks_a_promise(n_seeds: int) -> None:
    each = n_seeds // N_PROCESSES
    total = _played(*(_play(number * each, str(each)) for number in range(N_PROCESSES)))
    assert total["n_seeds"] == n_seeds
    # Every kind of failure was there, or the seeds show less than they seem to.
    assert set(total["troubles"]) == {trouble.value for trouble in Trouble} - {
        Trouble.BUSY.value
    }  # which only plots set
    counts = [total["counts"][what] for what in ("completed", "failed", "cancelled", "retries", "taken back")]
    assert min(counts) > n_seeds / 30


@pytest.mark.skipif("SIM_SEED" not in os.environ, reason="SIM_SEED names the seed to replay")
def test_replays_one_of_the_seeds() -> None:
    report = simulate(int(os.environ["SIM_SEED"]))
    print(report.story(last=10_000))
    assert not report.violations


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    here = simulate(137)
    for hash_seed in ("1", "2"):
        told, _ = _play(137, "--story", hash_seed=hash_seed).communicate()
        assert f"digest {here.digest}" in told
    assert len(here.history) > 100


def test_a_story_says_who_did_what_and_when() -> None:
    story = simulate(3).story(last=10_000)
    assert "client-0" in story
    assert "create sessions/" in story


def test_what_a_simulation_replaces_is_put_back() -> None:
    import threading

    from starburst_executor.client import batches, engine
    from starburst_executor.store import open as store_open
    from starburst_executor.store import patience

    before, openers = batches.STATUSES_PER_EPOCH, dict(store_open._openers)
    simulate(1)
    assert patience.threading is engine.threading is threading
    assert before == batches.STATUSES_PER_EPOCH > 100
    assert store_open._openers == openers


@pytest.mark.stress
@pytest.mark.timeout(0)
def test_fresh_seeds_until_stopped() -> None:
    seconds = os.environ.get("SIM_SECONDS", "120")
    first = random.SystemRandom().randrange(10**6, 10**12)
    print(f"first seeds: {first}, {2 * first}")
    _played(*(_play(number * first, "--seconds", seconds) for number in (1, 2)))
