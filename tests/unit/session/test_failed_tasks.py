"""A session ends when too many of its tasks have failed, and not before."""

from __future__ import annotations

import pytest

from starburst_executor.errors import TooManyFailures
from starburst_executor.protocol.failures import most_failures
from starburst_executor.protocol.money import ended_by
from starburst_executor.protocol.records import DETACHED, SessionState
from starburst_executor.protocol.spans.record import State
from starburst_executor.session.failures import FailedTasks, Seen
from tests.support.session_rig import Rig
from tests.support.spans import with_failed


class Watched:
    """A session of 40 tasks, some of which have ended, and its watcher."""

    def __init__(self, limit: str, *, n_failed: int, n_completed: int = 20) -> None:
        self.rig = Rig(kind=DETACHED, max_failures=limit)
        self.keys = [self.rig.submit(10, first=first) for first in range(0, 40, 10)]
        self.failed = FailedTasks(self.rig.session)
        self.fail(n_failed)
        for key in self.keys[: n_completed // 10]:
            self.rig.write_spans(key, state=State.COMPLETED)
        self.beat(n_failed, n_failed + n_completed)

    def beat(self, n_failed: int, n_ended: int) -> None:
        self.rig.beat("w1", n_failed=n_failed // 2, n_ended=n_ended // 2)
        self.rig.beat("w2", n_failed=n_failed - n_failed // 2, n_ended=n_ended - n_ended // 2)

    def fail(self, n: int) -> None:
        """Let the last n tasks be the failed ones."""
        for key, first in zip(reversed(self.keys), range(0, n + 10, 10), strict=False):
            n_here = max(0, min(10, n - first))
            self.rig.write(key, lambda current, n=n_here: with_failed(current, n))  # type: ignore[misc]

    def look(self) -> SessionState:
        self.rig.clock.advance(100.0)
        self.failed.keep()
        return self.rig.another().manifest.current.state


@pytest.mark.parametrize(("limit", "n_failed"), [("0", 1), ("3", 4), ("10%", 5), ("12.5%", 6), ("0%", 1)])
def test_a_session_ends_when_more_tasks_have_failed_than_the_limit_allows(limit: str, n_failed: int) -> None:
    watched = Watched(limit, n_failed=n_failed)
    assert watched.look() == SessionState.BROKEN
    error = ended_by(watched.rig.another().manifest.current)
    assert isinstance(error, TooManyFailures)
    assert f"{n_failed} of 40 tasks failed, and max_failures={limit} allows {n_failed - 1}" in str(error)


@pytest.mark.parametrize(("limit", "n_failed"), [("4", 4), ("10%", 4), ("100%", 20), ("0", 0)])
def test_as_many_failures_as_the_limit_allows_do_not_end_it(limit: str, n_failed: int) -> None:
    assert Watched(limit, n_failed=n_failed).look() == SessionState.OPEN


def test_a_failure_that_was_retried_no_longer_counts() -> None:
    watched = Watched("3", n_failed=2)
    watched.beat(9, 29)  # seven of them were retried
    assert watched.look() == SessionState.OPEN
    with watched.rig.requests() as requests:
        assert watched.look() == SessionState.OPEN
    # The tasks are counted again only once more of them fail.
    assert requests.keys() <= {"list", "get"}
    assert requests["get"] <= 1
    watched.fail(4)
    watched.beat(11, 31)
    assert watched.look() == SessionState.BROKEN


def test_a_share_is_not_judged_by_the_first_tasks() -> None:
    watched = Watched("5%", n_failed=5, n_completed=0)
    assert watched.look() == SessionState.OPEN
    watched.fail(10)
    watched.beat(10, 10)
    assert watched.look() == SessionState.BROKEN


def test_a_session_whose_tasks_have_all_ended_stays_open() -> None:
    watched = Watched("3", n_failed=20)
    assert watched.look() == SessionState.OPEN


def test_without_a_limit_nothing_is_read() -> None:
    watched = Watched("", n_failed=20, n_completed=10)
    with watched.rig.requests() as requests:
        watched.failed.keep()
    assert not requests


def test_with_a_limit_a_look_costs_one_listing_and_the_beats_that_are_new() -> None:
    watched = Watched("30", n_failed=5)
    watched.look()
    watched.beat(6, 26)
    watched.rig.clock.advance(100.0)
    with watched.rig.requests() as requests:
        watched.failed.keep()
        watched.failed.keep()
    assert requests == {"list": 1, "get": 2}


def test_failures_that_the_watcher_itself_has_recorded_count() -> None:
    watched = Watched("3", n_failed=4)
    watched.beat(0, 20)
    watched.failed = FailedTasks(watched.rig.session, own=lambda: 4)
    assert watched.look() == SessionState.BROKEN


def test_failures_that_a_client_has_read_end_the_session_before_any_look() -> None:
    watched = Watched("3", n_failed=4)
    watched.beat(0, 0)
    seen = Seen(40, 23, 3)
    failed = FailedTasks(watched.rig.session, seen=lambda: seen)
    with watched.rig.requests() as requests:
        assert not failed.keep_seen()
    assert not requests
    seen = Seen(40, 24, 4)
    assert failed.keep_seen()
    assert watched.rig.another().manifest.current.state == SessionState.BROKEN


@pytest.mark.parametrize("limit", ["", "3", "10%"])
def test_what_a_client_has_read_costs_nothing_until_too_many_have_failed_and_then_one_count(limit: str) -> None:
    watched = Watched(limit, n_failed=2)
    seen = Seen(40, 9, 3)
    failed = FailedTasks(watched.rig.session, seen=lambda: seen)
    with watched.rig.requests() as requests:
        failed.keep_seen()
        seen = Seen(40, 12, 5)  # three of them were retried
        assert not failed.keep_seen()
    assert requests["list"] == bool(limit)
    watched.rig.clock.advance(100.0)
    with watched.rig.requests() as requests:
        assert not failed.keep_seen()
        seen = Seen(40, 20, 6)  # as many as are known to have been retried do not count
        assert not failed.keep_seen()
    assert not requests


def test_a_share_allows_whole_tasks() -> None:
    assert [most_failures("10%", n) for n in (0, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]
    assert most_failures("7", 3) == 7
