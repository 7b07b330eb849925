"""Which objects a worker tries, and what it costs to know."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from starburst_executor.errors import ObjectNotFound, RecordInvalid, StoreUnavailable
from starburst_executor.protocol.keys import STATUSES_PER_EPOCH, StatusRef
from starburst_executor.protocol.spans import encoding
from starburst_executor.protocol.spans.record import ENDED, OutcomeBlock, Span, State, Status
from starburst_executor.worker.finder import Finder
from tests.support.session_rig import DIGEST, Rig


def finder_of(rig: Rig, n_slots: int = 1) -> Finder:
    session = rig.another()
    session.manifest.refresh()
    return Finder(session, rig.clock, n_slots)


def settled(rig: Rig, n_slots: int = 1) -> Finder:
    """A finder that has looked and found nothing."""
    finder = finder_of(rig, n_slots)
    finder.step()
    return finder


def attempt(finder: Finder, *, in_vain: bool) -> None:
    """A try that comes to a claim, or to nothing."""
    with finder.candidates.trying("some/key") as tried:
        tried.has_claim = not in_vain


def drained(finder: Finder) -> list[str]:
    keys = []
    while (key := finder.candidates.take()) is not None:
        keys.append(key)
        finder.candidates._pending.pop(key)
    return keys


# --- looks ------------------------------------------------------------------------------------------------------------


def test_the_first_step_looks() -> None:
    rig = Rig()
    key = rig.submit(2)
    finder = finder_of(rig)
    with rig.requests() as counts:
        finder.step()
    assert counts == {"get": 1, "list": 1}
    assert finder.candidates.take() == key


def test_a_look_that_finds_nothing_asks_whether_epochs_were_opened_meanwhile() -> None:
    rig = Rig()
    finder = settled(rig)
    key = rig.submit(2, first=2, epoch=1)
    rig.session.manifest.change(
        lambda manifest: manifest.with_submitter(0, replace(manifest.submitters[0], epochs=2, open=(0, 1)))
    )
    with rig.requests() as counts:
        assert finder.look()
    assert counts == {"get": 1, "list": 3}
    assert finder.candidates.take() == key


def test_an_idle_worker_only_asks_for_the_bell_and_ever_more_rarely() -> None:
    rig = Rig()
    finder = settled(rig)
    with rig.requests() as counts:
        pauses = [finder.step() for _ in range(20)]
    assert counts == {"get": 20}
    assert max(pauses) <= rig.timings.bell_max_s
    assert pauses[-1] > 10 * pauses[0]


def test_without_a_ring_it_looks_unasked_about_once_in_a_beat_interval_a_worker() -> None:
    rig = Rig(workers=4)
    finder = settled(rig, n_slots=1)
    started, n_looks = rig.clock.monotonic(), 0
    while rig.clock.monotonic() - started < 3600.0:
        with rig.requests() as counts:
            pause_s = finder.step()
        n_looks += counts["list"]
        rig.clock.advance(pause_s)
    # Four workers, each about every four beat intervals.
    assert 40 <= n_looks <= 120


def test_known_candidates_are_not_listed_again_before_they_are_used_up() -> None:
    rig = Rig()
    key = rig.submit(2)
    finder = settled(rig)
    with rig.requests() as counts:
        for _ in range(5):
            finder.step()
    assert counts == {}  # nor is the bell asked for
    rig.claim(key, "w.1")
    finder.candidates.saw(key, rig.read(key))
    with rig.requests() as counts:
        finder.step()
        finder.step()
    assert counts["list"] == 1


def test_a_look_closes_epochs_that_are_over() -> None:
    rig = Rig()
    done = Span(1, ENDED, claim="w.1")
    end = OutcomeBlock(0, 1, 1, 0, "w.1", b"")
    for first in range(STATUSES_PER_EPOCH):
        rig.objects.create(
            rig.keys.status(StatusRef(0, first, 1, 0)),
            encoding.encode(Status(0, first, (DIGEST,), (done,), (), (end,)), "n"),
        )
    assert finder_of(rig).look() is False
    assert rig.session.manifest.refresh().open_epochs() == []


def test_the_places_of_objects_that_have_ended_are_not_kept() -> None:
    rig = Rig()
    done, end = Span(1, ENDED, claim="w.1"), OutcomeBlock(0, 1, 1, 0, "w.1", b"")
    ended = Status(0, 0, (DIGEST,), (done,), (), (end,))
    rig.objects.create(rig.keys.status(StatusRef(0, 0, 1, 0)), encoding.encode(ended, "n"))
    key = rig.submit(1, first=1)
    finder = finder_of(rig)
    finder.look()
    assert finder.candidates._places == {key: 1}  # as workers number it that have looked before the other one ended
    finder.candidates.saw(key, replace(ended, first=1))
    assert finder.candidates._places == {}


# --- the bell ---------------------------------------------------------------------------------------------------------


def test_a_ring_names_candidates_without_a_listing() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(3)
    rig.session.bell.ring([key, "no key of ours"], 3)
    with rig.requests() as counts:
        finder.step()
    assert counts == {"get": 1}
    assert finder.candidates.has_any()
    assert drained(finder) == [key]


@pytest.mark.parametrize("keys", [(), tuple(f"k{i}" for i in range(40))])
def test_a_ring_that_names_nothing_or_too_much_leads_to_a_listing(keys: tuple[str, ...]) -> None:
    rig = Rig()
    finder = settled(rig)
    key = rig.submit(1)
    rig.session.bell.ring(keys, 1000)
    with rig.requests() as counts:
        finder.step()
    assert counts["list"] == 1
    assert finder.candidates.take() == key


def test_about_as_many_react_as_are_needed_and_more_while_it_stays_unanswered() -> None:
    rig = Rig(workers=100)
    finders = [settled(rig) for _ in range(100)]
    key = rig.submit(5)
    rig.session.bell.ring([key], 5)
    n_reacting = []
    for _ in range(6):
        for finder in finders:
            finder.step()
        n_reacting.append(sum(finder.candidates.has_any() for finder in finders))
    assert 1 <= n_reacting[0] <= 15
    assert n_reacting == sorted(n_reacting)
    assert n_reacting[-1] >= 90


def fleet(rig: Rig, n_workers: int) -> list[Finder]:
    """Idle workers that know each other; `rig.submit` and a ring come after."""
    finders = [settled(rig) for _ in range(n_workers)]
    workers = [f"w{number:03}" for number in range(n_workers)]
    for worker, finder in zip(workers, finders, strict=True):
        finder.candidates.rank.learn(worker, workers)
    return finders


def claimed_by(rig: Rig, finder: Finder) -> bool:
    """Have a slot of this worker try what it knows; return whether it got a claim."""
    key = finder.candidates.take()
    if key is None:
        return False
    with finder.candidates.trying(key) as tried:
        tried.has_claim = bool(rig.read(key).counts()[State.PENDING])
        rig.claim(key, "w.1")
        tried.current = rig.read(key)
    finder.answered()
    return tried.has_claim


@pytest.mark.parametrize("n_tasks", [1, 4])
def test_a_lone_ring_is_answered_by_rank_and_the_answer_spares_the_others_the_read(n_tasks: int) -> None:
    rig = Rig(workers=50)
    finders = fleet(rig, 50)
    key = rig.submit(n_tasks)
    rig.session.bell.ring([key], n_tasks)
    with rig.requests() as heard:
        pauses = [finder.step() for finder in finders]
    assert heard == {"get": 50}
    first = [finder for finder in finders if finder.candidates.has_any()]
    assert len(first) == n_tasks
    assert pauses.count(max(pauses)) < 50  # the others wait for their turns, at different times
    with rig.requests() as answer:
        assert claimed_by(rig, first[0])
    assert answer == {"swap": 1}
    rig.clock.advance(0.5)
    with rig.requests() as counts:
        for finder in finders:
            finder.step()
    assert counts["list"] == 0
    assert not any(finder.candidates.has_any() for finder in finders if finder not in first)
    # It counts as heard: the next ring has not missed it.
    rig.session.bell.ring([rig.submit(1, first=n_tasks)], 1)
    for finder in finders[1:]:
        finder.step()
        assert finder._ring is None or finder._ring.n_missed == 0


def test_a_lone_ring_that_the_first_do_not_answer_reaches_each_worker_in_time() -> None:
    rig = Rig(workers=50)
    finders = fleet(rig, 50)
    rig.session.bell.ring([rig.submit(1)], 1)
    numbers = []
    for _ in range(9):
        for finder in finders:
            if not finder.candidates.has_any():
                finder.step()
        numbers.append(sum(finder.candidates.has_any() for finder in finders))
        rig.clock.advance(2.0 * rig.timings.bell_min_s + 1e-6)
    assert numbers[:7] == [1, 2, 4, 8, 16, 32, 50]


def test_an_answer_never_replaces_a_newer_ring() -> None:
    rig = Rig(workers=4)
    finders = fleet(rig, 4)
    one, other = rig.submit(1), rig.submit(1, first=1)
    rig.session.bell.ring([one], 1)
    for finder in finders:
        finder.step()
    (first,) = [finder for finder in finders if finder.candidates.has_any()]
    rig.clock.advance(1.0)
    rig.session.bell.ring([other], 1)
    assert claimed_by(rig, first)
    newest = rig.session.bell.read(None)
    assert newest is not None
    assert newest[0].keys == (other,)


def test_a_worker_that_answered_a_lone_ring_answers_the_next_at_once() -> None:
    rig = Rig(workers=4)
    finders = fleet(rig, 4)
    rig.session.bell.ring([rig.submit(1)], 1)
    for finder in finders:
        finder.step()
    (first,) = [finder for finder in finders if finder.candidates.has_any()]
    assert claimed_by(rig, first)
    for number in range(1, 5):
        rig.clock.advance(1.0)
        rig.session.bell.ring([rig.submit(1, first=number)], 1)
        first.step()
        assert first.candidates.has_any()
        assert claimed_by(rig, first)


def test_a_ring_for_others_leaves_a_worker_its_long_pauses() -> None:
    rig = Rig(workers=50)
    finders = fleet(rig, 50)
    for finder in finders:
        for _ in range(20):
            finder.step()
    rig.session.bell.ring([rig.submit(1)], 1)
    for finder in finders:
        finder.step()
    (first,) = [finder for finder in finders if finder.candidates.has_any()]
    assert claimed_by(rig, first)
    rig.clock.advance(1.0)
    assert all(finder.step() > 5 * rig.timings.bell_min_s for finder in finders if finder is not first)


def test_a_ring_for_many_tasks_leads_to_a_listing_in_which_each_worker_has_its_turn() -> None:
    rig = Rig(workers=8)
    finders = fleet(rig, 8)
    keys = [rig.submit(4, first=4 * number) for number in range(16)]
    rig.session.bell.ring(keys[:10], 40)
    with rig.requests() as counts:
        for finder in finders:
            finder.step()
    assert counts == {"get": 8, "list": 8}
    for number, finder in enumerate(finders):
        assert {finder.candidates.take() for _ in range(20)} == {keys[number]}
        finder.candidates.begins(keys[number])
        assert {finder.candidates.take() for _ in range(20)} == {keys[8 + number]}


def test_places_stay_when_objects_end_and_epochs_close() -> None:
    rig = Rig(workers=4)
    keys = [rig.submit(1, first=number) for number in range(6)]
    finder = fleet(rig, 4)[1]
    assert finder.candidates.take() == keys[1]
    rig.claim(keys[0], "w.1")
    rig.claim(keys[1], "w.2")
    finder.look()
    assert {finder.candidates.take() for _ in range(20)} == {keys[5]}
    # The next epoch goes on where this one ends, though it is not full.
    others = [rig.submit(1, first=6 + number, epoch=1) for number in range(4)]
    for key in keys[2:]:
        rig.claim(key, "w.3")
    rig.session.manifest.change(
        lambda manifest: manifest.with_submitter(0, replace(manifest.submitters[0], epochs=2, open=(1,)))
    )
    finder.look()
    assert {finder.candidates.take() for _ in range(20)} == {others[1]}


def test_a_ring_that_was_not_looked_after_is_kept_when_the_next_one_comes() -> None:
    rig = Rig(workers=1000)
    finder = settled(rig)
    one, other = rig.submit(1), rig.submit(1, first=1)
    rig.session.bell.ring([one], 1)
    finder.step()
    assert not finder.candidates.has_any()
    rig.clock.advance(1.0)
    rig.session.bell.ring([other], 1)
    while not finder.candidates.has_any():
        finder.step()
    assert set(finder.candidates._pending) == {one, other}


def test_the_chance_to_react_grows_however_often_it_is_rung() -> None:
    rig = Rig(workers=1000)
    finder = settled(rig)
    key = rig.submit(1)
    n_polls = 0
    while not finder.candidates.has_any():
        n_polls += 1
        rig.clock.advance(1.0)
        rig.session.bell.ring([key], 1)
        finder.step()
    # 1 in 1,000 at first, doubled each time: a certainty at the eleventh.
    assert n_polls <= 11


def test_a_ring_that_names_not_all_that_is_new_leads_to_a_look_at_once_or_when_that_is_used_up() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    missed, named = rig.submit(3), rig.submit(1, first=3)
    rig.session.bell.ring([named], 1)
    found = []
    with rig.requests() as counts:
        while not {missed, named} <= set(found):
            finder.step()
            found += drained(finder)
    assert counts["list"] == 1


def test_what_was_missed_counts_for_the_chance_to_react() -> None:
    rig = Rig(workers=1000)
    finder = settled(rig)
    keys = [rig.submit(1000), rig.submit(1, first=1000)]
    rig.session.bell.ring(keys[1:], 1)
    finder.step()
    assert finder.candidates.has_any()
    # Only once: of the next ring nothing has been missed.
    for key in keys:
        rig.claim(key, "w.1", 1000)
    finder.look()
    rig.session.bell.ring([rig.submit(1, first=1001)], 1)
    finder.step()
    assert not finder.candidates.has_any()


def test_after_a_ring_it_soon_looks_for_itself() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(1)
    rig.session.bell.ring([key], 1)
    finder.step()
    drained(finder)
    other = rig.submit(1, first=1)
    rig.clock.advance(rig.timings.bell_max_s)
    finder.step()
    assert other in drained(finder)


def test_a_look_among_known_epochs_does_not_put_off_the_one_that_finds_a_new_one() -> None:
    """A new client's first rings may replace each other: what only the lost one named is in an epoch that no listing covers yet."""
    rig = Rig()
    finder = settled(rig, n_slots=4)
    rig.session.manifest.change(
        lambda manifest: manifest.with_submitter(0, replace(manifest.submitters[0], epochs=2, open=(0, 1)))
    )
    key = rig.submit(1, epoch=1)
    rig.session.bell.ring([key], 1)
    finder.step()
    assert drained(finder) == [key]
    other = rig.submit(1, first=1, epoch=1)
    assert not finder.look(among_open=True)
    rig.clock.advance(rig.timings.bell_max_s)
    finder.step()
    assert other in drained(finder)


