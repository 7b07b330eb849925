"""The limiter's laws as a table, the limits of a fleet in unit time, and how a patient store waits for its turn."""

from __future__ import annotations

import heapq
import math
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest

from starburst_executor.errors import PreconditionFailed, StoreUnavailable
from starburst_executor.store import limiter as limiter_module
from starburst_executor.store.limiter import READ, WRITE, Limiter, Urgency, limiter_of
from starburst_executor.store.patient import PatientStore
from starburst_executor.testing import FakeClock
from starburst_executor.testing.faulty import Asked, Fault, FaultyStore, Plan, in_turn
from starburst_executor.testing.memory import MemoryStore
from tests.contract.stores import HurriedClock

KEY = "sessions/s/x"


def write(limiter: Limiter, at: float, *, refused: bool | None = False, urgency: Urgency = Urgency.COMMIT) -> float:
    """One write that is answered at once; return when it started."""
    if not limiter.start(WRITE, urgency, at):
        ticket = limiter.queue(WRITE, urgency, at)
        while due_s := limiter.start_queued(WRITE, ticket, at):
            at += due_s
    limiter.end(WRITE, at, refused=refused)
    return at


def limited(rate: float) -> Limiter:
    """A limiter whose first round after the first refusal has measured this rate; that round ends at 0."""
    limiter = Limiter()
    limiter.end(WRITE, -1.0, refused=True, counts=False)
    for number in range(int(rate)):
        assert limiter.start(WRITE, Urgency.COMMIT, -1.0 + number / rate)
        limiter.end(WRITE, -1.0 + number / rate, refused=None)
    limiter.end(WRITE, 0.0, refused=False, counts=False)
    return limiter


# --- the laws ---------------------------------------------------------------------------------------------------------


def test_nothing_is_held_up_before_the_first_refusal() -> None:
    limiter = Limiter()
    assert all(limiter.start(WRITE, Urgency.COMMIT, 0.0) for _ in range(1_000))
    assert limiter.rates == (math.inf, math.inf)
    assert limiter.wait_s == 0.0


@pytest.mark.parametrize("rate", [2.0, 10.0, 300.0])
def test_after_the_first_refusal_the_present_rate_is_measured(rate: float) -> None:
    reads, writes = limited(rate).rates
    assert writes == pytest.approx(rate, rel=0.05)
    assert reads == math.inf


@pytest.mark.parametrize(("n_refused", "n_served", "kept"), [(1, 9, 1.0), (3, 7, 1.0), (65, 35, 0.75), (100, 0, 0.5)])
def test_a_round_cuts_by_the_share_of_refusals_above_what_is_tolerated(
    n_refused: int, n_served: int, kept: float
) -> None:
    limiter = limited(10.0)
    before = limiter.rates[WRITE]
    for number in range(n_refused + n_served):
        last = number == n_refused + n_served - 1
        limiter.end(WRITE, 1.0 if last else 0.5, refused=number < n_refused, counts=False)
    assert limiter.rates[WRITE] == pytest.approx(before * kept)


def test_few_answers_are_judged_with_those_before() -> None:
    """One request a round: of three, one is refused. Its rate does not fall to the least."""
    limiter, at = limited(2.0), 0.0
    for number in range(60):
        ticket = limiter.queue(WRITE, Urgency.COMMIT, at)
        while due_s := limiter.start_queued(WRITE, ticket, at):
            at += due_s
        limiter.end(WRITE, at, refused=number % 3 == 0)
    assert limiter.rates[WRITE] > 0.5


def test_it_grows_only_while_something_waits() -> None:
    limiter = limited(10.0)
    limiter.end(WRITE, 1.0, refused=False, counts=False)
    before = limiter.rates[WRITE]
    limiter.end(WRITE, 2.1, refused=False, counts=False)
    assert limiter.rates[WRITE] == before
    ticket = limiter.queue(WRITE, Urgency.POLL, 2.2)
    limiter.end(WRITE, 3.2, refused=False, counts=False)
    grown = limiter.rates[WRITE]
    assert grown > before
    limiter.leave(WRITE, ticket)
    limiter.end(WRITE, 4.3, refused=False, counts=False)  # something waited in this round too
    after = limiter.rates[WRITE]
    assert after > grown
    limiter.end(WRITE, 5.4, refused=False, counts=False)
    assert limiter.rates[WRITE] == after


