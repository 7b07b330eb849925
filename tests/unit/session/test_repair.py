"""What is taken back from whom, and what is not; and the end of what is left."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import pairwise

import msgpack
import pytest

from starburst_executor.clock import SystemClock
from starburst_executor.errors import ExecutorBroken, SessionExpired, WorkerLost
from starburst_executor.protocol import outcomes
from starburst_executor.protocol.records import SessionState, WorkerState
from starburst_executor.protocol.spans import transitions
from starburst_executor.protocol.spans.record import SizeClass, State
from starburst_executor.session.beats import read_beats
from starburst_executor.session.repair import Watcher, end_what_is_left
from tests.support.session_rig import Rig

LOOKS = 4


def watching(rig: Rig, n_looks: int = LOOKS + 1) -> Watcher:
    watcher = Watcher(rig.session, LOOKS)
    for _ in range(n_looks):
        watcher.look()
    return watcher


def claimed_by_silent(n_tasks: int = 2) -> tuple[Rig, str, Watcher]:
    """A claim by a worker that has been silent for long enough to be lost."""
    rig = Rig()
    rig.beat("w", claims={"w.1": "key"})
    key = rig.submit(n_tasks)
    rig.claim(key, "w.1")
    return rig, key, watching(rig)


def error_of(rig: Rig, key: str, index: int) -> BaseException | None:
    return outcomes.load_outcome(rig.outcome(key, index))[1]


def test_the_tasks_of_the_lost_go_back_and_workers_are_rung_for() -> None:
    rig, key, watcher = claimed_by_silent()
    assert watcher.repair() == 2
    assert rig.states(key) == [State.PENDING] * 2
    assert [(entry.losses, entry.attempt, entry.claim) for entry in rig.read(key).entries] == [(1, 1, "")] * 2
    bell = rig.bell()
    assert bell is not None
    assert bell.keys == (key,)
    assert watcher.repair() == 0


@pytest.mark.parametrize(
    ("words", "named", "losses"),
    [("", True, 0), ("", False, 0), ("no right to read", True, 1), ("no right to read", False, 0)],
)
def test_of_a_worker_that_could_not_go_on_only_what_it_names_counts_as_lost(
    words: str, named: bool, losses: int
) -> None:
    rig = Rig()
    key = rig.submit(1)
    rig.beat("w", claims={"w.1": key})
    rig.claim(key, "w.1")
    rig.beat("w", 2, WorkerState.LEFT, claims={"w.1": key} if named else {}, words=words)
    watcher = Watcher(rig.session, LOOKS)
    watcher.look()
    assert watcher.repair() == 1
    (entry,) = rig.read(key).entries
    assert (entry.state, entry.losses) == (State.PENDING, losses)


def test_a_worker_that_was_stopped_twice_is_suspected_twice() -> None:
    rig, key, watcher = claimed_by_silent()
    assert watcher.repair() == 2
    watcher.repair()  # reads the object again: the worker has no claim left
    rig.beat("w", 2)  # it goes on
    watcher.look()
    watcher.repair()
    rig.claim(key, "w.2", at_most=1)
    for _ in range(LOOKS + 1):
        watcher.look()
    # Another worker changes the object all the time: without suspicion it would not be read at this repair.
    rig.beat("other", claims={"other.1": key})
    watcher.look()
    rig.claim(key, "other.1", at_most=1)
    assert watcher.repair() == 1


def test_nothing_goes_back_before_enough_looks() -> None:
    rig, key, _ = claimed_by_silent()
    assert watching(rig, LOOKS).repair() == 0
    assert rig.states(key) == [State.CLAIMED] * 2


def test_nothing_goes_back_if_the_beat_has_moved_since_it_was_judged() -> None:
    rig, key, watcher = claimed_by_silent()
    rig.beat("w", 2, claims={"w.1": "key"})
    assert watcher.repair() == 0
    assert rig.states(key) == [State.CLAIMED] * 2


@pytest.mark.parametrize("moment", ["worker", "object"])
def test_nothing_goes_back_if_the_worker_shows_itself_at_the_last_moment(moment: str) -> None:
    rig, key, watcher = claimed_by_silent()
    if moment == "worker":
        rig.before("get", rig.keys.worker("w"), lambda: rig.beat("w", 2, claims={"w.1": "key"}))
    else:
        # It commits between the object's being read and the swap.
        rig.before("swap", key, lambda: rig.write_spans(key, state=State.COMPLETED))
    assert watcher.repair() == 0
    assert State.PENDING not in rig.states(key)


def test_a_worker_that_was_never_looked_at_is_judged_by_its_beat() -> None:
    """It may have started, beaten and claimed between this watcher's look and its reading of the object."""
    rig = Rig()
    key = rig.submit(2)
    watcher = watching(rig)
    rig.beat("new", claims={"new.1": key})
    rig.claim(key, "new.1")
    assert watcher.repair() == 0
    rig.write_spans(key, claim="gone.1")
    assert [watcher.repair() for _ in range(2)] == [0, 2]  # an object that has just changed is read at the next repair


