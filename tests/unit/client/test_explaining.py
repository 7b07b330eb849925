"""Why tasks wait: each reason in turn, with what to do where there is something to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from starburst_executor.cli.render import line_of
from starburst_executor.client.explaining import explain_session, explain_task
from starburst_executor.client.looks import Looks
from starburst_executor.client.reading import Reading
from starburst_executor.errors import ConfigError
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.attempts import FailedTry, with_errors
from starburst_executor.protocol.records import Launch, SessionState, WorkerState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.after import AFTER, Upstream, encoded
from starburst_executor.protocol.spans.record import BLOCKED
from starburst_executor.session.store import SessionStore
from tests.support.session_rig import SESSION, Rig
from tests.support.spans import end


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
    assert "0 of them started: the platform has no capacity for more yet" in why(asked)
    asked.beat("w1", state=WorkerState.LEFT, words="out of disk")
    said = why(asked)
    assert "`starburst attach a-session` starts them" in said
    assert "one said: out of disk" in said


def test_workers_that_wait_for_the_store_say_for_which_error() -> None:
    rig = Rig()
    rig.submit(3)
    rig.beat("w1", where="host:1")
    assert not Looks(rig.session).look().trouble
    rig.beat("w1", number=2, where="host:1", trouble="disk full, free some space")
    assert "1 worker waits for the store, and what it has done is not lost: disk full, free some space" in why(rig)
    rig.beat("w2", where="host:1", trouble="disk full, free some space")
    found = Looks(rig.session).look()
    words = "2 workers wait for the store, and what they have done is not lost: disk full, free some space"
    assert ("warning", words) in found.rows()
    assert words in line_of(found)


def test_busy_free_and_lost_workers_are_told_apart() -> None:
    rig = Rig(deadline_at=10_000_000_000.0)
    rig.beat("w1", where="host:1")
    key = rig.submit(3)
    rig.claim(key, "w1.1", 1)
    assert "every slot is busy (1 slot of 1 worker), so 2 tasks wait for one" in why(rig)
    assert "`starburst extend a-session 12h`" in why(rig)
    rig.beat("w2")
    assert "1 of 2 slots is free" in why(rig)
    rig.clock.advance(1000.0)
    rig.beat("w2", number=2)
    assert "1 worker is lost" in why(rig)
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
    assert "task 0-1 failed in 2 tries and is tried again by worker w1 on host, which paused for 1 s" in why(rig, "0-1")
    assert "2 tries are left" in why(rig, "0-1")
    tries = [FailedTry(0, 1, n, "OSError: no", "w1", rig.clock.now() + n - 2) for n in (1, 2)]
    rig.write(key, lambda seen: with_errors(transitions.commit(seen, "w1.1", {}, 0.0, failures={0: 2})[0], tries))
    assert "task 0-0 failed in 2 tries and waits on worker w1 on host for the next one, which begins within 1 s" in why(
        rig, "0-0"
    )
    rig.clock.advance(1.0)
    assert "begins within" not in why(rig, "0-0")
    # Another worker has taken it after a pause that was shorter than it could have been.
    tries = [FailedTry(0, 1, 3, "OSError: no", "w1", rig.clock.now())]
    rig.write(key, lambda seen: with_errors(transitions.commit(seen, "w1.1", {}, 0.0, failures={0: 3})[0], tries))
    assert "begins within 2 s" in why(rig, "0-0")
    rig.write(key, lambda seen: transitions.release(seen, "w1.1", [0]))
    rig.clock.advance(1.5)
    now = rig.clock.now()
    rig.write(key, lambda seen: transitions.claim(seen, "w1.3", at_most=1, now=now, max_losses=3)[0])
    assert "begins within" not in why(rig, "0-0")
    rig.write(key, lambda seen: transitions.release(seen, "w1.2", [1], refused=True))
    said = why(rig, "0-1")
    assert "task 0-1 waits for a worker again, after 1 claim\n" in said
    assert "1 worker could not load its function" in said
    assert "every slot is busy (1 slot of 1 worker)" in said
    rig.end(key, claim_id="w1.3")
    assert "task 0-3 completed" in why(rig, "0-3")
    with pytest.raises(ConfigError, match="no such task: task=0-9; its tasks are 0-0 to 0-3"):
        why(rig, "0-9")


def test_a_failed_task_says_why_with_the_key_alone() -> None:
    rig = Rig()
    key = rig.submit(1)
    rig.write(key, lambda seen: transitions.claim(seen, "w1.1", at_most=1, now=1.0, max_losses=3)[0])
    error = outcomes.dump_error(ValueError("no\n  more " + "x" * 400))
    rig.write(key, lambda seen: end(rig.sealer, seen, "w1.1", [0], error, failed=True))
    said = why(rig, "0-0")
    assert "it failed with ValueError: no more xxx" in said
    assert said.count("x") < 320
    rig.session = SessionStore(rig.session.store, SESSION, Sealer(b"", SESSION), rig.clock)
    assert "why it failed needs the session's key" in why(rig, "0-0")


def test_a_task_says_for_what_it_waits_beside_a_slot() -> None:
    rig = Rig()
    rig.beat("w1", resources={"gpu": 1})
    first = rig.submit(3)
    waiting = rig.submit(2, first=3)
    place = first.removeprefix(rig.keys.statuses)
    more = {AFTER: encoded({1: [Upstream(place, 0), Upstream(place, 2)]})}
    rig.write(waiting, lambda seen: replace(seen, more=more))
    rig.write_spans(waiting, 1, state=BLOCKED)
    assert "it waits until 2 other tasks have completed: 0-0, 0-2" in why(rig, "0-4")
    assert "other tasks" not in why(rig, "0-3")
    rig.write_spans(first, 1, at=rig.clock.now() + 30)
    assert "its pause before the next try ends in 30 s" in why(rig, "0-1")
    rig.submit(1, first=5, limit="api", priority=-5)
    rig.session.limits.set("api", 2)
    rig.session.limits.take("api", "w1.0")
    said = why(rig, "0-5")
    assert "at most 2 tasks with the limit 'api' run at once, and 1 of these places is taken" in said
    assert "its priority is -5" in said
    rig.submit(1, first=6, resources="1xgpu")
    rig.submit(1, first=7, resources="2xgpu")
    assert "it needs gpu=1, which 1 of 1 worker has: it waits until one of them has it free" in why(rig, "0-6")
    assert "it needs gpu=2, which no worker has; the most that one has: gpu=1" in why(rig, "0-7")
    assert "slots are free" not in why(rig, "0-6")
    assert "`starburst explain a-session TASK` says for what" in why(rig)


def test_a_session_that_is_over_or_near_its_budget_says_so() -> None:
    rig = Rig(budget_usd=1.0, spent_usd=0.95, max_hourly_cost=2.0)
    rig.beat("w1")
    rig.submit(2)
    said = why(rig)
    assert "its workers have cost about $0.95 of a budget of $1.00" in said
    assert "max_hourly_cost of $2.00 may keep further workers from being started" in said
    rig.session.manifest.end(SessionState.TERMINATED, "cleaned up")
    assert "the session is terminated: cleaned up; nothing of it runs any more" in why(rig)