def test_a_smaller_rate_grows_by_a_larger_share() -> None:
    """So all processes come to the same rate."""
    shares = []
    for rate in (2.0, 20.0, 200.0):
        limiter = limited(rate)
        limiter.end(WRITE, 1.0, refused=False, counts=False)
        before = limiter.rates[WRITE]
        limiter.queue(WRITE, Urgency.COMMIT, 1.1)
        limiter.end(WRITE, 2.1, refused=False, counts=False)
        shares.append(limiter.rates[WRITE] / before)
    assert shares[0] > shares[1] > shares[2] > 1.0


def test_polls_start_a_sixteenth_as_often_as_commits() -> None:
    started = {}
    for urgency in (Urgency.COMMIT, Urgency.CLAIM, Urgency.POLL):
        limiter, at, n = limited(10.0), 0.0, 0
        while at < 100.0:
            at, n = write(limiter, at, refused=None, urgency=urgency), n + 1
        started[urgency] = n
    assert started[Urgency.COMMIT] == pytest.approx(2 * started[Urgency.CLAIM], rel=0.1)
    assert started[Urgency.COMMIT] == pytest.approx(16 * started[Urgency.POLL], rel=0.1)


def test_the_rate_falls_below_one_a_minute_and_never_to_zero() -> None:
    limiter, at = limited(10.0), 0.0
    started = [at := write(limiter, at, refused=True) for _ in range(40)]
    assert 0 < limiter.rates[WRITE] < 1 / 60
    pauses = [later - earlier for earlier, later in pairwise(started)]
    assert max(pauses) < 150
    # One success in each round: it is back at a rate of one a second within minutes.
    back = at
    while limiter.rates[WRITE] < 1.0:
        at = write(limiter, at)
        assert at < back + 1_000


def test_it_opens_after_half_a_minute_without_refusals_in_which_nothing_waited() -> None:
    limiter = limited(10.0)
    for second in range(1, 29):
        limiter.end(WRITE, second + 0.5, refused=False, counts=False)
        assert limiter.rates[WRITE] < math.inf
    for second in range(29, 34):
        limiter.end(WRITE, second + 0.5, refused=False, counts=False)
    assert limiter.rates[WRITE] == math.inf


def test_no_more_are_in_flight_than_when_it_was_measured() -> None:
    limiter = Limiter()
    limiter.end(WRITE, 0.0, refused=True, counts=False)
    for _ in range(3):
        assert limiter.start(WRITE, Urgency.COMMIT, 0.5)
    limiter.end(WRITE, 1.0, refused=False)
    assert limiter.start(WRITE, Urgency.COMMIT, 5.0)
    ticket = limiter.queue(WRITE, Urgency.COMMIT, 100.0)
    assert limiter.start_queued(WRITE, ticket, 100.0) > 0
    limiter.end(WRITE, 100.0, refused=None)
    assert limiter.start_queued(WRITE, ticket, 100.0) == 0.0


def test_requests_that_hang_do_not_lock_it_up() -> None:
    limiter = limited(1.0)
    assert limiter.start(WRITE, Urgency.COMMIT, 5.0)  # and never ends
    ticket = limiter.queue(WRITE, Urgency.COMMIT, 6.0)
    assert limiter.start_queued(WRITE, ticket, 60.0) > 0
    assert limiter.start_queued(WRITE, ticket, 200.0) == 0.0


def test_the_urgent_go_first_and_no_request_waits_for_ever() -> None:
    limiter = limited(2.0)
    poll = limiter.queue(WRITE, Urgency.POLL, 0.0)
    claim = limiter.queue(WRITE, Urgency.CLAIM, 1.0)
    commit = limiter.queue(WRITE, Urgency.COMMIT, 2.0)
    assert limiter.start_queued(WRITE, poll, 10.0) > 0
    assert limiter.start_queued(WRITE, claim, 10.0) > 0
    assert limiter.start_queued(WRITE, commit, 10.0) == 0.0
    limiter.end(WRITE, 10.0, refused=None)
    late = limiter.queue(WRITE, Urgency.COMMIT, 45.0)
    assert limiter.start_queued(WRITE, late, 45.0) > 0
    assert limiter.start_queued(WRITE, claim, 45.0) == 0.0
    limiter.end(WRITE, 45.0, refused=None)
    assert limiter.start_queued(WRITE, late, 65.0) > 0
    assert limiter.start_queued(WRITE, poll, 65.0) == 0.0


