"""The record of a limit: who holds its permits, whatever happens to the requests."""

from __future__ import annotations

from dataclasses import replace

from starburst_executor.protocol.records import LimitRecord, WorkerState
from starburst_executor.session.repair import Watcher
from starburst_executor.testing import Fault
from tests.support.session_rig import Rig


def test_no_more_permits_are_held_than_the_limit_allows() -> None:
    rig = Rig()
    limits = rig.session.limits
    assert not limits.take("api", "a.0"), "no such limit"
    limits.set("api", 2)
    assert [limits.take("api", permit) for permit in ("a.0", "a.1", "b.0", "a.0")] == [True, True, False, True]
    assert limits.give_back("api", "a.1")
    assert not limits.give_back("api", "a.1"), "it was not full any more"
    assert limits.take("api", "b.0")
    assert limits.read("api") == LimitRecord(2, ("a.0", "b.0"))
    assert limits.held().keys() == {"api"}


def test_two_that_race_for_the_last_permit_do_not_both_get_it() -> None:
    rig = Rig()
    rig.session.limits.set("api", 1)
    taken = []
    rig.before("swap", rig.keys.limit("api"), lambda: taken.append(rig.another().limits.take("api", "b.0")))
    assert not rig.session.limits.take("api", "a.0")
    assert taken == [True]


def test_a_lost_answer_neither_loses_nor_doubles_a_permit() -> None:
    rig = Rig()
    rig.session.limits.set("api", 2)
    rig.fail("swap", rig.keys.limit("api"), Fault.ANSWER_LOST)
    assert rig.session.limits.take("api", "a.0")
    assert rig.session.limits.read("api") == LimitRecord(2, ("a.0",))


def test_the_last_number_counts_and_a_lower_one_leaves_the_oldest_permits() -> None:
    rig = Rig()
    limits = rig.session.limits
    limits.set("api", 3)
    for permit in ("a.0", "a.1", "a.2"):
        limits.take("api", permit)
    limits.set("api", 1)
    with rig.requests() as counts:
        limits.set("api", 1)
    assert counts == {"create": 1, "get": 1}
    assert [limits.take("api", permit) for permit in ("a.0", "a.1", "b.0")] == [True, False, False]


def test_permits_of_lost_workers_are_freed_and_those_of_others_are_not() -> None:
    rig = Rig()
    rig.session.limits.set("api", 4)
    for permit in ("lost.0", "left.1", "living.0", "none.0"):
        rig.session.limits.take("api", permit)
    rig.beat("lost")
    rig.beat("left", state=WorkerState.LEFT)
    watcher = Watcher(rig.another(), 2)
    for number in range(4):
        rig.beat("living", number)
        watcher.look()
    with rig.requests() as counts:
        watcher.repair()
    assert "list" in counts
    assert rig.session.limits.read("api").holders == ("lost.0", "left.1", "living.0", "none.0"), (  # type: ignore[union-attr]
        "a session without limits is not searched for them"
    )
    rig.session.manifest.change(lambda manifest: replace(manifest, has_limits=True))
    watcher.repair()
    assert rig.session.limits.read("api") == LimitRecord(4, ("living.0",))
    assert rig.bell() is not None, "it was full: others may wait"
