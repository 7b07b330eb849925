"""`Looks`: what it reports of a session, and how few requests it makes for it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from starburst_executor.client.looks import Looks
from starburst_executor.client.report import SessionStatus, TaskReport
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.attempts import FailedTry, with_errors
from starburst_executor.protocol.records import Latency, Running, Submitter, WorkerState
from starburst_executor.protocol.seal import Sealer
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import Status
from starburst_executor.session.store import SessionStore
from tests.support.session_rig import SESSION, Rig
from tests.support.spans import ends


def end(
    rig: Rig, key: str, claim_id: str, seconds: list[float], *, failed: dict[int, BaseException] | None = None
) -> None:
    """End the first tasks of a claim, one for each of these durations."""
    errors = failed or {}

    def step(current: Status) -> Status:
        ended = []
        for i, duration in zip(current.under(claim_id), seconds, strict=False):
            body = outcomes.dump_error(errors[i]) if i in errors else outcomes.dump_value(8)
            (block,) = ends(rig.sealer, current, [i], body, failed=i in errors, seconds=duration)
            ended.append(block._replace(failures=((0, 1),) if i in errors else ()))
        return transitions.commit(current, claim_id, ended, rig.clock.now())[0]

    rig.write(key, step)


def claim(rig: Rig, key: str, claim_id: str, at_most: int) -> None:
    rig.write(
        key,
        lambda seen: transitions.claim(seen, claim_id, at_most=at_most, now=rig.clock.now(), max_losses=3, alone=True)[
            0
        ],
    )


def test_a_try_has_not_run_longer_than_since_the_last_one_failed() -> None:
    rig = Rig()
    rig.beat("w1", where="host-a:1")
    key = rig.submit(1)
    claim(rig, key, "w1.1", 1)
    rig.clock.advance(60.0)
    tries = [FailedTry(0, 1, 1, "OSError: no", "w1", rig.clock.now())]
    rig.write(key, lambda seen: with_errors(transitions.commit(seen, "w1.1", {}, 0.0, failures={0: 1})[0], tries))
    rig.clock.advance(5.0)
    assert Looks(rig.session).look().longest_running == ("0-0", 5.0)


def test_what_runs_is_known_from_claims_before_any_beat_names_it() -> None:
    rig = Rig()
    rig.beat("w1", where="host-a:1")
    rig.beat("w2", where="host-b:2")
    key = rig.submit(10)
    # Each has one slot: the second claim of w1 waits for the first.
    claim(rig, key, "w1.1", 3)
    rig.clock.advance(1.0)
    claim(rig, key, "w1.2", 2)
    claim(rig, key, "w2.1", 1)
    rig.clock.advance(2.0)
    found = Looks(rig.session).look()
    assert (found.pending, found.claimed, found.running) == (4, 6, 2)
    assert found.utilisation == 1.0
    assert found.longest_running == ("0-0", 3.0)
    assert dict(found.hosts) == {"host-a": 1, "host-b": 1}
    assert [worker.tasks for worker in found.members] == [(TaskReport("0-0", 3.0),), (TaskReport("0-5", 2.0),)]


def test_what_a_task_reports_and_uses_is_shown_while_it_runs() -> None:
    rig = Rig()
    now = rig.clock.now()
    reported = Running("0-0", now, 0.98, 210 * 2**20, 17.0, 50.0, "reading")
    rig.beat("w1", where="host-a:1", running=(reported, Running("0-5", now)))
    key = rig.submit(10)
    claim(rig, key, "w1.1", 1)
    rig.clock.advance(2.0)
    looks = Looks(rig.session)
    found = looks.look()
    assert found.members[0].tasks == (TaskReport("0-0", 2.0, 0.98, 210 * 2**20, 17.0, 50.0, "reading"),)
    assert "progress 0-0  34% (17 of 50) reading" in str(found)
    assert found.members[0].tasks[0].usage == "98% CPU, 210 MB"
    json.dumps(found.to_dict())
    # Another worker runs it now: what the first one reported is gone.
    rig.beat("w2", where="host-b:1")
    end(rig, key, "w1.1", [2.0])
    claim(rig, key, "w2.1", 1)
    later = looks.look()
    assert [task.note for worker in later.members for task in worker.tasks] == [""]
    assert "progress" not in str(later)


def test_the_stores_latency_is_that_of_all_workers_together() -> None:
    rig = Rig()
    rig.submit(1)
    assert (Looks(rig.session).look().read_ms, "store" in str(Looks(rig.session).look())) == (None, False)
    rig.beat("w1", latency=Latency(1, 10_000, 3, 180_000))
    rig.beat("w2", latency=Latency(3, 110_000))
    rig.beat("w3", latency=Latency(9, 9), state=WorkerState.LEFT)
    found = Looks(rig.session).look()
    assert (found.read_ms, found.write_ms) == (30.0, 60.0)
    assert "a read takes 30 ms, a write 60 ms" in str(found)


def test_only_some_notes_are_shown_those_of_the_longest_tasks_first() -> None:
    rig = Rig()
    now = rig.clock.now()
    key = rig.submit(10)
    for i in range(10):
        rig.beat(f"w{i}", running=(Running(f"0-{i}", now - i, done=float(i)),))
        claim(rig, key, f"w{i}.1", 1)
    text = str(Looks(rig.session).look())
    assert text.index("0-9  9") < text.index("0-2  2")
    assert "0-1  1" not in text
    assert "and 2 other tasks" in text


def test_rates_durations_and_the_time_left_come_from_what_has_ended() -> None:
    rig = Rig()
    rig.beat("w1")
    key = rig.submit(200)
    claim(rig, key, "w1.1", 100)
    for step in range(100):
        rig.clock.advance(1.0)
        end(rig, key, "w1.1", [1.0 if step % 10 else 5.0])
    claim(rig, key, "w1.2", 1)
    gone = Looks(rig.session).look()
    assert (gone.slots, gone.seconds_left, gone.seconds_left_least) == (
        0,
        None,
        None,
    )  # its beat is old: nothing will end
    assert "left" not in str(gone)
    rig.beat("w1", 2)
    found = Looks(rig.session).look()
    assert found.per_s == pytest.approx(1.0, abs=0.02)
    assert found.per_s_overall == pytest.approx(1.0, abs=0.05)
    assert (found.median_s, found.p90_s) == (1.0, 5.0)
    assert found.seconds_left == pytest.approx(100, abs=3)
    assert found.seconds_left_least is not None
    assert found.seconds_left_most is not None
    assert 70 < found.seconds_left_least < 95
    assert 110 < found.seconds_left_most < 150


def test_the_time_left_of_the_last_tasks_is_that_of_tasks_that_ran_as_long() -> None:
    rig = Rig()
    rig.beat("w1")
    key = rig.submit(103)
    claim(rig, key, "w1.1", 101)
    for _ in range(100):
        rig.clock.advance(0.1)
        end(rig, key, "w1.1", [0.1])
    end(rig, key, "w1.1", [60.0])
    rig.beat("w1", number=2)
    rig.beat("w2")
    claim(rig, key, "w1.2", 1)
    claim(rig, key, "w2.1", 1)
    rig.clock.advance(40.0)
    # A thousand such tasks a minute have ended, but these two are not such tasks.
    assert Looks(rig.session).look().seconds_left == pytest.approx(20.0, abs=1.0)
    rig.clock.advance(30.0)
    assert Looks(rig.session).look().seconds_left is None


def test_failures_are_counted_by_kind_with_the_key_and_all_else_without() -> None:
    rig = Rig(retries=1)
    key = rig.submit(4)
    claim(rig, key, "w1.1", 4)
    end(rig, key, "w1.1", [0.1] * 4, failed={0: ValueError("a"), 1: ValueError("b"), 2: KeyError("c")})
    found = Looks(rig.session).look()
    assert (found.completed, found.failed) == (1, 3)
    assert dict(found.failures or {}) == {"ValueError": 2, "KeyError": 1}
    assert "2 ValueError, 1 KeyError" in str(found)
    keyless = SessionStore(rig.session.store, SESSION, Sealer(b"", SESSION), rig.clock)
    without = Looks(keyless).look()
    assert without.failures is None
    assert (without.completed, without.failed) == (1, 3)


def test_a_worker_is_alive_idle_lost_or_has_left() -> None:
    rig = Rig()
    rig.beat("lost")
    rig.clock.advance(1000.0)
    rig.beat("idle", state=WorkerState.IDLE)
    rig.beat("left", state=WorkerState.LEFT)
    rig.beat("works")
    rig.beat("has-ended-all")
    claim(rig, rig.submit(1), "works.1", 1)
    found = Looks(rig.session).look()
    assert {worker.id: worker.state for worker in found.members} == {
        "lost": "lost", "idle": "idle", "left": "left", "works": "working", "has-ended-all": "idle"
    }  # fmt: skip
    assert (found.workers, found.idle, found.lost) == (3, 2, 1)


def test_the_rate_counts_from_what_began_first_although_it_is_not_read_again() -> None:
    rig = Rig()
    first = rig.submit(2)
    claim(rig, first, "w1.1", 2)
    rig.clock.advance(20.0)
    looks = Looks(rig.session)
    assert looks.look().running == 1
    end(rig, first, "w1.1", [0.5, 0.5])
    second = rig.submit(18, first=2)
    claim(rig, second, "w1.2", 18)
    end(rig, second, "w1.2", [0.5] * 17)
    assert looks.look().per_s == pytest.approx(19 / 20, rel=0.1)


def test_a_later_look_reads_what_has_changed_and_no_history() -> None:
    rig = Rig(submitters=(Submitter("c0", 3, (2,)),))
    for i in range(30):
        rig.end(rig.submit(4, first=4 * i, epoch=i // 10))
    key = rig.submit(4, first=1000, epoch=2)
    looks = Looks(rig.session)
    with rig.requests() as first:
        assert looks.look().completed == 120
    assert first["list"] == 2
    with rig.requests() as again:
        looks.look()
    # The one open epoch and the workers; the manifest, and at the most two objects more for the sample.
    assert again["list"] == 2
    assert sum(again.values()) <= 5
    rig.end(key)
    with rig.requests() as changed:
        assert looks.look().completed == 124
    assert changed["list"] == 2
    assert sum(changed.values()) <= 6


def test_a_look_lists_few_of_many_open_epochs_and_all_in_turn() -> None:
    n = 20
    rig = Rig(submitters=(Submitter("c0", n, tuple(range(n))),))
    keys = [rig.submit(2, first=2 * i, epoch=i) for i in range(n)]
    looks = Looks(rig.session)
    assert looks.look().pending == 2 * n
    for key in keys:
        rig.end(key)
    for _ in range(n):
        with rig.requests() as later:
            found = looks.look()
        assert sum(later.values()) <= 20
        if found.is_exact:
            break
    assert (found.is_exact, found.completed) == (True, 2 * n)
    # Closed in the meantime, and not listed since: the last listing is not missed.
    late = rig.submit(2, first=1000, epoch=n - 1)
    looks.look()
    rig.end(late)
    rig.session.manifest.change(
        lambda now: replace(now, submitters=(Submitter("c0", n, ()),)) if now.open_epochs() else None
    )
    for _ in range(n):
        found = looks.look()
    assert found.completed == 2 * n + 2


def test_a_session_with_more_changes_than_a_look_reads_is_estimated_and_then_counted() -> None:
    rig = Rig(submitters=(Submitter("c0", 1, (0,)),))
    n = 620
    for i in range(n):
        key = rig.submit(2, first=2 * i)
        claim(rig, key, f"w.{i}", 2)
        end(rig, key, f"w.{i}", [0.1, 0.1], failed={0: ValueError("x")})
    looks = Looks(rig.session)
    with rig.requests() as first:
        found = looks.look()
    assert sum(first.values()) <= 1000
    assert not found.is_exact
    assert (found.total, found.failed, found.completed) == (2 * n, n, n)
    assert dict(found.failures or {}) == {"ValueError": n}
    assert "about" in str(found)
    while not found.is_exact:
        with rig.requests() as later:
            found = looks.look()
        assert sum(later.values()) <= 20
    assert (found.total, found.failed, found.completed) == (2 * n, n, n)


def test_a_thousand_workers_are_counted_and_later_looks_stay_cheap() -> None:
    rig = Rig()
    rig.submit(1)
    for i in range(1000):
        rig.beat(f"w{i:04}", where=f"host-{i % 10}:1")
    rig.beat("gone", state=WorkerState.LEFT)
    looks = Looks(rig.session)
    with rig.requests() as first:
        found = looks.look()
    assert sum(first.values()) <= 210
    assert (found.workers, found.slots, found.lost) == (1000, 1000, 0)
    for number in range(2, 12):
        # All beat, and few are read: none of them counts as lost for that.
        rig.clock.advance(15.0)
        for i in range(1000):
            rig.beat(f"w{i:04}", number)
        with rig.requests() as later:
            found = looks.look()
        assert sum(later.values()) <= 20
        assert (found.workers, found.lost) == (1000, 0)
    # What has stopped counts as lost, read or not.
    for _ in range(6):
        rig.clock.advance(15.0)
        found = looks.look()
    assert found.lost >= 200
    assert found.workers == 0


def test_what_cannot_be_read_counts_as_failed() -> None:
    rig = Rig()
    key = rig.submit(3)
    rig.objects.put(key, b"\1" * 9)
    found = Looks(rig.session).look()
    assert found.failed == 3
    assert dict(found.failures or {}) == {"RecordInvalid": 3}


def test_a_status_is_plain_values_and_a_table_too() -> None:
    rig = Rig()
    rig.beat("w<1>", where="<host>:1")
    rig.submit(2)
    found = Looks(rig.session).look()
    plain = json.loads(json.dumps(found.to_dict()))
    assert (plain["format"], plain["total"], plain["ended"], plain["cost"]["total_usd"]) == (1, 2, 0, 0)
    assert isinstance(found, SessionStatus)
    page = found._repr_html_()
    assert page.startswith("<table>")
    assert "&lt;host&gt;" in page
    assert "<host>" not in page