def test_an_unclear_answer_changes_no_limit() -> None:
    limiter = limited(10.0)
    before = limiter.rates
    for second in range(100):
        limiter.end(WRITE, float(second), refused=None, counts=False)
    assert limiter.rates == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_after_a_fork_begins_anew() -> None:
    limiter = limited_of_process()
    limiter._lock.acquire()  # as a thread of the parent may hold it at that moment
    pid = os.fork()
    if pid == 0:
        is_new = limiter.start(WRITE, Urgency.COMMIT, 0.0) and limiter.lanes[WRITE].is_open
        os._exit(0 if is_new else 1)
    limiter._lock.release()
    assert os.waitpid(pid, 0)[1] == 0
    assert not limiter.lanes[WRITE].is_open


def limited_of_process() -> Limiter:
    limiter = limiter_of("a service of this test")
    limiter.end(WRITE, 0.0, refused=True, counts=False)
    assert limiter_of("a service of this test") is limiter
    return limiter


# --- a fleet ----------------------------------------------------------------------------------------------------------


@dataclass
class Fleet:
    """Workers that each write, think, and write again, at a service that carries out `most_per_s` together."""

    n_workers: int
    most_per_s: float
    thinks_s: float = 0.5
    n_polling: int = 0  # of them, these only poll
    vital_every_s: float = math.inf  # and each has a vital request this often
    vital_waits: bool = False  # in the queue, as nothing vital should
    clock: float = 0.0
    served: list[int] = field(default_factory=list)
    vital_gap_s: float = 0.0  # the longest that a vital request took
    n_served_by_second: dict[int, int] = field(default_factory=dict)

    def run(self, seconds: float, *, leave_at: float = math.inf, n_stay: int = 0) -> None:
        lots, number = random.Random(1), count()
        events: list[tuple[float, int, Callable[[], None]]] = []
        limiters = [Limiter() for _ in range(self.n_workers)]
        self.served = [0] * self.n_workers
        tokens, filled_at = self.most_per_s, 0.0

        def later(delay_s: float, do: Callable[[], None]) -> None:
            heapq.heappush(events, (self.clock + delay_s, next(number), do))

        def is_served() -> bool:
            nonlocal tokens, filled_at
            tokens = min(self.most_per_s, tokens + (self.clock - filled_at) * self.most_per_s)
            filled_at = self.clock
            if tokens < 1:
                return False
            tokens -= 1
            second = int(self.clock)
            self.n_served_by_second[second] = self.n_served_by_second.get(second, 0) + 1
            return True

        def ask(worker: int) -> None:
            if self.clock >= leave_at and worker >= n_stay:
                return
            urgency = Urgency.POLL if worker < self.n_polling else Urgency.COMMIT
            if limiters[worker].start(WRITE, urgency, self.clock):
                later(0.06, lambda: answered(worker, is_served()))
                return
            wait(worker, limiters[worker].queue(WRITE, urgency, self.clock))

        def wait(worker: int, ticket: tuple[float, int, Urgency]) -> None:
            due_s = limiters[worker].start_queued(WRITE, ticket, self.clock)
            if due_s:
                later(due_s * (1 + lots.random() / 2), lambda: wait(worker, ticket))
            else:
                later(0.06, lambda: answered(worker, is_served()))

        def answered(worker: int, served: bool) -> None:
            limiters[worker].end(WRITE, self.clock, refused=not served)
            self.served[worker] += served
            later(lots.expovariate(1 / self.thinks_s) if served else 0.05 * lots.random(), lambda: ask(worker))

        def beat(worker: int, since: float) -> None:
            limiter = limiters[worker]
            if not self.vital_waits:
                beaten(worker, since, counts=False)
            elif limiter.lanes[WRITE].is_open or limiter.start(WRITE, Urgency.COMMIT, self.clock):
                beaten(worker, since, counts=True)
            else:
                wait_to_beat(worker, since, limiter.queue(WRITE, Urgency.COMMIT, self.clock))

        def wait_to_beat(worker: int, since: float, ticket: tuple[float, int, Urgency]) -> None:
            due_s = limiters[worker].start_queued(WRITE, ticket, self.clock)
            if due_s:
                later(due_s * (1 + lots.random() / 2), lambda: wait_to_beat(worker, since, ticket))
            else:
                beaten(worker, since, counts=True)

        def beaten(worker: int, since: float, *, counts: bool) -> None:
            served = is_served()
            limiters[worker].end(WRITE, self.clock, refused=not served, counts=counts)
            if served:
                self.vital_gap_s = max(self.vital_gap_s, self.clock - since)
                later(self.vital_every_s, lambda: beat(worker, self.clock))
            else:
                later(0.5 + lots.random(), lambda: beat(worker, since))

        for worker in range(self.n_workers):
            later(lots.random(), lambda worker=worker: ask(worker))  # type: ignore[misc]
            if self.vital_every_s < math.inf:
                first_s = lots.uniform(0, self.vital_every_s)
                later(first_s, lambda worker=worker, at=first_s: beat(worker, at))  # type: ignore[misc]
        while events and events[0][0] < seconds:
            self.clock, _, do = heapq.heappop(events)
            do()

    def share(self, start: float, end: float) -> float:
        """Which part of what the service can do it did between these times."""
        n_served = sum(n for second, n in self.n_served_by_second.items() if start <= second < end)
        return n_served / (self.most_per_s * (end - start))