# --- candidates -------------------------------------------------------------------------------------------------------


def test_one_of_the_oldest_twice_w_is_taken_at_random() -> None:
    rig = Rig(workers=2)
    keys = [rig.submit(1, first=first) for first in range(10)]
    finder = settled(rig)
    taken = Counter(finder.candidates.take() for _ in range(200))
    assert set(taken) == set(keys[:4])


def test_what_is_not_worth_sharing_is_left_to_the_slot_that_has_it_for_a_while() -> None:
    rig = Rig(workers=2)
    key = rig.submit(100)
    finder = settled(rig, n_slots=2)
    finder.candidates.begins(key)
    assert finder.candidates.take(worth_sharing=100) == key
    assert finder.candidates.take(worth_sharing=101) is None
    # That slot may have met a task that takes for ever.
    assert not finder.candidates.has_any()
    rig.clock.advance(rig.timings.slice_s + 0.01)
    assert finder.candidates.has_any()
    assert finder.candidates.take(worth_sharing=101) == key
    finder.candidates.ends(key)
    assert finder.candidates.take(worth_sharing=101) == key


def test_some_go_for_the_oldest_the_others_for_any() -> None:
    rig = Rig(workers=10)
    keys = [rig.submit(1, first=first) for first in range(20)]
    finder = settled(rig)
    taken = Counter(finder.candidates.take() for _ in range(1000))
    assert 200 < taken[keys[0]] < 450
    assert all(10 < taken[key] < 100 for key in keys[1:])


