"""Why tasks wait: each reason in turn, with what to do where there is something to do."""

from __future__ import annotations

import pytest

from starburst_executor.client.explaining import explain_session, explain_task
from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.errors import ConfigError
from starburst_executor.protocol.records import Launch, SessionState, WorkerState
from starburst_executor.protocol.spans import transitions
from tests.support.session_rig import Rig


def why(rig: Rig, task: str | None = None) -> str:
    found = Looks(rig.session).look()
    if task is None:
        return "\n".join(explain_session(rig.session, found))
    return "\n".join(explain_task(Reading(rig.session), found, task))


def test_a_session_without_workers_says_what_brings_some() -> None:
    rig = Rig()
    assert "no task was submitted yet" in why(rig)
    rig.submit(2)
    assert "`starburst worker memory://" in why(rig)
    asked = Rig(launcher="fargate", launches=(Launch("l1", "fargate", 4, "", 0.0),))
    asked.submit(2)
    asked.clock.advance(120.0)
    assert "workers for 4 tasks were requested from fargate" in why(asked)
    assert "0 were started: the platform has no capacity for more yet" in why(asked)
    asked.beat("w1", state=WorkerState.LEFT, words="out of disk")
    said = why(asked)
    assert "`starburst attach a-session` starts them" in said
    assert "one said: out of disk" in said


def test_busy_free_and_lost_workers_are_told_apart() -> None:
    rig = Rig(deadline_at=10_000_000_000.0)
    rig.beat("w1", where="host:1")
    key = rig.submit(3)
    rig.claim(key, "w1.1", 1)
    assert "all 1 slots of 1 workers are busy, so 2 tasks wait for one" in why(rig)
    assert "`starburst extend a-session 12h`" in why(rig)
    rig.beat("w2")
    assert "1 of 2 slots are free" in why(rig)
    rig.clock.advance(1000.0)
    rig.beat("w2", number=2)
    assert "1 workers are lost" in why(rig)
    assert "held since" in why(rig, "0-0")
    assert "by worker w1 on host, which is lost" in why(rig, "0-0")


def test_a_task_is_explained_in_each_state() -> None:
    rig = Rig(retries=3)
    rig.beat("w1", where="host:1")
    key = rig.submit(4)
    now = rig.clock.now()
    for claim_id in ("w1.1", "w1.2"):
        rig.write(key, lambda seen, c=claim_id: transitions.claim(seen, c, at_most=1, now=now, max_losses=3)[0])  # type: ignore[misc]
    rig.clock.advance(4.0)
    assert "task 0-0 runs on worker w1 on host for 4 s, in attempt 1" in why(rig, "0-0")
    assert "task 0-1 was claimed 4 s ago by worker w1 on host, and waits for that worker's tasks before it" in why(
        rig, "0-1"
    )
    rig.write(key, lambda seen: transitions.commit(seen, "w1.2", {}, 0.0, failures={1: 2})[0])
    assert "task 0-1 failed 2 times and is tried again by worker w1 on host, which paused for 1 s" in why(rig, "0-1")
    assert "2 tries are left" in why(rig, "0-1")
    rig.write(key, lambda seen: transitions.release(seen, "w1.2", [1], refused=True))
    said = why(rig, "0-1")
    assert "task 0-1 waits for a worker again, after 1 claims" in said
    assert "1 workers could not load its function" in said
    assert "all 1 slots of 1 workers are busy" in said
    rig.end(key, claim_id="w1.3")
    assert "task 0-3 completed" in why(rig, "0-3")
    with pytest.raises(ConfigError, match="no such task: task=0-9"):
        why(rig, "0-9")


def test_a_session_that_is_over_or_near_its_budget_says_so() -> None:
    rig = Rig(budget_usd=1.0, spent_usd=0.95, max_hourly_cost=2.0)
    rig.beat("w1")
    rig.submit(2)
    said = why(rig)
    assert "its workers have cost about $0.95 of a budget of $1.00" in said
    assert "max_hourly_cost of $2.00 may keep further workers from being started" in said
    rig.session.manifest.end(SessionState.TERMINATED, "cleaned up")
    assert "the session is terminated: cleaned up; nothing of it runs any more" in why(rig)