def test_the_dead_lose_at_once_whatever_their_beat_says() -> None:
    rig = Rig()
    key = rig.submit(1)
    rig.beat("w", claims={"w.1": key})
    rig.claim(key, "w.1")
    watcher = watching(rig, 1)
    watcher.watch.dead.add("w")
    assert watcher.repair() == 1
    assert rig.read(key).entries[0].losses == 1


def test_what_a_worker_that_left_still_holds_goes_back_without_a_loss() -> None:
    rig = Rig()
    keys = [rig.submit(1, first=first) for first in range(3)]
    for number, key in enumerate(keys):
        rig.claim(key, f"w.{number}")
    rig.beat("w", state=WorkerState.LEFT, claims={"w.0": keys[0]})
    assert watching(rig, 1).repair() == 3
    for key in keys:
        assert rig.read(key).entries[0].losses == 0
        assert rig.states(key) == [State.PENDING]


def test_a_claim_that_its_worker_forgot_goes_back_without_a_loss_after_two_more_beats() -> None:
    rig = Rig()
    key = rig.submit(2)
    rig.claim(key, "w.1", 1)
    rig.claim(key, "w.2", 1)
    watcher = Watcher(rig.session, LOOKS)
    n_tasks = []
    for number in (5, 6, 7, 8, 9):
        rig.beat("w", number, claims={"w.2": key})
        watcher.look()
        n_tasks.append(watcher.repair())
    assert n_tasks == [0, 0, 0, 0, 1]
    assert rig.states(key) == [State.PENDING, State.CLAIMED]
    assert rig.read(key).entries[0].losses == 0


def test_the_third_loss_of_a_task_that_was_alone_fails_it() -> None:
    rig = Rig()
    key = rig.submit(1)
    for nth in range(3):
        rig.claim(key, f"gone{nth}.1")
        watcher = watching(rig, 0)
        assert [watcher.repair() for _ in range(2)] == [0, 1]
    assert rig.states(key) == [State.FAILED]
    error = error_of(rig, key, 0)
    assert isinstance(error, WorkerLost)
    assert "lost 3 times" in str(error)
    assert "task=0-0, worker=gone2, attempt=3" in str(error)


def test_repair_costs_nothing_for_what_has_ended_or_waits() -> None:
    rig = Rig()
    rig.submit(1)
    rig.end(rig.submit(1, first=1))
    with rig.requests() as counts:
        watching(rig, 0).repair()
    assert counts == {"get": 1, "list": 1}


def test_an_object_that_cannot_be_read_keeps_nothing_else_from_repair() -> None:
    rig, _key, watcher = claimed_by_silent()
    broken = rig.submit(1, first=5)
    rig.objects.put(broken, b"\xc1" * 10)  # some claimed, by its size
    assert watcher.repair() == 2


def test_beats_that_cannot_be_read_are_left_out() -> None:
    rig = Rig()
    rig.beat("b")
    rig.beat("a")
    rig.objects.put(rig.keys.worker("c"), b"\xc1")
    assert [beat.worker_id for beat, _ in read_beats(rig.session)] == ["a", "b"]


# --- the end of what is left ------------------------------------------------------------------------------------------


def ended(state: SessionState, reason: str = "why") -> tuple[Rig, str, int]:
    rig = Rig()
    key = rig.submit(3)
    rig.end(rig.submit(1, first=9))
    rig.claim(key, "w.1", 1)
    manifest = rig.session.manifest.end(state, reason)
    return rig, key, end_what_is_left(rig.session, manifest)


def test_what_is_left_of_a_terminated_session_is_cancelled() -> None:
    rig, key, n_changed = ended(SessionState.TERMINATED)
    assert n_changed == 1
    assert rig.states(key) == [State.CANCELLED] * 3
    assert end_what_is_left(rig.session, rig.session.manifest.current) == 0


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        (SessionState.EXPIRED, SessionExpired, "absolute_timeout"),
        (SessionState.BROKEN, ExecutorBroken, "no worker: session=a-session"),
    ],
)
def test_what_is_left_of_an_expired_or_broken_session_fails(
    state: SessionState, kind: type[Exception], words: str
) -> None:
    rig, key, _ = ended(state, "no worker")
    assert rig.states(key) == [State.FAILED] * 3
    for index in range(3):
        error = error_of(rig, key, index)
        assert type(error) is kind
        assert words in str(error)