def test_objects_that_nobody_works_on_come_first() -> None:
    rig = Rig(workers=3)
    keys = [rig.submit(3, first=3 * i) for i in range(4)]
    for key in keys[:2]:
        rig.claim(key, "w.1", 1)
    finder = settled(rig)
    assert {finder.candidates.take() for _ in range(50)} == set(keys[2:])
    for key in keys[2:]:
        rig.claim(key, "w.2", 1)
        finder.candidates.saw(key, rig.read(key))
    assert {finder.candidates.take() for _ in range(100)} == set(keys)


def test_an_object_is_passed_over_only_for_one_that_would_be_taken() -> None:
    rig = Rig(workers=3)
    keys = [rig.submit(2, first=2 * i) for i in range(7)]
    for key in keys[1:6]:
        rig.claim(key, "w.1", 1)
    finder = settled(rig)
    assert finder.candidates.has_untouched()
    # Another slot of this worker is at it, and the last one is not among the oldest twice W.
    finder.candidates.begins(keys[0])
    assert not finder.candidates.has_untouched()
    # A worker with all slots takes the oldest object, even if another works on it.
    assert not settled(rig, n_slots=3).candidates.has_untouched()


# --- priorities -------------------------------------------------------------------------------------------------------


def test_the_highest_priority_comes_first_and_one_claim_in_ten_goes_to_the_longest_waiting() -> None:
    rig = Rig(workers=10)
    levels = [0, 5, 0, -3, 5, 0]
    keys = []
    for first, level in enumerate(levels):
        rig.clock.advance(10.0)
        keys.append(rig.submit(1, first=first, priority=level))
    finder = settled(rig)
    taken = Counter(finder.candidates.take() for _ in range(3000))
    high = taken[keys[1]] + taken[keys[4]]
    assert 2700 < high < 2900, "nine in ten, and two of six of the others"
    # The others in turn, whatever their priority: none waits for ever.
    assert all(30 < taken[key] < 80 for key in (keys[0], keys[2], keys[3], keys[5]))