@pytest.mark.parametrize("n_workers", [100, 400])
def test_a_fleet_beyond_the_limit_gets_all_that_the_service_can_do(n_workers: int) -> None:
    fleet = Fleet(n_workers, 140.0)
    fleet.run(240.0)
    assert min(fleet.share(start, start + 20) for start in range(0, 240, 20)) > 0.95
    # Each gets a share of it.
    mean = sum(fleet.served) / n_workers
    assert sum(served > mean / 4 for served in fleet.served) > 0.9 * n_workers


def test_beats_get_through_in_time() -> None:
    fleet = Fleet(1_000, 140.0, vital_every_s=15.0)
    fleet.run(240.0)
    assert fleet.vital_gap_s < 45  # lost after 60; beats alone are half of what the service carries out
    assert fleet.share(0, 240) > 0.95


def test_the_fleet_shows_that_beats_which_wait_come_too_late() -> None:
    fleet = Fleet(1_000, 140.0, vital_every_s=15.0, vital_waits=True)
    fleet.run(120.0)
    assert fleet.vital_gap_s > 60


def test_the_fleet_shows_a_limiter_that_locks_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter_module, "_LEAST_RATE", 1e-9)
    monkeypatch.setattr(limiter_module, "_GROWTH", 0.0)
    monkeypatch.setattr(limiter_module, "_FORGETS", 0.0)
    fleet = Fleet(400, 140.0)
    fleet.run(300.0, leave_at=120.0, n_stay=60)
    assert fleet.share(200, 300) < 0.5 * 60 / (0.56 * 140.0)


def test_a_few_that_commit_get_what_they_ask_for_beside_hundreds_that_poll() -> None:
    fleet = Fleet(400, 140.0, n_polling=390)
    fleet.run(200.0)
    wants = 200.0 / 0.56
    assert sum(fleet.served[390:]) / 10 > 0.6 * wants
    assert fleet.share(0, 200) > 0.9


def test_those_that_stay_soon_have_what_the_others_leave() -> None:
    fleet = Fleet(400, 140.0)
    fleet.run(300.0, leave_at=120.0, n_stay=60)
    wants = 60 / (0.56 * 140.0)  # of a worker that never waits
    assert fleet.share(200, 300) > 0.9 * wants


# --- a patient store ----------------------------------------------------------------------------------------------------


class LimitedMemory(MemoryStore):
    """A store in memory whose service may refuse requests because of load."""

    def __init__(self) -> None:
        super().__init__()
        self._own_limiter = Limiter()

    @property
    def limiter(self) -> Limiter:  # type: ignore[override]
        return self._own_limiter


class Line:
    def __init__(self, plan: Plan, *, patience_s: float = 60.0, stop: threading.Event | None = None) -> None:
        self.objects = LimitedMemory()
        self.clock = HurriedClock()
        self.faulty = FaultyStore(self.objects, plan)
        self.store = PatientStore(self.faulty, self.clock, patience_s=patience_s, stop=stop)


def busy_until(line_clock: HurriedClock, at: float) -> Plan:
    return lambda asked: Fault.THROTTLED if line_clock.monotonic() < at else None


def test_a_busy_store_is_waited_for_longer_than_patience() -> None:
    """Status 503 is a clear answer: the store is there."""
    line = Line(lambda _: None, patience_s=60.0)
    line.faulty.plan = busy_until(line.clock, 500.0)
    assert line.store.put(KEY, b"x")
    assert 500.0 <= line.clock.monotonic() < 660.0


def test_a_store_that_is_never_anything_but_busy_is_an_error_in_the_end() -> None:
    line = Line(lambda _: Fault.THROTTLED, patience_s=60.0)
    with pytest.raises(StoreUnavailable, match="503 SlowDown") as caught:
        line.store.put(KEY, b"x")
    assert caught.value.is_busy
    assert 12 * 60.0 <= line.clock.monotonic() < 12 * 60.0 + 200.0