def test_a_session_that_goes_on_is_left_alone() -> None:
    rig, key, n_changed = ended(SessionState.CLOSING)
    assert n_changed == 0
    assert rig.states(key) == [State.CLAIMED, State.PENDING, State.PENDING]


@pytest.mark.parametrize("body", [b"\xc1" * 8, b"\xc1" * 10])
def test_an_object_that_cannot_be_read_keeps_nothing_else_from_its_end(body: bytes) -> None:
    rig = Rig()
    rig.objects.put(rig.submit(1), body)
    key = rig.submit(1, first=1)
    end_what_is_left(rig.session, rig.session.manifest.end(SessionState.TERMINATED, ""))
    assert rig.states(key) == [State.CANCELLED]


def test_a_worker_that_commits_meanwhile_keeps_its_outcome() -> None:
    rig = Rig()
    key = rig.submit(2)
    rig.claim(key, "w.1", 1)

    def done() -> None:
        rig.write_spans(key, 0, state=State.COMPLETED)

    rig.before("swap", key, done)
    end_what_is_left(rig.session, rig.session.manifest.end(SessionState.TERMINATED, ""))
    assert rig.states(key) == [State.COMPLETED, State.CANCELLED]


def test_a_watcher_remembers_nothing_of_claims_that_have_ended() -> None:
    rig = Rig()
    watcher = watching(rig, 1)
    for number in range(1, 31):
        # Claimed after the beat that does not name it, met by two repairs, committed before the next one.
        rig.beat("w", claims={})
        key = rig.submit(2, first=2 * number)
        rig.claim(key, f"w.{number}")
        watcher.look()
        for _ in range(3):
            assert watcher.repair() == 0
        assert len(watcher.watch._unnamed) == 1
        rig.write(key, lambda seen: transitions.end_rest(seen, 0.0, None))
    watcher.repair()
    assert not watcher.watch._unnamed
    assert not watcher._claims
    assert not watcher._n_stood


# --- what it costs --------------------------------------------------------------------------------------------------


def test_a_repair_reads_again_only_what_has_changed() -> None:
    rig = Rig()
    keys = [rig.submit(2, first=2 * i) for i in range(20)]
    for i, key in enumerate(keys):
        rig.beat(f"w{i}", claims={f"w{i}.1": key})
        rig.claim(key, f"w{i}.1")
    watcher = watching(rig, 1)
    n_gets = []
    for number in range(1, 10):
        if number == 4:
            rig.write_spans(keys[3], failures=1)
        with rig.requests() as counts:
            assert watcher.repair() == 0
        assert counts["list"] == 1
        n_gets.append(counts["get"] - 1)  # and the manifest
    # Nothing, since all may be changing; the objects; the beats after two repairs; the changed object; the beats after four; …
    assert n_gets == [0, 20, 20, 1, 20, 0, 0, 0, 20]


def test_objects_that_change_are_read_at_each_fourth_repair() -> None:
    rig = Rig()
    keys = [rig.submit(2, first=2 * i) for i in range(20)]
    for i in range(20):
        rig.beat(f"w{i}", 0, claims={})
    watcher = watching(rig, 1)
    n_gets = []
    for number in range(1, 10):
        for i, key in enumerate(keys):
            rig.beat(f"w{i}", number, claims={f"w{i}.{number}": key})
            rig.write_spans(key, state=State.CLAIMED, claim=f"w{i}.{number}")
        with rig.requests() as counts:
            assert watcher.repair() == 0
        n_gets.append(counts["get"] - 1)
    assert n_gets == [0, 0, 0, 20, 0, 0, 0, 20, 0]