def test_without_priorities_nothing_is_drawn_for_them() -> None:
    rig = Rig(workers=2)
    key = rig.submit(2)
    finder = settled(rig)
    assert not finder.candidates.has_priorities()
    assert all(finder.candidates.goes_on(key) for _ in range(100))


def test_a_slot_leaves_its_object_for_one_of_a_higher_priority() -> None:
    rig = Rig(workers=1)
    low = rig.submit(50)
    finder = settled(rig)
    assert finder.candidates.take() == low
    high = rig.submit(2, first=50, priority=1)
    ref = rig.keys.parse_status(high)
    finder.candidates.rung_for([(ref, high)], 0)
    assert not finder.candidates.goes_on(low)
    taken = Counter(finder.candidates.take() for _ in range(500))
    assert taken[high] > 400
    # One turn in ten goes to the others.
    n_left = sum(not finder.candidates.goes_on(high) for _ in range(500) if finder.candidates.take())
    assert 20 < n_left < 80


def test_a_lost_race_leaves_an_object_among_those_of_its_priority() -> None:
    rig = Rig(workers=1)
    keys = [rig.submit(2, first=2 * i, priority=level) for i, level in enumerate((0, 4, 4))]
    finder = settled(rig)
    finder.candidates.avoid(keys[1])
    assert drained(finder)[:2] != keys[:2]
    finder.look()
    finder.candidates.avoid(keys[1])
    assert [*finder.candidates._pending] == [keys[2], keys[1], keys[0]]