def test_silence_after_it_was_busy_has_the_whole_patience() -> None:
    line = Line(lambda _: None, patience_s=60.0)
    line.faulty.plan = lambda asked: Fault.THROTTLED if line.clock.monotonic() < 100.0 else Fault.RESET
    with pytest.raises(StoreUnavailable, match="reset"):
        line.store.get(KEY)
    assert 155.0 <= line.clock.monotonic() < 100.0 + 13 * 60.0


def test_time_in_the_queue_is_no_patience() -> None:
    """A request whose tries fail without an answer has its patience for the tries alone."""
    line = Line(lambda _: None, patience_s=60.0)
    for _ in range(14):
        line.objects.limiter.end(READ, 0.0, refused=True, counts=False)
    for second in range(1, 14):
        line.objects.limiter.end(READ, float(second), refused=True, counts=False)
    assert line.objects.limiter.rates[READ] < 1 / 60
    line.faulty.plan = in_turn([Fault.RESET] * 4, kinds={"get"})
    line.objects.put(KEY, b"x")
    assert line.store.get(KEY).body == b"x"
    assert line.clock.monotonic() > 240.0


def test_vital_requests_do_not_wait_and_are_tried_about_each_second() -> None:
    line = Line(lambda _: None, patience_s=60.0)
    for second in range(20):
        line.objects.limiter.end(WRITE, float(second), refused=True, counts=False)
    vital = line.store.at(Urgency.VITAL)
    vital.put(KEY, b"x")
    assert line.clock.monotonic() == 0.0
    line.faulty.plan = in_turn([Fault.THROTTLED] * 20)
    vital.put(KEY, b"y")
    assert len(line.clock.waits) == 20
    assert all(0.5 <= wait_s <= 1.5 for wait_s in line.clock.waits)
    line.store.put(KEY, b"z")
    assert line.clock.monotonic() > 40.0


def test_a_queue_ends_when_its_owner_must_leave() -> None:
    clock = FakeClock(held=True)
    objects = LimitedMemory()
    store = PatientStore(objects, clock, patience_s=60.0)
    for second in range(20):
        objects.limiter.end(WRITE, float(second), refused=True, counts=False)
    done = threading.Thread(target=lambda: store.put(KEY, b"second"))
    done.start()
    clock.wait_waiting()
    store.limit(0.0)
    done.join(30)
    assert not done.is_alive()
    assert clock.monotonic() == 0.0
    assert objects.get(KEY).body == b"second"


def test_a_refused_request_that_is_stopped_leaves_the_queue() -> None:
    stop = threading.Event()
    line = Line(lambda _: Fault.THROTTLED, stop=stop)

    def plan(asked: Asked) -> Fault:
        if asked.number == 5:
            stop.set()
        return Fault.THROTTLED

    line.faulty.plan = plan
    with pytest.raises(StoreUnavailable):
        line.store.put(KEY, b"x")
    assert line.faulty.n_asked == 6
    line.faulty.plan = lambda _: None
    line.store.put(KEY, b"x")  # at once, as all requests after the stop


def test_how_long_requests_wait_can_be_read() -> None:
    line = Line(in_turn([Fault.THROTTLED] * 40))
    assert line.store.wait_s == 0.0
    line.store.put(KEY, b"x")
    assert line.store.wait_s > 0.0


def test_a_busy_store_is_not_asked_what_became_of_a_write() -> None:
    line = Line(in_turn([Fault.THROTTLED] * 6, kinds={"swap"}))
    etag = line.objects.put(KEY, b"first")
    line.store.swap(KEY, b"mine", etag)
    assert line.store.requests.snapshot()["get"] + line.store.requests.snapshot()["not_modified"] == 0


def test_a_refusal_after_the_store_was_busy_may_be_my_own_doing() -> None:
    line = Line(in_turn([Fault.THROTTLED]))
    etag = line.objects.put(KEY, b"first")
    line.objects.put(KEY, b"theirs")
    with pytest.raises(PreconditionFailed) as refused:
        line.store.swap(KEY, b"mine", etag)
    assert refused.value.unclear


def test_the_embedded_store_has_no_limiter() -> None:
    from starburst_executor.store.open import open_store

    store = PatientStore(open_store("sqlite:///nowhere/at/all"), FakeClock(), patience_s=1.0)
    assert store.limiter is None
    assert store.at(Urgency.POLL) is store
