"""Tasks with options of their own through seeds of failures: retries, classes to retry on, backoffs, time limits.

The oracle checks that no task is tried again or claimed before its backoff has passed, that tasks fail after as many tries as their
options allow, and that none runs past its own time limit. Each bug below, put into the product by a patch, breaks one of these.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from starburst_executor.protocol.spans import transitions
from starburst_executor.testing.simulation import simulate
from starburst_executor.testing.simulation.lots import Lots
from starburst_executor.testing.simulation.plot import Plot, draw_plot
from starburst_executor.testing.simulation.tasks import Behaviour
from starburst_executor.testing.simulation.weather import Weather
from starburst_executor.worker import candidates
from starburst_executor.worker.backlog import Backlog, _Waiting
from starburst_executor.worker.claim import Claim
from starburst_executor.worker.listener import Listener
from tests.support.mutations import Patch, assert_found

N_SEEDS = 30


def with_options(seed: int) -> Plot:
    """A seed's plot, in which most tasks have options."""
    return replace(draw_plot(Lots(seed).fork()), has_options=True)


def where_tries_fail(seed: int) -> Plot:
    """A seed's plot of tasks with options that fail, in fair weather."""
    kinds = (Behaviour.RAISES, Behaviour.FLAKY, Behaviour.CRASHES, Behaviour.WELL)
    tasks = tuple((kinds[(i + seed) % 4], 0.1) for i in range(12))
    plot = replace(with_options(seed), tasks=tasks, absolute_timeout=None, task_timeout=None, ends_with="cleanup")
    return replace(plot, weather=Weather(), n_clients=0, n_once=0)


def where_tasks_are_slow(seed: int) -> Plot:
    return replace(where_tries_fail(seed), tasks=((Behaviour.WELL, 60.0),) * 10)


def test_no_seed_with_options_breaks_a_promise() -> None:
    broken = {}
    for seed in range(N_SEEDS):
        report = simulate(seed, with_options(seed) if seed % 2 else where_tries_fail(seed))
        if report.violations:
            broken[seed] = report.violations[0]
    assert not broken


def claim_before_the_backoff_has_passed(patch: pytest.MonkeyPatch) -> None:
    """A released task is claimed as soon as it is found."""
    patch.setattr(transitions, "waits_until", lambda status, span, now: None)


def take_the_longest_backoff_for_none(patch: pytest.MonkeyPatch) -> None:
    """The object of a task that waits is forgotten: nothing makes it a candidate again."""
    patch.setattr(candidates.Candidates, "_add_due", lambda self: None)


def try_again_at_once(patch: pytest.MonkeyPatch) -> None:
    """A task that keeps its claim does not wait."""

    def later(self: Any, placed: Any, _: int) -> None:
        self._waiting.append(_Waiting(self._shared.clock.monotonic(), placed))

    patch.setattr(Backlog, "retry_later", later)


def retry_as_the_session_has_it(patch: pytest.MonkeyPatch) -> None:
    """A task's own retries are stored and not heeded."""
    right = Claim.options.fget
    assert right is not None
    patch.setattr(Claim, "options", property(lambda self: replace(right(self), retries=None)))


def retry_whatever_was_raised(patch: pytest.MonkeyPatch) -> None:
    """`retry_on` is stored and not heeded."""
    right = Claim.options.fget
    assert right is not None
    patch.setattr(Claim, "options", property(lambda self: replace(right(self), retry_on=None)))


def keep_the_limit_of_the_session(patch: pytest.MonkeyPatch) -> None:
    """A task's own time limit is stored and not heeded."""
    patch.setattr(Listener, "_limit_s", lambda self, number: self._task_timeout)


MUTATIONS: dict[Patch, tuple[int, str]] = {
    claim_before_the_backoff_has_passed: (20, "claimed before its backoff had passed"),
    take_the_longest_backoff_for_none: (20, "was not found by an idle worker"),
    try_again_at_once: (20, "tried again before its backoff"),
    retry_as_the_session_has_it: (20, "its options allow"),
    retry_whatever_was_raised: (20, "its options allow 1"),
    keep_the_limit_of_the_session: (20, "past its task_timeout"),
}
PLOTS = {keep_the_limit_of_the_session: where_tasks_are_slow}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_bug_in_options_is_found(mutation: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    n_seeds, words = MUTATIONS[mutation]
    plot_of = PLOTS.get(mutation, where_tries_fail)
    assert_found(mutation, monkeypatch, n_seeds=n_seeds, words=words, plot_of=plot_of)