def test_an_untouched_object_of_a_lower_priority_is_not_waited_for() -> None:
    rig = Rig(workers=3)
    low, high = rig.submit(2), rig.submit(2, first=2, priority=1)
    rig.claim(high, "w.1", 1)
    finder = settled(rig)
    assert not finder.candidates.has_untouched(high)
    assert finder.candidates.has_untouched(low)


def test_only_a_session_with_priorities_is_listed_again_before_a_claim() -> None:
    rig = Rig()
    rig.submit(5)
    finder = settled(rig)
    rig.clock.advance(10.0)
    with rig.requests() as counts:
        finder.freshen()
    assert not counts
    rig.session.manifest.change(lambda manifest: replace(manifest, has_priorities=True))
    finder._session.manifest.refresh()
    with rig.requests() as counts:
        for _ in range(10):
            finder.freshen()
    assert counts == {"list": 1}
    rig.clock.advance(1.5 * rig.timings.slice_s)
    with rig.requests() as counts:
        finder.freshen()
    assert not counts


def test_a_worker_that_has_met_a_priority_expects_others() -> None:
    """Also before a beat shows it the manifest that says so."""
    rig = Rig()
    urgent = rig.submit(1, priority=5)
    finder = settled(rig)
    finder.freshen()
    rig.claim(urgent, "w.1", 1)
    finder.look()
    assert not finder.candidates.has_priorities()
    assert not finder._session.manifest.current.has_priorities
    rig.clock.advance(10.0)
    with rig.requests() as counts:
        finder.freshen()
    assert counts["list"] == 1


