"""What the workers of a fleet leave to each other, so that none of them reads, lists or polls in vain."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from starburst_executor.protocol.spans.record import State
from starburst_executor.worker.finder import Finder
from tests.support.session_rig import Rig


def fleet(rig: Rig, n_workers: int) -> list[Finder]:
    """Workers that know each other, and have looked."""
    names = [f"w{number:03}" for number in range(n_workers)]
    finders = []
    for name in names:
        session = rig.another()
        session.manifest.refresh()
        finders.append(Finder(session, rig.clock, 1))
        finders[-1].candidates.rank.learn(name, names)
        finders[-1].step()
    return finders


def n_rung(rig: Rig) -> int:
    heard = rig.session.bell.read(None)
    assert heard is not None
    return heard[0].n_tasks


def rung_for_two() -> tuple[Rig, str, Finder]:
    """A session of four workers that have heard a lone ring for two tasks, their key, and the worker whose turn it is first."""
    rig = Rig(workers=4)
    finders = fleet(rig, 4)
    key = rig.submit(2)
    rig.session.bell.ring([key], 2)
    for finder in finders:
        finder.step()
    return rig, key, next(finder for finder in finders if finder.candidates.has_any())


def test_the_answer_to_a_lone_ring_does_not_wait_for_the_write_of_the_claim() -> None:
    rig, key, first = rung_for_two()
    with first.candidates.trying(key) as tried:
        as_read = rig.read(key)
        first.candidates.takes(key, as_read)  # a slice that leaves tasks for others
        first.answered()
        assert n_rung(rig) == 2
        spans = tuple(span._replace(state=State.CLAIMED, claim="w.1") for span in as_read.spans)
        first.candidates.wanted.clear()
        first.candidates.takes(key, replace(as_read, spans=spans))
        assert first.candidates.wanted.is_set()
        first.answered()
        assert n_rung(rig) == 0
        tried.has_claim = True


def test_a_second_ring_for_an_object_is_answered_only_if_its_tasks_are_taken_again() -> None:
    """Some of its tasks are pending once more, and a slice leaves one of them for others."""
    rig, key, first = rung_for_two()
    as_submitted = rig.read(key)
    with first.candidates.trying(key) as tried:
        spans = tuple(span._replace(state=State.CLAIMED, claim="w.1") for span in as_submitted.spans)
        tried.current = replace(as_submitted, spans=spans)
        first.candidates.takes(key, tried.current)
    first.answered()
    assert n_rung(rig) == 0
    rig.clock.advance(1.0)
    rig.session.bell.ring([key], 2)
    first.step()
    with first.candidates.trying(key) as tried:
        tried.current = as_submitted
    first.answered()
    assert n_rung(rig) == 2


def test_a_ring_for_others_does_not_put_off_the_look_of_a_worker_whose_tasks_are_used_up() -> None:
    """It was busy meanwhile: that ring may be old, while others have left tasks in objects that it knows."""
    rig = Rig(workers=50)
    left = rig.submit(2)
    finders = fleet(rig, 50)
    rig.session.bell.ring([rig.submit(1, first=2)], 1)
    for finder in finders:
        finder.candidates._pending.clear()
        finder.step()
    # One of them has its turn at once.
    assert sum(left in finder.candidates._pending for finder in finders) == 49


def test_tiny_tasks_that_another_worker_is_about_to_take_are_not_tried() -> None:
    rig = Rig(workers=4)
    keys = [rig.submit(10, first=first) for first in range(0, 40, 10)]
    finders = fleet(rig, 4)
    taken = [finder.candidates.take(worth_sharing=100) for finder in finders]
    assert taken == keys
    for finder in finders:
        # Its own has been taken; a look shows the rest.
        own = finder.candidates.take(worth_sharing=100)
        assert own is not None
        rig.claim(own, "w.1", 10)
        finder.look()
        assert finder.candidates.take(worth_sharing=100) is None
        assert not finder.candidates.has_run_dry()
        rig.end(own, claim_id="w.1")
    # Unless their worker does not come, or they are worth it.
    rig.submit(10, first=40)
    finders[0].look()
    assert finders[3].look()
    assert finders[3].candidates.take(worth_sharing=100) is None
    assert finders[3].candidates.take(worth_sharing=10) is not None
    assert finders[3].candidates.take(worth_sharing=100) is None
    rig.clock.advance(2 * rig.timings.slice_s)
    assert finders[3].candidates.take(worth_sharing=100) is not None


def test_a_look_for_more_of_what_was_known_does_not_ask_for_new_epochs() -> None:
    rig = Rig(workers=2)
    (finder,) = fleet(rig, 1)
    with rig.requests() as counts:
        assert not finder.look(among_open=True)
    assert counts == {"list": 1}


def test_the_oldest_workers_poll_first_after_work() -> None:
    rig = Rig(workers=50)
    finders = fleet(rig, 50)
    rig.session.bell.ring([rig.submit(50)], 50)
    for finder in finders:
        finder.step()
    for finder in finders:
        finder.candidates._pending.clear()
    pauses = [finder.step() for finder in finders]
    assert max(pauses[:8]) <= 1.3 * rig.timings.bell_min_s < min(pauses[8:])


def test_what_the_others_should_have_taken_is_listed_again_before_it_is_tried() -> None:
    rig = Rig(workers=4)
    keys = [rig.submit(10, first=first) for first in range(0, 80, 10)]
    for key in keys:
        rig.claim(key, "w.1", 1)
    (finder,) = fleet(rig, 1)
    with rig.requests() as counts:
        finder.renew(10.0)
        rig.clock.advance(60.0)
        finder.renew(10.0)  # three other slots have taken eighteen of 64 tasks
        finder.renew(None)
        assert counts == {}
        rig.clock.advance(60.0)
        finder.renew(10.0)
    assert counts == {"list": 1}
    # A ring is news, however old the last look is.
    rig.clock.advance(300.0)
    rig.session.bell.ring([rig.submit(1, first=80)], 1)
    finder.candidates._pending.clear()
    while not finder.candidates.has_any():
        finder.step()
        rig.clock.advance(1.0)
    with rig.requests() as counts:
        finder.renew(10.0)
    assert counts == {}


def test_an_object_is_chosen_as_often_as_it_has_pending_tasks() -> None:
    rig = Rig(workers=8)
    large, small = rig.submit(200), rig.submit(2, first=200)
    for key in (large, small):
        rig.claim(key, "w.1", 1)
    (finder,) = fleet(rig, 1)
    taken = Counter(finder.candidates.take() for _ in range(300))
    assert taken[small] < 30