def test_a_lost_worker_makes_a_repair_read_all_objects_until_it_holds_nothing() -> None:
    rig = Rig()
    keys = [rig.submit(2, first=2 * i) for i in range(20)]
    rig.beat("w", claims={"w.1": keys[7]})
    rig.claim(keys[7], "w.1")
    for i, key in enumerate(keys):
        rig.beat(f"w{i}", claims={f"w{i}.1": key})
        if i != 7:
            rig.claim(key, f"w{i}.1")
    watcher = watching(rig, 1)
    assert watcher.repair() == 0
    n_tasks, n_gets = [], []
    for number in range(2, 2 * LOOKS + 1):
        for i, key in enumerate(keys):
            if i != 7:
                rig.beat(f"w{i}", number, claims={f"w{i}.{number}": key})
                rig.write_spans(key, claim=f"w{i}.{number}")
        rig.beat("w7", number)
        watcher.look()
        if watcher.watch.is_lost("w"):
            with rig.requests() as counts:
                n_tasks.append(watcher.repair())
            n_gets.append(counts["get"])
    assert n_tasks == [2, 0, 0, 0]
    assert n_gets[0] > 20
    assert n_gets[3] == 1  # the repair before is a fourth one


@pytest.mark.parametrize("n_left", [0, 500])
def test_looks_and_repairs_read_nothing_of_workers_that_have_left(n_left: int) -> None:
    rig = Rig()
    for i in range(n_left):
        rig.beat(f"v{i}", 3, WorkerState.LEFT)
    rig.beat("w")
    rig.submit(2)
    watcher = Watcher(rig.session, LOOKS)
    with rig.requests() as counts:
        for number in range(8):
            rig.beat("w", number)
            watcher.look()
        watcher.repair()
    assert counts == {"list": 8 + 1, "get": 1}
    assert watcher.watch.living() == {"w"}


def test_what_left_workers_hold_goes_back_at_the_first_look() -> None:
    rig = Rig()
    key = rig.submit(2)
    rig.claim(key, "w.1")
    rig.beat("w", 3, WorkerState.LEFT)
    watcher = watching(rig, 1)
    with rig.requests() as counts:
        assert watcher.repair() == 2
    assert counts["get"] == 1 + 1 + 2  # manifest, object; then object and beat once more
    assert [entry.losses for entry in rig.read(key).entries] == [0, 0]


def test_between_the_requests_of_a_long_repair_other_things_are_done() -> None:
    rig = Rig()
    for i in range(100):
        rig.claim(rig.submit(1, first=i), f"gone{i}.1")
    watcher = watching(rig, 1)
    assert watcher.repair() == 0  # at the first repair all objects may be changing
    n_before: list[int] = []
    assert watcher.repair(lambda: n_before.append(len(rig.asked))) == 100
    gaps = [after - before for before, after in pairwise(n_before)]
    # Sixteen claims at once: object, beat and swap for each, and a ring.
    assert max(gaps) <= 16 * 3 + 1


def objects_to_end(n_objects: int) -> Rig:
    rig = Rig(clock=SystemClock())
    for i in range(n_objects):
        rig.submit(2, first=2 * i)
    rig.session.manifest.end(SessionState.TERMINATED, "cleaned up")
    rig.asked.clear()
    return rig


@pytest.mark.parametrize("n_workers", [1, 10, 30])
def test_the_end_of_a_session_costs_as_much_with_many_workers_as_with_one(n_workers: int) -> None:
    rig = objects_to_end(100)
    is_started = threading.Barrier(n_workers)
    rig.plan = lambda _: time.sleep(0.001)  # so that they overlap

    def worker() -> None:
        session = rig.another()
        manifest = session.manifest.refresh()
        is_started.wait(30)
        end_what_is_left(session, manifest)

    threads = [threading.Thread(target=worker) for _ in range(n_workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(group.size_class.has_ended for group in rig.session.statuses.all())
    counts = Counter(asked.kind for asked in rig.asked)
    # Where two meet, one of them has made a GET, a swap and a LIST too many; each worker does at its last look, and some do
    # before.
    assert counts["get"] - n_workers <= 100 + 8 * (n_workers - 1)
    assert counts["swap"] <= 100 + 8 * (n_workers - 1)
    assert counts["list"] <= 5 + 10 * n_workers


def test_an_object_whose_size_says_that_it_has_not_ended_is_read_once() -> None:
    rig = objects_to_end(1)
    (group,) = rig.session.statuses.all()
    rig.write_spans(group.key, state=State.CANCELLED)
    stored = rig.objects.get(group.key)
    assert stored is not None
    for n_pad in range(8):
        body = msgpack.packb({**msgpack.unpackb(stored.body), "pad": b"\0" * n_pad})
        if len(body) % 8 == SizeClass.ALL_PENDING:
            rig.objects.put(group.key, body)
    assert rig.session.statuses.all()[0].size_class == SizeClass.ALL_PENDING
    assert end_what_is_left(rig.session, rig.session.manifest.current) == 0