def test_after_two_tries_in_vain_what_is_known_counts_as_out_of_date() -> None:
    rig = Rig(workers=2)
    keys = [rig.submit(1, first=first) for first in range(10)]
    finder = settled(rig)
    for key in keys[:9]:
        rig.claim(key, "w.1")
    attempt(finder, in_vain=True)
    assert finder.candidates.take() is not None
    attempt(finder, in_vain=True)
    assert finder.candidates.take() is None
    with rig.requests() as counts:
        finder.step()
    assert counts["list"] == 1
    assert drained(finder) == [keys[9]]


def test_a_claim_shows_that_what_is_known_still_holds() -> None:
    rig = Rig(workers=2)
    for first in range(10):
        rig.submit(1, first=first)
    finder = settled(rig)
    for _ in range(5):
        attempt(finder, in_vain=True)
        attempt(finder, in_vain=False)
    assert finder.candidates.take() is not None


def test_an_object_counts_as_worked_on_for_as_long_as_a_try_or_its_claim_lasts() -> None:
    rig = Rig(workers=4)
    key = rig.submit(2)
    candidates = settled(rig).candidates
    assert candidates.has_untouched()
    with candidates.trying(key):
        assert not candidates.has_untouched()
    assert candidates.has_untouched()
    with candidates.trying(key) as tried:
        tried.has_claim = True
    assert not candidates.has_untouched()
    candidates.ends(key)
    assert candidates.has_untouched()
    with pytest.raises(StoreUnavailable), candidates.trying(key):
        raise StoreUnavailable("away")
    assert candidates.has_untouched()


def test_an_object_that_cannot_be_read_is_no_candidate_at_later_looks_either() -> None:
    rig = Rig()
    key = rig.submit(2)
    finder = settled(rig)
    with pytest.raises(RecordInvalid), finder.candidates.trying(key):
        raise RecordInvalid("not a status object")
    assert finder.candidates.take() is None
    assert not finder.look()


def test_with_nothing_known_a_look_is_asked_for() -> None:
    finder = settled(Rig())
    assert finder.candidates.take() is None
    assert finder.candidates.wanted.is_set()
    finder.step()
    assert not finder.candidates.wanted.is_set()


def test_after_a_lost_race_others_are_tried_first() -> None:
    rig = Rig(workers=1)
    keys = [rig.submit(1, first=first) for first in range(4)]
    finder = settled(rig)
    finder.candidates.avoid(keys[0])
    assert {finder.candidates.take() for _ in range(50)} == {keys[1]}


def test_a_new_worker_looks_for_what_was_rung_for_before_the_last_ring() -> None:
    rig = Rig()
    one, other = rig.submit(3), rig.submit(3, first=3)
    rig.session.bell.ring([other], 3)
    finder = finder_of(rig, n_slots=4)
    finder.step()
    assert drained(finder) == [one, other]


def test_a_worker_that_has_all_slots_takes_the_oldest_others_choose_at_random() -> None:
    rig = Rig(workers=4)
    keys = [rig.submit(3, first=3 * i) for i in range(8)]
    alone, one_of_many = settled(rig, n_slots=4), settled(rig, n_slots=1)
    assert {alone.candidates.take() for _ in range(20)} == {keys[0]}
    assert len({one_of_many.candidates.take() for _ in range(200)}) > 4


def test_the_loser_of_the_race_for_the_only_object_looks_again_at_once() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(8)
    rig.session.bell.ring([key], 8)
    finder.step()
    finder.candidates.avoid(key)
    assert finder.candidates.take() is None
    finder.step()
    assert finder.candidates.take() == key


def test_an_object_that_is_not_there_yet_is_asked_for_again_three_times() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.keys.status(StatusRef(0, 0, 1, 0))
    rig.session.bell.ring([key], 1)
    began, asked_at = rig.clock.monotonic(), []
    while rig.clock.monotonic() - began < 0.9:
        pause_s = finder.step()
        if finder.candidates.take() is not None:
            asked_at.append(rig.clock.monotonic() - began)
            with pytest.raises(ObjectNotFound), finder.candidates.trying(key):
                raise ObjectNotFound("not yet")
            assert finder.candidates.wanted.is_set()  # the finder computes its pause again
            pause_s = min(pause_s, finder.step())
        rig.clock.advance(pause_s)
    # After 60, 120 and 240 ms; then only a look would find it.
    gaps = [asked_at[i + 1] - asked_at[i] for i in range(len(asked_at) - 1)]
    assert gaps == pytest.approx([0.06, 0.12, 0.24], abs=0.055)
    assert not finder.candidates.is_missing(key)
    assert rig.submit(1) == key
    finder.look()
    assert finder.candidates.take() == key


def test_the_loser_of_the_race_for_a_lone_task_does_not() -> None:
    rig = Rig()
    finder = settled(rig, n_slots=4)
    key = rig.submit(1)
    rig.session.bell.ring([key], 1)
    finder.step()
    finder.candidates.avoid(key)
    with rig.requests() as counts:
        finder.step()
    assert counts == {"get": 1}


def test_what_was_seen_corrects_what_is_known() -> None:
    rig = Rig(workers=2)
    one, other = rig.submit(10), rig.submit(6, first=10)
    finder = settled(rig)
    assert finder.fair_share() == 8
    assert finder.is_plenty(60.0)
    rig.claim(one, "w.1", 9)
    finder.candidates.saw(one, rig.read(one))
    rig.claim(other, "w.2")
    finder.candidates.saw(other, rig.read(other))
    assert finder.fair_share() == 1
    assert not finder.is_plenty(60.0)
    assert drained(finder) == [one]


def test_what_is_known_is_believed_until_the_others_may_have_used_it_up() -> None:
    rig = Rig(workers=2)
    key = rig.submit(100)
    finder = settled(rig)
    with rig.requests() as counts:
        assert finder.is_plenty(0.001)  # a moment ago it was
        rig.clock.advance(40.0)
        assert finder.is_plenty(1.0)  # 60 are left, if the other one takes one a second
    assert counts == {}
    rig.claim(key, "w.1", 60)
    rig.clock.advance(60.0)
    with rig.requests() as counts:
        assert finder.is_plenty(1.0)  # the listing shows that 16 to 63 of it are pending
    assert counts["list"] == 1
    rig.claim(key, "w.2")
    rig.clock.advance(60.0)
    assert not finder.is_plenty(1.0)
    with rig.requests() as counts:
        assert not finder.is_plenty(1.0)
    assert counts == {}


def test_a_share_is_of_what_the_others_should_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(workers=4)
    key = rig.submit(200)
    finder = settled(rig)
    with rig.requests() as counts:
        assert finder.fair_share(1.0) == 50
        rig.clock.advance(30.0)
        assert finder.fair_share(1.0) == 50  # the other three may have taken 90
        assert finder.fair_share() == 50  # of unknown duration
    assert counts == {}
    rig.claim(key, "w.1", 150)
    rig.clock.advance(4.0)
    with monkeypatch.context() as patch, rig.requests() as counts:
        patch.setattr(finder, "_wait_s", lambda: 9.0)
        assert finder.fair_share(1.0) == 50  # in a busy store the others have taken a tenth of that
    assert counts == {}
    with rig.requests() as counts:
        assert finder.fair_share(1.0) == 8  # by the listing about 32
        assert finder.fair_share(1.0) == 8
    assert counts["list"] == 1


@pytest.mark.parametrize(("n_left", "about"), [(255, 128), (64, 128), (63, 32), (5, 8), (3, 2), (1, 2)])
def test_a_listing_shows_about_how_many_tasks_of_an_object_are_left(n_left: int, about: int) -> None:
    rig = Rig(workers=2)
    key = rig.submit(256)
    rig.claim(key, "w.1", 256 - n_left)
    finder = finder_of(rig)
    assert finder.look()
    assert finder.candidates.n_pending() == about


# --- solo -------------------------------------------------------------------------------------------------------------


def test_a_task_on_its_last_try_is_kept_apart_until_a_worker_is_alone() -> None:
    rig = Rig()
    key = rig.submit(1)
    finder = settled(rig)
    assert finder.candidates.solo() is None
    rig.write_spans(key, losses=2, together=1, cohort="lost.1")
    finder.candidates.saw(key, rig.read(key))
    assert finder.candidates.take() is None
    assert finder.candidates.has_any()
    rig.clock.advance(20.0)
    assert finder.candidates.solo() == (key, 20.0)
    # Looks do not make it a candidate again, which would be tried in vain.
    finder.look()
    assert finder.candidates.take() is None
    assert finder.candidates.solo() == (key, 20.0)
    rig.claim(key, "w.1")
    finder.look()
    assert finder.candidates.solo() is None
    assert not finder.candidates.has_any()
